"""The search for FER2013's training recipe, on PublicTest only: one change at a time from the default, and some together.

Command:   python -m fer_jax sweep --config configs/recipe.py --seeds 0-2 --config.data.path=fer2013.csv
Hardware:  one GPU for the whole grid as it stands; on CPU with --config.epochs=5 and --only, as in results/recipe.md
Time:      24 recipes × 3 seeds × 60 epochs; on four CPU cores 5 epochs of one take 6 to 8 minutes
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
}


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
