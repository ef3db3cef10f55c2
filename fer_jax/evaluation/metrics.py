"""What an evaluation adds up over batches, and the figures that come out of it."""

import operator
from typing import Any

import clu.metrics
import flax
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from fer_jax.core.statistics import CALIBRATION_BINS
from fer_jax.evaluation.scores import summarise_confusion


@flax.struct.dataclass
class EvaluationState(clu.metrics.Metric):
    """Sums over images, so that batches, devices and hosts merge by adding field by field."""

    confusion: Int[Array, 'classes classes']  # images by true class (row) and predicted class (column)
    count: Int[Array, '']
    nll: Float[Array, '']  # summed -log p(label), in nats
    bin_count: Int[Array, ' bins']  # images by their top probability, in bins of equal width
    bin_confidence: Float[Array, ' bins']  # summed top probability
    bin_correct: Int[Array, ' bins']

    @classmethod
    def empty(cls, classes: int) -> 'EvaluationState':
        """The state of no images: what merging leaves as it is."""
        bins = jnp.zeros(CALIBRATION_BINS, jnp.int32)
        zero = jnp.zeros((), jnp.int32)
        return cls(jnp.zeros((classes, classes), jnp.int32), zero, jnp.zeros(()), bins, bins.astype(jnp.float32), bins)

    @classmethod
    def from_batch(
        cls, log_probabilities: Float[Array, 'batch classes'], labels: Int[Array, ' batch'], weights: Float[Array, ' batch']
    ) -> 'EvaluationState':
        """The sums over one batch. `weights` is 1 for an image and 0 for padding, which then counts nowhere.

        The prediction is the most probable class, the first of them at a tie. A label outside of 0..classes-1 counts in
        `count` but not in `confusion`, so that the two tell.
        """
        classes = log_probabilities.shape[1]
        counted = (weights > 0).astype(jnp.int32)
        predictions = log_probabilities.argmax(-1)
        known = (labels >= 0) & (labels < classes)
        # Padding may hold anything, NaN too, and 0 · NaN is not 0: hence where, not a product.
        losses = jnp.where(counted, -jnp.take_along_axis(log_probabilities, labels[:, None], 1, mode='clip')[:, 0], 0.0)
        confidence = jnp.where(counted, jnp.exp(log_probabilities.max(-1)), 0.0)
        # Bins are (low, high], as in Guo et al. (2017).
        bins = jnp.clip(jnp.ceil(confidence * CALIBRATION_BINS).astype(jnp.int32) - 1, 0, CALIBRATION_BINS - 1)
        empty = cls.empty(classes)
        return cls(
            confusion=empty.confusion.at[jnp.where(known, labels, classes), predictions].add(counted, mode='drop'),
            count=counted.sum(),
            nll=losses.sum(),
            bin_count=empty.bin_count.at[bins].add(counted),
            bin_confidence=empty.bin_confidence.at[bins].add(confidence),
            bin_correct=empty.bin_correct.at[bins].add(counted * (predictions == labels)),
        )

    from_model_output = from_batch  # clu's name for it

    def merge(self, other: 'EvaluationState') -> 'EvaluationState':
        """The sums over both."""
        return jax.tree.map(operator.add, self, other)


def summarise(state: EvaluationState, class_names: tuple[str, ...]) -> dict[str, Any]:
    """Every reported figure: those of scores.summarise_confusion, `nll`, the mean in nats, and `calibration_error`.

    Raises:
      ValueError: the state holds no image, or its classes are not as many as the names.
    """
    figures = summarise_confusion(np.asarray(state.confusion, np.int64), class_names)
    return figures | {'nll': float(state.nll) / figures['count'], 'calibration_error': calibration_error(state)}


def calibration_error(state: EvaluationState) -> float:
    """The expected calibration error over 15 bins of equal width (Guo et al., 2017), in 0..1."""
    gaps = np.abs(np.asarray(state.bin_correct, np.float64) - np.asarray(state.bin_confidence, np.float64))
    return float(gaps.sum()) / int(state.count)
