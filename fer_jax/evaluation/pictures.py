"""What a scoring shows beside its numbers: confusions, coverage, the mistakes it was surest of, and at what the network looks."""

import functools
import math
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax.traverse_util import flatten_dict
from jax import Array
from jaxtyping import Float, Int, UInt8

from fer_jax.core.files import write_atomic
from fer_jax.core.statistics import coverage
from fer_jax.data.schema import Faces
from fer_jax.data.views import centre_crops, crops, normalise
from fer_jax.evaluation.evaluate import Evaluation
from fer_jax.evaluation.figures import attention_png, confusion_matrix_png, coverage_png, faces_png, gates_png, shortened
from fer_jax.model.ensemble import Ensemble

NAMES = ('confusion_matrix', 'coverage', 'worst_mistakes', 'attention_maps', 'channel_gates')  # .png
MISTAKES = 24
SAMPLE = 24  # faces of each class that the attention is looked up for
SHOWN = 6  # of them in the picture
MOST_CLASSES = 12  # in it


def draw_pictures(
    network: nn.Module,
    variables: Any,
    evaluation: Evaluation,
    faces: Faces,
    class_names: Sequence[str],
    views: str,
    title: str,
) -> dict[str, bytes]:
    """The PNGs of a scoring, by those of NAMES that it has.

    There are worst_mistakes where there are mistakes, and attention_maps and channel_gates of the centre crop of one network that has such.
    """
    summary = evaluation.summary
    title = f'{title}\naccuracy {100 * summary["accuracy"]:.2f} % of {summary["count"]} images'
    curve = coverage(evaluation.probabilities.max(1), evaluation.predictions == faces.labels)
    pictures = {
        'confusion_matrix': confusion_matrix_png(summary['confusion_matrix'], class_names, title),
        'coverage': coverage_png(curve, title),
    }
    wrong, captions = mistakes(evaluation, faces, class_names)
    if captions:
        heading = 'label → prediction, and its probability'
        pictures['worst_mistakes'] = faces_png(faces.images[wrong[:MISTAKES]], captions[:MISTAKES], heading)
    if views == 'centre' and not isinstance(network, Ensemble):  # ten crops would have ten maps, several networks each its own
        pictures |= attention_pictures(network, variables, evaluation, faces, class_names)
    return pictures


def write_pictures(folder: pathlib.Path, pictures: Mapping[str, bytes]) -> list[str]:
    """Writes these of NAMES into `folder`, which is made where it is missing; a picture of an earlier scoring goes away.

    Returns:
      The files' names.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in NAMES:
        if name in pictures:
            write_atomic(folder / f'{name}.png', pictures[name])
        else:
            (folder / f'{name}.png').unlink(missing_ok=True)
    return [f'{name}.png' for name in pictures]


def mistakes(evaluation: Evaluation, faces: Faces, class_names: Sequence[str]) -> tuple[Int[np.ndarray, ' mistakes'], list[str]]:
    """The images that were taken for another class, the surest first, and a caption for each."""
    confidence, names = evaluation.probabilities.max(1), [shortened(name) for name in class_names]
    wrong = np.flatnonzero(evaluation.predictions != faces.labels)
    wrong = wrong[np.argsort(-confidence[wrong], kind='stable')]
    return wrong, [f'{names[faces.labels[i]]} → {names[evaluation.predictions[i]]}\n{100 * confidence[i]:.1f} %' for i in wrong]


def attention_pictures(
    network: nn.Module, variables: Any, evaluation: Evaluation, faces: Faces, class_names: Sequence[str]
) -> dict[str, bytes]:
    """The PNGs of attention_maps and channel_gates that the network has something for, by name."""
    present = [label for label in range(len(class_names)) if (faces.labels == label).any()][:MOST_CLASSES]
    places = np.stack([sample(evaluation, faces, label) for label in present])  # [classes, SAMPLE]
    maps, gates = attention(network, variables, faces.images[places.ravel()])
    names = [class_names[label] for label in present]
    pictures = {}
    if maps is not None:
        maps = maps.reshape(*places.shape, *maps.shape[1:])
        chosen = np.linspace(0, SAMPLE - 1, SHOWN).round().astype(int)
        views = centre_crops(faces.images[places[:, chosen]])
        captions = [[caption(evaluation, i, class_names) for i in row] for row in places[:, chosen].tolist()]
        pictures['attention_maps'] = attention_png(views, maps[:, chosen], captions, maps.mean(1), names)
    if gates is not None:
        pictures['channel_gates'] = gates_png(gates.reshape(*places.shape, -1).mean(1), names)
    return pictures


def sample(evaluation: Evaluation, faces: Faces, label: int) -> Int[np.ndarray, ' sample']:
    """SAMPLE images of a class, from those it is least probable for to the surest, evenly; some twice where there are fewer."""
    places = np.flatnonzero(faces.labels == label)
    places = places[np.argsort(evaluation.probabilities[places, label], kind='stable')]
    return places[np.linspace(0, len(places) - 1, SAMPLE).round().astype(int)]


def caption(evaluation: Evaluation, index: int, class_names: Sequence[str]) -> str:
    """`sad 87 %`, what an image was taken for."""
    return f'{shortened(class_names[evaluation.predictions[index]])} {100 * evaluation.probabilities[index].max():.0f} %'


def attention(
    network: nn.Module, variables: Any, images: UInt8[np.ndarray, 'n height width']
) -> tuple[Float[np.ndarray, 'n rows columns'] | None, Float[np.ndarray, 'n channels'] | None]:
    """Of each image's centre crop, what `outermost` takes of all that the network sows."""
    return outermost(intermediates(network, jax.device_get(variables), images))


def outermost(sown: dict[str, Any]) -> tuple[Float[np.ndarray, 'n rows columns'] | None, Float[np.ndarray, 'n channels'] | None]:
    """The spatial map nearest to the input and the channel weights nearest to the output, in 0..1.

    None for a kind of attention that the network does not have.
    """
    found = flatten_dict(jax.device_get(sown))
    maps = {path: value for path, (value,) in found.items() if path[-1] == 'map'}
    gates = {path: value for path, (value,) in found.items() if path[-1] == 'gate'}

    def block(path: tuple[str, ...], otherwise: float) -> float:
        number = re.match(r'block(\d+)', path[0])
        return float(number[1]) if number else otherwise

    first = min(maps, key=lambda path: block(path, 0.0), default=None)
    last = max(gates, key=lambda path: block(path, math.inf), default=None)
    # bfloat16 is no type of numpy's own.
    return (
        None if first is None else np.asarray(maps[first], np.float32)[..., 0],
        None if last is None else np.asarray(gates[last], np.float32),
    )


@functools.partial(jax.jit, static_argnums=0)
def intermediates(network: nn.Module, variables: Any, images: Array) -> dict[str, Any]:
    """What the network sows at the images' centre crops; compiled once for a network and a number of images, whatever the split."""
    _, sown = network.apply(variables, normalise(crops(images, 'centre')[0]), train=False, mutable=['intermediates'])
    return sown.get('intermediates', {})
