"""The protocols on CK+ (configs/ckplus.py, configs/ckplus_folds.py, data/splits.py), on drawn faces in CK+48's layout; neighbour.py."""

import dataclasses
import pathlib

import numpy as np
import pytest

from fer_jax.core.config import differences, load_variants
from fer_jax.core.errors import InputError
from fer_jax.core.fields import default_config
from fer_jax.data import ckplus
from fer_jax.data.load import load
from fer_jax.data.readers import request_of
from fer_jax.data.schema import SPLITS, Faces, Source
from fer_jax.data.splits import draw_splits, fold_numbers
from fer_jax.evaluation.neighbour import nearest, one_nearest_neighbour
from tests.ckplus_like import write

OFFICIAL = {'anger': 135, 'disgust': 177, 'fear': 75, 'happy': 207, 'sadness': 84, 'surprise': 249, 'contempt': 54}
RANDOM, FOLDS = 'configs/ckplus.py', 'configs/ckplus_folds.py'


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return write(tmp_path_factory.mktemp('ck') / 'CK+48')


@pytest.fixture(scope='module')
def source(folder: pathlib.Path) -> Source:
    """What is read, with a number for each image, that tells where it went."""
    source = ckplus.read(folder)
    whole = dataclasses.replace(source.splits['train'], rows=np.arange(981))
    return dataclasses.replace(source, splits={'train': whole})


def histogram(faces: Faces) -> list[int]:
    return np.bincount(faces.labels, minlength=7).tolist()


def shared(drawn: Source, of: str) -> set[str]:
    """The subjects or sequences that stand in two of the splits."""
    train, validation, test = (set(getattr(drawn.splits[split], of)) for split in SPLITS)
    return (train & validation) | (train & test) | (validation & test)


def test_the_generated_folder_is_like_ckplus(source):
    faces = source.splits['train']
    assert source.warnings == () and source.class_names == tuple(OFFICIAL)
    assert histogram(faces) == list(OFFICIAL.values()) and len(faces) == 981
    assert len(set(faces.subjects)) == 118
    _, frames = np.unique(faces.sequences, return_counts=True)
    assert frames.tolist() == [3] * 327


def variants(reference: str, **overrides: str) -> dict:
    return load_variants(reference, {'data.path': 'CK+48'} | {name.replace('__', '.'): text for name, text in overrides.items()})


def test_the_configurations_are_the_two_protocols():
    draws, folds = variants(RANDOM), variants(FOLDS)
    assert list(draws) == [f'ckplus-random-draw{k}' for k in range(10)]
    assert list(folds) == [f'ckplus-fold{k}' for k in range(10)]
    for k, (draw, fold) in enumerate(zip(draws.values(), folds.values(), strict=True)):
        assert (draw.data.by_subject, draw.data.test_fraction, draw.data.validation_fraction) == (False, 0.3, 0.1)
        assert (draw.data.split_seed, draw.data.folds) == (k, 0)
        assert (fold.data.by_subject, fold.data.folds, fold.data.fold, fold.data.split_seed) == (True, 10, k, 0)
        assert draw.data.dataset == fold.data.dataset == 'ckplus'
        # One recipe: what they measure differs by the split alone.
        assert {line.partition(':')[0].partition('.')[0] for line in differences(draw, fold)} == {'name', 'data'}
    assert {config.init_from for config in variants(FOLDS, init_from='fer2013-1.9m').values()} == {'fer2013-1.9m'}


# --- Ten folds, disjoint by subject


def one_fold(source: Source, fold: int, seed: int = 0) -> Source:
    return draw_splits(source, 0.1, 0.1, seed, folds=10, fold=fold)


@pytest.fixture(scope='module')
def drawn(source: Source) -> list[Source]:
    return [one_fold(source, fold) for fold in range(10)]


def test_no_subject_and_no_sequence_is_on_two_sides_of_any_fold(drawn):
    for each in drawn:
        assert not shared(each, 'subjects') and not shared(each, 'sequences')
        assert sorted(np.concatenate([each.splits[split].rows for split in SPLITS])) == list(range(981))
    assert sorted(np.concatenate([each.splits['test'].rows for each in drawn])) == list(range(981))
    assert drawn[3].split_titles == {'train': 'CK+', 'test': 'CK+ (fold 3 of 10)', 'validation': 'CK+ (drawn for validation)'}


