"""What `predict` shows while it looks: a row for each face of a picture, a line for each video, and both drawn upon."""

import collections
import contextlib
import dataclasses
import pathlib
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from PIL import Image

from fer_jax.core.errors import printable
from fer_jax.core.files import open_atomic, write_atomic
from fer_jax.core.terminal import now_and_then
from fer_jax.inference.annotate import annotate, enlargement, label_text, video_writer
from fer_jax.inference.face import UNSURE, Face
from fer_jax.inference.faces import Photo
from fer_jax.inference.sources import USUAL_RATE, Footage, Shot, is_camera
from fer_jax.inference.tracks import Track

if TYPE_CHECKING:
    from fer_jax.inference.timeline import Timeline

NEXT = 2  # classes that a row names after the first
WIDEST = 40  # letters of a source's name
EACH = 0.2  # seconds from one line of progress to the next, on a terminal
MOST_TRACKS = 8  # of a video that have a line each, those with the most frames
SETTLED = 3.0  # after which the rate is told


@dataclasses.dataclass
class Video:
    """What has been seen of one."""

    source: str
    footage: Footage
    begin: float  # on the clock
    shown: float = 0.0  # when a line of progress was last written
    last: Shot | None = None  # the frame that was looked at last
    frames: int = 0  # that were looked at
    with_faces: int = 0
    labels: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    tracks: list[Track] = dataclasses.field(default_factory=list)  # those that ended, and have a line
    more_tracks: int = 0
    timeline: 'Timeline | None' = None
    film: contextlib.ExitStack = dataclasses.field(default_factory=contextlib.ExitStack)
    write: Callable[[Photo], None] | None = None  # a frame, drawn upon

    @property
    def name(self) -> str:
        """What it is called in messages."""
        return f'camera {self.source}' if is_camera(self.source) else printable(self.source)

    def end(self, track: Track) -> None:
        """Keeps a track for the summary, if it is among those with the most frames."""
        self.tracks = sorted([*self.tracks, track], key=lambda each: (-each.frames, each.number))
        self.more_tracks += len(self.tracks) > MOST_TRACKS
        self.tracks = self.tracks[:MOST_TRACKS]
        if self.timeline:
            self.timeline.end(track)


class Targets(NamedTuple):
    """Source → the file that is drawn of it; a source that is missing has none."""

    annotated: Mapping[str, pathlib.Path] = {}
    timelines: Mapping[str, pathlib.Path] = {}


