"""fer_jax/evaluation/figures.py: what stands in the figures, read from Matplotlib's own objects, and some pixels of their PNGs."""

import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from fer_jax.core.statistics import Coverage
from fer_jax.evaluation.figures import (
    Dots,
    accuracies_png,
    attention_png,
    confusion_matrix_png,
    coverage_png,
    curves_png,
    faces_png,
    gates_png,
    mean_confusion_png,
    reliability_png,
    to_png,
)

FULL_BLUE = (8, 48, 107)  # the last colour of Blues
NAMES = ('angry', 'disgust', 'fear', 'happy', 'sad', 'surprise', 'neutral')


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert('RGB'))


def dark_cells(png):
    """Pixels of the colour of a full cell, left of the colour bar."""
    picture = pixels(png)
    return (np.abs(picture[:, : int(picture.shape[1] * 0.75)].astype(int) - FULL_BLUE) <= 2).all(-1).sum()


def drawn(function, *arguments, **named):
    """The figure that a function makes the PNG of."""
    return function.__wrapped__(*arguments, **named)


def points(axes):
    """The x and y of every line on the axes."""
    return [(list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines]


def test_a_confusion_matrix_has_counts_and_shares_of_the_rows():
    axes, bar = drawn(confusion_matrix_png, [[8, 2], [0, 4]], ('no', 'yes'), 'PrivateTest').axes
    (picture,) = axes.images
    np.testing.assert_allclose(picture.get_array(), [[0.8, 0.2], [0.0, 1.0]])
    assert picture.get_clim() == (0, 1) and picture.cmap.name == 'Blues'
    cells = {text.get_position(): (text.get_text(), text.get_color()) for text in axes.texts}  # by column and row
    assert cells == {
        (0, 0): ('8\n80 %', 'white'),
        (1, 0): ('2\n20 %', 'black'),
        (0, 1): ('', 'black'),
        (1, 1): ('4\n100 %', 'white'),
    }
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title()) == ('predicted', 'true', 'PrivateTest')
    assert bar.yaxis.get_major_formatter()(0.25, 0) == '25 %'


def test_the_mean_of_confusion_matrices_is_that_of_their_shares():
    """Rows of shares .8 .2 and .6 .4, and of 0 1 and .1 .9; a run with more images counts no more."""
    axes, _ = drawn(mean_confusion_png, [[[8, 2], [0, 4]], [[60, 40], [1, 9]]], ('no', 'yes'), '').axes
    np.testing.assert_allclose(axes.images[0].get_array(), [[0.7, 0.3], [0.05, 0.95]])
    assert [text.get_text() for text in axes.texts] == ['70 %', '30 %', '5 %', '95 %']
    axes, _ = drawn(mean_confusion_png, [[[399, 1], [0, 1]]], ('no', 'yes'), '').axes
    assert [text.get_text() for text in axes.texts] == ['100 %', '', '', '100 %'], 'a quarter of a per cent is left out'


