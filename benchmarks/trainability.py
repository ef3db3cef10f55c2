"""Which readings of the block, starts and optimizers get going: a few hundred steps of each on FER2013's Training.

    python -m benchmarks.trainability --path fer2013.csv --out results/trainability [--steps 120]

Each variant is an ordinary run of `configs/fer2013.py` with other fields, cut to `--steps` steps with its whole schedule
inside them, scored on PublicTest alone. The table is written after each variant, so that a stopped run keeps its rows.
"""

import argparse
import json
import pathlib
import tempfile

from fer_jax.core.config import load_config
from fer_jax.core.files import write_atomic, write_json
from fer_jax.runs.environment import environment
from fer_jax.training.train import train

PLAIN = {'network.residual': 'false', 'network.shortcut': 'false'}
SUMS = {'network.residual': 'true', 'network.shortcut': 'false'}
BOTH = {'network.residual': 'true', 'network.shortcut': 'true'}
PREACTIVATION = {'network.preactivation': 'true'}
SGD = {'optimizer.name': 'sgd', 'optimizer.learning_rate': '0.1', 'optimizer.weight_decay': '5e-4'}
ADAMW = {'optimizer.name': 'adamw', 'optimizer.learning_rate': '2e-3', 'optimizer.weight_decay': '0.05'}
MUON = {'optimizer.name': 'muon', 'optimizer.learning_rate': '0.02', 'optimizer.momentum': '0.95', 'optimizer.weight_decay': '0.01'}
VARIANTS = {
    'plain, SGD 0.1': PLAIN | SGD,
    'plain, AdamW 2e-3': PLAIN | ADAMW,
    'residual, AdamW 2e-3': SUMS | ADAMW,
    'residual + shortcut, SGD 0.1': BOTH | SGD,
    'residual + shortcut, AdamW 2e-3': BOTH | ADAMW,
    'residual + shortcut, AdamW 5e-4': BOTH | ADAMW | {'optimizer.learning_rate': '5e-4'},
    'residual + shortcut, zero last gamma, AdamW 2e-3': BOTH | ADAMW | {'network.zero_last_gamma': 'true'},
    'residual + shortcut, pre-activation, AdamW 2e-3': BOTH | ADAMW | PREACTIVATION,
    'residual + shortcut, pre-activation, Muon 0.02': BOTH | MUON | PREACTIVATION,
}


def measure(fields: dict[str, str], path: str, steps: int, prepared: str) -> dict[str, float]:
    """The mean training loss of the last fifth of the steps, and PublicTest's accuracy after them."""
    common = {
        'data.path': path,
        'data.prepared': prepared,
        'optimizer.warmup_epochs': '0.2',
        'optimizer.ema': '0',
        'train.tensorboard': 'false',
        'train.log_every': '10',
        'evaluation.test': 'false',
    }
    config = load_config('configs/fer2013.py', common | fields)
    config.epochs = steps / (28_709 // config.batch_size)
    with tempfile.TemporaryDirectory() as folder:
        workdir = pathlib.Path(folder) / 'run'
        result = train(config, workdir)
        lines = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
    losses = [line['loss'] for line in lines if line['kind'] == 'train' and line['step'] > 0.8 * steps]
    return {'loss': sum(losses) / len(losses), 'accuracy': result['validation_centre']['accuracy']}


def table(rows: dict[str, dict[str, float]], steps: int) -> str:
    """The rows as Markdown, the best first."""
    lines = [f'| variant | training loss, steps {round(0.8 * steps)} to {steps} | PublicTest after {steps} steps, % |', '|---|---:|---:|']
    ranked = sorted(rows.items(), key=lambda item: -item[1]['accuracy'])
    return '\n'.join([*lines, *(f'| {name} | {row["loss"]:.3f} | {100 * row["accuracy"]:.1f} |' for name, row in ranked)]) + '\n'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--path', required=True, help='FER2013 in any form')
    parser.add_argument('--out', type=pathlib.Path, default=pathlib.Path('results/trainability'))
    parser.add_argument('--steps', type=int, default=120)
    parser.add_argument('--prepared', default='data')
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    rows: dict[str, dict[str, float]] = {}
    for name, fields in VARIANTS.items():
        print(f'--- {name}', flush=True)
        rows[name] = measure(fields, options.path, options.steps, options.prepared)
        write_atomic(options.out / 'table.md', table(rows, options.steps))
        write_json(options.out / 'table.json', {'steps': options.steps, 'seed': 0, 'rows': rows, 'environment': environment()})
    print(table(rows, options.steps))


if __name__ == '__main__':
    main()
