"""The compiled training step of a configuration with its state and random data of FER2013's size: what the benchmarks of speed time."""

import argparse
import dataclasses
import os
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import jax
import numpy as np
from jax.sharding import Mesh
from jax.stages import Compiled

from benchmarks.side_by_side import Round
from fer_jax.core.command_line import OVERRIDES, split_overrides
from fer_jax.core.config import load_config
from fer_jax.core.mesh import DATA, settle
from fer_jax.data.schema import IMAGE_SIDE, SPLITS, Dataset, Faces
from fer_jax.runs.environment import environment
from fer_jax.runs.state import TrainState
from fer_jax.training.batches import Data, training_data
from fer_jax.training.run import Run, build
from fer_jax.training.step import make_train_chunk, steps_per_call

CONFIG = 'configs/fer2013.py'
IMAGES = 28_709  # of FER2013's Training
CLASSES = 7


@dataclasses.dataclass
class TrainingStep:
    """One compiled call of `steps_per_call` training steps, and what it is called with."""

    run: Run
    chunk: Compiled
    state: TrainState
    data: Data
    steps_per_call: int

    def __call__(self) -> dict[str, jax.Array]:
        """Takes the steps; returns their metrics, which may still be on their way."""
        self.state, metrics = self.chunk(self.state, self.data)
        settle(metrics)
        return metrics

    @property
    def images_per_call(self) -> int:
        return self.run.config.batch_size * self.steps_per_call

    def about(self) -> dict[str, Any]:
        """What a record says of it."""
        config = self.run.config
        facts = {'batch_size': config.batch_size, 'devices': self.run.mesh.size, 'dtype': config.network.dtype}
        return facts | {'steps_per_call': self.steps_per_call, 'environment': environment()}


def make_training_step(
    overrides: dict[str, str], devices: int = 0, data_of: Callable[[Run], Data] = training_data, **compiler_options: str
) -> TrainingStep:
    """The training step of configs/fer2013.py with `overrides`, compiled for `devices` devices (0: as many as a run takes).

    Args:
      data_of: makes what the step is given as its data.
      compiler_options: of XLA.
    """
    run = random_run(overrides, devices)
    steps = steps_per_call(run.config)
    state, data = run.initial_state(), data_of(run)
    lowered = make_train_chunk(run.config, run.network, run.optimizer, run.mesh, steps).lower(state, data)
    return TrainingStep(run, lowered.compile(compiler_options or None), state, data, steps)


def random_run(overrides: dict[str, str], devices: int = 0) -> Run:
    """The parts of a run whose images and labels are random: how fast it is does not hang on them."""
    # Contenders hold one accelerator together: none may take all its memory at its start.
    os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')
    count = {'parallel.cpu_devices': str(devices)} if devices else {}
    config = load_config(CONFIG, {'data.path': 'random'} | count | overrides)
    with mock.patch('fer_jax.training.run.load', lambda *options: random_dataset()):
        run = build(config)
    return dataclasses.replace(run, mesh=Mesh(np.array(jax.devices()[:devices]), (DATA,))) if devices else run


def random_dataset() -> Dataset:
    """A data set of FER2013's size whose three splits are the same random faces."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (IMAGES, IMAGE_SIDE, IMAGE_SIDE), np.uint8)
    faces = Faces(images, generator.integers(0, CLASSES, IMAGES, np.int32))
    names = tuple(f'class{number}' for number in range(CLASSES))
    return Dataset('random', names, dict.fromkeys(SPLITS, faces), {name: name for name in SPLITS}, {'content_sha256': 'random'})


def repeated(call: Callable[[], Any], work: float, seconds: float) -> Round:
    """A round of as many calls as last about `seconds`, each worth `work`; the first round finds out how many.

    One call goes before, untimed: while others had their turn, caches forgot and a virtual machine's memory may have gone back.
    """
    calls = 0

    def take(count: int) -> float:
        started = time.perf_counter()
        for _ in range(count):
            result = call()
        jax.block_until_ready(result)
        return time.perf_counter() - started

    def do_round() -> tuple[float, float]:
        nonlocal calls
        if not calls:
            take(2)  # the first calls load code and make the threads
            calls = max(1, round(2 * seconds / take(2)))
        take(1)
        return work * calls, take(calls)

    return do_round


def make_parser(description: str, name: str, rounds: int) -> argparse.ArgumentParser:
    """The arguments that the benchmarks of speed have in common."""
    epilog = f'{OVERRIDES} Below them lies {CONFIG}.'
    parser = argparse.ArgumentParser(description=description.splitlines()[0], epilog=epilog, allow_abbrev=False)
    parser.add_argument('--out', type=pathlib.Path, default=pathlib.Path('results/speed') / name, help='default: %(default)s')
    parser.add_argument('--rounds', type=int, default=rounds, help='default: %(default)s')
    parser.add_argument('--seconds', type=float, default=2.0, help='of one round; default: %(default)s')
    parser.add_argument('--quick', action='store_true', help='a small trial: other numbers, the same way')
    return parser


def parse(parser: argparse.ArgumentParser, arguments: list[str] | None = None) -> tuple[argparse.Namespace, dict[str, str]]:
    """The options and the configuration's overrides, of the command line unless `arguments` are given; makes the folder `--out`.

    A quick trial has two rounds of a quarter of a second.
    """
    rest, overrides = split_overrides(sys.argv[1:] if arguments is None else arguments)
    options = parser.parse_args(rest)
    options.out.mkdir(parents=True, exist_ok=True)
    if options.quick:
        options.rounds, options.seconds = 2, 0.25
    return options, overrides
