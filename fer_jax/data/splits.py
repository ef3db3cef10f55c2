"""Splits drawn from train where a source has none of its own: stratified by class, or disjoint by subject."""

import dataclasses

import numpy as np
from jaxtyping import Bool, Int64

from fer_jax.data.schema import Faces, Source
from fer_jax.errors import InputError

TRIES = 200  # random divisions of the subjects, of which the one with the best class balance is taken


def draw_splits(source: Source, validation_fraction: float, test_fraction: float, seed: int) -> Source:
    """`source` with all three splits: those it lacks are drawn from train, as fractions of the train images it came with.

    Without subjects each class gives its share at random. With subjects no subject stands in two of the drawn splits, and
    classes are balanced as well as whole subjects allow. The draw depends on the seed and the images' order alone.

    Raises:
      InputError: a fraction or the number of images leaves a drawn split, or train, empty.
    """
    splits, titles = dict(source.splits), dict(source.split_titles)
    fractions = {'test': test_fraction, 'validation': validation_fraction}
    total = len(splits['train'])
    for stream, (split, fraction) in enumerate(fractions.items()):
        if split in splits:
            continue
        train = splits['train']
        generator = np.random.default_rng([seed, stream])
        pick = _pick_subjects if train.subjects is not None else _pick_images
        chosen = pick(train, fraction * total / len(train), generator, len(source.class_names))
        if not chosen.any() or chosen.all():
            empty = split if not chosen.any() else 'train'
            raise InputError(
                f'{source.name}: a {split} split of data.{split}_fraction={fraction:g} drawn from {len(train):,} training images'
                f' leaves {empty} empty: give another fraction or more images'
            )
        splits[split], splits['train'] = train.take(chosen), train.take(~chosen)
        titles[split] = f'{source.split_titles["train"]} (drawn for {split})'
    return dataclasses.replace(source, splits=splits, split_titles=titles)


def _pick_images(train: Faces, fraction: float, generator: np.random.Generator, classes: int) -> Bool[np.ndarray, 'n']:
    chosen = np.zeros(len(train), bool)
    for label in range(classes):
        members = generator.permutation(np.flatnonzero(train.labels == label))
        # The last image of a class stays in train: a class that is never trained cannot be tested.
        count = min(int(np.floor(fraction * len(members) + 0.5)), max(len(members) - 1, 0))
        chosen[members[:count]] = True
    return chosen


def _pick_subjects(train: Faces, fraction: float, generator: np.random.Generator, classes: int) -> Bool[np.ndarray, 'n']:
    groups = _groups(train.subjects)
    histograms = np.zeros((groups.max() + 1, classes), np.int64)
    np.add.at(histograms, (groups, train.labels), 1)
    have = histograms.sum(0)
    best, best_error = np.zeros(len(histograms), bool), np.inf
    for _ in range(TRIES if fraction > 0 else 0):
        order = generator.permutation(len(histograms))
        sizes = histograms[order].sum(1).cumsum()
        count = int(np.abs(sizes - fraction * len(train)).argmin()) + 1
        taken = histograms[order[:count]].sum(0)
        # A class should be missing on neither side, whatever the balance of the others.
        missing = np.count_nonzero((have > 0) & ((taken == 0) | (taken == have)))
        error = missing * len(train) + np.abs(taken - fraction * have).sum()
        if error < best_error:
            best = np.isin(np.arange(len(histograms)), order[:count])
            best_error = error
    return best[groups]


def _groups(subjects: np.ndarray) -> Int64[np.ndarray, 'n']:
    """A number for each image's subject; images of unknown subject are each on their own."""
    _, groups = np.unique(subjects, return_inverse=True)
    alone = subjects == ''
    groups[alone] = groups.max() + 1 + np.arange(np.count_nonzero(alone))
    return np.unique(groups, return_inverse=True)[1]
