"""What a user wants looked at, picture by picture: image files, folders of them, videos, cameras."""

import itertools
import os
import pathlib
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from fer_jax.core.errors import InputError, printable
from fer_jax.core.fields import DETECT_EVERY
from fer_jax.core.files import read_bytes
from fer_jax.data.archive import listing
from fer_jax.data.folders import pictures_in
from fer_jax.data.images import FORMATS, MAX_FILE, MEGAPIXELS, decode_face
from fer_jax.inference.faces import Cut, Detector, Photo, opencv, read_photo, whole
from fer_jax.inference.motion import Watcher
from fer_jax.inference.mp4 import shown_of

VIDEO_ENDINGS = ('.mp4', '.m4v', '.mov', '.avi', '.mkv', '.webm', '.mpg', '.mpeg', '.ts', '.mts', '.wmv', '.flv', '.ogv', '.3gp')
# FFmpeg's names of those forms: it also knows play lists, which would make it open other files and addresses.
DEMUXERS = 'mov,avi,matroska,mpeg,mpegts,asf,flv,ogg'
MISSING = 0.02  # of a video's frames: so many less than it says are no fault, for some forms only estimate their number
USUAL_RATE = 25.0  # frames a second, where nothing says it
JUMP = 1.0  # seconds that a video's clock may go back from frame to frame, as some do by a few frames, before it counts as a new one
MOST_RATE = 480.0  # frames a second: what says more means its clock, not its frames, and knows not how many it has
PATIENCE = 100  # frames in a row that cannot be decoded; then the rest is given up


class Footage(NamedTuple):
    """What is known of a video before it is read; 0 is unknown."""

    frames: int
    rate: float  # frames a second


class Shot(NamedTuple):
    """One picture, and the faces in it."""

    source: str  # file, or number of a camera
    frame: int | None  # of a video or camera, from 0
    photo: Photo
    cuts: list[Cut]
    footage: Footage = Footage(0, 0.0)  # of a video or camera
    time: float | None = None  # of a video or camera, in seconds from its begin
    scale: float = 1.0  # how many times as long the picture's sides are in its file: more than 1 where it was too large to be read whole


def is_video_name(name: str) -> bool:
    """Whether a file's ending is a video's."""
    return name.lower().endswith(VIDEO_ENDINGS)


def is_camera(source: str) -> bool:
    """Whether it is a camera's number, and no file of that name."""
    return source.isdecimal() and len(source) < 10 and not os.path.exists(source)


def expand(source: str) -> tuple[list[str], list[str]]:
    """The files that a source stands for, those of a folder sorted; and the names of what else the folder has.

    In a folder a picture is known by its ending or by its content, a video by its ending.

    Raises:
      InputError: there is no such file or folder, or a folder holds nothing that could be read.
    """
    if is_camera(source) or os.path.isfile(source):
        return [source], []
    if not os.path.isdir(source):
        raise InputError(f'{printable(source)}: no such file or folder')
    try:
        names = listing(source)
    except OSError as error:
        raise InputError(f'{printable(source)}: cannot be read ({error.strerror})') from None
    pictures = pictures_in(source, names)
    chosen = [name for name in names.files if name in pictures or is_video_name(name)]
    if not chosen:
        raise InputError(f'{printable(source)}: holds no picture and no video')
    return [os.path.join(source, name) for name in chosen], sorted(set(names.files) - set(chosen))


def distinct(paths: Iterable[pathlib.Path]) -> list[pathlib.Path]:
    """The paths, in order; the second of one name has -2 behind its stem, and so on."""
    found: dict[pathlib.Path, None] = {}
    for path in paths:
        numbered = (path.with_stem(f'{path.stem}-{number}') for number in itertools.count(2))
        found[next(each for each in itertools.chain([path], numbered) if each not in found)] = None
    return list(found)


def make_folders(option: str, top: pathlib.Path, files: Iterable[pathlib.Path] = ()) -> None:
    """Makes the folder that `option` names, and those of files below it; InputError where one cannot be made."""
    try:
        for folder in {top, *(file.parent for file in files)}:
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f'{option} {top}: {error.strerror}') from None


def shots(
    source: str, detect: Detector | None, every: int = 1, detect_every: float = DETECT_EVERY, megapixels: int = MEGAPIXELS
) -> Iterator[Shot]:
    """The pictures of one file or camera, with their faces; without a detector each is one face.

    Args:
      every: of the frames of a video or camera the first is given, and from there on one in so many.
      detect_every: seconds, as of motion.Watcher.
      megapixels: of a picture, as of images.decode.

    Raises:
      InputError: it cannot be read, or ends before its end; what was read until then has been given.
    """
    if is_camera(source) or is_video_name(source):
        yield from frames(source, detect, every, detect_every)
        return
    content = read_bytes(source, MAX_FILE)
    try:
        yield look(content, detect, source, megapixels)
    except InputError as error:
        raise InputError(f'{source}: {error}') from None


