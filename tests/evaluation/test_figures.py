import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from fer_jax.evaluation.figures import confusion_matrix_png, curves_png

FULL_BLUE = (8, 48, 107)  # the last colour of Blues
NAMES = ('angry', 'disgust', 'fear', 'happy', 'sad', 'surprise', 'neutral')


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert('RGB'))


def dark_cells(png):
    """Pixels of the colour of a full cell, left of the colour bar."""
    picture = pixels(png)
    return (np.abs(picture[:, : int(picture.shape[1] * 0.75)].astype(int) - FULL_BLUE) <= 2).all(-1).sum()


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


def test_names_of_any_kind_draw():
    confusion_matrix_png([[1, 2], [3, 4]], ('$\\frac{', '高兴'), 'a $title of \\any kind')
    confusion_matrix_png([[1, 2], [3, 4]], ('x' * 300, ''), 'x' * 300)


def test_the_same_matrix_gives_the_same_bytes():
    assert confusion_matrix_png([[1, 2], [3, 4]], ('no', 'yes'), 't') == confusion_matrix_png([[1, 2], [3, 4]], ('no', 'yes'), 't')


def test_matplotlib_is_loaded_late_and_pyplot_never():
    code = (
        'import sys, fer_jax.evaluation.figures as f; assert "matplotlib" not in sys.modules;'
        'f.confusion_matrix_png([[1, 0], [0, 1]], ("a", "b"), ""); assert "matplotlib.pyplot" not in sys.modules'
    )
    subprocess.run([sys.executable, '-c', code], check=True)


def test_curves_show_both_kinds_and_the_marks():
    train = [{'kind': 'train', 'epoch': e / 2, 'loss': 2 - e / 10, 'accuracy': e / 20} for e in range(10)]
    validation = [{'kind': 'validation', 'epoch': e, 'nll': 2 - e / 8, 'accuracy': e / 8} for e in range(5)]

    def coloured(png, colour):
        return (np.abs(pixels(png).astype(int) - colour) <= 2).all(-1).sum()

    both = curves_png(train + validation, 'run')
    blue, orange = (31, 119, 180), (255, 127, 14)
    assert coloured(both, blue) > 500 and coloured(both, orange) > 500
    assert coloured(curves_png(train, 'run'), orange) < coloured(both, orange) / 2
    assert coloured(curves_png(train + validation, 'run', marks=[1.0, 2.0]), (0, 0, 0)) > coloured(both, (0, 0, 0)) + 100
