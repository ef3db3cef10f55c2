"""fer_jax/data/ferplus.py: which votes count and which images leave, by rows worked out by hand after the authors' code."""

import hashlib
import pathlib

import numpy as np
import pytest

from fer_jax.core.config import check_config
from fer_jax.core.errors import InputError
from fer_jax.core.fields import default_config
from fer_jax.data import ferplus
from fer_jax.data.load import load
from fer_jax.data.prepare import prepare

REAL = pathlib.Path(__file__).parent.parent.parent.parent / 'shared' / 'data'
HEADER = 'Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF'
# neutral, happiness, surprise, sadness, anger, disgust, fear, contempt, unknown, NF → label, strict, target by class
ROWS = {
    'all agree': ((0, 10, 0, 0, 0, 0, 0, 0, 0, 0), 'happy', True, {'happy': 1}),
    'votes of one are dropped': ((7, 1, 1, 1, 0, 0, 0, 0, 0, 0), 'neutral', True, {'neutral': 1}),
    'the second counts until three quarters': ((6, 0, 0, 4, 0, 0, 0, 0, 0, 0), 'neutral', True, {'neutral': 0.6, 'sad': 0.4}),
    'from three quarters on it does not': ((8, 0, 0, 2, 0, 0, 0, 0, 0, 0), 'neutral', True, {'neutral': 1}),
    # 5 of 9 left is more than half.
    'half of what is left': ((5, 0, 0, 4, 1, 0, 0, 0, 0, 0), 'neutral', True, {'neutral': 5 / 9, 'sad': 4 / 9}),
    'exactly half is no majority': ((5, 0, 0, 3, 2, 0, 0, 0, 0, 0), 'neutral', False, {'neutral': 5 / 8, 'sad': 3 / 8}),
    'a tie goes to the first column': ((0, 0, 0, 5, 5, 0, 0, 0, 0, 0), 'sad', False, {'sad': 0.5, 'angry': 0.5}),
    'contempt is a class': ((2, 0, 0, 0, 0, 0, 0, 8, 0, 0), 'contempt', True, {'contempt': 1}),
    'unknown leads': ((4, 0, 0, 0, 0, 0, 0, 0, 6, 0), None, False, {}),
    'no face': ((0, 0, 0, 0, 0, 0, 0, 0, 0, 10), None, False, {}),
    # Behind the first, unknown is left out, and ends the gathering: 4 of 10 is not more than half.
    'unknown comes second': ((4, 0, 2, 0, 0, 0, 0, 0, 4, 0), 'neutral', False, {}),
    'unknown comes second to a majority': ((6, 0, 0, 0, 0, 0, 0, 0, 4, 0), 'neutral', True, {'neutral': 1}),
    'three suffice': ((4, 3, 3, 0, 0, 0, 0, 0, 0, 0), 'neutral', False, {'neutral': 0.4, 'happy': 0.3, 'surprise': 0.3}),
    'four at once are too many': ((4, 2, 2, 2, 0, 0, 0, 0, 0, 0), 'neutral', False, {}),
    'one vote each': ((1, 1, 1, 1, 1, 1, 1, 1, 1, 1), None, False, {}),
}


@pytest.mark.parametrize('name', ROWS)
def test_rows_by_hand(name):
    votes, label, strict, target = ROWS[name]
    own = ferplus.without_outliers(np.array([votes]))
    labels, majority = ferplus.largest(own)
    assert (None if labels[0] < 0 else ferplus.CLASSES[labels[0]]) == label
    assert majority[0] == strict
    np.testing.assert_allclose(ferplus.shares(own[0]), [target.get(name, 0) for name in ferplus.CLASSES])


