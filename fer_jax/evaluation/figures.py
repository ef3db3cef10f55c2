"""Figures as PNG bytes. Matplotlib is imported where it draws: it is slow to load, and most commands draw nothing."""

import functools
import io
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec

import numpy as np
from jaxtyping import Float, Int, UInt8

from fer_jax.core.statistics import Coverage

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LONGEST_NAME = 18  # characters of a class name on an axis
Arguments = ParamSpec('Arguments')


def to_png(figure: 'Figure') -> bytes:
    """The figure's PNG, with no date or version in it, so that the same figure gives the same bytes."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # A class name in a script that the font lacks shows as boxes; that is no reason to fail.
        warnings.filterwarnings('ignore', message='.*Glyph .* missing')
        figure.savefig(buffer, format='png', metadata={'Software': None})
    return buffer.getvalue()


def in_few_colours(png: bytes) -> bytes:
    """The PNG with a palette of 256 colours: a picture of many faces in a third of the bytes, and every scoring leaves some."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.open(io.BytesIO(png)).convert('RGB').quantize(256).save(buffer, 'PNG')
    return buffer.getvalue()


def png(draw: Callable[Arguments, 'Figure'], finish: Callable[[bytes], bytes] = bytes) -> Callable[Arguments, bytes]:
    """`draw` with the PNG of its figure in place of the figure, `finish`ed; `draw` itself is the result's `__wrapped__`."""

    @functools.wraps(draw)
    def as_png(*arguments: Arguments.args, **named: Arguments.kwargs) -> bytes:
        return finish(to_png(draw(*arguments, **named)))

    return as_png


def blank(width: float, height: float, dpi: int = 120) -> 'Figure':
    """An empty figure of so many inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=dpi, layout='constrained')


@png
def confusion_matrix_png(matrix: Int[np.ndarray, 'classes classes'] | list[list[int]], class_names: Sequence[str], title: str) -> 'Figure':
    """A PNG of the confusion matrix: rows true, columns predicted, each cell its count and its share of the row.

    The colour is that share, so that classes of different size compare; a row without images stays white.
    """
    matrix = np.asarray(matrix)
    shares = row_shares(matrix)
    # An empty cell says zero by being empty.
    return shares_figure(shares, class_names, title, lambda cell: f'{matrix[cell]}\n{100 * shares[cell]:.0f} %' if matrix[cell] else '')


@png
def mean_confusion_png(matrices: Sequence[list[list[int]]], class_names: Sequence[str], title: str) -> 'Figure':
    """A PNG of the mean, over several confusion matrices, of each one's shares of the true class; cells under half a per cent are empty."""
    shares = np.mean([row_shares(np.asarray(matrix)) for matrix in matrices], axis=0)
    return shares_figure(shares, class_names, title, lambda cell: f'{100 * shares[cell]:.0f} %' if shares[cell] >= 0.005 else '')


def row_shares(matrix: Int[np.ndarray, 'classes classes']) -> Float[np.ndarray, 'classes classes']:
    """Each cell's share of its row; zeros in a row without images."""
    return matrix / np.maximum(matrix.sum(1, keepdims=True), 1)


def shares_figure(
    shares: Float[np.ndarray, 'classes classes'], class_names: Sequence[str], title: str, text: Callable[[tuple[int, int]], str]
) -> 'Figure':
    """Shares of the true class as colours; `text` says what stands in the cell of (row, column)."""
    classes = len(shares)
    cell = 0.72 if classes <= 12 else 0.5  # inches; smaller cells would not hold a count and a share
    side = max(4.2, classes * cell)
    figure = blank(side + 2.4, side + 1.6)
    axes = figure.add_subplot()
    picture = axes.imshow(shares, cmap='Blues', vmin=0, vmax=1)
    names = [shortened(name) for name in class_names]
    # A class folder may be called anything, '$1$' too, which is no formula.
    axes.set_xticks(range(classes), names, rotation=45, ha='right', rotation_mode='anchor', parse_math=False)
    axes.set_yticks(range(classes), names, parse_math=False)
    axes.tick_params(length=0)
    axes.set_xlabel('predicted')
    axes.set_ylabel('true')
    axes.set_title(title, parse_math=False, wrap=True)
    size = 9.5 if classes <= 12 else 6.5
    for (row, column), share in np.ndenumerate(shares):
        axes.text(column, row, text((row, column)), ha='center', va='center', fontsize=size, color='white' if share > 0.55 else 'black')
    bar = figure.colorbar(picture, ax=axes, shrink=0.8, format=lambda share, _: f'{100 * share:.0f} %')
    bar.set_label('share of the true class')
    return figure


def shortened(name: str) -> str:
    """A class name as long as an axis can hold."""
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + '…'


