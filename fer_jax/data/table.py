"""Faces as a CSV, or parquet, of emotion,pixels[,Usage]: the form of FER2013 and of CK+'s ckextended.csv."""

import codecs
import csv
import io
import itertools
import os
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fer_jax.core.errors import InputError, unknown
from fer_jax.data.archive import open_csv
from fer_jax.data.folders import shown, split_of
from fer_jax.data.schema import IMAGE_SIDE, Faces

USAGES = {'Training': 'train', 'PublicTest': 'validation', 'PrivateTest': 'test'}
# What the columns may be called.
LABELS = ('emotion', 'label', 'expression', 'class')
SPLIT_COLUMNS = ('usage', 'split', 'set', 'partition', 'subset')
PIXELS = IMAGE_SIDE**2
# What a pixel may be written as: an int() for each of FER2013's 83 million would take three times as long.
VALUES = {f'{value:0{digits}}': value for value in range(256) for digits in (1, 2, 3)}
# Files that are often given for a CSV, by how they begin.
OTHER_FORMS = {
    b'PAR1': 'parquet, which is read where it is a file: unpack it',
    b'ARROW1': 'Arrow or Feather: save it as parquet or as CSV',
    b'\x93NUMPY': 'one array of NumPy: save images and labels together, by np.savez, for data.dataset=image_table',
    b'\x89HDF': 'HDF5: save it as parquet or as CSV',
    b'SQLite format': 'a database: save the table as CSV',
    b'\xd0\xcf\x11\xe0': 'a file of Excel: save it as CSV UTF-8',
    b"7z\xbc\xaf'": '7z: unpack it',
    b'Rar!': 'RAR: unpack it',
    b'\x28\xb5\x2f\xfd': 'compressed by zstd: unpack it',
    b'<!DOCTYPE': 'a web page, as servers send it where one has to sign in',
    b'<html': 'a web page, as servers send it where one has to sign in',
}
PARQUET = b'PAR1'
BATCH = 256  # rows of parquet that are read at once
MAX_LINE = 1 << 20  # bytes; a row of FER2013 has at most 9,240
BRACKETS = str.maketrans('[],', '   ')
UTF_16 = (b'\xff\xfe', b'\xfe\xff')


class Table(NamedTuple):
    """What a CSV holds."""

    splits: dict[str, Faces]
    words: dict[str, str]  # split → what the CSV calls it; empty where it names none
    skipped: tuple[str, ...]  # rows that are wrong, 'place: why'
    notes: tuple[str, ...]  # what was understood, where it is not FER2013's own form


def read_table(path: str | os.PathLike, class_names: Sequence[str], synonyms: Mapping[str, str], skip_bad: bool = False) -> Table:
    """The faces in a CSV, plain, compressed or in an archive or folder, by split; all are train where there is no Usage.

    Commas, semicolons or tabs separate; the text may be UTF-16; labels are numbers, names or synonyms; Usage is any word for a split.

    Raises:
      InputError: the file is missing, empty, damaged, no such CSV, or without labels; a row's pixels, label or Usage are
        wrong and `skip_bad` is false; or a split has no row. The message names file and line (the header is line 1).
    """
    images, labels, splits, numbers, skipped = bytearray(), [], [], [], []
    words: dict[str, str] = {}
    with open_csv(path, _fitting) as (stream, where, others):
        table = rows(stream, where)
        header, label_column, pixel_column, usage_column = _header(table, where)
        for position, (number, fields) in enumerate(table):
            place = f'{where}, line {number}'
            try:
                if len(fields) != len(header):
                    raise InputError(f'{place}: has {len(fields)} fields, the header {len(header)}: cut off or not a row')
                label = position_of(fields[label_column].strip(), class_names, synonyms, place)
                usage = 'train' if usage_column is None else fields[usage_column].strip()
                split = split_of(usage)
                if split is None:
                    raise InputError(f'{place}: {unknown("Usage", usage[:40], USAGES)}')
                images += _pixels(fields[pixel_column], place)
            except InputError as error:
                if not skip_bad:
                    raise
                skipped.append(str(error))
                continue
            words.setdefault(split, usage)
            labels.append(label)
            splits.append(split)
            numbers.append(position)
    if not labels:
        raise InputError(f'{where}: has a header but no rows' + (f' that could be read, first {skipped[0]}' if skipped else ''))
    pixels = np.frombuffer(images, np.uint8).reshape(-1, IMAGE_SIDE, IMAGE_SIDE)
    whole = Faces(pixels, np.array(labels, np.int32), rows=np.array(numbers, np.int64))
    notes = (f'read from {where}; left alone: {shown(others)}',) if others else ()
    if usage_column is None:
        return Table({'train': whole}, {}, tuple(skipped), notes)
    for usage, split in USAGES.items():
        if split not in words and (split == 'train' or set(words.values()) & USAGES.keys()):
            raise InputError(f'{path}: empty split: no row has the Usage {usage}')
    if any(USAGES.get(word) != split for split, word in words.items()):
        told = ', '.join(f'{word} is {split}' for split, word in words.items())
        notes = (f'{where}: labels from column {header[label_column]}, splits from {header[usage_column]}: {told}', *notes)
    found = {split: whole.take(np.array(splits) == split) for split in USAGES.values() if split in words}
    return Table(found, words, tuple(skipped), notes)


