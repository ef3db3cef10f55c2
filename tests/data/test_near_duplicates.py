"""fer_jax/data/near_duplicates.py against NumPy's own correlation, image by image."""

import numpy as np
import pytest

from fer_jax.core.errors import InputError
from fer_jax.data.near_duplicates import CLOSENESS, closeness, counts, read_closeness
from fer_jax.data.schema import SPLITS, Faces

RNG = np.random.default_rng(0)


def faces(images) -> Faces:
    return Faces(np.asarray(images, np.uint8), np.zeros(len(images), np.int32))


def noisy(image, spread):
    return np.clip(image + RNG.normal(0, spread, image.shape), 0, 255)


TRAIN = RNG.integers(0, 256, (5, 48, 48))
SETS = {
    'train': faces([*TRAIN, np.full((48, 48), 7)]),
    # The first image itself, the mirror image of the second with noise, a stranger, and one of a single colour.
    'validation': faces([TRAIN[0], noisy(TRAIN[1][:, ::-1], 10), RNG.integers(0, 256, (48, 48)), np.full((48, 48), 7)]),
    'test': faces([noisy(TRAIN[2], 60)]),
}


def by_numpy(image, others):
    views = [view for other in others for view in (other, other[:, ::-1]) if other.std() > 0]
    return max(np.corrcoef(image.ravel(), view.ravel())[0, 1] for view in views) if image.std() > 0 else 0


def test_the_highest_correlation_across_the_border():
    found = closeness(SETS)
    tests = [*SETS['validation'].images, *SETS['test'].images]
    for split, others in (('train', tests), ('validation', SETS['train'].images), ('test', SETS['train'].images)):
        np.testing.assert_allclose(found[split], [by_numpy(image, others) for image in SETS[split].images], atol=1e-5, err_msg=split)
    assert counts(found) == {'train': 2, 'validation': 2, 'test': 0}


def test_blocks_change_nothing():
    whole = closeness(SETS)
    for split, values in closeness(SETS, block=2).items():
        np.testing.assert_allclose(values, whole[split], atol=1e-6)


def test_sets_of_too_many_pairs_are_left_alone():
    assert closeness(SETS, most_pairs=29) is None and closeness(SETS, most_pairs=30)  # they have 6 · 5


def test_what_was_kept_is_read_again_or_refused(tmp_path):
    sizes, found = {split: len(SETS[split]) for split in SPLITS}, closeness(SETS)
    np.savez(tmp_path / CLOSENESS, **found)
    for split, values in read_closeness(tmp_path, sizes).items():
        np.testing.assert_array_equal(values, found[split])
    with pytest.raises(InputError, match='not of these images'):
        read_closeness(tmp_path, sizes | {'test': 2})
    (tmp_path / CLOSENESS).write_bytes((tmp_path / CLOSENESS).read_bytes()[:200])
    with pytest.raises(InputError, match='damaged'):
        read_closeness(tmp_path, sizes)
