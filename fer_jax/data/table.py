"""Faces as a CSV of emotion,pixels[,Usage]: the form of FER2013 and of CK+'s ckextended.csv."""

import csv
import dataclasses
import io
import os
import re
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Int32, UInt8

from fer_jax.core.errors import InputError, unknown
from fer_jax.data.archive import MAX_LINE, lines, open_csv
from fer_jax.data.schema import IMAGE_SIDE

PIXELS = IMAGE_SIDE**2
BLOCK = 256  # rows parsed together: wide enough for NumPy, 2 MB


@dataclasses.dataclass(frozen=True)
class Table:
    """The rows of a CSV in its order. `usages` is None where the file has no such column."""

    images: UInt8[np.ndarray, 'n 48 48']
    labels: Int32[np.ndarray, 'n']
    usages: np.ndarray | None  # [n] str, each one of those asked for


def read_table(path: str | os.PathLike, class_names: Sequence[str], usages: Sequence[str]) -> Table:
    """The faces in a CSV, plain, compressed or alone in an archive or folder.

    Labels are positions in `class_names`, and the Usage column, if there is one, holds names of `usages`.

    Raises:
      InputError: the file is missing, empty, damaged, no such CSV, or without labels; or a row's pixels, label or Usage are
        wrong. The message names file and line (the header is line 1).
    """
    with open_csv(path) as (stream, where):
        columns = _header(stream, where)
        blocks, labels, marks = [], [], []
        pending: list[tuple[int, bytes]] = []
        for number, fields in _lines(stream, where, width=len(columns)):
            row = dict(zip(columns, fields, strict=True))
            labels.append(_label(row['emotion'], class_names, f'{where}, line {number}'))
            if 'usage' in row:
                marks.append(_usage(row['usage'], usages, f'{where}, line {number}'))
            pending.append((number, row['pixels']))
            if len(pending) == BLOCK:
                blocks.append(_images(pending, where))
                pending.clear()
        if pending:
            blocks.append(_images(pending, where))
    if not labels:
        raise InputError(f'{where}: has a header but no rows')
    return Table(np.concatenate(blocks), np.array(labels, np.int32), np.array(marks) if 'usage' in columns else None)


def _header(stream: io.BufferedIOBase, where: str) -> list[str]:
    line = stream.readline(MAX_LINE)
    if not line:
        raise InputError(f'{where}: is empty')
    columns = [name.strip().lower() for name in _split(line.removeprefix(b'\xef\xbb\xbf').decode('latin-1'))]
    if 'pixels' in columns and 'emotion' not in columns:
        raise InputError(f"{where}: has no labels (no 'emotion' column): Kaggle's test.csv is of no use here; give fer2013.csv")
    if any(columns.count(name) != 1 for name in ('emotion', 'pixels')) or columns.count('usage') > 1:
        shown = ascii(line[:60].decode('latin-1').rstrip())
        raise InputError(f'{where}, line 1: expected a header of emotion, pixels and (if known) Usage, found {shown}')
    return columns


def _split(line: str) -> list[str]:
    try:
        return next(csv.reader([line.rstrip('\r\n')]), [])
    except csv.Error:
        return []


def _lines(stream: io.BufferedIOBase, where: str, width: int) -> Iterator[tuple[int, list[bytes]]]:
    """(line number, its `width` fields as bytes) for each line that is not blank."""
    for number, line in lines(stream, where, first=2):
        line = line.strip()
        if not line:
            continue
        fields = [field.encode('latin-1') for field in _split(line.decode('latin-1'))] if b'"' in line else line.split(b',')
        if len(fields) != width:
            raise InputError(f'{where}, line {number}: has {len(fields)} fields, the header {width}: cut off or not a row')
        yield number, fields


def _label(field: bytes, class_names: Sequence[str], where: str) -> int:
    text = field.strip()
    if not (text.isdigit() and len(text) < 4 and int(text) < len(class_names)):
        known = ', '.join(f'{i} {name}' for i, name in enumerate(class_names))
        raise InputError(f'{where}: unknown label (emotion) {_shown(text)}: known are {known}')
    return int(text)


def _usage(field: bytes, usages: Sequence[str], where: str) -> str:
    text = field.strip().decode('latin-1')
    if text not in usages:
        raise InputError(f'{where}: {unknown("Usage", text[:40], usages)}')
    return text


def _shown(text: bytes) -> str:
    return ascii(text[:20].decode('latin-1'))


def _images(rows: list[tuple[int, bytes]], where: str) -> UInt8[np.ndarray, 'n 48 48']:
    """The pixels of some rows, parsed as one text: 300 MB of digits are too many for a Python loop."""
    texts = [text.strip() for _, text in rows]
    if any(text.count(b' ') != PIXELS - 1 for text in texts):
        return _careful_images(rows, where)
    characters = np.frombuffer(b' '.join(texts) + b' ', np.uint8)
    ends = np.flatnonzero(characters == ord(' '))
    digits = characters - np.uint8(ord('0'))  # wraps round: all but digits come out above 9
    lengths = np.diff(ends, prepend=-1) - 1
    plain = np.count_nonzero(digits <= 9) + len(ends) == len(characters) and lengths.min() >= 1 and lengths.max() <= 3
    if not plain:
        return _careful_images(rows, where)
    values = digits[ends - 1].astype(np.uint16)
    values += np.uint16(10) * np.where(lengths >= 2, digits[ends - 2], 0)
    values += np.uint16(100) * np.where(lengths == 3, digits[ends - 3], 0)
    if values.max() > 255:
        return _careful_images(rows, where)
    return values.astype(np.uint8).reshape(len(rows), IMAGE_SIDE, IMAGE_SIDE)


def _careful_images(rows: list[tuple[int, bytes]], where: str) -> UInt8[np.ndarray, 'n 48 48']:
    """The same, number by number: for rows with other blanks than single spaces, and to say what is wrong where."""
    values = []
    for number, text in rows:
        pixels = text.split()
        if len(pixels) != PIXELS:
            raise InputError(f'{where}, line {number}: has {len(pixels):,} pixels, not {PIXELS:,} ({IMAGE_SIDE}×{IMAGE_SIDE})')
        for position, pixel in enumerate(pixels):
            if not re.fullmatch(b'[0-9]{1,3}', pixel) or int(pixel) > 255:
                raise InputError(f'{where}, line {number}: pixel {position + 1} is {_shown(pixel)}, not a whole number from 0 to 255')
        values.append([int(pixel) for pixel in pixels])
    return np.array(values, np.uint8).reshape(len(rows), IMAGE_SIDE, IMAGE_SIDE)
