"""FER2013 (Goodfellow et al., 2013) in every form users have it, and FER+'s votes (Barsoum et al., 2016) for its rows."""

import csv
import os
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float32

from fer_jax.data.archive import Listing, kind, lines, listing, open_csv
from fer_jax.data.images import class_position, is_image_name, read_images, read_layout
from fer_jax.data.schema import SPLITS, Faces, Source
from fer_jax.data.table import read_table
from fer_jax.errors import InputError

CLASSES = ('angry', 'disgust', 'fear', 'happy', 'sad', 'surprise', 'neutral')
SYNONYMS = {'anger': 'angry', 'disgusted': 'disgust', 'fearful': 'fear', 'happiness': 'happy', 'sadness': 'sad', 'surprised': 'surprise'}
USAGES = {'Training': 'train', 'PublicTest': 'validation', 'PrivateTest': 'test'}
TITLES = {split: usage for usage, split in USAGES.items()}
BOTH_TESTS = 'PublicTest+PrivateTest'  # what the test folder of the usual folder form holds
OFFICIAL = {
    'Training': (3995, 436, 4097, 7215, 4830, 3171, 4965),
    'PublicTest': (467, 56, 496, 895, 653, 415, 607),
    'PrivateTest': (491, 55, 528, 879, 594, 416, 626),
}
OFFICIAL[BOTH_TESTS] = tuple(sum(pair) for pair in zip(OFFICIAL['PublicTest'], OFFICIAL['PrivateTest'], strict=True))
# FER+'s columns in the order of CLASSES; contempt, unknown and NF (no face) are no FER2013 class.
VOTE_COLUMNS = ('anger', 'disgust', 'fear', 'happiness', 'sadness', 'surprise', 'neutral')
VOTERS = 10


def read(path: str | os.PathLike, skip_bad: bool = False) -> Source:
    """FER2013 from a CSV (fer2013.csv, icml_face_data.csv, train.csv), an archive of one, or train/angry/… as folder or archive.

    A CSV without Usage is all Training. A folder of train and test alone has PublicTest and PrivateTest together as its test
    split. Counts that are not the official ones become a warning of the Source.

    Raises:
      InputError: the file, row, image, label, class or Usage that is wrong, by name.
    """
    form = kind(path)
    names = None if form == 'file' else listing(path)
    if names is not None and any(is_image_name(name) for name in names.files):
        return _read_folder(path, names, skip_bad)
    table = read_table(path, CLASSES, tuple(USAGES))
    usages = table.usages if table.usages is not None else np.full(len(table.labels), 'Training')
    whole = Faces(table.images, table.labels, rows=np.arange(len(table.labels)))
    splits = {split: whole.take(usages == usage) for usage, split in USAGES.items()}
    for split, faces in splits.items():
        if not len(faces) and (table.usages is not None or split == 'train'):
            raise InputError(f'{path}: empty split: no row has the Usage {TITLES[split]}')
    splits = {split: faces for split, faces in splits.items() if len(faces)}
    return _source(splits, {split: TITLES[split] for split in splits}, ())


def _read_folder(path: str | os.PathLike, names: Listing, skip_bad: bool) -> Source:
    layout = read_layout(names, str(path))
    files = {name: (split or 'train', class_position(folder, CLASSES, SYNONYMS, path)) for name, (split, folder) in layout.files.items()}
    read = read_images(path, files, skip_bad)
    labels = np.array([files[name][1] for name in read.names], np.int32)
    where = np.array([files[name][0] for name in read.names])
    splits = {split: Faces(read.images, labels).take(where == split) for split in layout.titles or ('train',)}
    titles = {split: TITLES[split] for split in splits}
    if set(splits) == {'train', 'test'} and 'private' not in layout.titles['test'].lower():
        titles['test'] = BOTH_TESTS
    return _source(splits, titles, read.skipped)


def _source(splits: dict[str, Faces], titles: dict[str, str], skipped: tuple[str, ...]) -> Source:
    warnings = tuple(filter(None, (_count_warning(titles[split], faces) for split, faces in splits.items())))
    return Source('fer2013', CLASSES, splits, titles, skipped, warnings)


