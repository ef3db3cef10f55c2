"""What Ray costs: photographs a second by `launch/ray_predict.py` on this machine beside plain `predict`, both with everything loaded.

    python -m benchmarks.fleet_overhead [--out results/speed/fleet_overhead] [--quick] [--photographs 200]

`predict` finds, cuts out and names the faces in one process, whose OpenCV takes all cores, and writes a CSV. `one worker` does the same
with the same threads in a Ray worker, and writes parquet: what it takes longer is the engine's. `workers` is how the script is started,
a worker a core with one thread each. The photographs are drawn, 640×480, with a face or two. The seconds until each was ready (the
cluster, the imports, the weights) are recorded beside.
"""

import json
import os
import pathlib
import tempfile
import time
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.side_by_side import Contender, Round, race, ratio, record, serve
from benchmarks.training_step import environment, make_parser, parse
from fer_jax.core.fields import MIN_SCORE, SHIPPED
from fer_jax.data.images import MEGAPIXELS
from fer_jax.inference.classifier import classify, load
from fer_jax.inference.command import Manner, look
from fer_jax.inference.faces import make_detector
from fer_jax.inference.output import Ending, open_outputs
from launch import ray_predict
from tests.drawn import photo

GOAL = 15.0  # per cent
SHARD = 16  # photographs; a million have larger ones, which cost less
NAMES = ('predict', 'one worker', 'workers')


def draw_photographs(folder: pathlib.Path, count: int) -> None:
    """Photographs with a drawn face or two in soft noise."""
    generator = np.random.default_rng(0)
    for number in range(count):
        places = [
            (40 + 290 * place, int(generator.integers(20, 200)), int(generator.integers(150, 240))) for place in range(1 + number % 2)
        ]
        picture = photo(480, 640, places) + generator.normal(0, 6, (480, 640, 3))
        Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8)).save(folder / f'{number:05}.jpg', quality=90)


def by_predict(files: list[str]) -> Round:
    """A round of what the command does."""
    classifier, detector = load(), make_detector()
    about = {'checkpoint': classifier.name, 'classes': classifier.class_names}

    def fail(error: Exception) -> None:
        raise error

    def do_round() -> tuple[float, float]:
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            table = {'--csv': pathlib.Path(folder, 'faces.csv')}
            with open_outputs(table, about, lambda: Ending(0, [], False)) as (write,):
                for _, faces in classify(look(files, detector, Manner(), lambda: False, fail), classifier):
                    for face in faces:
                        write(face)
        return len(files), time.perf_counter() - started

    return do_round


def by_workers(files: list[str], workers: int, threads: int) -> Round:
    """A round of the script's, on a cluster that is there."""
    ray = ray_predict.connect(None, workers * threads)
    manner = ray_predict.Manner(SHIPPED, 'centre', 'mtcnn', MIN_SCORE, 0.0, MEGAPIXELS)
    names = load(SHIPPED).class_names

    def do_round() -> tuple[float, float]:
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            told = ray_predict.predict_left(ray, files, pathlib.Path(folder), manner, names, SHARD, threads)
        if told.unreadable or told.photographs != len(files):
            raise SystemExit(f'of {len(files)} photographs: {told}')
        return len(files), time.perf_counter() - started

    return do_round


def make(name: str, options: dict[str, Any]) -> tuple[Round, dict[str, Any]]:
    """A contender's round, whose work is photographs, and what it says of itself."""
    cores = len(os.sched_getaffinity(0))
    files = ray_predict.find(options['folder'])
    if name == 'predict':
        return by_predict(files), {'cores': cores, 'environment': environment()}
    workers, threads = (1, cores) if name == 'one worker' else (cores, 1)
    return by_workers(files, workers, threads), {}


def main() -> None:
    if serve(make):
        return
    parser = make_parser(__doc__, 'fleet_overhead', rounds=5)
    parser.add_argument('--photographs', type=int, default=200, help='in a round; default: %(default)s')
    options, _ = parse(parser)
    with tempfile.TemporaryDirectory() as folder:
        count = 32 if options.quick else options.photographs
        draw_photographs(pathlib.Path(folder), count)
        contenders = [Contender('benchmarks.fleet_overhead', name, {'folder': folder}) for name in NAMES]
        rates = race(contenders, options.rounds)
    about = contenders[0].about
    costs = {name: {key: 100 * (value - 1) for key, value in ratio(rates, 'predict', name).items()} for name in NAMES[1:]}
    measured = {'photographs': count, 'shard': SHARD, 'cores': about['cores'], 'photographs_per_second': rates, 'goal_per_cent': GOAL}
    ready = {each.name: each.seconds_to_ready for each in contenders}
    record(options.out, measured | {'overhead_per_cent': costs, 'seconds_to_ready': ready}, about['environment'])
    for name, cost in costs.items():
        verdict = 'met' if cost['high'] < GOAL else 'missed' if cost['low'] >= GOAL else 'these rounds cannot tell'
        print(f'{name}: {cost["median"]:.1f} % longer than predict (quartiles {cost["low"]:.1f} to {cost["high"]:.1f}); goal: {verdict}')
    print(json.dumps(ready))


if __name__ == '__main__':
    main()
