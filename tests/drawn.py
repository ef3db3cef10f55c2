"""A drawn face that OpenCV's cascade finds, and pictures with some of it."""

import functools

import numpy as np
from PIL import Image


@functools.cache
def face(side: int) -> np.ndarray:
    """Grey, [side, side]: a head from the front, with soft edges, that fills the square."""
    y, x = np.mgrid[:240, :240] / 5
    canvas = np.full((240, 240), 120.0)

    def paint(tone: float, left: float, top: float, width: float, height: float, soft: float) -> None:
        nonlocal canvas
        distance = np.hypot((x - left) / width, (y - top) / height)
        canvas += (tone - canvas) / (1 + np.exp((distance - 1) * min(width, height) / soft))

    paint(205, 24, 25, 17, 22, 0.6)  # head
    paint(60, 24, 4, 17, 8, 1.0)  # hair
    for left in (16, 32):
        paint(150, left, 19, 6.5, 4, 1.5)  # socket
        paint(50, left, 15, 5, 1.2, 0.6)  # brow
        paint(235, left, 20, 3.6, 1.8, 0.6)  # eye
        paint(30, left, 20, 1.8, 1.8, 0.6)
    paint(225, 24, 24, 1.8, 7, 1.0)  # nose
    paint(120, 24, 31, 3.5, 1.2, 0.8)
    paint(90, 24, 38, 7, 1.6, 0.8)  # mouth
    grey = Image.fromarray(np.clip(canvas, 0, 255).astype(np.uint8))
    return np.asarray(grey.resize((side, side), Image.Resampling.BILINEAR))


def photo(height: int, width: int, places: list[tuple[int, int, int]]) -> np.ndarray:
    """RGB, [height, width, 3]: a face for each (left, top, side), on grey."""
    picture = np.full((height, width, 3), 120, np.uint8)
    for left, top, side in places:
        picture[top : top + side, left : left + side] = face(side)[..., None]
    return picture
