"""Faces → probabilities of the classes, from Python: `from fer_jax import load, predict`."""

import dataclasses
import functools
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import flax.linen as nn
import numpy as np
from jaxtyping import Float32, UInt8

from fer_jax.core.errors import InputError, unknown
from fer_jax.core.fields import DETECT_EVERY, MIN_SCORE, SHIPPED, SMOOTH
from fer_jax.core.processes import keep_compiled_programs
from fer_jax.data.images import MEGAPIXELS
from fer_jax.data.views import VIEWS
from fer_jax.inference.face import Face, label_of
from fer_jax.inference.faces import Cut, make_detector, photo_of, whole
from fer_jax.inference.runtimes import BATCHES, Run, make_run
from fer_jax.inference.sources import Shot, expand, is_camera, shots
from fer_jax.inference.tracks import follow
from fer_jax.model.baselines import make_any
from fer_jax.runs.weights import Weights, nested, read_weights

MOST_PIXELS = 1 << 25  # of the pictures that wait for a batch to fill
MOST_SECONDS = 2.0  # that they wait: somebody may be looking on


@dataclasses.dataclass(frozen=True)
class Classifier:
    """A network with its weights, and what runs them."""

    name: str
    class_names: tuple[str, ...]
    views: str
    sha256: str  # of the variables
    network: nn.Module = dataclasses.field(repr=False, compare=False)
    variables: dict[str, Any] = dataclasses.field(repr=False, compare=False)
    run: Run = dataclasses.field(repr=False, compare=False)

    def about(self) -> dict[str, Any]:
        """What is said of it beside its faces: checkpoint, sha256, views, classes."""
        return {'checkpoint': self.name, 'sha256': self.sha256, 'views': self.views, 'classes': self.class_names}

    def label(self, name: str) -> int:
        """A class's number, by its name; InputError names the nearest that there is."""
        if name not in self.class_names:
            raise unknown('label', name, self.class_names)
        return self.class_names.index(name)

    def probabilities(self, faces: UInt8[np.ndarray, 'n 48 48']) -> Float32[np.ndarray, 'n classes']:
        """The probability of each class for each face, the same as the one evaluation path's to 1e-5.

        Raises:
          InputError: the network's output is not finite.
        """
        calls = [self.run(faces[start : start + BATCHES[-1]]) for start in range(0, len(faces), BATCHES[-1])]
        probabilities = np.concatenate([np.zeros((0, len(self.class_names)), np.float32), *calls])
        if not np.isfinite(probabilities).all():
            raise InputError(f'{self.name}: the network gives no finite output')
        return probabilities


def load(checkpoint: str | os.PathLike = SHIPPED, views: str = 'centre') -> Classifier:
    """The classifier with the weights of that name or file, or of a run's best checkpoint.

    Args:
      views: `centre`, or `ten`: four corners, centre and their mirror images, their probabilities averaged.

    Raises:
      InputError: there are no such weights or views, or they are damaged.
    """
    if views not in VIEWS:
        raise unknown('views', views, VIEWS)
    return make_classifier(read_weights(os.fspath(checkpoint)), views)


def make_classifier(weights: Weights, views: str = 'centre') -> Classifier:
    """The classifier with these weights, by the runtime that make_run chooses."""
    keep_compiled_programs()
    network = make_any(weights.config.network, len(weights.class_names))
    variables, run = nested(weights.variables), make_run(weights, views)
    return Classifier(weights.name, weights.class_names, views, weights.sha256, network, variables, run)


loaded = functools.lru_cache(maxsize=2)(load)  # for the next call
Picture = UInt8[np.ndarray, '...'] | str | os.PathLike


