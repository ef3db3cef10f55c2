#!/usr/bin/env python3
"""Names the expressions in any number of photographs, spread over the workers of a Ray cluster, and writes them as parquet.

    python launch/ray_predict.py photographs/ --out faces/                  # the cores of this machine
    python launch/ray_predict.py list.txt --out faces/ --address auto       # the cluster that `ray start` has made

SOURCE is a folder, or a text file with a photograph's path a line. In --out are shards, each with the columns of `predict --csv` and
`problem`: a row a face, and one for a photograph without a face or that cannot be read. The same command goes on where it was ended.
It needs the package with its extra `fleet`, and nothing else of the repository. docs/fleet.md says more.
"""

import argparse
import functools
import hashlib
import os
import pathlib
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

HERE = pathlib.Path(__file__).resolve().parent
CHECKOUT = [str(HERE.parent)] if (HERE.parent / 'fer_jax').is_dir() else []  # elsewhere the package is an installed one
sys.path[:0] = CHECKOUT

import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402

from fer_jax.core.command_line import Parser, add_views, add_weights, chosen_weights  # noqa: E402
from fer_jax.core.errors import InputError, first_line, printable  # noqa: E402
from fer_jax.core.files import clear_temporaries, open_atomic, read_bytes, read_json, write_json  # noqa: E402
from fer_jax.data.images import MAX_FILE  # noqa: E402
from fer_jax.inference.classifier import classify, loaded  # noqa: E402
from fer_jax.inference.cli import add_detector, add_megapixels, whole_number  # noqa: E402
from fer_jax.inference.face import Face  # noqa: E402
from fer_jax.inference.faces import Detector, make_detector, opencv  # noqa: E402
from fer_jax.inference.output import BOX, COLUMNS, VERSION  # noqa: E402
from fer_jax.inference.sources import Shot, expand, is_video_name, look  # noqa: E402
from fer_jax.runs.claims import holding  # noqa: E402
from fer_jax.runs.weights import read_weights  # noqa: E402

# In --out: what all of its shards were made with, and who writes them; readers of parquet leave out names that begin so.
ABOUT, CLAIMS = '_about.json', '_claims'
RETRIES = 2  # of a shard whose worker is lost; then its photographs are tried in halves, down to the one that ends workers
WAITING = 1000  # shards that the cluster is given at a time
TOLD_EVERY = 10.0  # seconds
MOST_LIST = 16 << 30  # bytes of a list
TYPES = {name: pa.int64() for name in ('version', 'frame', 'track', *BOX)} | {name: pa.string() for name in ('picture', 'label')}


class Lost(Exception):
    """A worker was lost again and again, or its memory ran out, over the same photographs."""


class Manner(NamedTuple):
    """How every photograph is looked at."""

    checkpoint: str
    views: str
    detector: str | None  # None: each photograph is a face
    min_score: float
    min_size: float
    megapixels: int


class Told(NamedTuple):
    """What a shard holds."""

    photographs: int
    faces: int
    unreadable: int


def schema(class_names: Sequence[str]) -> pa.Schema:
    """The columns of a shard: those of `predict --csv`, and `problem`, which is null of what could be read."""
    names = (*COLUMNS, *(f'probability_{name}' for name in class_names))
    return pa.schema([(name, TYPES.get(name, pa.float64())) for name in names] + [('problem', pa.string())])


@functools.lru_cache(maxsize=1)
def finder(manner: Manner, threads: int) -> Detector | None:
    """What finds the faces, for this process; OpenCV takes so many threads."""
    opencv('finding faces').setNumThreads(threads)
    return make_detector(manner.detector, manner.min_score, manner.min_size) if manner.detector else None


def write_shard(names: Sequence[str], folder: str, manner: Manner, threads: int) -> Told:
    """Looks at photographs and writes their rows into a file of `folder` that is named after them. InputError as of `look_at`."""
    found = look_at(names, manner, threads)
    write_rows(names, found, folder, loaded(manner.checkpoint, manner.views).class_names)
    unreadable = sum(isinstance(each, InputError) for each in found.values())
    return Told(len(names), sum(len(each) for each in found.values() if isinstance(each, list)), unreadable)


def look_at(names: Sequence[str], manner: Manner, threads: int) -> dict[str, list[Face] | InputError]:
    """Photograph → the faces in it, or why it cannot be read.

    Raises:
      InputError: no such weights or detector here.
    """
    detect, classifier = finder(manner, threads), loaded(manner.checkpoint, manner.views)
    found: dict[str, list[Face] | InputError] = {}

    def shots() -> Iterator[Shot]:
        for name in names:
            try:
                yield look(read_bytes(name, MAX_FILE), detect, name, manner.megapixels)
            except InputError as error:
                found[name] = error

    for shot, faces in classify(shots(), classifier):
        found[shot.source] = faces
    return found


