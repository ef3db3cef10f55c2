"""Engines that spread photographs over the cores of this machine: photographs a second of the same work, by the whole command.

    python -m benchmarks.fleet_engines [--out results/speed/fleet_engines] [--quick] --python beam=… --python 'ray data=…'

`ray tasks` is `launch/ray_predict.py`. `ray data` maps batches over actors and writes by its own sink; `beam` maps them by its local
runner, a process a core, and does likewise. Each finds, cuts out and names the faces in the photographs of benchmarks.fleet_overhead with
one thread of OpenCV a core. Neither Ray Data nor Beam is among the extras: --python names an interpreter that has the engine, the extra
`predict` and its own choice of what they both need. An engine takes seconds to start and to end: it is given few photographs and many,
and the rate is the difference of the photographs over the difference of the times. Each has been started once before, so that its files
have been read and compiled.
"""

import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.fleet_overhead import draw_photographs
from benchmarks.side_by_side import ROOT, record
from benchmarks.training_step import make_parser, parse
from fer_jax.core.fields import MIN_SCORE, SHIPPED
from fer_jax.data.images import MEGAPIXELS
from fer_jax.runs.environment import environment
from fer_jax.runs.weights import read_weights
from launch import ray_predict

BATCH = 16  # photographs in a batch of an engine's, and in a shard
MANNER = ray_predict.Manner(SHIPPED, 'centre', 'mtcnn', MIN_SCORE, 0.0, MEGAPIXELS)


def rows(names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """What a shard has of these photographs, every column of it."""
    columns = schema().names
    for name, found in ray_predict.look_at(names, MANNER, 1).items():
        for row in ray_predict.rows_of(name, found):
            yield {column: row.get(column) for column in columns}


def schema() -> pa.Schema:
    """The columns of a shard."""
    return ray_predict.schema(read_weights(SHIPPED).class_names)


class Actor:
    """Ray Data's way of keeping what is loaded."""

    def __call__(self, batch: dict[str, Any]) -> pa.Table:
        return pa.Table.from_pylist(list(rows(batch['item'].tolist())), schema())


def by_ray_data(files: Sequence[str], folder: str, cores: int) -> None:
    ray_predict.connect(None, cores)
    from ray.data import DataContext, from_items

    DataContext.get_current().enable_progress_bars = False
    from_items(list(files)).map_batches(Actor, batch_size=BATCH, concurrency=cores, batch_format='numpy').write_parquet(folder)


def by_beam(files: Sequence[str], folder: str, cores: int) -> None:
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

    options = ['--runner=DirectRunner', f'--direct_num_workers={cores}', '--direct_running_mode=multi_processing']
    with beam.Pipeline(options=PipelineOptions(options)) as pipeline:
        batches = pipeline | beam.Create(list(files)) | beam.Reshuffle() | beam.BatchElements(BATCH, BATCH)
        _ = batches | beam.FlatMap(rows) | beam.io.WriteToParquet(f'{folder}/faces', schema(), file_name_suffix='.parquet')


PIPELINES = {'ray data': by_ray_data, 'beam': by_beam}


def command(engine: str, python: str, folder: pathlib.Path, out: pathlib.Path, cores: int) -> list[str]:
    """What does all photographs of a folder."""
    match engine:
        case 'predict':
            return [python, '-m', 'fer_jax', 'predict', str(folder), '--csv', str(out / 'faces.csv')]
        case 'ray tasks':
            script = str(ROOT / 'launch/ray_predict.py')
            return [python, script, str(folder), '--out', str(out), '--shard', str(BATCH), '--workers', str(cores)]
    return [python, '-m', 'benchmarks.fleet_engines', '--engine', engine, str(folder), str(out)]


def seconds(engine: str, python: str, folder: pathlib.Path, cores: int) -> float:
    """How long an engine takes for all photographs of a folder. SystemExit where it does not do all of them."""
    with tempfile.TemporaryDirectory() as out:
        began = time.perf_counter()
        words, variables = command(engine, python, folder, pathlib.Path(out), cores), os.environ | {'PYTHONPATH': str(ROOT)}
        ended = subprocess.run(words, cwd=ROOT, env=variables, capture_output=True, text=True)
        taken = time.perf_counter() - began
        if ended.returncode:
            raise SystemExit(f'{engine}: exit code {ended.returncode}: {ended.stderr[-2000:]}')
        found = [path for path in pathlib.Path(out).iterdir() if path.suffix == '.parquet']
        pictures = {name for path in found for name in pq.read_table(path, columns=['picture'])['picture'].to_pylist()}
        if engine != 'predict' and pictures != set(ray_predict.find(str(folder))):
            raise SystemExit(f'{engine}: {len(pictures)} photographs have rows')
    return taken


def main() -> None:
    cores = len(os.sched_getaffinity(0))
    if sys.argv[1:2] == ['--engine']:
        engine, folder, out = sys.argv[2:]
        PIPELINES[engine](ray_predict.find(folder), out, cores)
        return
    parser = make_parser(__doc__, 'fleet_engines', rounds=3)
    parser.add_argument('--few', type=int, default=32, help='photographs; default: %(default)s')
    parser.add_argument('--many', type=int, default=192, help='photographs; default: %(default)s')
    parser.add_argument('--python', action='append', default=[], metavar='ENGINE=PYTHON', help=f'who runs {" or ".join(PIPELINES)}')
    options, _ = parse(parser)
    chosen = dict.fromkeys(('predict', 'ray tasks'), sys.executable) | dict(each.split('=', 1) for each in options.python)
    with tempfile.TemporaryDirectory() as folder:
        folders = {count: pathlib.Path(folder, str(count)) for count in (options.few, options.many)}
        for count, each in folders.items():
            each.mkdir()
            draw_photographs(each, count)
        times: dict[str, dict[str, list[float]]] = {engine: {str(count): [] for count in folders} for engine in chosen}
        for engine, python in chosen.items():
            seconds(engine, python, folders[options.few], cores)
        for _ in range(options.rounds):
            for engine, python in chosen.items():
                for count, each in folders.items():
                    times[engine][str(count)].append(seconds(engine, python, each, cores))
                print(engine, {count: f'{taken[-1]:.1f} s' for count, taken in times[engine].items()}, flush=True)
    rates, starts = {}, {}
    for engine, taken in times.items():
        few, many = map(statistics.median, taken.values())
        rates[engine] = (options.many - options.few) / (many - few)
        starts[engine] = few - options.few / rates[engine]
    measured = {'few': options.few, 'many': options.many, 'cores': cores, 'seconds': times}
    record(options.out, measured | {'photographs_per_second': rates, 'seconds_beside': starts}, environment())
    for engine, rate in rates.items():
        print(f'{engine}: {rate:.1f} photographs/s, and {starts[engine]:.1f} s to start and to end')


if __name__ == '__main__':
    from benchmarks.fleet_engines import main  # by a name that the workers can import

    main()
