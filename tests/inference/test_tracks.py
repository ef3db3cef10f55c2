"""fer_jax/inference/tracks.py and timeline.py: which face is which, smoothing by hand, and what is drawn of it."""

import dataclasses
import itertools
import math

import numpy as np
import pytest

from fer_jax.data.images import Box
from fer_jax.inference.face import UNSURE, Face
from fer_jax.inference.faces import Photo
from fer_jax.inference.sources import Shot
from fer_jax.inference.timeline import BINS, Timeline, band
from fer_jax.inference.tracks import Track, follow

NAMES = ('happy', 'sad')
GREY, WHITE = np.full((90, 160, 3), 120, np.uint8), np.full((90, 160, 3), 250, np.uint8)


def face(left: int, happy: float = 0.9, time: float = 0.0, side: int = 40, track: int | None = None) -> Face:
    pixels = np.zeros((48, 48), np.uint8)
    return Face(Box(left, 20, side, side), 'happy', dict(zip(NAMES, (happy, 1 - happy), strict=True)), 'a.mp4', 0, pixels, time, track)


def frames(found: list[list[Face]], photo: Photo = GREY, begin: int = 0) -> list[tuple[Shot, list[Face]]]:
    """10 a second."""
    pictures = []
    for number, faces in enumerate(found, begin):
        timed = [dataclasses.replace(each, frame=number, time=number / 10) for each in faces]
        pictures.append((Shot('a.mp4', number, photo, [], time=number / 10), timed))
    return pictures


def numbers(pictures: list[tuple[Shot, list[Face]]]) -> list[list[int]]:
    return [[each.track for each in faces] for _, faces in follow(pictures, 0.0, 0.0)]


# --- Which face is which


def test_faces_keep_their_numbers_in_whatever_order_they_are_found():
    """Two that walk by 10 pixels a frame past each other's first places; a third one comes."""
    found = [[face(0), face(200)], [face(190), face(10)], [face(20), face(180), face(400)]]
    assert numbers(frames(found)) == [[1, 2], [2, 1], [1, 2, 3]]


def test_a_short_loss_is_held_and_a_long_one_is_not():
    """HOLD is 1 s: after 9 frames of 0.1 s without it, it is the same face a width away; after 15 another."""
    assert numbers(frames([[face(0)], *9 * [[]], [face(40)]]))[-1] == [1]
    assert numbers(frames([[face(0)], *15 * [[]], [face(0)]]))[-1] == [2]
    assert numbers(frames([[face(0)], [face(40)]]))[-1] == [2], 'nobody moves by a width in a tenth of a second'
    assert numbers(frames([[face(0, side=40)], [face(0, side=80)]]))[-1] == [2], 'nor comes so much nearer'


def test_few_frames_are_looked_at_and_it_is_still_the_same_face():
    """With one frame in 2 seconds a face may be missing once."""
    seconds = [(0.0, [face(0)]), (2.0, []), (4.0, [face(10, time=4.0)]), (6.0, []), (8.0, []), (10.0, [face(10, time=10.0)])]
    pictures = [(Shot('a.mp4', n, GREY, [], time=time), faces) for n, (time, faces) in enumerate(seconds)]
    assert [each for each in numbers(pictures) if each] == [[1], [1], [2]]


def test_after_a_cut_it_is_somebody_else():
    assert numbers([*frames([[face(0)]]), *frames([[face(0)], [face(0)]], WHITE, 1)]) == [[1], [2], [2]]


def test_videos_are_apart_and_photographs_have_no_tracks():
    (first,), (second,) = frames([[face(0)]]), frames([[face(0)]])
    photograph = Shot('b.jpg', None, GREY, []), [face(0)]
    ended = []
    pictures = [first, photograph, (second[0]._replace(source='c.mp4'), second[1])]
    found = []
    for _, faces in follow(pictures, 0.3, 0.0, ended.append):
        found.append((faces[0].track, len(ended)))
    assert found == [(1, 0), (None, 1), (1, 1)] and len(ended) == 2, 'what ends with a video has ended before the next picture'


