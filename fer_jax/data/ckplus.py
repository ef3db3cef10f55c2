"""CK+ (Lucey et al., 2010) in its three forms: CK+48 folders, ckextended.csv, and the original films with their labels.

It comes under a signed agreement: it is read where the user has it, never downloaded.
"""

import dataclasses
import os
import re
from collections.abc import Collection

import numpy as np

from fer_jax.core.errors import InputError, printable
from fer_jax.data.archive import kind, listing, members
from fer_jax.data.folders import Layout, class_position, pictures_in, read_images, read_layout
from fer_jax.data.images import MEGAPIXELS
from fer_jax.data.schema import Source, unofficial
from fer_jax.data.table import read_table

CLASSES = ('anger', 'disgust', 'fear', 'happy', 'sadness', 'surprise', 'contempt')
CSV_CLASSES = ('anger', 'disgust', 'fear', 'happiness', 'sadness', 'surprise', 'neutral', 'contempt')  # of ckextended.csv, in its order
SYNONYMS = {'angry': 'anger', 'happiness': 'happy', 'sad': 'sadness', 'surprised': 'surprise'}
CSV_SYNONYMS = {'angry': 'anger', 'happy': 'happiness', 'sad': 'sadness', 'surprised': 'surprise'}
EMOTIONS = {1: 'anger', 2: 'contempt', 3: 'disgust', 4: 'fear', 5: 'happy', 6: 'sadness', 7: 'surprise'}  # of the original's label files
OFFICIAL = (135, 177, 75, 207, 84, 249, 54)  # last 3 frames of 327 sequences, in the order of CLASSES
LAST_FRAMES = 3  # a film starts neutral and ends at the apex of its expression
FRAME = re.compile(r'(S\d+)_(\d+)_(\d+)')
LABEL_FILE = re.compile(r'(S\d+)_(\d+)_\d+_emotion\.txt')


def read(path: str | os.PathLike, skip_bad: bool = False, megapixels: int = MEGAPIXELS) -> Source:
    """CK+ from CK+48's class folders, from ckextended.csv, or from a folder with cohn-kanade-images/ and Emotion/; archives too.

    Images carry subject ('S010') and sequence ('S010_004'), but for the CSV, which has neither and 8 classes. Of the original
    the last 3 frames of each labelled sequence are taken, their centred square resampled to 48×48. Counts that are not the
    official 981 become a warning of the Source.

    Raises:
      InputError: the file, row, image, label or class that is wrong, by name.
    """
    names = None if kind(path) == 'file' else listing(path)
    pictures = names and pictures_in(path, names)
    if names and any(name.endswith('_emotion.txt') for name in names.files):
        return _source(path, _original(path, pictures), skip_bad, megapixels)
    if pictures:
        return _source(path, read_layout(names, pictures, str(path)), skip_bad, megapixels)
    splits, words, skipped, notes = read_table(path, CSV_CLASSES, CSV_SYNONYMS, skip_bad)
    return Source('ckplus', CSV_CLASSES, splits, words if len(splits) > 1 else {'train': 'CK+'}, skipped, (), notes)


def _original(path: str | os.PathLike, pictures: Collection[str]) -> Layout:
    """The last frames of the labelled films, as if they stood in folders of classes."""
    frames: dict[tuple[str, str], list[str]] = {}
    for name in pictures:
        if match := FRAME.match(name.split('/')[-1]):
            frames.setdefault((match[1], match[2]), []).append(name)
    files = {}
    for sequence, label in _emotions(path).items():
        if sequence not in frames:
            raise InputError(f'{path}: sequence {"_".join(sequence)} has a label but no images: is cohn-kanade-images/ beside Emotion/?')
        for name in sorted(frames[sequence], key=lambda name: name.split('/')[-1])[-LAST_FRAMES:]:
            files[name] = ('train', label)
    note = f'{len(pictures) - len(files):,} images are not among the last {LAST_FRAMES} of a labelled film and left out'
    return Layout(files, {}, (note,), ())


def _emotions(path: str | os.PathLike) -> dict[tuple[str, str], str]:
    """(subject, sequence) → class, out of files that hold one number such as 3.0000000e+00."""
    labels = {}
    for member in members(path):
        match = LABEL_FILE.fullmatch(member.name.split('/')[-1])
        if not match:
            continue
        with member.open() as stream:
            text = stream.read(100).decode('latin-1').strip()
        number = float(text) if re.fullmatch(r'\d(\.0*)?(e[+-]?0+)?', text) else None
        if number not in EMOTIONS:
            known = ', '.join(f'{code} {name}' for code, name in EMOTIONS.items())
            raise InputError(f'{member.where}: unknown label {ascii(text[:20])}: known are {known}')
        labels[match[1], match[2]] = EMOTIONS[number]
    return labels


def _source(path: str | os.PathLike, layout: Layout, skip_bad: bool, megapixels: int) -> Source:
    files = {name: (split, class_position(folder, CLASSES, SYNONYMS, path)) for name, (split, folder) in layout.files.items()}
    titles = dict(layout.titles) or {'train': 'CK+'}
    read = read_images(path, files, skip_bad, megapixels)
    matches = [FRAME.match(name.split('/')[-1]) for name in read.names]
    faces = dataclasses.replace(
        read.faces,
        subjects=np.array([match[1] if match else '' for match in matches], str),
        sequences=np.array([f'{match[1]}_{match[2]}' if match else '' for match in matches], str),
    )
    nameless = [printable(name) for name, match in zip(read.names, matches, strict=True) if not match]
    warnings = [unofficial('CK+', faces, CLASSES, OFFICIAL)]
    if nameless:
        warnings.insert(0, f'CK+: {len(nameless):,} images have no subject in their names (as S010_004_00000017.png), first {nameless[0]}')
    splits = {split: faces.take(read.splits == split) for split in titles}
    return Source('ckplus', CLASSES, splits, titles, read.skipped, (*layout.warnings, *filter(None, warnings)), layout.notes)
