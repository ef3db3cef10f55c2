"""ToyFaces, the embedded default: 8,400 drawn faces of 300 subjects, no download; a short run that shows the whole way.

Command:   ./launch/train.sh
Hardware:  two CPU cores
Time:      under 5 minutes, installation included
Accuracy:  90 %
"""

from ml_collections import ConfigDict

from fer_jax.config import default_config


def get_config() -> ConfigDict:
    """The paper's SA + Base(g=4) + CA in small batches, so that a few epochs hold enough updates."""
    config = default_config()
    config.epochs = 3.0
    config.batch_size = 64
    config.optimizer.warmup_epochs = 0.3
    config.optimizer.ema = 0.98
    return config