def position_of(text: str, class_names: Sequence[str], synonyms: Mapping[str, str], place: str) -> int:
    """The label that a cell stands for: a class's number, also as 3.0, its name or a synonym; InputError where it is none."""
    if match := re.fullmatch(r'(\d{1,3})(\.0*)?', text, re.ASCII):
        if int(match[1]) < len(class_names):
            return int(match[1])
    elif (name := synonyms.get(text.lower(), text.lower())) in class_names:
        return class_names.index(name)
    known = ', '.join(f'{i} {name}' for i, name in enumerate(class_names))
    raise InputError(f'{place}: unknown label (emotion) {ascii(text[:20])}: known are {known}')


def rows(stream: io.BufferedReader, where: str, delimiters: str = ',;\t') -> Iterator[tuple[int, list[str]]]:
    """(line number, fields) of each row of a CSV that is not blank, the header too; of parquet the number of the row.

    A line is UTF-8, or else Latin-1, or all is UTF-16 where it begins like that. The delimiter is the one that the first line has most
    of, a blank only where it has none of the others; or what Excel says in a line `sep=;` before. Where the rows have one field more
    than the header, an empty last one is dropped, or numbers of rows that start with 1, as R writes them.

    Raises:
      InputError: a line is longer than any row is, or cannot be told into fields; or it is another kind of file.
    """
    if stream.peek(len(PARQUET))[: len(PARQUET)] == PARQUET and stream.seekable():
        yield from ((number, list(map(str, values))) for number, values in parquet_rows(stream, where))
        return
    lines = _lines(stream, where)
    first, above = next(lines, ''), 0
    if told := re.fullmatch(r'"?sep=(.)"?\n', first):
        first, above, delimiters = next(lines, ''), 1, told[1]
    delimiter = max(delimiters.replace(' ', '') or ' ', key=first.count)
    delimiter = ' ' if ' ' in delimiters and delimiter not in first else delimiter
    table = csv.reader(itertools.chain([first], lines), delimiter=delimiter, skipinitialspace=True)
    width, numbered = 0, None
    try:
        for row in filter(None, table):
            if len(row) == width + 1 and not row[-1].strip():
                row = row[:-1]
            elif len(row) == width + 1 and width:
                numbered = row[0].strip() == '1' if numbered is None else numbered
                row = row[numbered:]
            numbered = False if width and numbered is None else numbered
            width = width or len(row)
            yield table.line_num + above, row
    except csv.Error as error:
        raise InputError(f'{where}, line {table.line_num + above}: not a CSV: {error}') from None


def parquet_rows(source: io.BufferedReader | pathlib.Path, where: str) -> Iterator[tuple[int, list[Any]]]:
    """(0, the columns' names), then (number, values) of each row from 1 on, '' for none; InputError where it is damaged."""
    import pyarrow.parquet  # slow to import

    number = 0
    try:
        table = pyarrow.parquet.ParquetFile(source)
        yield 0, table.schema_arrow.names
        for batch in table.iter_batches(batch_size=BATCH):
            for values in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                number += 1
                yield number, ['' if value is None else value for value in values]
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise InputError(f'{where}: damaged after row {number}: {error}') from None