def test_names_of_any_kind_are_shown_as_they_are():
    names = ('$\\frac{', '高兴', 'x' * 30)
    figure = drawn(confusion_matrix_png, np.eye(3, dtype=int), names, 'a $title of \\any kind')
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert labels == ['$\\frac{', '高兴', 'x' * 17 + '…']
    assert labels == [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert figure.axes[0].get_title() == 'a $title of \\any kind'
    assert pixels(to_png(figure)).std() > 0  # a formula that is none would raise


def test_curves():
    train = [{'kind': 'train', 'epoch': e / 2, 'loss': 2 - e / 2, 'accuracy': e / 4} for e in range(3)]
    validation = [{'kind': 'validation', 'epoch': 1, 'nll': 1.5, 'accuracy': 0.25}]
    figure = drawn(curves_png, [[train[0], *validation, *train[1:]]], 'run')
    loss, accuracy = figure.axes
    assert points(loss) == [([0, 0.5, 1], [2, 1.5, 1]), ([1], [1.5])]
    assert points(accuracy) == [([0, 0.5, 1], [0, 25, 50]), ([1], [25])]
    assert [text.get_text() for text in loss.get_legend().get_texts()] == ['training (augmented)', 'validation (centre crop)']
    assert (figure.get_suptitle(), loss.get_ylabel(), accuracy.get_ylabel()) == ('run', 'cross-entropy, nats', 'accuracy, %')


def test_curves_of_seeds_leave_out_what_was_not_finite():
    seeds = [[{'kind': 'train', 'epoch': 1, 'loss': 2.0, 'accuracy': 0.5}, {'kind': 'train', 'epoch': 2, 'loss': None, 'accuracy': 0.75}]]
    seeds.append([{'kind': 'validation', 'epoch': 2, 'nll': 1.0, 'accuracy': 0.25}, {'kind': 'validation', 'epoch': 3, 'accuracy': 0.5}])
    loss, accuracy = drawn(curves_png, seeds).axes
    # A line each of training and validation, for each seed, also where it is empty.
    assert points(accuracy) == [([1, 2], [50, 75]), ([], []), ([], []), ([2], [25])]
    np.testing.assert_array_equal(loss.lines[0].get_ydata(), [2.0, np.nan])
    assert list(loss.lines[3].get_ydata()) == [1.0] and loss.lines[0].get_color() != loss.lines[3].get_color()


def test_accuracies_are_a_line_a_row_from_the_top():
    rows = [Dots('Base', [0.6, 0.7], (0.55, 0.75), 0.5), Dots('$CA$', [0.8], (0.7, 0.9), None)]
    (axes,) = drawn(accuracies_png, rows, 'PrivateTest', 'interval over seeds').axes
    found = [(np.round(x, 6).tolist(), y) for x, y in points(axes)]
    # Of each row the interval, the seeds and the mean; then the paper's value, which only the first has.
    assert found == [
        ([55, 75], [0, 0]), ([60, 70], [0, 0]), ([65], [0]),
        ([70, 90], [1, 1]), ([80], [1]), ([80], [1]),
        ([50], [0]),
    ]  # fmt: skip
    assert [label.get_text() for label in axes.get_yticklabels()] == ['Base', '$CA$']
    assert axes.get_ylim() == (1.5, -0.5)
    names = [text.get_text() for text in axes.figure.legends[0].get_texts()]
    assert names == ['interval over seeds', 'one run', 'mean', 'the paper']


def test_reliability_has_a_bar_where_there_are_images():
    counts, nan = np.array([0, 2, 0, 6]), np.nan
    upper, lower = drawn(reliability_png, counts, np.array([nan, 0.4, nan, 0.9]), np.array([nan, 0.5, nan, 0.75])).axes
    assert [(bar.get_x(), bar.get_width(), bar.get_height()) for bar in upper.patches] == [(0.25, 0.25, 0.5), (0.75, 0.25, 0.75)]
    assert [bar.get_height() for bar in lower.patches] == [0, 2, 0, 6]
    assert points(upper) == [([0.4, 0.9], [0.4, 0.9]), ([0, 1], [0, 1])]


def test_coverage_is_drawn_in_per_cent():
    curve = Coverage(np.array([0.25, 1.0]), np.array([1.0, 0.75]), np.array([0.9, 0.5]))
    (axes,) = drawn(coverage_png, curve, 'PrivateTest').axes
    assert points(axes) == [([25, 100], [100, 75]), ([25, 100], [90, 50])]


def test_faces_stand_row_by_row_under_their_captions():
    images = np.full((3, 48, 48), 60, np.uint8) * np.array([1, 2, 3], np.uint8)[:, None, None]
    figure = drawn(faces_png, images, ['a', '$b$', 'c'], 'mistakes', columns=2)
    assert [text.get_text() for text in figure.axes[0].texts] == ['a', '$b$', 'c', 'mistakes']
    picture = pixels(to_png(figure))
    places = [np.argwhere((np.abs(picture.astype(int) - grey) <= 1).all(-1)) for grey in (60, 120, 180)]
    (top, left), (top_2, right), (bottom, left_2) = (place.mean(0) for place in places)
    assert len(places[0]) > 1000 and left < right and top < bottom
    assert (top, left) == pytest.approx((top_2, left_2), abs=1)


def test_attention_maps_share_one_scale():
    images = np.zeros((2, 1, 40, 40), np.uint8)
    maps = np.stack([np.full((1, 4, 4), 0.2), np.full((1, 4, 4), 0.6)])
    figure = drawn(attention_png, images, maps, [['sad 9 %'], ['b']], np.stack([np.full((4, 4), 0.1), np.full((4, 4), 0.5)]), ['no', 'yes'])
    axes, bar = figure.axes
    first_face, first, first_mean, second_face, second, second_mean = axes.images
    for face, shown, value in ((first_face, first, 0.2), (second_face, second, 0.6)):
        assert face.get_array().shape == (40, 40) and face.get_clim() == (0, 255)
        assert (shown.get_array() == value).all() and shown.get_clim() == (0.1, 0.6) and shown.get_extent() == face.get_extent()
    assert [mean.get_array().max() for mean in (first_mean, second_mean)] == [0.1, 0.5]
    texts = [(text.get_text(), text.get_rotation()) for text in axes.texts]
    assert texts == [('sad 9 %', 0), ('no', 90), ('b', 0), ('yes', 90), ('mean map', 0)] and bar.get_ylabel() == 'weight of the place'


def test_gates_are_sorted_by_the_class_that_raises_them():
    """Means .5 .2 .5 over the classes: +.4 -.1 0 and -.4 +.1 0 are left; the first class raises channels 0 and 2, the second 1."""
    axes, _ = drawn(gates_png, np.array([[0.9, 0.1, 0.5], [0.1, 0.3, 0.5]]), ['no', 'yes']).axes
    (picture,) = axes.images
    np.testing.assert_allclose(picture.get_array(), [[0.4, 0.0, -0.1], [-0.4, 0.0, 0.1]], atol=1e-12)
    assert picture.get_clim() == pytest.approx((-0.4, 0.4))
    assert axes.get_xlabel().startswith('3 channels, mean weight 0.40,')
    assert [label.get_text() for label in axes.get_yticklabels()] == ['no', 'yes']


@pytest.mark.parametrize('classes', [2, 7, 30])
def test_a_png_that_grows_with_the_classes(classes):
    matrix = np.random.default_rng(0).integers(0, 900, (classes, classes))
    height, width, _ = pixels(confusion_matrix_png(matrix, [f'class {i}' for i in range(classes)], 'PrivateTest')).shape
    assert 400 <= height <= 2500 and 400 <= width <= 2500
    assert height >= 60 * classes


def test_colour_is_the_share_of_the_row():
    # Four classes, all right, however few they are: four cells of one size, full of colour; half right: none.
    right = dark_cells(confusion_matrix_png(np.diag([1, 5000, 30, 2]), NAMES[:4], ''))
    one = dark_cells(confusion_matrix_png([[9, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]], NAMES[:4], ''))
    assert one > 1000
    assert right == pytest.approx(4 * one, rel=0.15)  # the text in the cells differs


def test_a_class_without_images_draws():
    assert dark_cells(confusion_matrix_png([[0, 0], [0, 0]], ('no', 'yes'), '')) == 0


def test_the_same_matrix_gives_the_same_bytes():
    assert confusion_matrix_png([[1, 2], [3, 4]], ('no', 'yes'), 't') == confusion_matrix_png([[1, 2], [3, 4]], ('no', 'yes'), 't')


def test_matplotlib_is_loaded_late_and_pyplot_never():
    code = (
        'import sys, fer_jax.evaluation.figures as f; assert "matplotlib" not in sys.modules;'
        'f.confusion_matrix_png([[1, 0], [0, 1]], ("a", "b"), ""); assert "matplotlib.pyplot" not in sys.modules'
    )
    subprocess.run([sys.executable, '-c', code], check=True)
