"""The one evaluation path: a network's variables × a split → figures and probabilities → files."""

import csv
import dataclasses
import functools
import io
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Float, Float32, Int32

from fer_jax.core.errors import Diverged, unknown
from fer_jax.core.files import write_atomic, write_json
from fer_jax.core.mesh import DATA, settle
from fer_jax.core.statistics import calibration_error, coverage_summary
from fer_jax.data.schema import Faces
from fer_jax.data.views import CROP_SIDE, VIEWS, crops, normalise, resized
from fer_jax.evaluation.metrics import EvaluationState, summarise
from fer_jax.evaluation.scores import share_correct

Apply = Callable[[Any, Float[Array, 'batch height width 1']], Float[Array, 'batch classes']]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What an evaluation found, image by image in the split's order, and summed up."""

    summary: dict[str, Any]  # of metrics.summarise, with `calibration_error`, `coverage` and, where the split has such, `subsets`
    probabilities: Float32[np.ndarray, 'n classes']
    predictions: Int32[np.ndarray, ' n']


def make_evaluator(
    apply: Apply, mesh: Mesh, views: str, class_names: Sequence[str], batch_size: int, side: int = CROP_SIDE
) -> Callable[[Any, Faces], Evaluation]:
    """A function of (variables, faces) that evaluates a split on the mesh; it compiles once for each size of split.

    Args:
      apply: (variables, normalised images [B, 40, 40, 1]) → logits [B, classes], without side effects.
      mesh: one axis, 'data'. `variables` lie whole on each of its devices.
      views: 'centre', or 'ten' whose softmax probabilities are averaged.
      batch_size: views in one call over all devices, at most, though never less than one image a device.
      side: that the views are brought to, for a network that is still being trained on smaller ones.

    Returns:
      A function that raises RuntimeError where the images counted are not the split's, and Diverged where the
      network's output is not finite.

    Raises:
      InputError: unknown views.
    """
    if views not in VIEWS:
        raise unknown('views', views, VIEWS)
    score = make_score(apply, mesh, views, side)

    def evaluate(variables: Any, faces: Faces) -> Evaluation:
        states, outputs = [], []
        for batch in batches(faces, max(1, batch_size // VIEWS[views]), mesh):
            state, *output = score(variables, *batch)
            settle(output)
            states.append(state)
            outputs.append(output)
            if len(outputs) > 2:  # two calls in flight keep the device busy; more would only hold memory
                outputs[-3] = jax.device_get(outputs[-3])
        state = functools.reduce(EvaluationState.merge, states)
        log_probabilities, predictions = zip(*jax.device_get(outputs), strict=True)
        log_probabilities = np.concatenate(log_probabilities)[: len(faces)]
        if not int(state.count) == int(state.confusion.sum()) == len(faces):
            raise RuntimeError(
                f'the split has {len(faces)} images, {int(state.count)} were counted and {int(state.confusion.sum())} of '
                f'them have a label in 0..{len(class_names) - 1}'
            )
        broken = ~np.isfinite(log_probabilities).all(1)
        if broken.any():
            raise Diverged(f'the network gives no finite output for {broken.sum()} of {len(faces)} images')
        probabilities, predictions = np.exp(log_probabilities), np.concatenate(predictions)[: len(faces)]
        correct = predictions == faces.labels
        summary = summarise(state, tuple(class_names))
        summary['calibration_error'] = calibration_error(probabilities.max(1), correct)
        summary['coverage'] = coverage_summary(probabilities.max(1), correct)
        if faces.subsets:
            parts = {name: correct[members] for name, members in faces.subsets.items() if members.any()}
            summary['subsets'] = {name: share_correct(int(part.sum()), len(part)) for name, part in parts.items()}
        return Evaluation(summary, probabilities, predictions)

    return evaluate


def make_score(apply: Apply, mesh: Mesh, views: str, side: int = CROP_SIDE) -> Callable[..., tuple[EvaluationState, Array, Array]]:
    """The compiled (variables, images, labels, weights) → sums over the batch, log-probabilities, predictions."""

    def score(variables: Any, images: Array, labels: Array, weights: Array) -> tuple[EvaluationState, Array, Array]:
        inputs = resized(normalise(crops(images, views)).reshape(-1, CROP_SIDE, CROP_SIDE, 1), side)
        logits = apply(variables, inputs).astype(jnp.float32).reshape(VIEWS[views], len(images), -1)
        # The mean of the views' probabilities, in logarithms so that small ones keep their digits.
        log_probabilities = jax.nn.logsumexp(jax.nn.log_softmax(logits), axis=0) - jnp.log(VIEWS[views])
        state = EvaluationState.from_batch(log_probabilities, labels, weights)
        everywhere = functools.partial(jax.lax.all_gather, axis_name=DATA, tiled=True)  # each host can read all of it
        return jax.lax.psum(state, DATA), everywhere(log_probabilities), everywhere(log_probabilities.argmax(-1).astype(jnp.int32))

    # Under shard_map each device works on its own images and nothing else; left to itself the partitioner may move
    # images between devices where views and batch become one axis. check_vma knows no all_gather that ends replicated.
    return jax.jit(jax.shard_map(score, mesh=mesh, in_specs=(P(), P(DATA), P(DATA), P(DATA)), out_specs=P(), check_vma=False))


def batches(faces: Faces, batch_size: int, mesh: Mesh) -> Iterator[tuple[Array, Array, Array]]:
    """Images, labels and weights on the mesh, in batches of one size; weight 0 marks what pads the last.

    The batches are as few as `batch_size` allows and then as small as that number allows: 3,589 images by 256 are 15
    batches of 240, with 11 images of padding instead of 251.
    """
    calls = max(1, -(-len(faces) // batch_size))
    size = -(-len(faces) // calls)
    size = -(-size // mesh.size) * mesh.size
    sharding = NamedSharding(mesh, P(DATA))
    for start in range(0, len(faces), size):
        images, labels = faces.images[start : start + size], faces.labels[start : start + size]
        missing = size - len(images)
        host = (
            np.pad(images, ((0, missing), (0, 0), (0, 0))),
            np.pad(labels, (0, missing)),
            np.pad(np.ones(len(images), np.float32), (0, missing)),
        )
        # Each host holds the whole split and hands over its own devices' share.
        yield tuple(jax.make_array_from_callback(x.shape, sharding, lambda index, x=x: x[index]) for x in host)


def write_evaluation(folder: pathlib.Path, evaluation: Evaluation, faces: Faces, record: dict[str, Any]) -> None:
    """Writes predictions.csv and, last, so that its presence says all are there, result.json.

    Args:
      folder: made where it is missing.
      record: what else result.json holds beside the summary: config, seed, device, data, protocol, …

    Raises:
      ValueError: `record` has a field of the summary's.
      OSError: the disk is full or the folder cannot be written; each file is whole or not there.
    """
    shared = record.keys() & evaluation.summary.keys()
    if shared:
        raise ValueError(f'the record may not overwrite the summary: {", ".join(sorted(shared))}')
    folder.mkdir(parents=True, exist_ok=True)
    class_names = tuple(evaluation.summary['per_class'])
    write_atomic(folder / 'predictions.csv', predictions_csv(evaluation, faces, class_names))
    write_json(folder / 'result.json', evaluation.summary | record)


def predictions_csv(evaluation: Evaluation, faces: Faces, class_names: Sequence[str]) -> str:
    """A line for each image of the split, in its order: index from 0, true and predicted class, each class's probability."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    writer.writerow(['index', 'label', 'prediction', *(f'probability_{name}' for name in class_names)])
    rows = zip(faces.labels, evaluation.predictions, evaluation.probabilities, strict=True)
    for index, (label, prediction, probabilities) in enumerate(rows):
        writer.writerow([index, class_names[label], class_names[prediction], *(f'{p:.6f}' for p in probabilities)])
    return text.getvalue()
