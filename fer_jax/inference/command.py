"""`python -m fer_jax predict`: pictures, folders, videos and cameras → a table, files, and pictures with what was found."""

import codecs
import contextlib
import csv
import itertools
import json
import os
import pathlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence

from fer_jax.core import processes
from fer_jax.core.errors import InputError, printable
from fer_jax.core.files import open_atomic
from fer_jax.core.terminal import reader_is_gone
from fer_jax.data.folders import shown
from fer_jax.data.images import MEGAPIXELS
from fer_jax.inference.classifier import Classifier, Face, classify, load
from fer_jax.inference.display import Display
from fer_jax.inference.faces import Detector
from fer_jax.inference.sources import Shot, distinct, expand, is_camera, is_video_name, make_folders, shots

DIGITS = 6  # of a probability, as predictions.csv of an evaluation has

Record = Callable[[Face], None]


def predict_sources(
    sources: Sequence[str],
    checkpoint: str,
    views: str,
    detector: Detector | None,
    json_file: pathlib.Path | None = None,
    csv_file: pathlib.Path | None = None,
    annotated: pathlib.Path | None = None,
    megapixels: int = MEGAPIXELS,
) -> int:
    """Looks at all sources. One that cannot be read is told in a line, and the rest carried on.

    Args:
      sources: image files, videos, folders of both, numbers of cameras.
      checkpoint, views: as of classifier.load.
      detector: finds the faces; without one each picture is a face.
      json_file, csv_file, annotated: where the findings go beside the terminal; the last is a folder.
      megapixels: of a picture, as of images.decode.

    Returns:
      The exit code: 0; 2 if a source could not be read, or not to its end; 130 if a signal came. Whatever it is, what was found is
      written. A camera is ended by a signal, which is no fault.

    Raises:
      InputError: there are no such weights, or a file cannot be written.
    """
    problems: list[str] = []
    names = find(sources, problems)
    classifier = load(checkpoint, views)
    cameras = [name for name in names if is_camera(name)]
    last = ''
    with contextlib.ExitStack() as stack:
        writers = stack.enter_context(open_records(json_file, csv_file, classifier, problems))
        targets = annotated_files(names, annotated) if annotated else {}
        stopped = stack.enter_context(processes.stop_signals())
        display = Display(list(names), classifier.class_names, targets, cropped=detector is None)
        stack.enter_context(contextlib.closing(display))

        def look() -> Iterator[Shot]:
            nonlocal last
            for name in names:
                try:
                    for shot in shots(name, detector, megapixels):
                        last = name
                        yield shot
                        if stopped() or not (writers or targets) and reader_is_gone():
                            return
                except InputError as error:
                    display.clear()
                    tell(error, problems)

        for shot, faces in classify(look(), classifier, wait=not cameras):
            display.show(shot, faces)
            for face, write in itertools.product(faces, writers):
                write(face)
    display.sum_up(len(problems))
    written = [str(path) for path in (json_file, csv_file) if path] + ([f'{annotated}/'] if targets else [])
    if written:
        print(f'→ {", ".join(written)}')
    return 130 if stopped() and last not in cameras else 2 if problems else 0


def tell(error: InputError, problems: list[str]) -> None:
    """Prints an error and keeps it for the command's end."""
    problems.append(str(error))
    print(f'error: {error}', file=sys.stderr, flush=True)


def find(sources: Sequence[str], problems: list[str]) -> dict[str, str]:
    """File or camera → its name below --annotated, of all sources, in order and each once; problems are told."""
    names = {}
    for source in sources:
        try:
            files, others = expand(source)
        except InputError as error:
            tell(error, problems)
            continue
        if others:
            of_all = f'{len(others):,} of {len(others) + len(files):,} files'
            print(f'{printable(source)}: {of_all} are neither pictures nor videos and left alone: {shown(others)}')
        for file in files:
            names[file] = os.path.relpath(file, source) if os.path.isdir(source) else os.path.basename(file)
    return names


def annotated_files(names: Mapping[str, str], folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """File or camera → what it is written to, drawn upon: JPEG files as JPEG, other pictures as PNG, films as MP4.

    InputError where that would replace a source, or a folder cannot be made.
    """
    wanted = []
    for file, name in names.items():
        path = folder / (f'camera{name}' if is_camera(file) else name)
        ending = '.mp4' if is_camera(file) or is_video_name(name) else path.suffix if path.suffix.lower() in ('.jpg', '.jpeg') else '.png'
        wanted.append(path if path.suffix == ending else path.with_name(path.name + ending))
    targets = distinct(wanted)
    inputs = {os.path.realpath(file) for file in names}
    for target in targets:
        if os.path.realpath(target) in inputs:
            raise InputError(f'--annotated {folder}: that would replace {printable(str(target))}; choose another folder')
    make_folders('--annotated', folder, targets)
    return dict(zip(names, targets, strict=True))


@contextlib.contextmanager
def open_records(
    json_file: pathlib.Path | None, csv_file: pathlib.Path | None, classifier: Classifier, problems: list[str]
) -> Iterator[list[Record]]:
    """Functions that add a face to a file each; the files are there, whole, when the block ends without an error.

    JSON is {checkpoint, sha256, views, classes, faces: […], problems: […]}, CSV a row for each face; both are written face by face.
    InputError where they cannot be.
    """
    with contextlib.ExitStack() as stack:
        writers: list[Record] = []
        for option, path, make in (('--json', json_file, json_writer), ('--csv', csv_file, csv_writer)):
            try:
                if path:
                    file = codecs.getwriter('utf-8')(stack.enter_context(open_atomic(path)))
                    writers.append(stack.enter_context(make(file, classifier, problems)))
            except OSError as error:
                raise InputError(f'{option} {path}: {error.strerror}') from None
        yield writers


@contextlib.contextmanager
def json_writer(file: codecs.StreamWriter, classifier: Classifier, problems: list[str]) -> Iterator[Record]:
    """Writes the faces as JSON, one at a time."""
    about = {'checkpoint': classifier.name, 'sha256': classifier.sha256, 'views': classifier.views, 'classes': classifier.class_names}
    file.write(json.dumps(about)[:-1] + ', "faces": [')
    separators = iter(['\n'])

    def write(face: Face) -> None:
        probabilities = {name: round(probability, DIGITS) for name, probability in face.probabilities.items()}
        record = {'source': face.source, 'frame': face.frame, 'box': face.box._asdict(), 'label': face.label}
        file.write(next(separators, ',\n') + json.dumps(record | {'probabilities': probabilities}))

    yield write
    file.write(f'\n], "problems": {json.dumps(problems)}}}\n')


@contextlib.contextmanager
def csv_writer(file: codecs.StreamWriter, classifier: Classifier, problems: list[str]) -> Iterator[Record]:
    """Writes the faces as CSV, a row each."""
    line = csv.writer(file, lineterminator='\n').writerow
    line(['source', 'frame', 'left', 'top', 'width', 'height', 'label', *classifier.class_names])

    def write(face: Face) -> None:
        line([printable(face.source), face.frame, *face.box, face.label, *(f'{p:.{DIGITS}f}' for p in face.probabilities.values())])

    yield write
