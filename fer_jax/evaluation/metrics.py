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

from fer_jax.evaluation.scores import summarise_confusion


@flax.struct.dataclass
class EvaluationState(clu.metrics.Metric):
    """Sums over images, so that batches, devices and hosts merge by adding field by field."""

    confusion: Int[Array, 'classes classes']  # images by true class (row) and predicted class (column)
    count: Int[Array, '']
    nll: Float[Array, '']  # summed -log p(label), in nats

    @classmethod
    def empty(cls, classes: int) -> 'EvaluationState':
        """The state of no images: what merging leaves as it is."""
        return cls(jnp.zeros((classes, classes), jnp.int32), jnp.zeros((), jnp.int32), jnp.zeros(()))

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
        confusion = cls.empty(classes).confusion.at[jnp.where(known, labels, classes), predictions].add(counted, mode='drop')
        return cls(confusion, counted.sum(), losses.sum())

    from_model_output = from_batch  # clu's name for it

    def merge(self, other: 'EvaluationState') -> 'EvaluationState':
        """The sums over both."""
        return jax.tree.map(operator.add, self, other)


def summarise(state: EvaluationState, class_names: tuple[str, ...]) -> dict[str, Any]:
    """The figures that come of the sums: those of scores.summarise_confusion and `nll`, the mean in nats.

    Raises:
      ValueError: the state holds no image, or its classes are not as many as the names.
    """
    figures = summarise_confusion(np.asarray(state.confusion, np.int64), class_names)
    return figures | {'nll': float(state.nll) / figures['count']}