class Display:
    """Takes the pictures in order; a video's lines come with the first picture of what follows it, or with `close`.

    Args:
      sources: files and numbers of cameras.
      cropped: each picture is one face.
      every: one in so many frames of a video is looked at.
    """

    def __init__(self, sources: Sequence[str], class_names: Sequence[str], targets: Targets, cropped: bool, every: int = 1):
        self._class_names, self._targets, self._cropped, self._every = tuple(class_names), targets, cropped, every
        self._columns = (min(WIDEST, max(len(printable(source)) for source in [*sources, 'picture'])), max(map(len, class_names)))
        self.counts = collections.Counter[str]()
        self._video: Video | None = None
        self._overwritable = False  # the terminal's last line is progress
        self._log = now_and_then()

    def show(self, shot: Shot, faces: Sequence[Face]) -> None:
        """One picture or frame; OSError where what is drawn cannot be written."""
        self.counts['face'] += len(faces)
        if self._video and shot.source != self._video.source:
            self.close()
        if shot.frame is not None:
            self._show_frame(shot, faces)
            return
        if not self.counts['picture']:
            print(f'{"picture":<{self._columns[0]}}  face  left, top, size      class')
        self.counts['picture'] += 1
        for row in rows(printable(shot.source), faces, *self._columns):
            print(row, flush=True)
        if shot.source in self._targets.annotated:
            faces = [dataclasses.replace(face, box=face.box.scaled(1 / shot.scale)) for face in faces]
            drawn = annotate(shot.photo, faces, self._cropped, enlargement(shot.photo, faces, self._cropped), grow=True)
            with open_atomic(path := self._targets.annotated[shot.source]) as file:
                Image.fromarray(drawn).save(file, 'PNG' if path.suffix == '.png' else 'JPEG', quality=90)  # which a PNG has not

    def _show_frame(self, shot: Shot, faces: Sequence[Face]) -> None:
        if self._video is None:
            self._video = Video(shot.source, shot.footage, time.monotonic())
            self.counts['video'] += 1
            if shot.source in self._targets.timelines:
                from fer_jax.inference.timeline import Timeline  # late, for Matplotlib comes with it

                self._video.timeline = Timeline(self._class_names)
        video = self._video
        video.last = shot
        video.frames += 1
        video.with_faces += bool(faces)
        video.labels.update(face.label for face in faces)
        for face in faces if video.timeline else ():
            video.timeline.add(face)
        if shot.source in self._targets.annotated:
            drawn = annotate(shot.photo, faces, self._cropped)
            if video.write is None:
                rate = max(1.0, (video.footage.rate or USUAL_RATE) / self._every)  # FFmpeg takes no film of much less
                writer = video_writer(self._targets.annotated[shot.source], rate, drawn.shape[1::-1])
                video.write = video.film.enter_context(writer)
            video.write(drawn)
        self._show_progress(video, faces)

    def _show_progress(self, video: Video, faces: Sequence[Face]) -> None:
        """A line of progress, if it is time for one."""
        now = time.monotonic()
        line = progress(video, faces, now)
        if not sys.stderr.isatty():
            self._log(line)
        elif now > video.shown + EACH:
            video.shown, self._overwritable = now, True
            # A wrapped line could not be overwritten.
            print('\r\x1b[K' + line[: shutil.get_terminal_size().columns - 1], end='', file=sys.stderr, flush=True)

    def end_track(self, track: Track) -> None:
        """A track of the video that is being shown has ended."""
        if self._video:
            self._video.end(track)

    def clear(self) -> None:
        """Takes the progress line away, so that something else can be printed."""
        if self._overwritable:
            print('\r\x1b[K', end='', file=sys.stderr, flush=True)
        self._overwritable = False

    def close(self) -> None:
        """Ends the video that is being shown."""
        if self._video is None:
            return
        self.clear()
        video, self._video = self._video, None
        video.film.close()
        print('\n'.join(summary(video)), flush=True)
        if video.timeline:
            write_atomic(self._targets.timelines[video.source], video.timeline.png(video.name))

    def sum_up(self, problems: int) -> None:
        """Prints the last line."""
        counts = self.counts | collections.Counter(problem=problems)
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
        if face.label == UNSURE:
            first, others = UNSURE, [first, *others]
        after = f'  ({", ".join(others)})' if others else ''
        found.append(f'{name:<{width}}  {number:>4}  {box:<20}  {first:<{label_width + 8}}{after}')
    return found


def progress(video: Video, faces: Sequence[Face], now: float) -> str:
    """The line that is shown while a video is read."""
    of = f' of {video.footage.frames:,}' if video.footage.frames else ''
    seconds = now - video.begin  # since its first frames, which came together
    rate = f', {(video.last.frame + 1) / seconds:.1f} frames/s' if seconds > SETTLED else ''
    found = ', '.join(map(label_text, faces[:3])) or 'no face'
    return f'{video.name}: frame {video.last.frame + 1:,}{of}{rate}: {found}'


def summary(video: Video) -> list[str]:
    """A video's lines: how long, how often a face was seen, and as what; then each of its tracks, the longest first."""
    length = video.last.time + 1 / (video.footage.rate or USUAL_RATE)
    seconds = '' if is_camera(video.source) else f' ({length:.1f} s)'
    found = f'faces in {video.with_faces:,} of {video.frames:,} frames{seconds}'
    lines = [f'{video.name}: {found}' + (f'; {shares(video.labels)}' if video.labels else '')]
    for track in video.tracks:
        when = f'{track.begin:.1f} to {track.end:.1f} s, {track.frames:,} frames'
        lines.append(f'  track {track.number}: {when}; {shares(track.labels)}')
    if video.more_tracks:
        lines.append(f'  and {video.more_tracks:,} shorter tracks')
    return lines


def shares(labels: collections.Counter[str]) -> str:
    """`happy 75 %, sad 20 %`: how often each of the most frequent labels."""
    return ', '.join(f'{label} {100 * times / labels.total():.0f} %' for label, times in labels.most_common(1 + NEXT))
