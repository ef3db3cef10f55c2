"""The paper's Table 2, its seven networks in its order, then other attention at g=4 and two other readings of the block.

All of them have the recipe of configs/fer2013.py, so that a difference between two is one of the network alone. Base and Base (g=1)
are the same network with the same draws: what lies between them, seed by seed, is rounding. The block is a reconstruction, and
its identity sums (`residual`, `shortcut`) stand in every variant: the paper does not say whether it has any.

Command:   python -m fer_jax sweep --config configs/ablation.py --config.data.path=fer2013.csv --seeds 0-4
           `--only base,sa-base-g4-ca` for some of them; the same command again goes on, on as many hosts as see the folder
Hardware:  any; one run at a time on each
Time:      not measured yet. 70 runs; one of 36 epochs took 52 minutes on three shared CPU cores, which would make 61 hours
Accuracy:  2 epochs, three seeds: 44 to 47 %, no difference real (results/ablation-cpu); at length not measured.
           The paper's, in the first seven's order: 69.82, 70.27, 69.23, 70.30, 69.57, 70.97, 71.80 %, one run each
"""

from collections.abc import Iterator

from ml_collections import ConfigDict

from fer_jax.core.config import load_module

# name → attention, groups of the channel shuffle, and other fields of the network
VARIANTS = {
    'base': ('none', None, {}),
    'base-g1': ('none', 1, {}),
    'base-g2': ('none', 2, {}),
    'base-g4': ('none', 4, {}),
    'base-g8': ('none', 8, {}),
    'sa-base-ca': ('both', None, {}),
    'sa-base-g4-ca': ('both', 4, {}),
    'sa-base-g4': ('spatial', 4, {}),
    'base-g4-ca': ('channel', 4, {}),
    'base-g4-se': ('se', 4, {}),
    'base-g4-eca': ('eca', 4, {}),
    'base-g4-cbam': ('cbam', 4, {}),
    'sa-base-g4-ca-fusion-attention': ('both', 4, {'fusion': 'attention'}),
    # Paths that do not end in batch norm have no last scale to start at zero.
    'sa-base-g4-ca-preactivation': ('both', 4, {'preactivation': True, 'zero_last_gamma': False}),
}


def get_configs() -> Iterator[ConfigDict]:
    """FER2013's configuration with each of VARIANTS."""
    fer2013 = load_module('fer2013')
    for name, (attention, groups, others) in VARIANTS.items():
        config = fer2013.get_config()
        config.name = name
        config.network.attention = attention
        config.network.shuffle_groups = groups
        config.network.update(others)
        yield config