# --- Probabilities


def test_probabilities_are_smoothed_over_time():
    """p ← p + (1 - e^(-t/τ)) (x - p), t = 0.1 s and, over the loss, 0.3 s; τ = 0.2 s."""
    found = [[face(0, 0.9)], [face(0, 0.1)], [], [], [face(0, 0.5)]]
    smoothed = [each[0].probabilities['happy'] for _, each in follow(frames(found), 0.2, 0.0) if each]
    second = 0.9 + (1 - math.exp(-0.5)) * (0.1 - 0.9)
    assert smoothed == pytest.approx([0.9, second, second + (1 - math.exp(-1.5)) * (0.5 - second)])
    assert [each[0].label for _, each in follow(frames(found), 0.2, 0.0) if each] == ['happy', 'happy', 'happy']
    bare = [each[0] for _, each in follow(frames(found), 0.0, 0.0) if each]
    assert [each.probabilities['happy'] for each in bare] == [0.9, 0.1, 0.5] and bare[1].label == 'sad'


def test_what_is_not_probable_enough_is_unsure():
    pictures = [(Shot('b.jpg', None, GREY, []), [face(0, 0.7), face(90, 0.69), face(180, 0.2)])]
    ((_, faces),) = follow(pictures, 0.3, 0.7)
    assert [each.label for each in faces] == ['happy', UNSURE, 'sad']
    assert faces[1].confidence == pytest.approx(0.69)


def test_a_tracks_summary():
    ended: list[Track] = []
    found = [[face(0, 0.9)], [face(0, 0.3)], [], [face(0, 0.6)], [face(0, 0.8)]]
    list(follow(frames(found), 0.0, 0.65, ended.append))
    assert [each.to_dict() for each in ended] == [
        {
            'picture': 'a.mp4', 'track': 1, 'begin': 0.0, 'end': 0.4, 'frames': 4, 'label': 'happy',
            'labels': {'happy': 0.5, 'sad': 0.25, 'unsure': 0.25}, 'probabilities': {'happy': 0.65, 'sad': 0.35},
        }
    ]  # fmt: skip


# --- The timeline


def test_a_band_is_as_high_as_a_class_is_probable():
    picture = band(np.array([[0.25, 0.75], [0.0, 0.0], [1.0, 0.0]]))
    colours, counts = np.unique(picture[:, 0], axis=0, return_counts=True)
    assert sorted(counts) == [25, 75]
    np.testing.assert_array_equal(picture[:25, 0], picture[:25, 2])
    assert (picture[:, 1] == 255).all(), 'nobody was seen'


def test_a_long_video_has_the_timeline_of_a_short_one():
    """The means of 40,000 frames in BINS places: happy in the first half, sad in the second."""
    timeline = Timeline(NAMES)
    for number in range(40_000):
        timeline.add(face(0, 1.0 if number < 20_000 else 0.0, number / 10, track=1))
    ((_, sums),) = timeline._sums.items()
    width = 4000 / sums[:, -1].nonzero()[0].size
    assert len(sums) == BINS and sums[:, -1].sum() == 40_000
    assert sums[: int(1999 / width), 1].sum() == 0 and sums[int(2001 / width) + 1 :, 0].sum() == 0


def test_the_longest_tracks_are_kept():
    timeline = Timeline(NAMES)
    for number, frames_seen in zip(range(1, 31), itertools.cycle((3, 5)), strict=False):
        timeline.add(face(0, track=number))
        none = dict.fromkeys(NAMES, 0.0)
        timeline.end(Track('a.mp4', number, 0.0, 1.0, Box(0, 0, 1, 1), none, none, frames_seen))
    assert sorted(timeline._sums) == list(range(2, 25, 2)), 'the first of those with 5 frames'
    assert timeline.png('a.mp4').startswith(b'\x89PNG')
    assert Timeline(NAMES).png('b.mp4').startswith(b'\x89PNG'), 'no face at all'
