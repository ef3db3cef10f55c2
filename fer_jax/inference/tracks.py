"""The same face over the frames of a video: its number, its probabilities smoothed over time, and what is said of it in the end."""

import collections
import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int16

from fer_jax.data.images import Box
from fer_jax.inference.face import SECONDS_DIGITS, Face, label_of, rounded
from fer_jax.inference.faces import Photo
from fer_jax.inference.sources import Shot

HOLD, FEWEST = 1.0, 2  # seconds and frames that a face may not be found for, and still be the same
# How far a face may have moved, in its own widths, from one frame to the next; what it gains in each second; and the most it may be.
REACH, SPEED, FARTHEST = 0.5, 2.0, 1.5
GROWTH = 1.6  # by which a face may have become larger or smaller
# A mean difference of pixels between frames that only a cut makes, after which nobody is the same; on a grid of so many points.
CUT, GRID = 40, 32


@dataclasses.dataclass
class Track:
    """One face of a video, from where it was first found to where it was last."""

    picture: str
    number: int
    begin: float  # seconds
    end: float
    box: Box  # where it was last
    probabilities: dict[str, float]  # smoothed, as they were last
    sums: dict[str, float]  # of them, over its frames
    frames: int = 0
    missed: int = 0  # frames since it was last found
    labels: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)  # of its frames

    def to_dict(self) -> dict[str, Any]:
        """Picture, track, begin and end in seconds, frames, label (its frames' most frequent), share of frames by label, and mean
        probability of each class, as json.dumps takes it."""
        return {
            'picture': self.picture,
            'track': self.number,
            'begin': rounded(self.begin, SECONDS_DIGITS),
            'end': rounded(self.end, SECONDS_DIGITS),
            'frames': self.frames,
            'label': self.labels.most_common(1)[0][0],
            'labels': {name: rounded(count / self.frames) for name, count in self.labels.most_common()},
            'probabilities': {name: rounded(total / self.frames) for name, total in self.sums.items()},
        }

    def follow(self, face: Face, smooth: float, min_confidence: float) -> Face:
        """The next face of this track, with its number and with probabilities that the earlier ones count in; kept as the last one.

        A probability of t seconds ago counts exp(-t / `smooth`) as much as one of now.
        """
        old = math.exp((self.end - face.time) / smooth) if smooth > 0 and self.frames else 0.0
        chances = {name: old * self.probabilities[name] + (1 - old) * chance for name, chance in face.probabilities.items()}
        label = label_of(chances, min_confidence)
        self.sums = {name: self.sums[name] + chance for name, chance in chances.items()}
        self.box, self.end, self.probabilities, self.missed = face.box, face.time, chances, 0
        self.frames += 1
        self.labels[label] += 1
        return dataclasses.replace(face, track=self.number, probabilities=chances, label=label)


class Tracker:
    """Follows the faces of one video.

    Args:
      smooth: seconds, as of `Track.follow`; 0 leaves the probabilities as they are.
      min_confidence: of a label.
      ended: is called with each track when it has ended.
    """

    def __init__(self, smooth: float, min_confidence: float, ended: Callable[[Track], None]):
        self._smooth, self._min_confidence, self._ended = smooth, min_confidence, ended
        self._live: list[Track] = []
        self._count = 0
        self._seen: Int16[np.ndarray, 'grid grid'] | None = None

    def follow(self, frame: Shot, faces: Sequence[Face]) -> list[Face]:
        """The faces of the next frame, each with its track's number and smoothed probabilities."""
        seen = sampled(frame.photo)
        cut = self._seen is not None and np.abs(seen - self._seen).mean() > CUT
        self._seen = seen
        self._end(lambda track: cut or track.missed >= FEWEST and frame.time - track.end > HOLD)
        same = matches(self._live, faces)
        for track in self._live:
            track.missed += 1
        followed = []
        for place, face in enumerate(faces):
            track = same.get(place)
            if track is None:
                self._count += 1
                none = dict.fromkeys(face.probabilities, 0.0)
                track = Track(face.picture, self._count, face.time, face.time, face.box, none, none)
                self._live.append(track)
            followed.append(track.follow(face, self._smooth, self._min_confidence))
        return followed

    def close(self) -> None:
        """Ends all tracks."""
        self._end(lambda track: True)

    def _end(self, is_over: Callable[[Track], bool]) -> None:
        over = [track for track in self._live if is_over(track)]
        self._live = [track for track in self._live if track not in over]
        for track in over:
            self._ended(track)


def sampled(photo: Photo) -> Int16[np.ndarray, 'grid grid']:
    """The green of the picture at GRID × GRID points."""
    rows, columns = (np.linspace(0, side - 1, GRID).astype(int) for side in photo.shape[:2])
    return photo[rows[:, None], columns, 1].astype(np.int16)


def matches(tracks: Sequence[Track], faces: Sequence[Face]) -> dict[int, Track]:
    """Which track a face goes on with, by the face's place: the nearest pairs first, each face and each track once."""
    pairs = sorted(
        (near, place, number)
        for number, track in enumerate(tracks)
        for place, face in enumerate(faces)
        if (near := distance(track, face)) < math.inf
    )
    found: dict[int, Track] = {}
    taken: set[int] = set()
    for _, place, number in pairs:
        if place not in found and number not in taken:
            found[place] = tracks[number]
            taken.add(number)
    return found


def distance(track: Track, face: Face) -> float:
    """Between the middles of a track's last box and a face, in their mean width; infinite where they cannot be the same face."""
    old, new = track.box, face.box
    width = (old.width + new.width) / 2
    moved = math.hypot(old.left - new.left + (old.width - new.width) / 2, old.top - new.top + (old.height - new.height) / 2) / width
    grown = max(old.width, new.width) / min(old.width, new.width)
    reach = min(REACH + SPEED * (face.time - track.end), FARTHEST)
    return moved if moved <= reach and grown <= GROWTH else math.inf


def follow(
    pictures: Iterable[tuple[Shot, list[Face]]],
    smooth: float,
    min_confidence: float,
    ended: Callable[[Track], None] = lambda track: None,
) -> Iterator[tuple[Shot, list[Face]]]:
    """The pictures as they come; the faces of videos with tracks and smoothed probabilities, and of all with a label that is sure.

    Args:
      smooth, min_confidence, ended: as of Tracker. What ends with a video has ended before the next picture comes.
    """
    for _, of_source in itertools.groupby(pictures, lambda picture: picture[0].source):
        tracker = Tracker(smooth, min_confidence, ended)
        for shot, faces in of_source:
            if shot.frame is None:
                yield shot, [dataclasses.replace(face, label=label_of(face.probabilities, min_confidence)) for face in faces]
            else:
                yield shot, tracker.follow(shot, faces)
        tracker.close()