def _lines(stream: io.BufferedReader, where: str) -> Iterator[str]:
    head = stream.peek(MAX_LINE)
    for start, form in OTHER_FORMS.items():
        if head.startswith(start):
            raise InputError(f'{where}: no text but {form}')
    if b'\r' in head and b'\n' not in head:
        raise InputError(f'{where}: its lines end as on a Macintosh of old, by carriage returns alone: save it as CSV UTF-8')
    narrow = map(_decoded, iter(lambda: stream.readline(MAX_LINE), b''))
    for number, line in enumerate(_wide_lines(stream) if head[:2] in UTF_16 else narrow, start=1):
        if len(line) >= MAX_LINE:
            raise InputError(f'{where}, line {number}: longer than {MAX_LINE:,} bytes: no row of a table')
        yield line.strip(' \r\n') + '\n'  # but no tab, behind which a cell may be empty


def _decoded(line: bytes) -> str:
    line = line.removeprefix(codecs.BOM_UTF8)
    try:
        return line.decode()
    except UnicodeDecodeError:
        return line.decode('latin-1')


def _wide_lines(stream: io.BufferedReader) -> Iterator[str]:
    # Not by io.TextIOWrapper, which closes the stream where it is let go.
    decoder, rest = codecs.getincrementaldecoder('utf-16')('replace'), ''
    while block := stream.read1(MAX_LINE):
        *lines, rest = (rest + decoder.decode(block)).split('\n')
        yield from lines
        if len(rest) >= MAX_LINE:
            break
    yield rest


def first_row(head: bytes, where: str, delimiters: str = ',;\t') -> list[str]:
    """The fields of the first line of what begins with these bytes, in small letters, [] where there is none; errors as of `rows`."""
    _, row = next(rows(io.BufferedReader(io.BytesIO(head)), where, delimiters), (0, []))
    return [name.strip().lower() for name in row]


def _fitting(head: bytes) -> int:
    try:
        names = first_row(head, '')
    except InputError:
        return 0
    has = [any(each in names for each in group) for group in (LABELS, ('pixels',), SPLIT_COLUMNS)]
    return sum(has) if has[0] and has[1] else 0


def _header(table: Iterator[tuple[int, list[str]]], where: str) -> tuple[list[str], int, int, int | None]:
    """(the columns' names, and which of them are the label, the pixels and the Usage)."""
    _, names = next(table, (1, None))
    if names is None:
        raise InputError(f'{where}: is empty')
    columns = [name.strip().lower() for name in names]
    labels, usages = ([name for name in columns if name in group] for group in (LABELS, SPLIT_COLUMNS))
    if 'pixels' in columns and not labels:
        raise InputError(f"{where}: has no labels (no 'emotion' column): Kaggle's test.csv is of no use here; give fer2013.csv")
    if len(labels) != 1 or columns.count('pixels') != 1 or len(usages) > 1:
        found = ascii(','.join(names)[:60])
        raise InputError(f'{where}, line 1: expected a header of emotion, pixels and (if known) Usage, found {found}')
    usage = columns.index(usages[0]) if usages else None
    return names, columns.index(labels[0]), columns.index('pixels'), usage


def _pixels(text: str, where: str) -> bytes:
    text = text.strip()
    pixels = (text.translate(BRACKETS) if text.startswith('[') else text).split()
    if len(pixels) != PIXELS:
        raise InputError(f'{where}: has {len(pixels):,} pixels, not {PIXELS:,} ({IMAGE_SIDE}×{IMAGE_SIDE})')
    try:
        return bytes(map(VALUES.__getitem__, pixels))
    except KeyError as error:
        pixel = error.args[0]
        found = f'pixel {pixels.index(pixel) + 1} is {ascii(pixel[:20])}'
        raise InputError(f'{where}: {found}, not a whole number from 0 to 255') from None