def _count_warning(title: str, faces: Faces) -> str:
    """One line on how a split's counts differ from the official ones; '' if they do not."""
    official = OFFICIAL[title]
    counts = np.bincount(faces.labels, minlength=len(CLASSES)).tolist()
    if tuple(counts) == official:
        return ''
    pairs = zip(CLASSES, counts, official, strict=True)
    differences = ', '.join(f'{name} {count - expected:+,}' for name, count, expected in pairs if count != expected)
    total = sum(counts) - sum(official)
    return f'FER2013 {title}: {sum(counts):,} images, officially {sum(official):,} ({total:+,}): {differences}'


def read_votes(path: str | os.PathLike, splits: Mapping[str, Faces], titles: Mapping[str, str]) -> dict[str, Float32[np.ndarray, 'n 7']]:
    """FER+'s votes as soft targets for the faces of a FER2013 CSV, joined by row position; each row sums to 1.

    Votes for contempt, unknown and NF are dropped and the rest scaled to sum to 1. A row with no other vote (178 of the real
    35,887) keeps its FER2013 label. Image names are no key: some are missing, some stand twice.

    Raises:
      InputError: the data are not from a CSV, the number of rows or a row's Usage differs between the two, or a row is no votes.
    """
    if any(faces.rows is None for faces in splits.values()):
        raise InputError("data.votes: FER+ votes are joined by the CSV's row order, which folders of images do not have: give the CSV")
    usages, votes = _read_vote_rows(path)
    count = sum(len(faces) for faces in splits.values())
    positions = np.sort(np.concatenate([faces.rows for faces in splits.values()]))
    if len(votes) != count or not np.array_equal(positions, np.arange(count)):
        raise InputError(f'{path}: has votes for {len(votes):,} rows, the data have {count:,}: they are not of the same CSV')
    targets = {}
    for split in SPLITS:
        faces = splits[split]
        wrong = np.flatnonzero(usages[faces.rows] != titles[split])
        if len(wrong):
            row = int(faces.rows[wrong[0]])
            raise InputError(
                f'{path}, line {row + 2}: Usage is {usages[row]}, but row {row} of the data is {titles[split]}:'
                ' the rows are not in the same order'
            )
        own = votes[faces.rows]
        total = own.sum(1, keepdims=True)
        targets[split] = np.where(total > 0, own / np.maximum(total, 1), np.eye(len(CLASSES))[faces.labels]).astype(np.float32)
    return targets


def _read_vote_rows(path: str | os.PathLike) -> tuple[np.ndarray, np.ndarray]:
    """([n] Usage, [n, 7] votes in the order of CLASSES) of fer2013new.csv."""
    with open_csv(path) as (stream, where):
        rows = csv.reader(line.decode('latin-1') for _, line in lines(stream, where))
        try:
            header = [name.strip().lower() for name in next(rows, [])]
            if 'usage' not in header or not set(VOTE_COLUMNS) <= set(header):
                raise InputError(f'{where}, line 1: not FER+ votes: expected the columns Usage, {", ".join(VOTE_COLUMNS)}, …')
            columns = [header.index(name) for name in VOTE_COLUMNS]
            others = [header.index(name) for name in ('contempt', 'unknown', 'nf') if name in header]
            usage, usages, votes = header.index('usage'), [], []
            for row in filter(None, rows):
                values = [row[column].strip() for column in columns + others] if len(row) == len(header) else ['']
                if not all(value.isascii() and value.isdigit() and len(value) < 3 for value in values) or sum(map(int, values)) > VOTERS:
                    raise InputError(f'{where}, line {rows.line_num}: expected {len(header)} fields, with at most {VOTERS} votes')
                usages.append(row[usage].strip())
                votes.append([int(value) for value in values[: len(columns)]])
        except csv.Error as error:
            raise InputError(f'{where}, line {rows.line_num}: not a CSV: {error}') from None
    return np.array(usages), np.array(votes, np.int64).reshape(-1, len(CLASSES))
