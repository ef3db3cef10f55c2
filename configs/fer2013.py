"""FER2013 by the clean protocol: train on Training, choose on PublicTest, score PrivateTest once.

Command:   ./launch/train.sh --config configs/fer2013.py --config.data.path=fer2013.csv
Hardware:  any; measured on four shared CPU cores
Time:      54 minutes for the 20 epochs there, at 130 to 270 images/s
Accuracy:  PrivateTest 61.05 % by one centre crop, 62.69 % by ten (one seed; results/fer2013-cpu). 20 epochs are few: on a GPU take more.
"""

from ml_collections import ConfigDict

from fer_jax.fields import default_config


def get_config() -> ConfigDict:
    """The paper's SA + Base(g=4) + CA on FER2013."""
    config = default_config()
    config.name = 'fer2013'
    config.data.dataset = 'fer2013'
    config.epochs = 20.0
    return config
