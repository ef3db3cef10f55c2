"""What an evaluation adds up over batches, and the figures that come out of it."""

import math
import operator
from typing import Any

import clu.metrics
import flax
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

CALIBRATION_BINS = 15
Z_95 = 1.959963984540054  # two-sided 95 % point of the standard normal


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
    """Every reported figure, as plain floats, ints and lists; shares lie in 0..1, `nll` is the mean in nats.

    What is undefined is as in scikit-learn: precision of a class never predicted, recall of a class without images, and
    F1 with either are 0; balanced accuracy is the mean recall of the classes that have images; macro F1 is the mean
    over the classes that have images or predictions. `calibration_error` is the expected calibration error over 15
    bins of equal width (Guo et al., 2017), `accuracy_interval` Wilson's at 95 %.

    Raises:
      ValueError: the state holds no image, or its classes are not as many as the names.
    """
    confusion = np.asarray(state.confusion, np.int64)
    count, correct = int(state.count), int(np.trace(confusion))
    if count == 0:
        raise ValueError('no images to summarise')
    hits, support, predicted = np.diag(confusion), confusion.sum(1), confusion.sum(0)
    precision, recall = hits / np.maximum(predicted, 1), hits / np.maximum(support, 1)
    f1 = 2 * hits / np.maximum(support + predicted, 1)
    gaps = np.abs(np.asarray(state.bin_correct, np.float64) - np.asarray(state.bin_confidence, np.float64))
    return {
        'count': count,
        'correct': correct,
        'accuracy': correct / count,
        'accuracy_interval': list(wilson_interval(correct, count)),
        'balanced_accuracy': float(recall[support > 0].mean()),
        'macro_f1': float(f1[support + predicted > 0].mean()),
        'nll': float(state.nll) / count,
        'calibration_error': float(gaps.sum()) / count,
        'per_class': {
            name: {'precision': float(p), 'recall': float(r), 'f1': float(f), 'support': int(n)}
            for name, p, r, f, n in zip(class_names, precision, recall, f1, support, strict=True)
        },
        'confusion_matrix': confusion.tolist(),
    }


def wilson_interval(correct: int, count: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share (Wilson, 1927): unlike p ± 1.96 σ it stays in 0..1 and holds for small counts."""
    share, z2 = correct / count, Z_95**2
    middle = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = Z_95 / (1 + z2 / count) * math.sqrt(share * (1 - share) / count + z2 / (4 * count**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def table(summary: dict[str, Any], title: str) -> str:
    """The summary as plain text for a terminal of 80 columns; shares in per cent."""
    rows = summary['per_class']
    width = max(len('balanced'), *(min(len(name), 40) for name in rows))
    low, high = summary['accuracy_interval']

    def line(name: str, *cells: str) -> str:
        name = name if len(name) <= width else name[: width - 1] + '…'
        return f'{name:<{width}}' + ''.join(f'{cell:>10}' for cell in cells)

    def percent(share: float) -> str:
        return f'{100 * share:.1f}'

    lines = [
        title,
        f'accuracy {100 * summary["accuracy"]:.2f} %  (95 % interval {100 * low:.2f} to {100 * high:.2f}), '
        f'{summary["correct"]} of {summary["count"]} right',
        '',
        line('class', 'precision', 'recall', 'F1', 'images'),
    ]
    lines += [line(name, *(percent(row[key]) for key in ('precision', 'recall', 'f1')), str(row['support'])) for name, row in rows.items()]
    lines += [
        '-' * (width + 40),
        line('macro F1', '', '', percent(summary['macro_f1']), str(summary['count'])),
        line('balanced', '', percent(summary['balanced_accuracy'])),
        '',
        f'negative log-likelihood {summary["nll"]:.4f} nats, calibration error {100 * summary["calibration_error"]:.1f} %',
    ]
    return '\n'.join(row.rstrip() for row in lines)