def test_folds_are_about_equal_in_size_and_classes(drawn):
    sizes = [len(each.splits['test']) for each in drawn]
    # An even share is 98.1; a subject has 3 images a film, and 1 to 9 films.
    assert max(sizes) - min(sizes) <= 6, sizes
    classes = np.array([histogram(each.splits['test']) for each in drawn])
    share = np.array(list(OFFICIAL.values())) / 10
    assert (np.abs(classes - share) <= np.maximum(0.35 * share, 4)).all(), classes
    for each in drawn:
        assert 85 <= len(each.splits['validation']) <= 112 and min(histogram(each.splits['validation'])) > 0


def test_the_seed_alone_decides_the_folds(source, drawn):
    numbers = fold_numbers(source, 10, True, 0)
    np.testing.assert_array_equal(numbers, fold_numbers(source, 10, True, 0))
    other = fold_numbers(source, 10, True, 1)
    # Not the same parts under other numbers either: which images share a fold differs.
    assert ((numbers[:, None] == numbers) != (other[:, None] == other)).any()
    validation = drawn[4].splits['validation'].rows.tolist()
    again, moved = one_fold(source, 4), one_fold(source, 4, seed=1)
    assert again.splits['validation'].rows.tolist() == validation != moved.splits['validation'].rows.tolist()
    assert not shared(moved, 'subjects') and not shared(moved, 'sequences')


def small(labels, subjects=None, **splits):
    count = len(labels)
    images = np.repeat(np.arange(count, dtype=np.uint8), 2304).reshape(count, 48, 48)
    train = Faces(images, np.array(labels, np.int32), None if subjects is None else np.array(subjects))
    return Source('ckplus', ('a', 'b'), {'train': train, **splits}, {'train': 'all', **{split: 'its own' for split in splits}})


def test_subjects_of_one_size_fall_one_class_pair_to_each_fold():
    """Four subjects of a, four of b, two images each, four folds: the only even division is one of each to a fold."""
    labels = np.repeat([0, 0, 0, 0, 1, 1, 1, 1], 2)
    subjects = np.repeat(list('pqrstuvw'), 2)
    numbers = fold_numbers(small(labels, subjects), 4, True, 0)
    assert sorted(numbers[labels == 0]) == sorted(numbers[labels == 1]) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert (numbers[::2] == numbers[1::2]).all()


@pytest.mark.parametrize(
    ('source', 'by_subject', 'folds', 'message'),
    [
        (small([0, 1] * 5), True, 2, 'names no subjects.*data.by_subject=false'),
        (small([0, 1] * 2, ['x', 'y', '', 'z']), True, 2, '1 images are of unknown subject'),
        (small([0, 1] * 2, ['x', 'y', 'x', 'y']), True, 3, 'data.folds=3 is more than its 2 subjects'),
        (small([0, 1] * 2), False, 5, 'data.folds=5 is more than its 4 images'),
        (small([0, 1] * 2, ['x', 'y', 'x', 'y'], test=small([0]).splits['train']), True, 2, r'splits of its own \(its own\)'),
    ],
)
def test_folds_that_cannot_be_are_refused(source, by_subject, folds, message):
    with pytest.raises(InputError, match=message) as error:
        draw_splits(source, 0.3, 0.1, 0, by_subject, folds, 0)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('fields', [{'data__fold': '10'}, {'data__folds': '1', 'data__fold': '0'}, {'data__folds': '0', 'data__fold': '1'}])
def test_a_fold_beyond_the_folds_is_refused(fields):
    with pytest.raises(InputError, match='data.fold='):
        variants(FOLDS, **fields)


# --- By image


def test_the_random_draws_are_stratified_and_share_subjects(source):
    drawn = [draw_splits(source, 0.1, 0.3, seed, by_subject=False) for seed in range(10)]
    for each in drawn:
        # Rounded shares: test 0.3 of each class; validation 98.1 of the 686 that are left, of each class alike.
        assert histogram(each.splits['test']) == [41, 53, 23, 62, 25, 75, 16]
        assert histogram(each.splits['validation']) == [13, 18, 7, 21, 8, 25, 5]
        assert len(each.splits['train']) == 981 - 295 - 97
        assert sorted(np.concatenate([each.splits[split].rows for split in SPLITS])) == list(range(981))
        of_films = np.isin(each.splits['test'].sequences, each.splits['train'].sequences).mean()
        # Of a film's two other frames at least one is in train with probability 1 - 0.4²; this is what such a split measures.
        assert of_films == pytest.approx(1 - 0.4**2, abs=0.08)
        assert np.isin(each.splits['test'].subjects, each.splits['train'].subjects).mean() > 0.9
    assert len({tuple(each.splits['test'].rows) for each in drawn}) == 10
    assert drawn[7].splits['test'].rows.tolist() == draw_splits(source, 0.1, 0.3, 7, by_subject=False).splits['test'].rows.tolist()


