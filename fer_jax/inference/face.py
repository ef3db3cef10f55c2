"""A face and what it is taken for, as Python has it, and as JSON and tables do."""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import UInt8

from fer_jax.data.images import Box

UNSURE = 'unsure'  # in place of a class that is not probable enough
DIGITS = 6  # behind the point of every number that is written, as predictions.csv of an evaluation has
SECONDS_DIGITS = 3


@dataclasses.dataclass(frozen=True)
class Face:
    """One face in a picture, and what it is taken for."""

    box: Box  # left, top, width, height in pixels of the picture, turned as its EXIF says
    label: str  # the most probable class; UNSURE where that is less probable than was asked for
    probabilities: dict[str, float]  # of every class, in the order of the checkpoint; in a video smoothed over the track
    picture: str  # its file, the number of a camera, or '' of an array
    frame: int | None  # of a video, from 0
    pixels: UInt8[np.ndarray, '48 48'] = dataclasses.field(repr=False, compare=False)  # what the network was given
    time: float | None = None  # in seconds from the video's begin
    track: int | None = None  # the same face of a video has the same number, from 1, in every frame
    score: float | None = None  # in 0..1, how sure the detector is that it is a face; None where it does not say

    @property
    def confidence(self) -> float:
        """The probability of the most probable class."""
        return max(self.probabilities.values())

    def to_dict(self) -> dict[str, Any]:
        """All but the pixels, as json.dumps takes it: picture, frame, time, track, box, score, label, confidence, probabilities."""
        return {
            'picture': self.picture,
            'frame': self.frame,
            'time': rounded(self.time, SECONDS_DIGITS),
            'track': self.track,
            'box': self.box._asdict(),
            'score': rounded(self.score),
            'label': self.label,
            'confidence': rounded(self.confidence),
            'probabilities': {name: rounded(probability) for name, probability in self.probabilities.items()},
        }

    def record(self) -> dict[str, Any]:
        """The same as one flat row of a table: `pandas.DataFrame([face.record() for face in faces])`."""
        row = self.to_dict()
        box, chances = row.pop('box'), row.pop('probabilities')
        return row | box | {f'probability_{name}': probability for name, probability in chances.items()}


def rounded(value: float | None, digits: int = DIGITS) -> float | None:
    """A number with so many digits behind the point; None stays."""
    return None if value is None else round(float(value), digits)


def label_of(probabilities: dict[str, float], min_confidence: float = 0.0) -> str:
    """The most probable class, the first of them at a tie; UNSURE where its probability is below `min_confidence`."""
    best = max(probabilities, key=probabilities.get)
    return best if probabilities[best] >= min_confidence else UNSURE
