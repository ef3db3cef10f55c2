"""What a confusion matrix says: every reported figure that comes of it, and all of them as text.

To add one takes its line in `summarise_confusion` and its row in `table`: it is then in result.json, on the terminal, and in what a
report pools over folds. Free of JAX, so that a report starts at once and can be made where none is installed.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from fer_jax.core.statistics import wilson_interval


def summarise_confusion(confusion: Int[np.ndarray, 'classes classes'], class_names: Sequence[str]) -> dict[str, Any]:
    """What follows from images by true class (row) and predicted class (column), as plain floats, ints and lists; shares lie in 0..1.

    What is undefined is as in scikit-learn: precision of a class never predicted, recall of a class without images, and F1 with
    either are 0; balanced accuracy is the mean recall of the classes that have images; macro F1 is the mean over the classes that
    have images or predictions. `accuracy_interval` is Wilson's at 95 %.

    Raises:
      ValueError: no image, or classes that are not as many as the names.
    """
    count, correct = int(confusion.sum()), int(np.trace(confusion))
    if count == 0:
        raise ValueError('no images to summarise')
    hits, support, predicted = np.diag(confusion), confusion.sum(1), confusion.sum(0)
    precision, recall = hits / np.maximum(predicted, 1), hits / np.maximum(support, 1)
    f1 = 2 * hits / np.maximum(support + predicted, 1)
    return {
        **share_correct(correct, count),
        'balanced_accuracy': float(recall[support > 0].mean()),
        'macro_f1': float(f1[support + predicted > 0].mean()),
        'per_class': {
            name: {'precision': float(p), 'recall': float(r), 'f1': float(f), 'support': int(n)}
            for name, p, r, f, n in zip(class_names, precision, recall, f1, support, strict=True)
        },
        'confusion_matrix': confusion.tolist(),
    }


def share_correct(correct: int, count: int) -> dict[str, Any]:
    """count, correct, accuracy and accuracy_interval of a split or a part of one."""
    return {'count': count, 'correct': correct, 'accuracy': correct / count, 'accuracy_interval': list(wilson_interval(correct, count))}


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
        *(
            f'of these, {name}: {100 * part["accuracy"]:.2f} %  ({", ".join(f"{100 * end:.2f}" for end in part["accuracy_interval"])}), '
            f'{part["correct"]} of {part["count"]}'
            for name, part in summary.get('subsets', {}).items()
        ),
        '',
        line('class', 'precision', 'recall', 'F1', 'images'),
    ]
    lines += [line(name, *(percent(row[key]) for key in ('precision', 'recall', 'f1')), str(row['support'])) for name, row in rows.items()]
    lines += [
        '-' * (width + 40),
        line('macro F1', '', '', percent(summary['macro_f1']), str(summary['count'])),
        line('balanced', '', percent(summary['balanced_accuracy'])),
        '',
        *(
            f'{percent(part["accuracy"])} % right on the surest {percent(part["covered"])} %'
            f' (of probability {part["min_confidence"]:.2f} and more)'
            for part in summary.get('coverage', [])[:-1]
        ),
        f'negative log-likelihood {summary["nll"]:.4f} nats, calibration error {100 * summary["calibration_error"]:.1f} %',
    ]
    return '\n'.join(row.rstrip() for row in lines)
