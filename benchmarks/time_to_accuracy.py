"""Minutes from a cold start until PublicTest passes 60, 65 and 68 %, by the mean of three seeds, beside PyTorch's compiled.

    python -m benchmarks.time_to_accuracy --path fer2013.csv [--seeds 0-2] [--targets 60 65 68] [--peer] [--config.FIELD=VALUE …]

Timed are whole processes that find the data prepared and no compiled program: from their start to the validation that passes. A run
ends there or with its schedule, which decides most: the fields that make it short are given on the command line, on top of
configs/fer2013.py. The peer is `torch.compile` of the same network, recipe and first weights, as far as torch_peer.py covers it.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from benchmarks.side_by_side import ROOT, record, same_environment
from fer_jax.core.command_line import split_overrides
from fer_jax.core.config import load_config
from fer_jax.data.views import centre_crops
from fer_jax.runs.environment import environment
from fer_jax.runs.weights import flat, nested
from fer_jax.training.plan import parse_seeds
from fer_jax.training.run import build

CONFIG = 'configs/fer2013.py'
POLL = 0.2  # seconds between looks at a run's log
MODULE = 'benchmarks.time_to_accuracy'


def passed(seen: Sequence[tuple[float, float]], targets: Sequence[float]) -> dict[str, float | None]:
    """Target in per cent → minutes to the first of `seen`, (seconds, accuracy in 0..1), that reaches it; None where none does."""
    return {f'{target:g}': next((seconds / 60 for seconds, accuracy in seen if accuracy >= target / 100), None) for target in targets}


def mean(runs: Sequence[dict[str, float | None]]) -> dict[str, float | None]:
    """Of each target the mean over the runs; None where one of them did not reach it."""
    found = {target: [run[target] for run in runs] for target in runs[0]}
    return {target: None if None in minutes else statistics.mean(minutes) for target, minutes in found.items()}


def follow(command: list[str], log: pathlib.Path, environment: dict[str, str], last: float) -> list[tuple[float, float]]:
    """Starts a program that writes a line of JSON for each validation to `log`, and ends it where one reaches `last` per cent."""
    seen: list[tuple[float, float]] = []
    started = time.perf_counter()
    with subprocess.Popen(command, cwd=ROOT, env=os.environ | environment, stdout=subprocess.DEVNULL) as process:
        while not seen or seen[-1][1] < last / 100:
            running = process.poll() is None  # asked before reading: what it wrote at its end is read too
            now = time.perf_counter() - started
            lines = [json.loads(line) for line in log.read_text().splitlines(keepends=True) if line.endswith('\n')] if log.exists() else []
            accuracies = [line['accuracy'] for line in lines if line['kind'] == 'validation']
            seen += [(now, accuracy) for accuracy in accuracies[len(seen) :]]
            if not running:
                break
            time.sleep(POLL)
        process.terminate()
    if process.returncode not in (0, 75, -15):  # to its end, stopped with a checkpoint, stopped without
        raise SystemExit(f'{" ".join(command)} ended with exit code {process.returncode}')
    return seen


def jax_run(fields: dict[str, str], folder: pathlib.Path, last: float) -> list[tuple[float, float]]:
    """(seconds, accuracy) of each validation of `python -m fer_jax train`."""
    arguments = [f'--config.{field}={text}' for field, text in fields.items()]
    command = [sys.executable, '-W', 'ignore', '-m', 'fer_jax', 'train', '--config', CONFIG, '--workdir', str(folder / 'run'), *arguments]
    return follow(command, folder / 'run' / 'metrics.jsonl', {'JAX_COMPILATION_CACHE_DIR': str(folder / 'cache')}, last)


def torch_run(fields: dict[str, str], folder: pathlib.Path, last: float) -> list[tuple[float, float]]:
    """The same of PyTorch, which is given images, labels and first weights as arrays, in a process without JAX's work."""
    run = build(load_config(CONFIG, fields))
    arrays = {f'variables/{path}': value for path, value in flat(run.initial_state().variables).items()}
    for split in ('train', 'validation'):
        faces = run.dataset.splits[split]
        arrays |= {f'{split}/images': faces.images, f'{split}/labels': faces.labels}
    np.savez(folder / 'arrays.npz', **arrays)
    command = [sys.executable, '-m', MODULE, '--torch', str(folder), '--fields', json.dumps(fields)]
    return follow(command, folder / 'validations.jsonl', peer_environment(folder), last)