def look(content: bytes, detect: Detector | None, source: str = '', megapixels: int = MEGAPIXELS) -> Shot:
    """The picture in an image file's bytes, and the faces in it; without a detector it is one face. InputError as of images.decode."""
    try:
        photo, scale = read_photo(content, megapixels)
    except InputError as error:
        if str(error) != 'not an image':
            raise
        raise InputError(f'not an image ({", ".join(FORMATS)} and HEIC are read)') from None
    # decode_face once more, for it may read a large JPEG at a smaller size: these are the pixels that training has.
    cuts = detect(photo, scale) if detect else [Cut(whole(photo).box, decode_face(content, megapixels))]
    return Shot(source, None, photo, cuts, scale=scale)


class Clock:
    """When the frames of a video are shown, in seconds; never earlier than the frame before."""

    def __init__(self, rate: float) -> None:
        self.rate, self.number, self.now, self.shift = rate, 0, 0.0, 0.0

    def at(self, number: int, milliseconds: float) -> float:
        """Of the frame `number`, as the video says or, where it does not, by the number."""
        if 0 < milliseconds < np.inf:
            told = milliseconds / 1000
            if told + self.shift < self.now - JUMP:  # another film was put behind, whose clock begins anew
                self.shift = self.now + (number - self.number) / self.rate - told
            told += self.shift
        else:
            told = number / self.rate
        self.number, self.now = number, max(self.now, told)
        return self.now


def frames(source: str, detect: Detector | None, every: int, detect_every: float) -> Iterator[Shot]:
    """One in `every` frames of a video or camera, one in memory at a time."""
    camera = is_camera(source)
    name = f'camera {source}' if camera else printable(source)
    os.environ.setdefault('OPENCV_FFMPEG_CAPTURE_OPTIONS', f'format_whitelist;{DEMUXERS}')
    cv2 = opencv('reading a camera' if camera else 'reading a video')
    if name_lost(source):
        raise InputError(f'{name}: its name is no UTF-8, and OpenCV cannot open it; give it another')
    # A path from the root, for FFmpeg takes what stands before a colon for a protocol.
    capture = cv2.VideoCapture(int(source)) if camera else cv2.VideoCapture(os.path.abspath(source), cv2.CAP_FFMPEG)
    try:
        if not capture.isOpened():
            raise InputError(f'{name}: {"cannot be opened" if camera else "cut short, damaged, or no video of a known kind"}')
        promised, rate = (max(0.0, float(np.nan_to_num(capture.get(field)))) for field in (cv2.CAP_PROP_FRAME_COUNT, cv2.CAP_PROP_FPS))
        rate = rate if rate <= MOST_RATE else 0.0
        promised = shown_of(source, int(min(promised, 1e9))) if promised and rate and not camera else 0  # a pipe promises nothing
        footage = Footage(promised, rate)
        read = number = failed = inside = 0
        begin, clock = time.monotonic(), Clock(rate or USUAL_RATE)
        find = Watcher(detect, detect_every) if detect else lambda photo, time: [whole(photo)]
        # A frame that cannot be decoded takes one failed call, and the next may be good again.
        while failed < (PATIENCE if number < promised else 1):
            wanted = number % every == 0
            frame = capture.read()[1] if wanted else capture.grab() or None  # what is only grabbed is not turned into pixels
            if frame is None:
                failed += 1
            else:
                inside, failed, read = inside + failed, 0, read + 1
            if frame is not None and wanted:
                photo = cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
                now = time.monotonic() - begin if camera else clock.at(number, capture.get(cv2.CAP_PROP_POS_MSEC))
                yield Shot(source, number, photo, find(photo, now), footage, now)
            number += 1
        if camera:
            raise InputError(f'{name}: gives no more pictures')
        if read == 0:
            raise InputError(f'{name}: no frame could be read')
        if inside or promised - read > max(1, MISSING * promised):
            raise InputError(f'{name}: {max(promised - read, inside)} of {promised} frames could not be read: cut short or damaged')
    finally:
        capture.release()


def name_lost(path: str) -> bool:
    """Whether a file's name has bytes that are no UTF-8, on which OpenCV ends the process."""
    return any('\ud800' <= letter <= '\udfff' for letter in path)


def apart(option: str, folder: pathlib.Path, names: Collection[str], wanted: Sequence[pathlib.Path]) -> dict[str, pathlib.Path]:
    """Each of the files `names` with its own of the `wanted` ones below the folder, which is made; InputError where that is one of them."""
    targets = distinct(wanted)
    inputs = {os.path.realpath(file) for file in names}
    for target in targets:
        if os.path.realpath(target) in inputs:
            raise InputError(f'{option} {folder}: that would replace {printable(str(target))}; choose another folder')
    make_folders(option, folder, targets)
    return dict(zip(names, targets, strict=True))
