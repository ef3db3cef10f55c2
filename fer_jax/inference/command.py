"""`python -m fer_jax predict`: pictures, folders, videos and cameras → a table, files, and pictures with what was found."""

import contextlib
import os
import pathlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from fer_jax.core import processes
from fer_jax.core.errors import InputError, printable
from fer_jax.core.fields import DETECT_EVERY, SMOOTH
from fer_jax.core.terminal import reader_is_gone
from fer_jax.data.folders import shown
from fer_jax.data.images import MEGAPIXELS
from fer_jax.inference.classifier import classify, load
from fer_jax.inference.display import Display, Targets
from fer_jax.inference.face import Face
from fer_jax.inference.faces import Detector
from fer_jax.inference.output import Ending, open_outputs
from fer_jax.inference.sources import Shot, apart, expand, is_camera, is_video_name, shots
from fer_jax.inference.tracks import Track, follow


class Manner(NamedTuple):
    """How the network's probabilities become what is told."""

    min_confidence: float = 0.0  # of a label; below it is face.UNSURE
    every: int = 1  # one in so many frames of a video is looked at
    detect_every: float = DETECT_EVERY  # seconds, as of motion.Watcher
    smooth: float = SMOOTH  # seconds, as of tracks.Track.follow
    megapixels: int = MEGAPIXELS  # of a picture, as of images.decode


class Outputs(NamedTuple):
    """Where the findings go beside the terminal; the last two are folders."""

    json: pathlib.Path | None = None
    jsonl: pathlib.Path | None = None
    csv: pathlib.Path | None = None
    annotated: pathlib.Path | None = None
    timeline: pathlib.Path | None = None

    @property
    def files(self) -> dict[str, pathlib.Path | None]:
        """Option → the file that it names; last what has its name from the beginning, so that the others can be refused before."""
        return {'--json': self.json, '--csv': self.csv, '--jsonl': self.jsonl}


def predict_sources(
    sources: Sequence[str],
    checkpoint: str,
    views: str,
    detector: Detector | None,
    manner: Manner = Manner(),  # noqa: B008
    outputs: Outputs = Outputs(),  # noqa: B008
) -> int:
    """Looks at all sources. One that cannot be read is told in a line, and the rest carried on.

    Args:
      sources: image files, videos, folders of both, numbers of cameras.
      checkpoint, views: as of classifier.load.
      detector: finds the faces; without one each picture is a face.

    Returns:
      The exit code: 0; 2 if a source could not be read, or not to its end; 130 if a signal came. Whatever it is, what was found is
      written. A camera is ended by a signal, which is no fault.

    Raises:
      InputError: there are no such weights, or a file cannot be written.
    """
    problems: list[str] = []
    names = find(sources, problems)
    classifier = load(checkpoint, views)
    cameras, last = [name for name in names if is_camera(name)], ''
    with contextlib.ExitStack() as stack:
        targets = Targets(
            drawn_files(outputs.annotated, names) if outputs.annotated else {},
            timeline_files(outputs.timeline, names) if outputs.timeline else {},
        )
        display = Display(list(names), classifier.class_names, targets, detector is None, manner.every)
        stopped = stack.enter_context(processes.stop_signals())
        ending = lambda: Ending(display.counts['face'], problems, stopped())  # noqa: E731
        writes = stack.enter_context(open_outputs(outputs.files, classifier.about() | manner._asdict(), ending))
        stack.enter_context(contextlib.closing(display))

        def write(found: Face | Track | InputError) -> None:
            for each in writes:
                each(found)

        def fail(error: InputError) -> None:
            display.clear()
            tell(error, problems)
            write(error)

        def ended(track: Track) -> None:
            display.end_track(track)
            write(track)

        for problem in problems:
            write(InputError(problem))
        # Where nobody reads the terminal's lines any more and nothing is written beside them, the rest is for nobody.
        enough = lambda: stopped() or not (writes or any(targets)) and reader_is_gone()  # noqa: E731
        pictures = classify(look(names, detector, manner, enough, fail), classifier, wait=not cameras)
        for shot, faces in follow(pictures, manner.smooth, manner.min_confidence, ended):
            last = shot.source
            display.show(shot, faces)
            for face in faces:
                write(face)
    display.sum_up(len(problems))
    written = [f'{path}/' if path in (outputs.annotated, outputs.timeline) else str(path) for path in outputs if path]
    if written:
        print(f'→ {", ".join(written)}')
    return 130 if stopped() and last not in cameras else 2 if problems else 0


def look(
    names: Iterable[str], detector: Detector | None, manner: Manner, stopped: Callable[[], bool], fail: Callable[[InputError], None]
) -> Iterator[Shot]:
    """The pictures of all files and cameras until it is `stopped`; `fail` is told which cannot be read."""
    for name in names:
        if stopped():
            return
        try:
            for shot in shots(name, detector, manner.every, manner.detect_every, manner.megapixels):
                yield shot
                if stopped():
                    return
        except InputError as error:
            fail(error)


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


def drawn_files(folder: pathlib.Path, names: Mapping[str, str]) -> dict[str, pathlib.Path]:
    """File or camera → what it is written to, drawn upon: JPEG files as JPEG, other pictures as PNG, films as MP4.

    InputError where that would replace a source, or a folder cannot be made.
    """
    wanted = []
    for file, name in names.items():
        path = folder / (f'camera{name}' if is_camera(file) else name)
        ending = '.mp4' if is_camera(file) or is_video_name(name) else path.suffix if path.suffix.lower() in ('.jpg', '.jpeg') else '.png'
        wanted.append(path if path.suffix == ending else path.with_name(path.name + ending))
    return apart('--annotated', folder, names, wanted)


def timeline_files(folder: pathlib.Path, names: Mapping[str, str]) -> dict[str, pathlib.Path]:
    """Video or camera → the picture of its probabilities over time; InputError as of `drawn_files`."""
    moving = {file: f'camera{name}' if is_camera(file) else name for file, name in names.items() if is_camera(file) or is_video_name(name)}
    return apart('--timeline', folder, moving, [folder / f'{name}.png' for name in moving.values()])
