"""What `predict` shows while it looks: a row for each face of a picture, a line for each video, and both drawn upon."""

import collections
import contextlib
import dataclasses
import pathlib
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence

from PIL import Image

from fer_jax.core.errors import printable
from fer_jax.core.files import open_atomic
from fer_jax.inference.annotate import annotate, enlargement, video_writer
from fer_jax.inference.classifier import Face
from fer_jax.inference.faces import Photo
from fer_jax.inference.sources import Footage, Shot, is_camera

NEXT = 2  # classes that a row names after the first
WIDEST = 40  # letters of a source's name
EACH = 0.2  # seconds from one progress line to the next
SETTLED = 3.0  # after which the rate is told


@dataclasses.dataclass
class Video:
    """What has been seen of one."""

    source: str
    footage: Footage
    begin: float
    shown: float = 0.0  # when the progress line was last written
    frames: int = 0
    with_faces: int = 0
    labels: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    film: contextlib.ExitStack = dataclasses.field(default_factory=contextlib.ExitStack)
    write: Callable[[Photo], None] | None = None  # a frame, drawn upon

    @property
    def name(self) -> str:
        """What it is called in messages."""
        return f'camera {self.source}' if is_camera(self.source) else printable(self.source)


class Display:
    """Takes the pictures in order; a video's line comes with the first picture of what follows it, or with `close`.

    Args:
      sources: files and numbers of cameras.
      targets: source → the file it is drawn into.
      cropped: each picture is one face.
    """

    def __init__(self, sources: Sequence[str], class_names: Sequence[str], targets: Mapping[str, pathlib.Path], cropped: bool):
        self._targets, self._cropped = targets, cropped
        self._columns = (min(WIDEST, max(len(printable(source)) for source in [*sources, 'picture'])), max(map(len, class_names)))
        self._counts = collections.Counter[str]()
        self._video: Video | None = None

    def show(self, shot: Shot, faces: Sequence[Face]) -> None:
        """One picture or frame; OSError where what is drawn cannot be written."""
        self._counts['face'] += len(faces)
        if self._video and shot.source != self._video.source:
            self.close()
        if shot.frame is not None:
            self._show_frame(shot, faces)
            return
        if not self._counts['picture']:
            print(f'{"picture":<{self._columns[0]}}  face  left, top, size      class')
        self._counts['picture'] += 1
        for row in rows(printable(shot.source), faces, *self._columns):
            print(row, flush=True)
        if shot.source in self._targets:
            faces = [dataclasses.replace(face, box=face.box.scaled(1 / shot.scale)) for face in faces]
            drawn = annotate(shot.photo, faces, self._cropped, enlargement(shot.photo, faces, self._cropped))
            with open_atomic(path := self._targets[shot.source]) as file:
                Image.fromarray(drawn).save(file, 'PNG' if path.suffix == '.png' else 'JPEG', quality=90)  # which a PNG has not

    def _show_frame(self, shot: Shot, faces: Sequence[Face]) -> None:
        if self._video is None:
            self._video = Video(shot.source, shot.footage, time.monotonic())
            self._counts['video'] += 1
        video = self._video
        video.frames += 1
        video.with_faces += bool(faces)
        video.labels.update(face.label for face in faces)
        if shot.source in self._targets:
            drawn = annotate(shot.photo, faces, self._cropped)
            if video.write is None:
                writer = video_writer(self._targets[shot.source], video.footage.rate, drawn.shape[1::-1])
                video.write = video.film.enter_context(writer)
            video.write(drawn)
        now = time.monotonic()
        if sys.stderr.isatty() and now > video.shown + EACH:
            video.shown = now
            width = shutil.get_terminal_size().columns - 1  # a wrapped line could not be overwritten
            print('\r\x1b[K' + progress(video, faces, now)[:width], end='', file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Takes the progress line away, so that something else can be printed."""
        if self._video and self._video.shown:
            print('\r\x1b[K', end='', file=sys.stderr, flush=True)

    def close(self) -> None:
        """Ends the video that is being shown."""
        if self._video is None:
            return
        self.clear()
        video, self._video = self._video, None
        video.film.close()
        print(summary(video), flush=True)

    def sum_up(self, problems: int) -> None:
        """Prints the last line."""
        counts = self._counts | collections.Counter(problem=problems)
        shown = [name for name in ('picture', 'video', 'face', 'problem') if counts[name] or name == 'face']
        print(', '.join(f'{counts[name]:,} {name}{"" if counts[name] == 1 else "s"}' for name in shown))


def rows(name: str, faces: Sequence[Face], width: int, label_width: int) -> list[str]:
    """The table's rows of one picture, such as 'a.jpg     1  12, 30, 96 × 96  happy 93.1 %  (sad 4.0 %, fear 1.2 %)'."""
    if not faces:
        return [f'{name:<{width}}     –  no face found']
    found = []
    for number, face in enumerate(faces, 1):
        box = f'{face.box.left}, {face.box.top}, {face.box.width} × {face.box.height}'
        ranked = sorted(face.probabilities.items(), key=lambda each: -each[1])[: 1 + NEXT]
        first, *others = (f'{label} {100 * probability:.1f} %' for label, probability in ranked)
        after = f'  ({", ".join(others)})' if others else ''
        found.append(f'{name:<{width}}  {number:>4}  {box:<20}  {first:<{label_width + 8}}{after}')
    return found


def progress(video: Video, faces: Sequence[Face], now: float) -> str:
    """The line that is shown while a video is read."""
    of = f' of {video.footage.frames:,}' if video.footage.frames else ''
    seconds = now - video.begin  # since its first frames, which came together
    rate = f', {video.frames / seconds:.1f} frames/s' if seconds > SETTLED else ''
    found = ', '.join(f'{face.label} {100 * face.probabilities[face.label]:.0f} %' for face in faces[:3]) or 'no face'
    return f'{video.name}: frame {video.frames:,}{of}{rate}: {found}'


def summary(video: Video) -> str:
    """A video's line: how long, how often a face was seen, and as what."""
    seconds = f' ({video.frames / video.footage.rate:.1f} s)' if video.footage.rate and not is_camera(video.source) else ''
    found = f'faces in {video.with_faces:,} of {video.frames:,} frames{seconds}'
    count = video.labels.total()
    shares = ', '.join(f'{label} {100 * times / count:.0f} %' for label, times in video.labels.most_common(1 + NEXT))
    return f'{video.name}: {found}' + (f'; {shares}' if shares else '')