def rows_of(name: str, found: list[Face] | InputError) -> list[dict[str, Any]]:
    """A photograph's rows: one a face, or one that says that there is none, or why it cannot be read."""
    picture = {'version': VERSION, 'picture': printable(name)}
    if isinstance(found, InputError):
        return [picture | {'problem': str(found)}]
    return [face.record() | picture for face in found] or [picture]


def write_rows(names: Sequence[str], found: dict[str, list[Face] | InputError], folder: str, class_names: Sequence[str]) -> None:
    """The shard of these photographs, atomically: whoever writes it again, writes the same."""
    rows = [row for name in names for row in rows_of(name, found[name])]
    digest = hashlib.sha256('\0'.join(names).encode('utf-8', 'surrogateescape')).hexdigest()
    with open_atomic(pathlib.Path(folder, f'faces-{digest[:20]}.parquet')) as file:
        pq.write_table(pa.Table.from_pylist(rows, schema(class_names)), file, compression='zstd')


def find(source: str) -> list[str]:
    """The photographs of a folder or a list, each once, as absolute paths.

    Raises:
      InputError: there are none.
    """
    if os.path.isdir(source):
        files = expand(source)[0]
        names = [file for file in files if not is_video_name(file)]
        if len(names) < len(files):
            print(f'{printable(source)}: {len(files) - len(names):,} videos are left alone; `fer-jax predict` reads them')
    else:
        names = [line for line in os.fsdecode(read_bytes(source, MOST_LIST)).splitlines() if line.strip()]
    if not names:
        raise InputError(f'{printable(source)}: names no photograph')
    return list(dict.fromkeys(map(os.path.abspath, names)))


def done(folder: pathlib.Path) -> set[str]:
    """The photographs whose rows are in the shards of a folder."""
    pictures: set[str] = set()
    for path in sorted(folder.glob('faces-*.parquet')):
        try:
            pictures.update(pq.read_table(path, columns=['picture'])['picture'].to_pylist())
        except (OSError, pa.ArrowException) as error:
            raise InputError(f'{path}: damaged ({first_line(error)}); without it its photographs are looked at again') from None
    return pictures


