"""Figures as PNG bytes. Matplotlib is imported where it draws: it is slow to load, and most commands draw nothing."""

import io
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LONGEST_NAME = 18  # characters of a class name on an axis


def confusion_matrix_png(matrix: Int[np.ndarray, 'classes classes'] | list[list[int]], class_names: Sequence[str], title: str) -> bytes:
    """A PNG of the confusion matrix: rows true, columns predicted, each cell its count and its share of the row.

    The colour is that share, so that classes of different size compare; a row without images stays white.
    """
    from matplotlib.figure import Figure

    matrix = np.asarray(matrix)
    classes = len(matrix)
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    cell = 0.72 if classes <= 12 else 0.5  # inches; smaller cells would not hold a count and a share
    side = max(4.2, classes * cell)
    figure = Figure(figsize=(side + 2.4, side + 1.6), dpi=120, layout='constrained')
    axes = figure.add_subplot()
    picture = axes.imshow(shares, cmap='Blues', vmin=0, vmax=1)
    names = [name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + '…' for name in class_names]
    # A class folder may be called anything, '$1$' too, which is no formula.
    axes.set_xticks(range(classes), names, rotation=45, ha='right', rotation_mode='anchor', parse_math=False)
    axes.set_yticks(range(classes), names, parse_math=False)
    axes.tick_params(length=0)
    axes.set_xlabel('predicted')
    axes.set_ylabel('true')
    axes.set_title(title, parse_math=False, wrap=True)
    size = 9.5 if classes <= 12 else 6.5
    for (row, column), count in np.ndenumerate(matrix):
        if count:  # an empty cell says zero by being empty
            share = shares[row, column]
            text = f'{count}\n{100 * share:.0f} %'
            axes.text(column, row, text, ha='center', va='center', fontsize=size, color='white' if share > 0.55 else 'black')
    bar = figure.colorbar(picture, ax=axes, shrink=0.8, format=lambda share, _: f'{100 * share:.0f} %')
    bar.set_label('share of the true class')
    return to_png(figure)


def curves_png(lines: Sequence[dict[str, Any]], title: str, marks: Sequence[float] = ()) -> bytes:
    """A PNG of a run's metrics.jsonl: loss above, accuracy below, against epochs.

    Args:
      lines: the parsed lines, of kinds 'train' and 'validation'.
      marks: epochs at which to draw a thin upright line, such as where a run was killed.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 6), dpi=120, layout='constrained')
    loss, accuracy = figure.subplots(2, 1, sharex=True)
    for kind, colour, label in (('train', 'tab:blue', 'training (augmented)'), ('validation', 'tab:orange', 'validation (centre crop)')):
        chosen = [line for line in lines if line['kind'] == kind]
        epochs = [line['epoch'] for line in chosen]
        loss.plot(epochs, [line['loss' if kind == 'train' else 'nll'] for line in chosen], color=colour, label=label)
        accuracy.plot(epochs, [100 * line['accuracy'] for line in chosen], color=colour, label=label)
    for axes, name in ((loss, 'cross-entropy, nats'), (accuracy, 'accuracy, %')):
        axes.set_ylabel(name)
        axes.grid(alpha=0.3)
        for mark in marks:
            axes.axvline(mark, color='black', linewidth=0.8, linestyle=':')
    loss.set_title(title, parse_math=False, wrap=True)
    loss.legend()
    accuracy.set_xlabel('epoch')
    return to_png(figure)


def to_png(figure: 'Figure') -> bytes:
    """The figure's PNG, with no date or version in it, so that the same figure gives the same bytes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # A class name in a script that the font lacks shows as boxes; that is no reason to fail.
        warnings.filterwarnings('ignore', message='.*Glyph .* missing')
        FigureCanvasAgg(figure).print_png(buffer, metadata={'Software': None})
    return buffer.getvalue()
