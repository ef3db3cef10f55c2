"""What does 1.9 M buy? The paper's network and six known ones on FER2013, by one recipe and one protocol: `fer2013.py`'s.

Command:   python -m fer_jax sweep --config configs/baselines.py --config.data.path=fer2013.csv --seeds 0-2
Hardware:  any
Time:      7 networks × 3 seeds × 36 epochs, not measured to the end;
           ResNet-18 in PyTorch is 4.9 times as slow as the first (results/speed)
Accuracy:  after 2 epochs three of them, 42 to 49 % by ten crops (results/baselines-cpu), at length none.
           Of the first network see `fer2013.py`: 67.32 % by ten crops after 36 epochs
"""

from collections.abc import Iterator

from ml_collections import ConfigDict

from fer_jax.core.config import load_module
from fer_jax.core.fields import CHOICES

FER2013 = load_module('fer2013')


def get_configs() -> Iterator[ConfigDict]:
    """SA + Base(g=4) + CA, and every baseline under its own name."""
    for network in CHOICES['network.name']:
        config = FER2013.get_config()
        config.network.name = network
        config.name = 'sa-base-g4-ca' if network == 'fernet' else network
        yield config