def open_folder(folder: pathlib.Path, about: dict[str, Any]) -> None:
    """Makes the folder of the shards, or returns if those that are there were made in the same manner.

    Raises:
      InputError: they were not, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / ABOUT).exists():
            write_json(folder / ABOUT, about)
    except OSError as error:
        raise InputError(f'--out {folder}: {error.strerror}') from None
    before = read_json(folder / ABOUT)
    for field, value in about.items():
        if not isinstance(before, dict) or before.get(field) != value:
            raise InputError(f'--out {folder}: its shards were made with another {field}; choose another folder')
    clear_temporaries(folder)


def spread(
    shards: Iterable[list[str]],
    start: Callable[[list[str]], Any],
    ready: Callable[[list[Any]], tuple[Any, Told | Lost]],
    give_up: Callable[[str, Lost], Told],
    waiting: int = WAITING,
) -> Iterator[Told]:
    """What each shard holds, as they are finished; the photographs of one that is lost are tried in halves.

    Args:
      start: begins a shard and returns a handle.
      ready: waits for one of the handles; returns it, and what came of it.
      give_up: tells the fate of a photograph that is lost by itself.
      waiting: shards that are begun at a time.
    """
    running: dict[Any, list[str]] = {}
    again: list[list[str]] = []
    rest = iter(shards)
    while True:
        while len(running) < waiting and (names := again.pop() if again else next(rest, None)):
            running[start(names)] = names
        if not running:
            return
        handle, told = ready(list(running))
        names = running.pop(handle)
        if isinstance(told, Told):
            yield told
        elif len(names) == 1:
            yield give_up(names[0], told)
        else:
            again += [names[: len(names) // 2], names[len(names) // 2 :]]


def make_parser() -> argparse.ArgumentParser:
    """The arguments."""
    parser = Parser(prog='ray_predict.py', description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument('source', metavar='SOURCE', help='a folder, or a text file with the path of a photograph a line')
    parser.add_argument('--out', type=pathlib.Path, required=True, metavar='DIR', help='folder of the shards, which all workers can write')
    parser.add_argument('--address', help='of a Ray cluster, or auto; default: one is started on this machine, and ended')
    parser.add_argument(
        '--workers', type=whole_number(1, 10**6), metavar='N', help='of the cluster that is started here; default: its cores'
    )
    parser.add_argument(
        '--shard', type=whole_number(1, 10**6), default=256, metavar='N', help='photographs in a shard; default: %(default)s'
    )
    add_weights(parser)
    add_views(parser, 'face')
    add_detector(parser, 'each photograph is one face')
    add_megapixels(parser)
    return parser


def connect(address: str | None, workers: int | None) -> Any:
    """Ray, with a cluster: the one at `address`, or one of so many workers that ends with this process."""
    os.environ.setdefault('RAY_USAGE_STATS_ENABLED', '0')
    try:
        import ray
    except ImportError:
        raise InputError("Ray is not installed: pip install 'fer_jax[fleet]'") from None
    # The workers import this file: a cluster's other machines have it at the same place, as they have the photographs.
    path = os.pathsep.join([str(HERE), *CHECKOUT, *filter(None, [os.environ.get('PYTHONPATH')])])
    quiet = {'runtime_env': {'env_vars': {'PYTHONPATH': path}}, 'log_to_driver': False, 'logging_level': 'ERROR'}
    try:
        if address:
            ray.init(address, **quiet)
        else:
            ray.init(num_cpus=workers, include_dashboard=False, object_store_memory=128 << 20, **quiet)
    except Exception as error:  # such as a bare one where its processes take too long to start
        raise InputError(f'no Ray cluster {"at " + address if address else "can be started here"}: {first_line(error)}') from None
    return ray


def run(options: argparse.Namespace) -> int:
    """Looks at what is not done yet; returns the exit code, 2 where a photograph cannot be read."""
    manner = Manner(
        chosen_weights(options),
        options.views,
        None if options.no_detect else options.detector,
        options.min_score,
        options.min_size,
        options.megapixels,
    )
    weights = read_weights(manner.checkpoint)
    finder(manner, 1)  # whether there is one
    about = manner._asdict() | {'version': VERSION, 'sha256': weights.sha256, 'classes': list(weights.class_names)}
    names = find(options.source)
    with holding(options.out / CLAIMS, 'fleet', f'--out {options.out}'):
        open_folder(options.out, about)
        before = done(options.out)
        left = [name for name in names if printable(name) not in before]
        if len(left) < len(names):
            print(f'{len(names) - len(left):,} of {len(names):,} photographs are done')
        total = Told(0, 0, 0)
        if left:
            ray = connect(options.address, options.workers)
            signal.signal(signal.SIGTERM, signal.default_int_handler)  # for Ray's own writes where in its code it was
            try:
                total = predict_left(ray, left, options.out, manner, weights.class_names, options.shard)
            finally:
                ray.shutdown()
    print(f'{total.photographs:,} photographs, {total.faces:,} faces, {total.unreadable:,} that cannot be read → {options.out}/')
    return 2 if total.unreadable else 0


def predict_left(
    ray: Any, names: Sequence[str], folder: pathlib.Path, manner: Manner, class_names: Sequence[str], size: int, threads: int = 1
) -> Told:
    """Spreads the photographs over the cluster in shards of that size, and tells on the terminal how far they are.

    Args:
      ray: of `connect`.
      threads: of each worker, and the cores that it is given.

    Raises:
      InputError: a worker has no such weights or detector, or cannot write.
    """
    work = ray.remote(num_cpus=threads, max_retries=RETRIES)(write_shard)

    def ready(handles: list[Any]) -> tuple[Any, Told | Lost]:
        (handle, *_), _ = ray.wait(handles)
        try:
            return handle, ray.get(handle)
        except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError, ray.exceptions.NodeDiedError) as error:
            return handle, Lost(first_line(error))
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, MemoryError):
                return handle, Lost('its memory ran out')
            raise InputError(f'a worker: {first_line(error.cause)}') from None

    def give_up(name: str, lost: Lost) -> Told:
        write_rows([name], {name: InputError(f'ends whatever process reads it: {lost}')}, str(folder), class_names)
        return Told(1, 0, 1)

    shards = (list(names[start : start + size]) for start in range(0, len(names), size))
    where = str(folder.absolute())
    total, begun, told = Told(0, 0, 0), time.monotonic(), time.monotonic()
    for each in spread(shards, lambda part: work.remote(part, where, manner, threads), ready, give_up):
        total = Told(*map(sum, zip(total, each, strict=True)))
        if time.monotonic() - told > TOLD_EVERY:
            told = time.monotonic()
            rate = total.photographs / (told - begun)
            print(f'{total.photographs:,} of {len(names):,} photographs, {rate:.1f} a second, {total.faces:,} faces', flush=True)
    return total


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 done, 1 something cannot be written, 2 the input is wrong or a photograph cannot be read, 130 stopped."""
    try:
        return run(make_parser().parse_args(arguments))
    except InputError as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    except OSError as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('stopped; the same command goes on', file=sys.stderr)
        return 130


if __name__ == '__main__':
    sys.path.append(str(HERE))  # which is not there under `python -P`
    from ray_predict import main  # by a name that the workers can import

    sys.exit(main())
