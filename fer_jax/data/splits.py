"""Splits drawn from train where a source has none of its own: stratified by class, disjoint by subject, or folds of either kind."""

import dataclasses

import numpy as np
from jaxtyping import Bool, Int64

from fer_jax.core.errors import InputError
from fer_jax.data.schema import Faces, Source

TRIES = 200  # random divisions of the subjects, of which the one with the best class balance is taken
FOLD_TRIES = 50  # likewise of the subjects into folds


def draw_splits(
    source: Source, validation_fraction: float, test_fraction: float, seed: int, by_subject: bool = True, folds: int = 0, fold: int = 0
) -> Source:
    """`source` with all three splits: those it lacks are drawn from train, as fractions of the train images it came with.

    Without subjects, or without `by_subject`, each class gives its share at random. With subjects no subject stands in two of
    the drawn splits, and classes are balanced as well as whole subjects allow. With `folds`, test is the one of number `fold`:
    over all folds every image is tested once. The draw depends on the seed and the images' order alone.

    Raises:
      InputError: a fraction or the number of images leaves a drawn split, or train, empty; folds of a set that has splits of
        its own, that are disjoint by subject where subjects are not known, or that are more than there are subjects or images.
    """
    splits, titles = dict(source.splits), dict(source.split_titles)
    total, classes = len(splits['train']), len(source.class_names)
    by_subject = by_subject and (folds > 0 or splits['train'].subjects is not None)
    if folds:
        chosen = fold_numbers(source, folds, by_subject, seed) == fold
        splits['test'], splits['train'] = splits['train'].take(chosen), splits['train'].take(~chosen)
        titles['test'] = f'{source.split_titles["train"]} (fold {fold} of {folds})'
    fractions = {'test': test_fraction, 'validation': validation_fraction}
    pick = _pick_subjects if by_subject else _pick_images
    for stream, (split, fraction) in enumerate(fractions.items()):
        if split in splits:
            continue
        train = splits['train']
        chosen = pick(train, fraction * total / len(train), np.random.default_rng([seed, stream]), classes)
        if not chosen.any() or chosen.all():
            empty = split if not chosen.any() else 'train'
            raise InputError(
                f'{source.name}: a {split} split of data.{split}_fraction={fraction:g} drawn from {len(train):,} training images'
                f' leaves {empty} empty: give another fraction or more images'
            )
        splits[split], splits['train'] = train.take(chosen), train.take(~chosen)
        titles[split] = f'{source.split_titles["train"]} (drawn for {split})'
    return dataclasses.replace(source, splits=splits, split_titles=titles)


def fold_numbers(source: Source, folds: int, by_subject: bool, seed: int) -> Int64[np.ndarray, 'n']:
    """The fold, from 0, that each train image is tested in; all images of a subject are in one where `by_subject`.

    Folds by image differ by one image at most, in all and in each class. Folds by subject are balanced by images and
    classes as well as whole subjects allow.

    Raises:
      InputError: as of `draw_splits`.
    """
    train, classes = source.splits['train'], len(source.class_names)
    own = [source.split_titles[split] for split in ('validation', 'test') if split in source.splits]
    if own:
        raise InputError(f'{source.name}: data.folds={folds} of a set that has splits of its own ({", ".join(own)}): set data.folds=0')
    if by_subject and train.subjects is None:
        raise InputError(f'{source.name} names no subjects: data.folds={folds} can only be drawn by image, with data.by_subject=false')
    if by_subject and (nameless := np.count_nonzero(train.subjects == '')):
        raise InputError(
            f'{source.name}: {nameless:,} images are of unknown subject, so that no fold is disjoint by subject: name or remove them'
        )
    groups = _groups(train.subjects) if by_subject else np.arange(len(train))
    if folds > groups.max() + 1:
        kind = 'subjects' if by_subject else 'images'
        raise InputError(f'{source.name}: data.folds={folds} is more than its {groups.max() + 1:,} {kind}')
    generator = np.random.default_rng([seed, 2])  # 0 and 1 are the streams of the two drawn splits
    if by_subject:
        return _deal_subjects(_histograms(groups, train.labels, classes), folds, generator)[groups]
    # Dealt out class by class, each where the one before stopped.
    order = np.lexsort((generator.permutation(len(train)), train.labels))
    numbers = np.empty(len(train), np.int64)
    numbers[order] = np.arange(len(train)) % folds
    return numbers


def _deal_subjects(
    histograms: Int64[np.ndarray, 'subjects classes'], folds: int, generator: np.random.Generator
) -> Int64[np.ndarray, 'subjects']:
    """A fold for each subject: the largest first, each to where it comes nearest to equal shares, and the best of many orders.

    What is far from an equal share is summed as in a χ² statistic, over classes and, with them, over all images.
    """
    counts = np.concatenate([histograms, histograms.sum(1, keepdims=True)], axis=1)
    share = counts.sum(0) / folds
    weight = 1 / np.maximum(share, 1e-9)
    best, best_error = np.zeros(len(counts), np.int64), np.inf
    for _ in range(FOLD_TRIES):
        order = generator.permutation(len(counts))
        order = order[np.argsort(-counts[order, -1], kind='stable')]
        held, numbers = np.zeros((folds, counts.shape[1])), np.empty(len(counts), np.int64)
        for subject in order:
            # The part of the growth of Σ (held - share)² that hangs on the fold.
            growth = (counts[subject] * (2 * (held - share) + counts[subject]) * weight).sum(1)
            numbers[subject] = growth.argmin()
            held[numbers[subject]] += counts[subject]
        error = ((held - share) ** 2 * weight).sum()
        if error < best_error:
            best, best_error = numbers, error
    return best


def _histograms(groups: Int64[np.ndarray, 'n'], labels: np.ndarray, classes: int) -> Int64[np.ndarray, 'groups classes']:
    """Images by group and class."""
    histograms = np.zeros((groups.max() + 1, classes), np.int64)
    np.add.at(histograms, (groups, labels), 1)
    return histograms


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
    histograms = _histograms(groups, train.labels, classes)
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