@pytest.fixture
def data(tmp_path):
    """config.data of every row of ROWS in each of the three splits."""
    usages = ('Training', 'PublicTest', 'PrivateTest')
    generator = np.random.default_rng(0)
    faces, votes = ['emotion,pixels,Usage'], [HEADER]
    for usage in usages:
        for row, *_ in ROWS.values():
            pixels = ' '.join(map(str, generator.integers(0, 256, 2304)))
            faces.append(f'6,{pixels},{usage}')
            votes.append(f'{usage},,{",".join(map(str, row))}')
    # Every class of Training must have an image.
    for column in range(8):
        faces.append(f'6,{" ".join(map(str, generator.integers(0, 256, 2304)))},Training')
        votes.append(f'Training,,{",".join("10" if place == column else "0" for place in range(10))}')
    (tmp_path / 'fer2013.csv').write_text('\n'.join(faces))
    (tmp_path / 'votes.csv').write_text('\n'.join(votes))
    data = default_config().data
    data.dataset, data.path, data.votes = 'ferplus', str(tmp_path / 'fer2013.csv'), str(tmp_path / 'votes.csv')
    data.prepared = str(tmp_path / 'prepared')
    return data


@pytest.mark.filterwarnings('ignore::fer_jax.core.errors.DataWarning')
@pytest.mark.parametrize('targets', ['crossentropy', 'distribution', 'majority'])
def test_a_data_set_of_these_rows(data, targets):
    data.targets = targets
    dataset = load(data)
    labelled = [row for row in ROWS.values() if row[1]]
    validation = dataset.splits['validation']
    assert [ferplus.CLASSES[label] for label in validation.labels] == [row[1] for row in labelled]
    np.testing.assert_array_equal(validation.subsets[ferplus.STRICT], [row[2] for row in labelled])
    used = [row for row in ROWS.values() if (row[2] if targets == 'majority' else row[3])]
    train = dataset.splits['train']
    assert len(train) == len(used) + 8
    for row, target in zip(used, train.votes, strict=False):
        expected = {row[1]: 1} if targets == 'majority' else row[3]
        np.testing.assert_allclose(target, [expected.get(name, 0) for name in ferplus.CLASSES], rtol=1e-6)
    assert dataset.manifest['votes']['sha256'] == hashlib.sha256(pathlib.Path(data.votes).read_bytes()).hexdigest()
    assert f'PublicTest: 12 of 15 images, {sum(row[2] for row in labelled)} with a strict majority' in dataset.manifest['notes']


@pytest.mark.filterwarnings('ignore::fer_jax.core.errors.DataWarning')
def test_votes_that_are_not_there_or_were_changed(data):
    load(data)
    path = pathlib.Path(data.votes)
    set_field_none = default_config().data
    set_field_none.dataset, set_field_none.path = 'ferplus', data.path
    with pytest.raises(InputError, match='data.votes is not set'):
        prepare(set_field_none)
    path.unlink()
    with pytest.raises(InputError, match='data.votes: no such file'):
        prepare(data)


def test_blanks_and_separators_about_a_vote_are_passed_over(tmp_path):
    """As ASCII has them, too: found by the campaign of bad data, led by coverage. A column that is not there has no votes."""
    (tmp_path / 'votes.csv').write_text(f'{HEADER.removesuffix(",NF")}\nTraining,, 0,4\t,0,0,0,0,0,\x1f1,\x1c5 \n')
    usages, votes = ferplus._read_rows(tmp_path / 'votes.csv')
    assert usages.tolist() == ['Training'] and votes.tolist() == [[0, 4, 0, 0, 0, 0, 0, 1, 5, 0]]


def test_the_choice_of_targets_is_one_of_three():
    config = default_config()
    config.data.targets = 'majorities'
    with pytest.raises(InputError, match='data.targets'):
        check_config(config)


@pytest.mark.skipif(not REAL.exists(), reason='FER+ is not here')
def test_counts_of_the_real_votes_are_the_published_ones():
    """25,060, 3,199 and 3,153 images have a strict majority, as the authors' code and the papers that follow it count them.

    The first of each pair, and the 27,956 images of Training that `shares` keeps, are what that code, run on all rows, gave too.
    """
    usages, votes = ferplus._read_rows(REAL / 'fer2013new.csv')
    labels, strict = ferplus.largest(ferplus.without_outliers(votes))
    counts = {usage: (np.sum(labels[usages == usage] >= 0), np.sum(strict[usages == usage])) for usage in np.unique(usages)}
    assert counts == {'Training': (28389, 25060), 'PublicTest': (3553, 3199), 'PrivateTest': (3546, 3153)}
    training = ferplus.without_outliers(votes[usages == 'Training'])
    assert sum(ferplus.shares(row).any() for row in training) == 27956
