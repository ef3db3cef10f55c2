"""fer_jax/inference/motion.py: drawn faces that are moved by hand, found once and followed."""

import math

import numpy as np
import pytest
from PIL import Image

pytest.importorskip('cv2')

from fer_jax.data.images import Box  # noqa: E402
from fer_jax.inference.faces import Cut, cut  # noqa: E402
from fer_jax.inference.motion import Watcher, square_of  # noqa: E402
from tests.drawn import face, photo  # noqa: E402


def scene(x: int, y: int, angle: float = 0.0, scale: float = 1.0) -> np.ndarray:
    """A face of 120 · scale pixels about (x, y), turned anticlockwise by `angle` degrees, on 1,280 × 720 pixels of grey."""
    side = round(120 * scale)
    picture = Image.fromarray(photo(720, 1280, []))
    skin = np.random.default_rng(0).normal(0, 18, (60, 60)).repeat(4, 0).repeat(4, 1)  # a drawn face has too little to be followed by
    drawn = np.clip(face(240) + skin, 0, 255).astype(np.uint8)
    drawn = Image.fromarray(np.pad(drawn, 120, mode='edge')).rotate(angle, Image.Resampling.BICUBIC).resize((2 * side, 2 * side))
    picture.paste(drawn.convert('RGB'), (round(x) - side, round(y) - side))
    return np.asarray(picture)


def found_at(x: float, y: float, side: float = 120.0):
    """A detector that finds a face there, and how often it was asked."""

    def detect(picture: np.ndarray) -> list[Cut]:
        calls.append(1)
        eyes = np.array([[x - 20, y - 20], [x + 20, y - 20], [x, y], [x - 18, y + 35], [x + 18, y + 35]])
        return [cut(picture, x, y, side)._replace(score=0.9, landmarks=eyes)]

    calls: list[int] = []
    return detect, calls


def test_a_face_is_followed_where_it_goes_grows_and_turns():
    detect, calls = found_at(400.0, 300.0)
    watch = Watcher(detect, 0.4)
    watch(scene(400, 300), 0.0)
    for step in range(1, 10):
        x, y, angle, scale = 400 + 8 * step, 300 - 4 * step, 2.0 * step, 1 + 0.02 * step
        (seen,) = watch(scene(x, y, angle, scale), 0.04 * step)
        width = 120 * scale
        assert (seen.box.left + seen.box.width / 2, seen.box.top + seen.box.height / 2) == pytest.approx((x, y), abs=0.03 * width)
        assert seen.box.width == pytest.approx(width, rel=0.03) and seen.score == 0.9
    across, down = seen.landmarks[1] - seen.landmarks[0]
    assert math.degrees(math.atan2(-down, across)) == pytest.approx(18, abs=2), 'the eyes are turned with it'
    upright = cut(scene(x, y, 0.0, scale), float(x), float(y), width).pixels.astype(int)
    turned = cut(scene(x, y, angle, scale), float(x), float(y), width).pixels.astype(int)
    assert np.abs(seen.pixels - upright).mean() < 0.6 * np.abs(turned - upright).mean(), 'and the cut is turned back'
    assert len(calls) == 1


def test_the_detector_looks_again_when_it_is_time_and_when_a_face_is_lost():
    detect, calls = found_at(400.0, 300.0)
    watch = Watcher(detect, 0.4)
    for time in (0.0, 0.2, 0.39, 0.4, 0.6):
        watch(scene(400, 300), time)
    assert len(calls) == 2
    watch(scene(900, 500), 0.64)
    assert len(calls) == 3, 'it is no longer there'
    watch(np.zeros((360, 640, 3), np.uint8), 0.68)
    assert len(calls) == 4, 'nor can pictures of another size be compared'


def test_zero_looks_at_every_frame_and_no_face_waits_for_the_next_look():
    detect, calls = found_at(400.0, 300.0)
    watch = Watcher(detect, 0.0)
    for time in (0.0, 0.04, 0.08):
        assert len(watch(scene(400, 300), time)) == 1
    assert len(calls) == 3
    empty = Watcher(lambda picture: calls.append(1) or [], 0.4)
    assert [empty(scene(400, 300), time) for time in (0.0, 0.2, 0.39, 0.41)] == [[], [], [], []] and len(calls) == 5


def test_a_face_cut_by_the_edge_is_a_square_about_its_middle():
    pixels = np.zeros((48, 48), np.uint8)
    assert square_of(Cut(Box(50, 60, 40, 40), pixels)) == (70, 80, 40)
    assert square_of(Cut(Box(0, 60, 30, 40), pixels)) == (10, 80, 40), '10 of its 40 pixels are beyond the left'
    assert square_of(Cut(Box(270, 170, 30, 20), pixels)) == (285, 185, 30)
