"""FER+ (Barsoum et al., 2016): ten people's votes for each image of FER2013, by the protocol of its authors' paper and code.

Votes of one are dropped as outliers. An image is scored by its largest vote, and belongs to the strict majority, which the
authors score by, where that is more than half of the votes that are left, those for `unknown` and `no face` among them.
"""

import os
from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int32, Int64

from fer_jax.core.errors import InputError
from fer_jax.data import fer2013
from fer_jax.data.archive import open_csv
from fer_jax.data.images import MEGAPIXELS
from fer_jax.data.schema import SPLITS, Faces, Source
from fer_jax.data.table import rows

CLASSES = (*fer2013.CLASSES, 'contempt')
# The votes' columns in the order of the file, which is that of the first where two have as many votes; the last two are no emotion.
COLUMNS = ('neutral', 'happiness', 'surprise', 'sadness', 'anger', 'disgust', 'fear', 'contempt', 'unknown', 'nf')
EMOTIONS = len(CLASSES)
# The column of each class.
COLUMN_OF = tuple(COLUMNS.index(name) for name in ('anger', 'disgust', 'fear', 'happiness', 'sadness', 'surprise', 'neutral', 'contempt'))
VOTERS = 10
STRICT = 'strict majority'  # the part of a split that is scored beside the whole


def read(path: str | os.PathLike, votes: str | os.PathLike, targets: str, skip_bad: bool = False, megapixels: int = MEGAPIXELS) -> Source:
    """FER2013's CSV with FER+'s votes for its rows: labels are the largest votes.

    Images whose largest vote is no emotion leave every split. Of Training those are left that `targets` uses: by `majority` the
    strict one; else those that `shares` leaves something of.

    Raises:
      InputError: as of fer2013.read and read_votes; or the data are no CSV with three splits.
    """
    source = fer2013.read(path, skip_bad, megapixels)
    cast = read_votes(votes, source.splits, source.split_titles)
    splits, notes = {}, []
    for split, faces in source.splits.items():
        own = without_outliers(cast[split])
        labels, strict = largest(own)
        used = labels >= 0
        if split == 'train':
            used = strict if targets == 'majority' else np.array([shares(row).any() for row in own], bool)
        splits[split] = Faces(faces.images, labels, rows=faces.rows).take(used)
        counts = f'{np.count_nonzero(used):,} of {len(faces):,} images, {np.count_nonzero(strict):,} with a {STRICT}'
        notes.append(f'{source.split_titles[split]}: {counts}')
    return Source('ferplus', CLASSES, splits, source.split_titles, source.skipped, source.warnings, (*source.notes, *notes))


def join(votes_path: str | os.PathLike, targets: str, faces: Faces, split: str) -> tuple[Float32[np.ndarray, 'n 8'], Bool[np.ndarray, 'n']]:
    """(soft targets, whether the majority is strict) of a split that `read` gave and that was prepared since.

    Raises:
      InputError: the votes cannot be read or are others than those it was prepared with.
    """
    usages, rows = _read_rows(votes_path)
    if len(rows) <= faces.rows.max():
        raise InputError(f'{votes_path}: has votes for {len(rows):,} rows, the data have more: they are not of the same CSV')
    votes = without_outliers(rows[faces.rows])
    labels, strict = largest(votes)
    wrong = np.flatnonzero(labels != faces.labels)
    if len(wrong):
        raise InputError(f'{votes_path}, line {faces.rows[wrong[0]] + 2}: not the votes that {split} was prepared with')
    if targets == 'majority' or split != 'train':
        return np.eye(EMOTIONS, dtype=np.float32)[labels], strict
    return np.array([shares(row) for row in votes], np.float32).reshape(-1, EMOTIONS), strict


def without_outliers(votes: Int64[np.ndarray, 'n 10']) -> Int64[np.ndarray, 'n 10']:
    """The votes without those that one voter alone cast."""
    return np.where(votes > 1, votes, 0)


def largest(votes: Int64[np.ndarray, 'n 10']) -> tuple[Int32[np.ndarray, 'n'], Bool[np.ndarray, 'n']]:
    """(the class with the most votes, the file's first at a tie, -1 where that is no emotion; whether it has more than half of them)."""
    class_of = np.full(len(COLUMNS), -1, np.int32)
    class_of[list(COLUMN_OF)] = np.arange(EMOTIONS)
    most = votes.max(1, initial=0)
    labels = np.where(most > 0, class_of[votes.argmax(1)], np.int32(-1))
    return labels, (labels >= 0) & (2 * most > votes.sum(1))


