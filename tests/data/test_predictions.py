"""fer_jax/data/predictions.py: probabilities of an evaluation's predictions.csv, and what is not one."""

import json

import numpy as np
import pytest

from fer_jax.core.errors import InputError
from fer_jax.data.predictions import read_teacher
from fer_jax.data.schema import Faces

CONTENT = '0a' * 32
NAMES = ('angry', 'happy, very')
FACES = Faces(np.zeros((2, 48, 48), np.uint8), np.array([1, 0], np.int32))
HEADER = 'index,label,prediction,probability_angry,"probability_happy, very"'
ROWS = ['0,"happy, very",angry,0.6,0.2', '1,angry,angry,0.9,0.1']


def write(tmp_path, *lines):
    path = tmp_path / 'predictions.csv'
    path.write_text('\n'.join(lines))
    return path


def test_rows_are_read_in_order_and_scaled_to_sum_to_one(tmp_path):
    found = read_teacher(write(tmp_path, HEADER, *ROWS), FACES, NAMES, CONTENT)
    np.testing.assert_allclose(found, [[0.75, 0.25], [0.9, 0.1]], rtol=1e-6)
    assert found.dtype == np.float32


@pytest.mark.parametrize(
    ('lines', 'said'),
    [
        (['index,label', *ROWS], 'line 1: no predictions of these classes'),
        ([HEADER, ROWS[0]], '1 predictions for 2 training images'),
        ([HEADER, ROWS[0], '1,"happy, very",angry,0.9,0.1'], "line 3: label 'happy, very', but that training image is 'angry'"),
        ([HEADER, ROWS[1], ROWS[0]], 'line 2: not the row of image 0'),
        ([HEADER, ROWS[0], '1,angry,angry,nan,0.1'], 'line 3: not the row of image 1'),
        ([HEADER, ROWS[0], '1,angry,angry,0.9'], 'line 3: not the row of image 1'),
        ([HEADER, ROWS[0], '1,angry,angry,0,0'], 'line 3: not the row of image 1'),
    ],
)
def test_what_is_no_teacher_is_said(tmp_path, lines, said):
    with pytest.raises(InputError) as error:
        read_teacher(write(tmp_path, *lines), FACES, NAMES, CONTENT)
    assert said in str(error.value) and '\n' not in str(error.value)


def test_no_file_and_no_text(tmp_path):
    with pytest.raises(InputError, match='no such file'):
        read_teacher(tmp_path / 'none.csv', FACES, NAMES, CONTENT)
    (tmp_path / 'binary').write_bytes(b'\xff\xfe\x00')
    with pytest.raises(InputError, match='binary, line 1: no predictions of these classes'):
        read_teacher(tmp_path / 'binary', FACES, NAMES, CONTENT)


def test_predictions_of_other_images_with_the_same_labels_are_refused(tmp_path):
    """Such as of another draw of a set: only what lies beside them tells."""
    path, told = write(tmp_path, HEADER, *ROWS), tmp_path / 'result.json'
    told.write_text(json.dumps({'content_sha256': CONTENT}))
    assert len(read_teacher(path, FACES, NAMES, CONTENT)) == 2
    with pytest.raises(InputError, match='for other images: content_sha256 in result.json beside it is 0a0a0a0a0a0a…, not 0b0b'):
        read_teacher(path, FACES, NAMES, '0b' * 32)
    told.write_text('{}')
    with pytest.raises(InputError, match='content_sha256'):
        read_teacher(path, FACES, NAMES, CONTENT)
