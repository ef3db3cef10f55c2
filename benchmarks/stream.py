"""What streaming costs a training step, and whether memory stays flat: two million faces read from their shards as they are needed.

    python -m benchmarks.stream --data FOLDER [--faces 2000000] [--out results/speed/stream] [--quick] [--config.FIELD=VALUE …]

The faces are generated once, in FOLDER (2.4 GB a million), by the way that any data set is prepared. Then contenders take
turns. `streamed` is the training step fed by `fer_jax.training.batches`, as a run is fed; `fixed` is the same compiled step on one
batch that stays on the device. Their difference is all that reading costs: waiting for it, and the cores it takes from the step.
At the end `reading` goes once through the whole set without a step. The memory of each process is looked at after each round.
"""

import functools
import pathlib
import time
from typing import Any
from unittest import mock

import jax
import numpy as np
from jaxtyping import UInt8
from ml_collections import ConfigDict

from benchmarks.side_by_side import Contender, Round, race, ratio, record, serve
from benchmarks.training_step import CONFIG, TrainingStep, make_parser, parse, repeated
from fer_jax.core import processes
from fer_jax.core.config import load_config
from fer_jax.core.files import write_atomic
from fer_jax.core.mesh import device_memory
from fer_jax.data import prepare, readers, toyfaces
from fer_jax.data.load import load, pipeline
from fer_jax.data.schema import IMAGE_SIDE, SPLITS, Faces, Source
from fer_jax.training.batches import call_bounds, training_batches
from fer_jax.training.run import build
from fer_jax.training.step import make_train_chunk, steps_per_call

GOAL = 5.0  # per cent of the step
DRAWN = 60 * toyfaces.FACES_A_SUBJECT  # ToyFaces that the others are made of
HELD_OUT = 2000  # faces of the validation and of the test split
PARTS = 20  # of the pass through the whole set


class Blends:
    """Faces that are each made of two drawn ones, uint8 [n, 48, 48], when they are asked for; no two are made of the same."""

    dtype = np.dtype(np.uint8)

    def __init__(self, drawn: UInt8[np.ndarray, 'drawn 48 48'], numbers: range):
        self.light, self.numbers, self.shape = drawn // 4, np.array(numbers), (len(numbers), IMAGE_SIDE, IMAGE_SIDE)

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int | slice) -> UInt8[np.ndarray, '... 48 48']:
        other, one = np.divmod(self.numbers[index], len(self.light))
        return 3 * self.light[one] + self.light[other]


def generated(faces: int) -> Source:
    """A data set with so many training faces, whose pixels are not in memory."""
    drawn, labels, _ = toyfaces.draw(DRAWN, 0)
    bounds = np.cumsum([0, faces, HELD_OUT, HELD_OUT]).tolist()
    if bounds[-1] > DRAWN**2:
        raise SystemExit(f'--faces: at most {DRAWN**2 - 2 * HELD_OUT:,}')
    parts = {split: range(*bounds[place : place + 2]) for place, split in enumerate(SPLITS)}
    splits = {split: Faces(Blends(drawn, part), labels[np.array(part) % DRAWN]) for split, part in parts.items()}
    return Source('image_folder', toyfaces.CLASS_NAMES, splits, {split: split for split in SPLITS})


def configuration(folder: pathlib.Path, overrides: dict[str, str]) -> ConfigDict:
    """The run on the faces in `folder`; what stands for their source is a file that says how many there are."""
    where = {'data.dataset': 'image_folder', 'data.path': str(folder / 'faces.txt'), 'data.prepared': str(folder)}
    return load_config(CONFIG, where | {'data.pipeline': 'stream'} | overrides)


def generate(folder: pathlib.Path, faces: int, config: ConfigDict) -> dict[str, Any]:
    """Prepares the faces where they are not yet, opens them, and says how long it took to open and what they are."""
    folder.mkdir(parents=True, exist_ok=True)
    source, text = folder / 'faces.txt', f'{faces} generated faces\n'
    if not source.exists() or source.read_text() != text:
        write_atomic(source, text)
    with mock.patch.dict(readers.READERS, image_folder=lambda path, skip_bad: generated(faces)):
        manifest = prepare.prepare(config.data)
    shards = list(prepare.prepared_folder(config.data, manifest).glob('*-train.array_record*'))
    started = time.perf_counter()
    load(config.data)
    seconds = time.perf_counter() - started
    processes.start(config.parallel.cpu_devices)
    return {
        'faces': faces,
        'shards': len(shards),
        'bytes': sum(path.stat().st_size for path in shards),
        'auto_chooses': pipeline('auto', faces, device_memory()),
        'seconds_to_open': seconds,
    }


