"""Figures as PNG bytes. Matplotlib is imported where it draws: it is slow to load, and most commands draw nothing."""

import functools
import io
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec

import numpy as np
from jaxtyping import Float, Int, UInt8

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


@functools.partial(png, finish=in_few_colours)
def faces_png(images: UInt8[np.ndarray, 'n height width'], captions: Sequence[str], title: str, columns: int = 8) -> 'Figure':
    """A PNG of faces in a grid, row by row, each with its caption."""
    rows = -(-len(images) // columns)
    figure = blank(1.5 * columns, 1.95 * rows + 0.6, dpi=80)
    places = figure.subplots(rows, columns, squeeze=False).ravel()
    for place in places:
        place.set_axis_off()
    for place, image, caption in zip(places, images, captions, strict=False):
        place.imshow(image, cmap='gray', vmin=0, vmax=255, interpolation='nearest')
        place.set_title(caption, fontsize=9, parse_math=False)
    figure.suptitle(title, parse_math=False)
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
    classes, shown, side = images.shape[:3]
    figure = blank(1.45 * (shown + 1) + 1.4, 1.72 * classes + 0.5, dpi=80)
    places = figure.subplots(classes, shown + 1, squeeze=False)
    low, high = float(min(maps.min(), means.min())), float(max(maps.max(), means.max()))
    extent = (0, side, side, 0)
    scale = {'vmin': low, 'vmax': high if high > low else low + 1e-6, 'cmap': 'inferno', 'extent': extent, 'interpolation': 'nearest'}
    for row, name in enumerate(class_names):
        for column in range(shown):
            places[row, column].imshow(images[row, column], cmap='gray', vmin=0, vmax=255, extent=extent, interpolation='nearest')
            picture = places[row, column].imshow(maps[row, column], alpha=0.45, **scale)
            places[row, column].set_title(captions[row][column], fontsize=8, parse_math=False)
        places[row, shown].imshow(means[row], **scale)
        places[row, shown].set_title('mean map' if row == 0 else '', fontsize=8)
        places[row, 0].set_ylabel(shortened(name), fontsize=10, parse_math=False)
    for place in places.ravel():
        place.set_xticks([])
        place.set_yticks([])
    bar = figure.colorbar(picture, ax=places, shrink=min(1.0, 3 / classes), pad=0.01)
    bar.solids.set_alpha(1)
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
