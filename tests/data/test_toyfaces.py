"""ToyFaces: the same bytes everywhere, fair splits, and neither too easy nor too hard."""

import hashlib

import numpy as np
import pytest
import scipy.optimize

from fer_jax.core.errors import InputError
from fer_jax.data import toyfaces
from fer_jax.data.schema import SPLITS

DIGEST = '8fe6631ed5d4e23885cd00be0b9cceac2af113196c6dbae14e4c63bd6f200acc'
# 20 subjects of 28: a whole round of the split, 14 + 3 + 3 subjects.
ROUND = 560


@pytest.fixture(scope='module')
def source():
    return toyfaces.read(2 * ROUND, 0)


def test_a_seed_is_its_bytes_on_every_machine():
    # Pinned, not derived: a run on another machine, or after a change that should not touch the faces, must see the same data.
    images, _, _ = toyfaces.draw(280, 0)
    assert hashlib.sha256(images.tobytes()).hexdigest() == DIGEST


def test_another_seed_is_other_faces():
    assert not (toyfaces.draw(28, 0)[0] == toyfaces.draw(28, 1)[0]).all(axis=(1, 2)).any()


def test_a_larger_count_only_adds():
    few, many = toyfaces.draw(100, 3), toyfaces.draw(150, 3)
    for small, large in zip(few, many, strict=True):
        np.testing.assert_array_equal(small, large[:100])
    small, large = toyfaces.read(200, 3).splits, toyfaces.read(300, 3).splits
    for split in SPLITS:
        assert len(large[split]) >= len(small[split])
        np.testing.assert_array_equal(small[split].images, large[split].images[: len(small[split])])


def test_counts_types_and_balance(source):
    assert source.class_names == ('angry', 'disgust', 'fear', 'happy', 'sad', 'surprise', 'neutral')
    assert tuple(source.splits) == SPLITS == tuple(source.split_titles)
    # Two rounds: 28, 6 and 6 subjects of four faces an expression.
    for split, each in (('train', 112), ('validation', 24), ('test', 24)):
        faces = source.splits[split]
        np.testing.assert_array_equal(np.bincount(faces.labels), [each] * 7)
        assert faces.images.shape == (7 * each, 48, 48)
        assert (faces.images.dtype, faces.labels.dtype) == (np.uint8, np.int32)
    rows = np.concatenate([source.splits[split].rows for split in SPLITS])
    np.testing.assert_array_equal(np.sort(rows), np.arange(2 * ROUND))


def test_each_subject_makes_every_face_four_times():
    _, labels, subjects = toyfaces.draw(84, 0)
    for subject in range(3):
        np.testing.assert_array_equal(np.bincount(labels[subjects == subject]), [4] * 7)


def test_no_subject_and_no_image_is_in_two_splits(source):
    subjects = [set(source.splits[split].subjects) for split in SPLITS]
    assert [len(each) for each in subjects] == [28, 6, 6]
    assert len(set.union(*subjects)) == 40
    images = {image.tobytes() for split in SPLITS for image in source.splits[split].images}
    assert len(images) == 2 * ROUND


def test_the_smallest_set_fills_every_split_and_class():
    for faces in toyfaces.read(toyfaces.MIN_COUNT, 0).splits.values():
        assert set(faces.labels) == set(range(7))
    with pytest.raises(InputError, match=f'={toyfaces.MIN_COUNT - 1}: too few.* at least {toyfaces.MIN_COUNT}'):
        toyfaces.read(toyfaces.MIN_COUNT - 1, 0)


def test_a_face_fills_the_range_and_is_no_flat_patch(source):
    images = source.splits['train'].images.reshape(-1, 48 * 48)
    assert images.std(axis=1).min() > 5
    assert images.min() < 20 and images.max() > 235


def test_the_label_is_seen_in_every_face_and_every_crop(monkeypatch):
    """The same faces with the muscles at rest differ where the label is drawn, and nowhere else."""
    images, labels, _ = toyfaces.draw(2 * ROUND, 0)
    monkeypatch.setattr(toyfaces, 'EXPRESSIONS', np.zeros_like(toyfaces.EXPRESSIONS))
    change = np.abs(images.astype(int) - toyfaces.draw(2 * ROUND, 0)[0])
    assert not change[labels == 6].any()
    # The middle 32×32 is in every 40×40 crop of 48×48. At least 60 of its pixels change by 2 % or more.
    inner = change[labels != 6, 8:40, 8:40]
    assert (inner >= 5).sum(axis=(1, 2)).min() >= 60
    assert inner.sum() > 0.9 * change.sum()


def linear_accuracy(count: int, l2s: tuple[float, ...]) -> float:
    """Test accuracy of a multinomial logistic regression on standardised pixels, with the best L2 for the test split itself."""
    splits = toyfaces.read(count, 0).splits
    pixels = {split: faces.images.reshape(len(faces), -1).astype(np.float32) for split, faces in splits.items()}
    mean, deviation = pixels['train'].mean(axis=0), pixels['train'].std(axis=0)
    x, test_x = ((pixels[split] - mean) / deviation for split in ('train', 'test'))
    labels = splits['train'].labels
    target = np.eye(7, dtype=np.float32)[labels]

    def loss(flat, l2):
        weights = flat.reshape(-1, 7).astype(np.float32)
        logits = x @ weights
        logits -= logits.max(axis=1, keepdims=True)
        logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
        value = -(logits * target).sum() / len(x) + l2 / 2 * (weights**2).sum()
        gradient = x.T @ (np.exp(logits) - target) / len(x) + l2 * weights
        return float(value), gradient.ravel().astype(np.float64)

    accuracies, found = [], np.zeros(x.shape[1] * 7)
    for l2 in l2s:
        # From where the one before ended: each has one minimum, and those of neighbouring L2s lie near each other.
        found = scipy.optimize.minimize(loss, found, (l2,), jac=True, options={'maxiter': 400}, method='L-BFGS-B').x
        accuracies.append(((test_x @ found.reshape(-1, 7)).argmax(axis=1) == splits['test'].labels).mean())
    return max(accuracies)


@pytest.mark.slow
def test_pixels_alone_do_not_tell_the_expression():
    # Chance is 1/7; well above it, the labels mean something.
    assert 0.4 < linear_accuracy(15 * ROUND, (0.3, 0.1, 0.03, 0.01)) < 0.65