def make_reading(run: Any, steps: int) -> Round:
    """A round of reading one of `PARTS` parts of the training split and putting it on the devices."""
    batches = training_batches(run, call_bounds(0, run.steps, steps, run.boundaries))
    calls = max(1, run.steps_per_epoch // steps // PARTS)

    def do_round() -> tuple[float, float]:
        started = time.perf_counter()
        for _ in range(calls):
            jax.block_until_ready(next(batches))
        return calls * steps * run.config.batch_size, time.perf_counter() - started

    return do_round


def make(name: str, options: dict[str, Any]) -> tuple[Round, dict[str, Any]]:
    """A contender's round, whose work is images, and what it says of itself."""
    run = build(configuration(pathlib.Path(options['data']), options['overrides']))
    steps = steps_per_call(run.config)
    if name == 'reading':
        return make_reading(run, steps), {}
    batches, state = training_batches(run, call_bounds(0, run.steps, steps, run.boundaries)), run.initial_state()
    data = next(batches)
    chunk = (
        make_train_chunk(run.config, run.network, run.optimizer, run.mesh, steps, len(run.dataset.splits['train']))
        .lower(state, data)
        .compile()
    )
    step = TrainingStep(run, chunk, state, data, steps)

    def streamed() -> dict[str, jax.Array]:
        step.data = next(batches)
        return step()

    if name == 'fixed':
        batches.close()
    return repeated(streamed if name == 'streamed' else step, step.images_per_call, options['seconds']), step.about()


class Watched(Contender):
    """A contender whose memory is looked at after each round."""

    @functools.cached_property
    def mebibytes(self) -> list[float]:
        return []

    def round(self) -> tuple[float, float]:
        done = super().round()
        status = pathlib.Path(f'/proc/{self.process.pid}/status').read_text()
        self.mebibytes.append(int(status.partition('VmRSS:')[2].split()[0]) / 1024)
        return done


def report(measured: dict[str, Any]) -> str:
    """What is printed."""
    rates, cost = {name: float(np.median(each)) for name, each in measured['images_per_second'].items()}, measured['input_cost_per_cent']
    verdict = 'met' if cost['high'] < GOAL else 'missed' if cost['low'] >= GOAL else 'these rounds cannot tell'
    lines = [f'{"contender":<10} {"images/s":>10}   memory after the first, the last and the largest round, MiB']
    for name, memory in measured['mebibytes'].items():
        lines.append(f'{name:<10} {rates[name]:>10.0f}   {memory[0]:.0f}, {memory[-1]:.0f}, {max(memory):.0f}')
    spread = f'(quartiles {cost["low"]:.2f} to {cost["high"]:.2f})'
    lines.append(f'Streaming costs {cost["median"]:.2f} % of the step on a fixed batch {spread}; goal under {GOAL:g} %: {verdict}.')
    return '\n'.join(lines)


def main() -> None:
    if serve(make):
        return
    parser = make_parser(__doc__, 'stream', rounds=15)
    parser.add_argument('--data', type=pathlib.Path, required=True, help='folder of the generated faces, made where they are not there')
    parser.add_argument('--faces', type=int, default=2_000_000, help='in the training split; default: %(default)s')
    parser.add_argument('--generate-only', action='store_true', help='measure nothing')
    options, overrides = parse(parser)
    faces = 20_000 if options.quick else options.faces
    facts = generate(options.data, faces, configuration(options.data, overrides))
    if options.generate_only:
        return
    chosen = {'overrides': overrides, 'seconds': options.seconds, 'data': str(options.data)}

    def measure(names: tuple[str, ...], rounds: int) -> tuple[dict[str, list[float]], list[Watched]]:
        contenders = [Watched('benchmarks.stream', name, chosen) for name in names]
        return race(contenders, rounds), contenders

    rates, contenders = measure(('streamed', 'fixed'), options.rounds)
    about = contenders[0].about
    reading_rates, reading = measure(('reading',), PARTS)
    where = about.pop('environment')
    measured = about | facts | {'images_per_second': rates | reading_rates, 'goal_per_cent': GOAL}
    measured['input_cost_per_cent'] = {key: 100 * (value - 1) for key, value in ratio(rates, 'fixed', 'streamed').items()}
    measured['mebibytes'] = {each.name: each.mebibytes for each in (*contenders, *reading)}
    record(options.out, measured, where)
    print(report(measured))


if __name__ == '__main__':
    main()
