"""The files of `predict`: the faces as JSON, as lines of JSON, or as a table, each written while they are found.

docs/predict.md says what stands in them. What is added to their fields leaves VERSION as it is; what is taken away, renamed or given
another meaning makes it larger.
"""

import contextlib
import csv
import json
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TextIO

from fer_jax.core.errors import InputError, printable
from fer_jax.core.files import is_sink
from fer_jax.inference.face import Face
from fer_jax.inference.tracks import Track

FORMAT, VERSION = 'fer_jax faces', 1
BOX = ('left', 'top', 'width', 'height')
COLUMNS = ('version', 'picture', 'frame', 'time', 'track', 'score', 'label', 'confidence', *BOX)  # and probability_CLASS of each

Write = Callable[[Face | Track | InputError], None]


class Ending(NamedTuple):
    """How the looking ended."""

    faces: int
    problems: list[str]
    interrupted: bool  # by a signal


@contextlib.contextmanager
def open_outputs(files: dict[str, pathlib.Path | None], about: dict[str, Any], ending: Callable[[], Ending]) -> Iterator[list[Write]]:
    """Functions that add what was found to a file each.

    Args:
      files: option (a key of WRITERS) → where it is written to, or None.
      about: what is said of all faces: checkpoint, sha256, views, classes, …
      ending: is asked at the end.

    Raises:
      InputError: one cannot be written; those that were begun before are taken away.
    """
    with contextlib.ExitStack() as stack:
        writes: list[Write] = []
        taken: dict[str, str] = {}
        for option, path in files.items():
            try:
                if path:
                    if path.is_dir():
                        raise InputError(f'{option} {path}: is a folder; name a file in it')
                    other = taken.setdefault(os.path.realpath(path), option)
                    if other != option and not is_sink(path):
                        raise InputError(f'{option} {path}: {other} is written there; name another file')
                    make, is_stream = WRITERS[option]
                    at_once = is_sink(path) or is_stream
                    mode = 'a' if is_sink(path) else 'w'
                    file = stack.enter_context(open(path, mode, 1, 'utf-8', newline='') if at_once else open_growing(path))
                    writes.append(stack.enter_context(make(file, about, ending)))
            except OSError as error:
                raise InputError(f'{option} {path}: {error.strerror}') from None
        yield writes


@contextlib.contextmanager
def open_growing(path: pathlib.Path) -> Iterator[TextIO]:
    """A text file whose lines are in NAME.part at once, for others to read, and in NAME when the block ends.

    Where the process is killed, or the block ends by an error that is not the user's, NAME.part stays: it holds what was found until then.
    """
    growing = path.with_name(f'{path.name}.part')
    try:
        with open(growing, 'w', 1, 'utf-8', newline='') as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(growing, path)
    except InputError:
        growing.unlink()
        raise


@contextlib.contextmanager
def json_lines(file: TextIO, about: dict[str, Any], ending: Callable[[], Ending]) -> Iterator[Write]:
    """A line for each face, track and problem, between one of kind `about` and one of kind `end`; `kind` says which it is."""

    def line(kind: str, fields: dict[str, Any]) -> None:
        file.write(json.dumps({'kind': kind} | fields) + '\n')

    def write(found: Face | Track | InputError) -> None:
        kind = {Face: 'face', Track: 'track'}.get(type(found), 'problem')
        line(kind, {'message': str(found)} if kind == 'problem' else found.to_dict())

    line('about', {'format': FORMAT, 'version': VERSION} | about)
    yield write
    end = ending()
    line('end', {'faces': end.faces, 'interrupted': end.interrupted})


@contextlib.contextmanager
def json_object(file: TextIO, about: dict[str, Any], ending: Callable[[], Ending]) -> Iterator[Write]:
    """One object: what is `about` all, `faces` (a line each), `tracks`, `problems`, `interrupted`."""
    file.write(json.dumps({'format': FORMAT, 'version': VERSION} | about)[:-1] + ', "faces": [')
    separators = iter(['\n'])
    tracks: list[dict[str, Any]] = []

    def write(found: Face | Track | InputError) -> None:
        if isinstance(found, Face):
            file.write(next(separators, ',\n') + json.dumps(found.to_dict()))
        elif isinstance(found, Track):
            tracks.append(found.to_dict())

    yield write
    end = ending()
    rest = {'tracks': tracks, 'problems': end.problems, 'interrupted': end.interrupted}
    file.write(f'\n], {json.dumps(rest)[1:]}\n')


@contextlib.contextmanager
def table(file: TextIO, about: dict[str, Any], ending: Callable[[], Ending]) -> Iterator[Write]:
    """A row for each face, as of `Face.record`, with the version in front."""
    rows = csv.DictWriter(file, [*COLUMNS, *(f'probability_{name}' for name in about['classes'])], lineterminator='\n')
    rows.writeheader()

    def write(found: Face | Track | InputError) -> None:
        if isinstance(found, Face):
            row = found.record()
            rows.writerow({'version': VERSION} | row | {'picture': printable(row['picture'])})

    yield write


# Option → what writes it, and whether its file has its name from the beginning: a stream says itself where it ends.
WRITERS = {'--json': (json_object, False), '--jsonl': (json_lines, True), '--csv': (table, False)}