def test_folds_by_image_differ_by_one_image_at_most(source):
    numbers = fold_numbers(source, 10, False, 0)
    assert sorted(np.bincount(numbers)) == [98] * 9 + [99]
    for label in range(7):
        counts = np.bincount(numbers[source.splits['train'].labels == label], minlength=10)
        assert counts.max() - counts.min() <= 1
    assert (numbers != fold_numbers(source, 10, False, 1)).any()


# --- Prepared


def test_what_was_prepared_before_these_fields_is_found_again():
    data = default_config().data
    data.dataset, data.path = 'ckplus', '/CK+48'
    before = {'dataset': 'ckplus', 'path': '/CK+48', 'skip_bad': False, 'validation_fraction': 0.1, 'test_fraction': 0.1, 'split_seed': 0}
    assert request_of(data) == before
    data.by_subject = False
    assert request_of(data) == before | {'by_subject': False}
    data.folds, data.fold = 10, 3
    assert request_of(data) == before | {'by_subject': False, 'folds': 10, 'fold': 3}


def test_both_protocols_are_prepared_and_the_nearest_neighbour_tells_them_apart(folder, tmp_path):
    overrides = {'data__path': str(folder), 'data__prepared': str(tmp_path)}
    random = load(variants(RANDOM, **overrides)['ckplus-random-draw0'].data)
    fold = load(variants(FOLDS, **overrides)['ckplus-fold3'].data)
    assert random.manifest['key'] != fold.manifest['key']
    assert [len(random.splits[split]) for split in SPLITS] == [589, 97, 295]
    assert fold.split_titles['test'] == 'CK+ (fold 3 of 10)'
    assert not set(fold.splits['train'].subjects) & set(fold.splits['test'].subjects)
    remembered = one_nearest_neighbour(random.splits['train'], random.splits['test'])
    unseen = one_nearest_neighbour(fold.splits['train'], fold.splits['test'])
    assert remembered['accuracy'] > 0.8 > 0.6 > unseen['accuracy']


# --- The nearest neighbour


def faces(*values: int, labels: list[int]) -> Faces:
    """Images of one value each, but for the first pixel, which is 0."""
    images = np.repeat(np.array(values, np.uint8), 2304).reshape(-1, 48, 48).copy()
    images[:, 0, 0] = 0
    return Faces(images, np.array(labels, np.int32))


def test_the_nearest_neighbour_by_hand():
    known = faces(0, 10, 200, 255, labels=[0, 1, 2, 1])
    # 4 is nearest to 0, 7 to 10, 150 to 200, 230 to 255 (25 against 30); 105 lies as far from 10 as from 200, and the first counts.
    asked = faces(4, 7, 150, 230, 105, labels=[0, 0, 2, 1, 1])
    assert nearest(known.images, asked.images).tolist() == [0, 1, 2, 3, 1]
    result = one_nearest_neighbour(known, asked)
    assert (result['correct'], result['count'], result['accuracy'], result['train_images']) == (4, 5, 0.8, 4)
    # Wilson's interval of 4 of 5, as published tables have it.
    assert result['accuracy_interval'] == pytest.approx([0.3755, 0.9638], abs=1e-4)


@pytest.mark.parametrize('block', [1, 2, 7, 100])
def test_blocks_change_nothing(block):
    generator = np.random.default_rng(0)
    known, asked = generator.integers(0, 256, (13, 4, 4), np.uint8), generator.integers(0, 256, (9, 4, 4), np.uint8)
    known[9] = known[2]  # a tie
    asked[5] = known[9]
    distances = ((asked[:, None].astype(int) - known[None].astype(int)) ** 2).sum((2, 3))
    assert nearest(known, asked, block).tolist() == distances.argmin(1).tolist()
    assert nearest(known, asked, block)[5] == 2