def shares(votes: Int64[np.ndarray, '10']) -> Float64[np.ndarray, '8']:
    """The target that the authors' code makes of one row without outliers: the largest votes until they are three quarters of all,
    at most three of them, scaled to sum to 1; all zero where the row leaves the set.

    It does where `unknown` or `no face` leads, where more than three tie, and where what was kept is half of the votes or less.
    """
    left, kept, total = votes.copy(), np.zeros(len(COLUMNS)), votes.sum()
    gathered, count, emotions_only = 0, 0, True
    while gathered < 0.75 * total and count < 3 and emotions_only:
        most = left.max()
        for column in np.flatnonzero(left == most):
            kept[column], left[column] = most, 0
            gathered, count = gathered + most, count + 1
            if column >= EMOTIONS:
                emotions_only = False
                if kept.sum() > most:  # what came before it stays
                    kept[column], count = 0, count - 1
                break
    if kept.sum() <= total / 2 or count > 3 or kept[EMOTIONS:].any():
        return np.zeros(EMOTIONS)
    return kept[list(COLUMN_OF)] / kept.sum()


def fer2013_targets(
    path: str | os.PathLike, splits: Mapping[str, Faces], titles: Mapping[str, str]
) -> dict[str, Float32[np.ndarray, 'n 7']]:
    """FER+'s votes as soft targets of FER2013's own seven classes, for the faces of its CSV; each row sums to 1.

    Votes for contempt, unknown and NF are dropped and the rest scaled to sum to 1. A row with no other vote (178 of the real
    35,887) keeps its FER2013 label.

    Raises:
      InputError: as of read_votes.
    """
    votes, classes = read_votes(path, splits, titles), len(fer2013.CLASSES)
    targets = {}
    for split, faces in splits.items():
        own = votes[split][:, COLUMN_OF[:classes]]
        total = own.sum(1, keepdims=True)
        targets[split] = np.where(total > 0, own / np.maximum(total, 1), np.eye(classes)[faces.labels]).astype(np.float32)
    return targets


def read_votes(path: str | os.PathLike, splits: Mapping[str, Faces], titles: Mapping[str, str]) -> dict[str, Int64[np.ndarray, 'n 10']]:
    """The votes for the faces of a FER2013 CSV, by split, in the order of COLUMNS; a row's sum is at most VOTERS.

    They are joined by row position. Image names are no key: some are missing, some stand twice.

    Raises:
      InputError: the data are not from a CSV, the number of rows or a row's Usage differs between the two, or a row is no votes.
    """
    if any(faces.rows is None for faces in splits.values()):
        raise InputError("data.votes: FER+ votes are joined by the CSV's row order, which folders of images do not have: give the CSV")
    if missing := [split for split in SPLITS if split not in splits]:
        raise InputError(f'data.votes: FER+ has votes for all three splits, the data have no {missing[0]} split: give the whole CSV')
    usages, votes = _read_rows(path)
    count = sum(len(faces) for faces in splits.values())
    positions = np.sort(np.concatenate([faces.rows for faces in splits.values()]))
    if len(votes) != count or not np.array_equal(positions, np.arange(count)):
        raise InputError(f'{path}: has votes for {len(votes):,} rows, the data have {count:,}: they are not of the same CSV')
    for split, faces in splits.items():
        wrong = np.flatnonzero(usages[faces.rows] != titles[split])
        if len(wrong):
            row = int(faces.rows[wrong[0]])
            raise InputError(
                f'{path}, line {row + 2}: Usage is {usages[row]}, but row {row} of the data is {titles[split]}:'
                ' the rows are not in the same order'
            )
    return {split: votes[faces.rows] for split, faces in splits.items()}


def _read_rows(path: str | os.PathLike) -> tuple[np.ndarray, Int64[np.ndarray, 'n 10']]:
    """([n] Usage, votes in the order of COLUMNS, 0 for a column that the file lacks) of fer2013new.csv."""
    with open_csv(path, lambda head: b'neutral' in head.lower()) as (stream, where, _):
        table = rows(stream, where)
        _, names = next(table, (1, []))
        header = [name.strip().lower() for name in names]
        if 'usage' not in header or not set(COLUMNS[: EMOTIONS - 1]) <= set(header):
            raise InputError(f'{where}, line 1: not FER+ votes: expected the columns Usage, {", ".join(COLUMNS[: EMOTIONS - 1])}, …')
        places = {name: header.index(name) for name in COLUMNS if name in header}
        usage, usages, votes = header.index('usage'), [], []
        for number, row in table:
            told = {name: row[column].strip() for name, column in places.items()} if len(row) == len(header) else {'': ''}
            numbers = all(value.isascii() and value.isdigit() and len(value) < 3 for value in told.values())
            if not numbers or sum(map(int, told.values())) > VOTERS:
                raise InputError(f'{where}, line {number}: expected {len(header)} fields, with at most {VOTERS} votes')
            usages.append(row[usage].strip())
            votes.append([int(told.get(name, 0)) for name in COLUMNS])
    return np.array(usages), np.array(votes, np.int64).reshape(-1, len(COLUMNS))
