"""Faces in the frames of a video: looked for now and then, and followed between by how their pixels moved."""

import math
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from fer_jax.inference.faces import Cut, Detector, Photo, level, opencv

SIDE = 640  # the longer side of what is compared; a detector takes a hundred times as long
GRID, INNER = 8, 0.7  # points on a side of a face, and the part of its square that they are spread over: little of what is behind it
BACK = 1.0  # pixels that a point may be off when it is followed there and back
FEWEST = 0.4  # of the points must move together
SCALES = (0.8, 1.25)  # that a face may change by from frame to frame


class Watcher:
    """Called with the frames of one video in turn, finds the faces in each.

    Between two looks of the detector, a face is where the turn, scale and shift take it that fit most of its points, which are followed
    by optical flow (Lucas & Kanade, 1981). Where one cannot be followed the detector looks at once, so that only new faces wait.

    Args:
      detect: the detector.
      each: seconds from one look to the next; 0 has it look at every frame.
    """

    def __init__(self, detect: Detector, each: float):
        self._detect, self._each = detect, each
        self._cv2 = opencv('following faces')
        self._looked = -math.inf
        self._grey: UInt8[np.ndarray, 'rows columns'] | None = None
        self._cuts: list[Cut] = []

    def __call__(self, photo: Photo, time: float) -> list[Cut]:
        """The faces in the frame that is shown at that time, in seconds."""
        if not self._each:
            return self._detect(photo)
        scale = min(1.0, SIDE / max(photo.shape[:2]))
        size = max(1, round(photo.shape[1] * scale)), max(1, round(photo.shape[0] * scale))
        grey = self._cv2.resize(self._cv2.cvtColor(photo, self._cv2.COLOR_RGB2GRAY), size, interpolation=self._cv2.INTER_AREA)
        known: list[Cut | None] = [None]
        if time < self._looked + self._each and self._grey is not None and self._grey.shape == grey.shape:
            known = [followed(self._cv2, self._grey, grey, scale, photo, face) for face in self._cuts]
        if None in known:
            known, self._looked = self._detect(photo), time
        self._grey, self._cuts = grey, known
        return sorted(known, key=lambda face: face.box)


def followed(
    cv2: Any, before: UInt8[np.ndarray, 'rows columns'], after: UInt8[np.ndarray, 'rows columns'], scale: float, photo: Photo, face: Cut
) -> Cut | None:
    """The face of the frame before in the one after, which is `photo`; None where it is not to be seen how it moved.

    Args:
      before, after: the frames, grey and `scale` times as large.
    """
    x, y, side = square_of(face)
    steps = INNER * side * ((np.arange(GRID) + 0.5) / GRID - 0.5)
    points = scale * np.stack(np.meshgrid(x + steps, y + steps), -1).reshape(-1, 1, 2)
    matrix = similarity(cv2, before, after, points.astype(np.float32))
    if matrix is None:
        return None
    matrix[:, 2] /= scale
    ((middle,),) = cv2.transform(np.array([[[x, y]]]), matrix)
    turned = None if face.landmarks is None else cv2.transform(face.landmarks[None], matrix)[0]
    found = level(photo, *middle.tolist(), side * math.hypot(*matrix[:, 0]), face.score, turned)
    return found if min(found.box[2:]) > 0 else None


def square_of(face: Cut) -> tuple[float, float, float]:
    """The middle (x, y) and side of the square that a face was cut from, of which its box is the part inside of the picture."""
    left, top, width, height = face.box
    side = float(max(width, height))
    x = left + width - side / 2 if left == 0 else left + side / 2
    y = top + height - side / 2 if top == 0 else top + side / 2
    return x, y, side


def similarity(
    cv2: Any, before: UInt8[np.ndarray, 'rows columns'], after: UInt8[np.ndarray, 'rows columns'], points: Float[np.ndarray, 'n 1 2']
) -> Float[np.ndarray, '2 3'] | None:
    """The matrix of the turn, scale and shift by which most of the points moved; None where they do not move together."""
    there, _, _ = cv2.calcOpticalFlowPyrLK(before, after, points, None, winSize=(15, 15), maxLevel=3)
    back, found, _ = cv2.calcOpticalFlowPyrLK(after, before, there, None, winSize=(15, 15), maxLevel=3)
    good = (found[:, 0] == 1) & (np.linalg.norm(back - points, axis=2)[:, 0] < BACK)
    if good.sum() < FEWEST * len(points):
        return None
    matrix, agreeing = cv2.estimateAffinePartial2D(points[good], there[good], ransacReprojThreshold=1.5)
    if matrix is None or agreeing.sum() < FEWEST * len(points) or not SCALES[0] < math.hypot(*matrix[:, 0]) < SCALES[1]:
        return None
    return matrix