@png
def curves_png(runs: Sequence[Sequence[dict[str, Any]]], title: str = '') -> 'Figure':
    """A PNG of the metrics.jsonl of one run or of several, a line each: loss at the left, accuracy at the right, against epochs."""
    figure = blank(9.5, 3.8, dpi=110)
    loss, accuracy = figure.subplots(1, 2)
    for number, lines in enumerate(runs):
        for kind, colour, name, label in (
            ('train', 'tab:blue', 'loss', 'training (augmented)'),
            ('validation', 'tab:orange', 'nll', 'validation (centre crop)'),
        ):
            chosen = [line for line in lines if line['kind'] == kind and {name, 'accuracy'} <= line.keys()]
            epochs = [line['epoch'] for line in chosen]
            # A value that was not finite is null in the file.
            values = {key: [np.nan if line[key] is None else line[key] for line in chosen] for key in (name, 'accuracy')}
            style = {'color': colour, 'linewidth': 1.1, 'alpha': max(0.35, 1 / len(runs)), 'label': '' if number else label}
            loss.plot(epochs, values[name], **style)
            accuracy.plot(epochs, 100 * np.array(values['accuracy'], float), **style)
    for axes, label in ((loss, 'cross-entropy, nats'), (accuracy, 'accuracy, %')):
        axes.set_ylabel(label)
        axes.set_xlabel('epoch')
        axes.grid(alpha=0.3)
    for line in loss.legend().get_lines():
        line.set_alpha(1)
    figure.suptitle(title, parse_math=False, wrap=True)
    return figure


class Dots(NamedTuple):
    """A line of `accuracies_png`; all in 0..1."""

    name: str
    values: list[float]  # of the seeds
    interval: tuple[float, float]
    paper: float | None  # what a paper says


@png
def accuracies_png(rows: Sequence[Dots], title: str, interval: str) -> 'Figure':
    """A PNG with a line a row: a dot for each seed, the mean, the interval, which `interval` names, and a paper's value as a mark."""
    figure = blank(8.5, 1.5 + 0.42 * len(rows))
    axes = figure.add_subplot()
    for place, row in enumerate(rows):
        low, high = (100 * bound for bound in row.interval)
        first = place == 0
        bar, dot = ({'color': 'tab:blue', 'label': label if first else ''} for label in (interval, 'one run'))
        axes.plot([low, high], [place, place], alpha=0.3, linewidth=7, solid_capstyle='butt', **bar)
        axes.plot([100 * value for value in row.values], [place] * len(row.values), 'o', alpha=0.65, markersize=4.5, **dot)
        axes.plot(100 * np.mean(row.values), place, '|', color='black', markersize=15, markeredgewidth=2, label='mean' if first else '')
    told = [(100 * row.paper, place) for place, row in enumerate(rows) if row.paper is not None]
    if told:
        axes.plot(*zip(*told, strict=True), 'D', color='tab:red', markersize=6, markerfacecolor='white', label='the paper')
    axes.set_yticks(range(len(rows)), [row.name for row in rows], parse_math=False)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel('accuracy, %')
    axes.grid(axis='x', alpha=0.3)
    axes.set_title(title, parse_math=False, wrap=True)
    figure.legend(loc='outside lower center', ncols=4, frameon=False, fontsize=9)
    return figure


@png
def reliability_png(
    counts: Int[np.ndarray, ' bins'], confidence: Float[np.ndarray, ' bins'], accuracy: Float[np.ndarray, ' bins']
) -> 'Figure':
    """A PNG of accuracy against top probability, bin by bin, with the images of each bin below: statistics.calibration's numbers."""
    figure = blank(4.8, 5.2, dpi=110)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    filled = counts > 0
    edges, width = np.arange(len(counts)) / len(counts), 1 / len(counts)
    upper.bar(edges[filled], accuracy[filled], width, align='edge', color='tab:blue', alpha=0.75, edgecolor='white', label='accuracy')
    upper.plot(confidence[filled], confidence[filled], 's', color='tab:red', markersize=4, label='mean top probability')
    upper.plot([0, 1], [0, 1], color='black', linewidth=0.8, linestyle=':')
    upper.set_ylabel('share of images that are right')
    upper.set_ylim(0, 1)
    upper.legend(loc='upper left', fontsize=9)
    lower.bar(edges, counts, width, align='edge', color='gray', edgecolor='white')
    lower.set_ylabel('images')
    lower.set_xlabel('top probability')
    lower.set_xlim(0, 1)
    return figure


@png
def coverage_png(curve: Coverage, title: str = '') -> 'Figure':
    """A PNG of accuracy, and of the least top probability that says so much, over the share of images that it is surest of."""
    figure = blank(5.2, 4.2, dpi=110)
    axes = figure.add_subplot()
    share = 100 * curve.covered
    axes.plot(share, 100 * curve.accuracy, color='tab:blue', label='accuracy on them')
    axes.plot(share, 100 * curve.min_confidence, color='tab:red', linestyle='--', linewidth=1, label='their least top probability')
    axes.set_xlabel('share of the images, those it is surest of, %')
    axes.set_ylabel('%')
    axes.set_xlim(0, 100)
    axes.set_ylim(0, 101)
    axes.grid(alpha=0.3)
    axes.legend(loc='lower left', fontsize=9)
    axes.set_title(title, parse_math=False, wrap=True, fontsize=10)
    return figure


