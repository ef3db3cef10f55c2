"""Faces as a CSV of emotion,pixels[,Usage]: the form of FER2013 and of CK+'s ckextended.csv."""

import csv
import io
import os
from collections.abc import Iterator, Sequence

import numpy as np

from fer_jax.core.errors import InputError, unknown
from fer_jax.data.archive import open_csv
from fer_jax.data.schema import IMAGE_SIDE, Faces

USAGES = {'Training': 'train', 'PublicTest': 'validation', 'PrivateTest': 'test'}
PIXELS = IMAGE_SIDE**2
# What a pixel may be written as: an int() for each of FER2013's 83 million would take three times as long.
VALUES = {f'{value:0{digits}}': value for value in range(256) for digits in (1, 2, 3)}
MAX_LINE = 1 << 20  # bytes; a row of FER2013 has at most 9,240


def read_table(path: str | os.PathLike, class_names: Sequence[str]) -> dict[str, Faces]:
    """The faces in a CSV, plain, compressed or alone in an archive or folder, by split; all are train where there is no Usage.

    Labels are positions in `class_names`.

    Raises:
      InputError: the file is missing, empty, damaged, no such CSV, or without labels; a row's pixels, label or Usage are
        wrong; or a split has no row. The message names file and line (the header is line 1).
    """
    with open_csv(path) as (stream, where):
        table = rows(stream, where)
        columns = _header(table, where)
        images, labels, splits = bytearray(), [], []
        for number, fields in table:
            place = f'{where}, line {number}'
            if len(fields) != len(columns):
                raise InputError(f'{place}: has {len(fields)} fields, the header {len(columns)}: cut off or not a row')
            row = dict(zip(columns, map(str.strip, fields), strict=True))
            label = row['emotion']
            if not (label.isdecimal() and len(label) < 4 and int(label) < len(class_names)):
                known = ', '.join(f'{i} {name}' for i, name in enumerate(class_names))
                raise InputError(f'{place}: unknown label (emotion) {ascii(label[:20])}: known are {known}')
            labels.append(int(label))
            usage = row.get('usage', 'Training')
            if usage not in USAGES:
                raise InputError(f'{place}: {unknown("Usage", usage[:40], USAGES)}')
            splits.append(USAGES[usage])
            images += _pixels(row['pixels'], place)
    if not labels:
        raise InputError(f'{where}: has a header but no rows')
    whole = Faces(
        np.frombuffer(images, np.uint8).reshape(-1, IMAGE_SIDE, IMAGE_SIDE), np.array(labels, np.int32), rows=np.arange(len(labels))
    )
    if 'usage' not in columns:
        return {'train': whole}
    for usage, split in USAGES.items():
        if split not in splits:
            raise InputError(f'{path}: empty split: no row has the Usage {usage}')
    return {split: whole.take(np.array(splits) == split) for split in USAGES.values()}


def rows(stream: io.BufferedIOBase, where: str) -> Iterator[tuple[int, list[str]]]:
    """(line number, fields) of each row of a CSV that is not blank, the header too; bytes that are no ASCII as Latin-1.

    Raises:
      InputError: a line is longer than any row is, or cannot be told into fields.
    """

    def lines() -> Iterator[str]:
        while line := stream.readline(MAX_LINE):
            if len(line) == MAX_LINE:
                raise InputError(f'{where}, line {table.line_num + 1}: longer than {MAX_LINE:,} bytes: no row of a table')
            yield line.removeprefix(b'\xef\xbb\xbf').strip().decode('latin-1')

    table = csv.reader(lines())
    try:
        for row in filter(None, table):
            yield table.line_num, row
    except csv.Error as error:
        raise InputError(f'{where}, line {table.line_num}: not a CSV: {error}') from None


def _header(table: Iterator[tuple[int, list[str]]], where: str) -> list[str]:
    _, names = next(table, (1, None))
    if names is None:
        raise InputError(f'{where}: is empty')
    columns = [name.strip().lower() for name in names]
    if 'pixels' in columns and 'emotion' not in columns:
        raise InputError(f"{where}: has no labels (no 'emotion' column): Kaggle's test.csv is of no use here; give fer2013.csv")
    if any(columns.count(name) != 1 for name in ('emotion', 'pixels')) or columns.count('usage') > 1:
        shown = ascii(','.join(names)[:60])
        raise InputError(f'{where}, line 1: expected a header of emotion, pixels and (if known) Usage, found {shown}')
    return columns


def _pixels(text: str, where: str) -> bytes:
    pixels = text.split()
    if len(pixels) != PIXELS:
        raise InputError(f'{where}: has {len(pixels):,} pixels, not {PIXELS:,} ({IMAGE_SIDE}×{IMAGE_SIDE})')
    try:
        return bytes(map(VALUES.__getitem__, pixels))
    except KeyError as error:
        pixel = error.args[0]
        found = f'pixel {pixels.index(pixel) + 1} is {ascii(pixel[:20])}'
        raise InputError(f'{where}: {found}, not a whole number from 0 to 255') from None