def peer_environment(folder: pathlib.Path, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What PyTorch is started in: no compiled program, and the allocator that `train` starts itself again with."""
    return same_environment(environment) | {'TORCHINDUCTOR_CACHE_DIR': str(folder / 'cache')}


def torch_worker(config: ConfigDict, folder: pathlib.Path) -> Iterator[float]:
    """Trains by benchmarks.torch_peer, and gives the accuracy of the averaged weights after each epoch."""
    import torch

    from benchmarks.torch_peer import Network, Trainer, load_variables

    torch.manual_seed(config.seed)
    arrays = dict(np.load(folder / 'arrays.npz'))
    classes = int(arrays['train/labels'].max()) + 1
    network, averaged = (Network(config.network, classes) for _ in range(2))
    load_variables(network, nested({path.partition('/')[2]: value for path, value in arrays.items() if path.startswith('variables/')}))
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    trainer = Trainer(network, config, arrays['train/images'], arrays['train/labels'], device, {})
    averaged = averaged.to(device).eval()
    crops = torch.from_numpy(centre_crops(arrays['validation/images'])[:, None].astype(np.float32)).to(device)
    labels = torch.from_numpy(arrays['validation/labels']).to(device)
    steps_per_epoch = len(arrays['train/images']) // config.batch_size
    for step in range(1, round(config.epochs * steps_per_epoch) + 1):
        trainer.step()
        if step % steps_per_epoch == 0:
            averaged.load_state_dict(trainer.average if config.optimizer.ema else trainer.tracked, strict=False)
            with torch.no_grad():
                found = torch.cat([averaged((part - 127.5) / 63.75).argmax(1) for part in crops.split(256)])
            yield float((found == labels).float().mean())


def main() -> None:
    rest, overrides = split_overrides(sys.argv[1:])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--path', help='FER2013 in any form')
    parser.add_argument('--seeds', default='0-2', help='default: %(default)s')
    parser.add_argument('--targets', type=float, nargs='+', default=[60.0, 65.0, 68.0], help='in per cent; default: %(default)s')
    parser.add_argument('--peer', action='store_true', help='run PyTorch too, to the first two targets')
    parser.add_argument('--out', type=pathlib.Path, default=pathlib.Path('results/speed/time_to_accuracy'), help='default: %(default)s')
    parser.add_argument('--torch', type=pathlib.Path, help=argparse.SUPPRESS)
    parser.add_argument('--fields', type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args(rest)
    options.targets.sort()  # a run ends at the last
    if options.torch:
        with open(options.torch / 'validations.jsonl', 'w', buffering=1) as log:
            for accuracy in torch_worker(load_config(CONFIG, options.fields), options.torch):
                log.write(json.dumps({'kind': 'validation', 'accuracy': accuracy}) + '\n')
        return
    fields = {'data.path': options.path, 'evaluation.test': 'false', 'train.tensorboard': 'false'} | overrides
    build(load_config(CONFIG, fields))  # prepares the data
    if options.peer:
        from benchmarks.torch_peer import uncovered

        if missing := uncovered(load_config(CONFIG, fields)):
            raise SystemExit(f'the peer has no like of {", ".join(missing)}')
    contenders = {'fer_jax': (jax_run, options.targets)} | ({'torch compile': (torch_run, options.targets[:2])} if options.peer else {})
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in contenders}
    for seed in parse_seeds(options.seeds):
        for name, (start, targets) in contenders.items():
            with tempfile.TemporaryDirectory() as folder:
                seen = start(fields | {'seed': str(seed)}, pathlib.Path(folder), targets[-1])
            runs[name].append({'seed': seed, 'minutes_to': passed(seen, targets), 'validations': seen})
            print(f'seed {seed}, {name}: {runs[name][-1]["minutes_to"]} minutes', flush=True)
            minutes = {each: mean([run['minutes_to'] for run in done]) for each, done in runs.items() if done}
            record(options.out, {'fields': overrides, 'minutes_to': minutes, 'runs': runs}, environment())


if __name__ == '__main__':
    main()