def sheet(width: float, height: float) -> tuple['Figure', Any]:
    """An empty figure and axes that cover it, in inches from its top left: many pictures on one are drawn faster than on axes each."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=80)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0), autoscale_on=False)
    axes.set_axis_off()
    return figure, axes


def put(axes: Any, picture: np.ndarray, left: float, top: float, side: float, **style: Any) -> Any:
    """Draws a square picture on a `sheet`; returns what matplotlib makes of it."""
    return axes.imshow(picture, extent=(left, left + side, top + side, top), interpolation='nearest', aspect='auto', **style)


def write(axes: Any, text: str, x: float, y: float, size: int, **style: Any) -> None:
    """Writes the text on a `sheet`, its bottom at y, in the middle at x."""
    axes.text(x, y, text, fontsize=size, ha='center', va='bottom', parse_math=False, **style)


@functools.partial(png, finish=in_few_colours)
def faces_png(images: UInt8[np.ndarray, 'n height width'], captions: Sequence[str], title: str, columns: int = 8) -> 'Figure':
    """A PNG of faces in a grid, row by row, each with its caption."""
    side, across, down, above = 1.42, 1.5, 1.86, 0.4  # inches: a face, from face to face, and the title
    rows = -(-len(images) // columns)
    figure, axes = sheet(across * columns, down * rows + above)
    for number, (image, caption) in enumerate(zip(images, captions, strict=True)):
        row, column = divmod(number, columns)
        left, bottom = across * column + (across - side) / 2, above + down * (row + 1)
        put(axes, image, left, bottom - side, side, cmap='gray', vmin=0, vmax=255)
        write(axes, caption, left + side / 2, bottom - side - 0.04, 9)
    write(axes, title, across * columns / 2, above - 0.1, 12)
    return figure


@functools.partial(png, finish=in_few_colours)
def attention_png(
    images: UInt8[np.ndarray, 'classes shown side side'],
    maps: Float[np.ndarray, 'classes shown height width'],
    captions: Sequence[Sequence[str]],
    means: Float[np.ndarray, 'classes height width'],
    class_names: Sequence[str],
) -> 'Figure':
    """A PNG with a row of faces for each class, the attention map over each, and the class's mean map at the end.

    All maps share one scale of colours, so that a map without contrast looks like one.
    """
    size, across, down, left = 1.38, 1.45, 1.64, 0.36  # inches: a face, from face to face, and the class's name
    classes, shown = images.shape[:2]
    width, height = left + across * (shown + 1) + 1.0, down * classes + 0.1
    figure, axes = sheet(width, height)
    low, high = float(min(maps.min(), means.min())), float(max(maps.max(), means.max()))
    scale = {'vmin': low, 'vmax': high if high > low else low + 1e-6, 'cmap': 'inferno'}
    for row, name in enumerate(class_names):
        top = down * (row + 1) - size
        for column in range(shown):
            x = left + across * column
            put(axes, images[row, column], x, top, size, cmap='gray', vmin=0, vmax=255)
            put(axes, maps[row, column], x, top, size, alpha=0.45, **scale)
            write(axes, captions[row][column], x + size / 2, top - 0.03, 8)
        mean = put(axes, means[row], left + across * shown, top, size, **scale)
        write(axes, shortened(name), left - 0.08, top + size / 2, 10, rotation=90, rotation_mode='anchor')
    write(axes, 'mean map', left + across * shown + size / 2, down - size - 0.03, 8)
    tall = min(height - 0.3, 3 * down) / height
    bar = figure.colorbar(mean, cax=figure.add_axes(((width - 0.85) / width, (1 - tall) / 2, 0.16 / width, tall)))
    bar.set_label('weight of the place')
    return figure


@png
def gates_png(gates: Float[np.ndarray, 'classes channels'], class_names: Sequence[str]) -> 'Figure':
    """A PNG of each class's mean channel weights, less their mean over the classes; channels stand by the class that raises them most."""
    apart = gates - gates.mean(0)
    order = np.lexsort((-apart.max(0), apart.argmax(0)))
    limit = max(float(np.abs(apart).max()), 1e-6)
    figure = blank(10.0, 1.5 + 0.34 * len(gates), dpi=100)
    axes = figure.add_subplot()
    picture = axes.imshow(apart[:, order], cmap='RdBu_r', vmin=-limit, vmax=limit, aspect='auto', interpolation='nearest')
    axes.set_yticks(range(len(gates)), [shortened(name) for name in class_names], parse_math=False)
    axes.set_xlabel(f'{gates.shape[1]} channels, mean weight {gates.mean():.2f}, sorted by the class that raises them most')
    figure.colorbar(picture, ax=axes).set_label('weight less its mean')
    return figure