def predict(
    pictures: Picture | Sequence[Picture],
    classifier: Classifier | str | os.PathLike = SHIPPED,
    detect: bool = True,
    detector: str | os.PathLike = 'mtcnn',
    min_score: float = MIN_SCORE,
    min_size: float = 0.0,
    min_confidence: float = 0.0,
    every: int = 1,
    detect_every: float = DETECT_EVERY,
    smooth: float = SMOOTH,
    megapixels: int = MEGAPIXELS,
) -> list[Face]:
    """The faces in pictures and what they are taken for, picture by picture, in a picture from left to right.

    Args:
      pictures: one or a sequence of: arrays of bytes, [height, width] grey or [height, width, 3 or 4] RGB or RGBA; paths of image
        files, videos, or folders of both. Of a picture without a face there is none in the list.
      classifier: of `load`, or what that takes; the latter is loaded once.
      detect: find faces; if false each picture is one face, of which the largest centred square is taken.
      detector, min_score, min_size: what finds them, and which count, as of faces.make_detector.
      min_confidence: a label less probable than this is face.UNSURE.
      every: one in so many frames of a video is looked at.
      detect_every: seconds of a video from one look for faces to the next, between which they are followed by how their pixels move.
      smooth: seconds over which the probabilities of a video's face are smoothed; 0 leaves them as they are.
      megapixels: millions of pixels that a picture may have.

    Raises:
      InputError: a picture that cannot be read, a video that breaks off, weights that are not there, or no OpenCV.
    """
    if not isinstance(classifier, Classifier):
        classifier = loaded(os.fspath(classifier))
    if isinstance(pictures, (str, os.PathLike, np.ndarray)):
        pictures = [pictures]
    find = make_detector(detector, min_score, min_size) if detect else None

    def look() -> Iterator[Shot]:
        for picture in pictures:
            if isinstance(picture, np.ndarray):
                photo = photo_of(picture)
                yield Shot('', None, photo, find(photo) if find else [whole(photo)])
                continue
            if is_camera(os.fspath(picture)):
                raise InputError(f'{picture}: no such file or folder')
            for file in expand(os.fspath(picture))[0]:
                yield from shots(file, find, every, detect_every, megapixels)

    return [face for _, faces in follow(classify(look(), classifier), smooth, min_confidence) for face in faces]


def classify(pictures: Iterable[Shot], classifier: Classifier, wait: bool = True) -> Iterator[tuple[Shot, list[Face]]]:
    """Each picture with its faces, in order. With `wait`, pictures are held back until their faces fill a batch, they take much
    memory, or the first of them has waited for MOST_SECONDS; a camera's are not to wait."""
    waiting: list[Shot] = []
    since = 0.0
    for picture in pictures:
        since = since if waiting else time.monotonic()
        waiting.append(picture)
        faces = sum(len(each.cuts) for each in waiting)
        # The middle size of call is nearly as fast as the largest, and somebody may be watching a video.
        enough = BATCHES[-1] if picture.frame is None else BATCHES[len(BATCHES) // 2]
        large = sum(each.photo.size // 3 for each in waiting) >= MOST_PIXELS
        if not wait or faces >= enough or large or time.monotonic() - since > MOST_SECONDS:
            yield from named(waiting, classifier)
            waiting = []
    yield from named(waiting, classifier)


def named(pictures: list[Shot], classifier: Classifier) -> Iterator[tuple[Shot, list[Face]]]:
    """The pictures with their faces, all in one call."""
    cuts: list[Cut] = [each for picture in pictures for each in picture.cuts]
    pixels = np.stack([each.pixels for each in cuts]) if cuts else np.zeros((0, 48, 48), np.uint8)
    probabilities = iter(classifier.probabilities(pixels))
    for picture in pictures:
        faces = []
        for each in picture.cuts:
            found = dict(zip(classifier.class_names, next(probabilities).tolist(), strict=True))
            place = {'frame': picture.frame, 'time': picture.time}
            box = each.box.scaled(picture.scale)
            faces.append(Face(box, label_of(found), found, picture.source, pixels=each.pixels, score=each.score, **place))
        yield picture, faces
