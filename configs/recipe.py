"""The search for FER2013's training recipe, on PublicTest only: one change at a time from the default, and some together.

Command:   python -m fer_jax sweep --config configs/recipe.py --seeds 0-2 --config.data.path=fer2013.csv
           `--only recipe-screen-base,recipe-screen-alternate` for some; the screens are 24 epochs each, one change from the first.
           recipe-screen-votes-head reads fer2013new.csv from the folder that the command is given in.
Hardware:  one GPU for the whole grid as it stands; on two CPU cores the screens, one after the other
Time:      36 recipes × 3 seeds, most of 60 epochs; a screen takes 40 minutes on two CPU cores
Accuracy:  PublicTest, one centre crop; what was tried and what it gave is in results/recipe.md. PrivateTest is not looked at (0 times).
"""

from collections.abc import Iterator

from ml_collections import ConfigDict

from fer_jax.core.config import load_module, set_field

# Of Pramerdorfer & Kampel (2016), but for the schedule, which is a cosine here and halved on a plateau there.
PUBLISHED = {
    'epochs': '100',
    'optimizer.name': 'sgd',
    'optimizer.learning_rate': '0.1',
    'optimizer.weight_decay': '1e-4',
    'optimizer.label_smoothing': '0',
    'optimizer.ema': '0',
    'augment.rotate': '0',
}
# Name → the one thing that differs from 24 epochs of configs/fer2013.py.
SCREENS = {
    'base': {},
    'early-0.4': {'augment.early_share': '0.4'},
    'share-0.5': {
        'augment.scale': '0.15',
        'augment.shift': '0.05',
        'augment.contrast': '0.2',
        'augment.brightness': '0.1',
        'augment.share': '0.5',
    },
    'alternate': {'augment.alternate': 'true'},
    'mixup-middle': {'augment.mixup': '0.2', 'augment.mix_from': '0.2', 'augment.mix_to': '0.85'},
    'erase-late': {'augment.erase': '0.15', 'augment.erase_from': '0.3'},
    'sam-late': {'optimizer.sam': '0.05', 'optimizer.sam_from': '0.9'},
    'ema-0.998': {'optimizer.ema': '0.998'},
    'mean-0.8': {'optimizer.average_from': '0.8'},
    'ten': {'evaluation.ten_from': '0.6'},
    'depth-0.05': {'network.stochastic_depth': '0.05'},
    'votes-head': {'data.votes': 'fer2013new.csv', 'data.votes_head': '0.5'},
}
# Name → the fields that differ from configs/fer2013.py, as on a command line.
RECIPES = {
    'default': {},
    'rate-2e-3': {'optimizer.learning_rate': '2e-3'},
    'rate-1e-2': {'optimizer.learning_rate': '1e-2'},
    'fusion-1': {'network.fusion_scale': '1'},
    'fusion-1-rate-2e-3': {'network.fusion_scale': '1', 'optimizer.learning_rate': '2e-3'},
    'zero-gamma': {'network.zero_last_gamma': 'true'},
    'preactivation': {'network.preactivation': 'true'},
    'silu': {'network.activation': 'silu'},
    'batch-64': {'batch_size': '64'},
    'batch-256-rate-1e-2': {'batch_size': '256', 'optimizer.learning_rate': '1e-2'},
    'device-norm': {'network.batch_norm': 'device'},
    'decay-0.2': {'optimizer.weight_decay': '0.2'},
    'sgd': {'optimizer.name': 'sgd', 'optimizer.learning_rate': '0.1', 'optimizer.weight_decay': '5e-4'},
    'muon': {'optimizer.name': 'muon', 'optimizer.learning_rate': '0.02', 'optimizer.momentum': '0.95'},
    'ema-0.999': {'optimizer.ema': '0.999'},
    'sam-0.05': {'optimizer.sam': '0.05'},
    'depth-0.1': {'network.stochastic_depth': '0.1'},
    'mixup-0.2': {'augment.mixup': '0.2'},
    'cutmix-1': {'augment.cutmix': '1'},
    'erase-0.25': {'augment.erase': '0.25'},
    # What tells whether the network, the recipe or the harness limits: the long recipe, and VGG-10 by the one it was published with.
    'long': {
        'epochs': '120',
        'augment.scale': '0.15',
        'augment.shift': '0.05',
        'augment.contrast': '0.2',
        'augment.brightness': '0.1',
        'augment.share': '0.5',
        'augment.erase': '0.15',
        'augment.early_share': '0.5',
        'network.stochastic_depth': '0.05',
        'optimizer.ema': '0.998',
    },
    'vgg10-published': PUBLISHED | {'network.name': 'vgg10'},
    'fernet-published': PUBLISHED,
    'full-augment': {'augment.scale': '0.1', 'augment.brightness': '0.1', 'augment.contrast': '0.1'},
} | {f'screen-{name}': {'epochs': '24'} | changes for name, changes in SCREENS.items()}


def get_configs() -> Iterator[ConfigDict]:
    """One configuration a recipe; none scores the test split."""
    fer2013 = load_module('fer2013')
    for name, changes in RECIPES.items():
        config = fer2013.get_config()
        config.name = f'recipe-{name}'
        config.epochs = 60.0
        config.evaluation.test = False
        for field, text in changes.items():
            set_field(config, field, text)
        yield config
