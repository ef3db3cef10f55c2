"""Tables of pictures: a list that names files, such as RAF-DB's, AffectNet's and ExpW's, or arrays and parquet with pictures inside."""

import contextlib
import dataclasses
import itertools
import json
import os
import pathlib
import posixpath
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fer_jax.core.errors import InputError, printable
from fer_jax.data import npz
from fer_jax.data.archive import MOST_HEADER, TEXTS, Listing, kind, listing, open_member
from fer_jax.data.folders import NAMED, ordered_classes, pictures_in, read_faces, shown, skipped_or_refused, split_of
from fer_jax.data.images import MEGAPIXELS, Box, decode, face_in, is_image_name
from fer_jax.data.schema import IMAGE_SIDE, SPLITS, Faces, Source
from fer_jax.data.table import SPLIT_COLUMNS, first_row, parquet_rows, rows

PARQUET = ('.parquet', '.parq', '.pq')
DELIMITERS = ',;\t '  # a blank only where there is none of the others
# What the columns may be called.
PATHS = ('path', 'file', 'filename', 'file_name', 'filepath', 'file_path', 'image', 'image_path', 'image_name', 'img', 'img_path', 'pth',
         'subdirectory_filepath', 'picture', 'photo', 'name', 'img_bytes', 'image_bytes')  # fmt: skip
LABELS = ('label', 'emotion', 'expression', 'class', 'category', 'target', 'labels', 'expression_label', 'emotion_label')
SUBJECTS = ('subject', 'subject_id', 'person', 'person_id', 'identity', 'participant', 'actor')
BOXES = (('left', 'top', 'width', 'height'), ('x', 'y', 'w', 'h'), ('x', 'y', 'width', 'height'),
         ('face_x', 'face_y', 'face_width', 'face_height'))  # fmt: skip
CORNERS = (('left', 'top', 'right', 'bottom'), ('xmin', 'ymin', 'xmax', 'ymax'), ('x1', 'y1', 'x2', 'y2'),
           ('face_box_left', 'face_box_top', 'face_box_right', 'face_box_bottom'))  # fmt: skip
MISSING = ('', 'nan', 'na', 'n/a', '#n/a', '<na>', 'null', 'nat')  # what an empty cell becomes where tables are saved
# What numbers mean in the sets that have no words; '' is no expression, and such rows are left out.
RAF_DB = dict(enumerate(('surprise', 'fear', 'disgust', 'happiness', 'sadness', 'anger', 'neutral'), start=1))
EXPW = dict(enumerate(('angry', 'disgust', 'fear', 'happy', 'sad', 'surprise', 'neutral')))
AFFECTNET = dict(enumerate(('neutral', 'happiness', 'sadness', 'surprise', 'fear', 'disgust', 'anger', 'contempt', '', '', '')))


class Row(NamedTuple):
    """One face of a table."""

    place: str  # for messages
    picture: str | bytes  # a file's name as the table has it, or the file itself
    label: str
    split: str | None
    subject: str
    box: Box | None


@dataclasses.dataclass
class Form:
    """What the columns of a table mean."""

    name: str
    columns: int  # how many there are; the others are places among them
    path: int
    label: int
    split: int | None = None
    subject: int | None = None
    box: tuple[int, ...] = ()
    corners: bool = False  # the box is left, top, right, bottom rather than left, top, width, height
    codes: Mapping[int, str] | None = None


def read(path: str | os.PathLike, table: str | None = None, skip_bad: bool = False, megapixels: int = MEGAPIXELS) -> Source:
    """The faces that a table names in a folder or archive, or that a file of parquet or .npz holds.

    The table is the one that is there, the two or three that are called as splits are, or `table`. A picture is found by its path
    below the table's folder or the whole, or else by the end of its path. A box is the part of the picture that is the face. Classes
    are the words of the labels, or their numbers where the set is not known; subjects and splits are taken where they are columns.

    Args:
      table: its name below `path`; None where there is only one.

    Raises:
      InputError: no such table, or several; columns that are not told apart; a row's label, split, box or picture is wrong and
        `skip_bad` is false. The message names table and row.
    """
    if npz.is_npz(path):
        return npz.read(path)
    parquet = kind(path) == 'file'
    names = Listing((), ()) if parquet else listing(path)
    tables = {os.path.basename(path): split_of(os.path.basename(path))} if parquet else _tables(path, names, table)
    bad, found, notes = {}, [], []
    for name, split in tables.items():
        form, own = _open_parquet(pathlib.Path(path) / ('' if parquet else name)) if _is_parquet(name) else _open_text(path, name)
        notes.append(f'{printable(name)}: {form.name}')
        for place, fields in own:
            with _noted(bad, place):
                row = _row(place, fields, form)
                found.append(row._replace(split=row.split or split or 'train'))
    if not found:
        raise InputError(
            f'{path}: {", ".join(tables)}: no row that could be read' + (f': {": ".join(next(iter(bad.items())))}' if bad else '')
        )
    nothing = sum(not row.label for row in found)
    notes += [f'{nothing:,} rows are of no expression and left out'] * bool(nothing)
    found = [row for row in found if row.label]
    faces, left = _faces(path, names, found, bad, megapixels)
    kept = sorted(faces)
    skipped = skipped_or_refused(path, bad, len(kept) + len(bad), 'rows cannot be read', skip_bad)
    notes += [f'{len(left):,} pictures are in no row and left out: {shown(left)}'] * bool(left)
    if 'train' not in {found[number].split for number in kept}:
        raise InputError(f'{path}: no row of the training split could be read')
    return _source(path, [found[number] for number in kept], [faces[number] for number in kept], skipped, tuple(notes))


def located(path: str, table: str | None) -> dict[str, Any]:
    """`path` and `table` of the configuration, where `path` is a list of files: its folder, and its name."""
    if table or not os.path.isfile(path) or kind(path) != 'file' or _is_parquet(path) and not _lists_files(pathlib.Path(path)):
        return {}
    return {'path': os.path.dirname(os.path.abspath(path)), 'table': os.path.basename(path)}


def _lists_files(file: pathlib.Path) -> bool:
    """Whether what a file of parquet has for the pictures is text; InputError as of `read`."""
    schema, form = _parquet(file)
    return str(schema.types[form.path]) in ('string', 'large_string')


def _source(
    path: str | os.PathLike, found: Sequence[Row], faces: Sequence[np.ndarray], skipped: tuple[str, ...], notes: tuple[str, ...]
) -> Source:
    class_names = ordered_classes({row.label for row in found}, str(path))
    position = {name: number for number, name in enumerate(class_names)}
    labels = np.array([position[row.label] for row in found], np.int32)
    subjects = np.array([row.subject for row in found], str)
    whole = Faces(np.array(faces, np.uint8).reshape(-1, IMAGE_SIDE, IMAGE_SIDE), labels, subjects=subjects if any(subjects) else None)
    of = np.array([row.split for row in found], str)
    splits = {split: whole.take(of == split) for split in SPLITS if split in of}
    titles = {split: split for split in splits} if len(splits) > 1 else {'train': 'all'}
    return Source('image_table', class_names, splits, titles, skipped, (), notes)


def _is_parquet(name: str | os.PathLike) -> bool:
    return os.fspath(name).lower().endswith(PARQUET)


def _tables(path: str | os.PathLike, names: Listing, table: str | None) -> dict[str, str | None]:
    """Name → split that its name says, of the tables that are to be read."""
    if table:
        name = table.replace('\\', '/').removeprefix('./')
        if name not in names.files:
            raise InputError(f'data.table={table}: {path} holds no such file')
        return {name: None}
    found, others = [], {}
    for name in names.files:
        if name.lower().endswith(TEXTS):
            with _noted(others, name):
                _form(name, _header(path, name))
                found.append(name)
        elif _is_parquet(name):
            found.append(name)
    splits = {name: split_of(re.sub(r'-\d+-of-\d+$', '', pathlib.PurePosixPath(name).stem)) for name in found}
    if len(found) > 1 and (None in splits.values() or len(set(splits.values())) < len(found) and not all(map(_is_parquet, found))):
        raise InputError(f'{path}: holds several tables: {shown(found)}: name the one to read as --config.data.table=…')
    if not found:
        what = f'no table with a column for the picture and one for the label ({", ".join((*TEXTS, *PARQUET))})'
        rest = [name for name in names.files if not is_image_name(name)]
        why = '; '.join([*others.values()][:NAMED]) or f'but {shown(rest) or "pictures alone"}'
        raise InputError(f'{path}: holds {what}: {why}')
    return splits


def _header(path: str | os.PathLike, name: str) -> list[str]:
    with open_member(path, name) as (stream, _):
        return first_row(stream.read(MOST_HEADER), name, DELIMITERS)


def _form(name: str, header: Sequence[str]) -> Form:
    """What a table's columns mean, by its first row in small letters; InputError where that is not told."""
    if header and is_image_name(header[0]):  # no header
        if len(header) == 2:
            raf = name.lower().endswith('list_patition_label.txt')
            return Form('RAF-DB, aligned where there are such files' if raf else 'path and label', 2, 0, 1, codes=RAF_DB if raf else None)
        if len(header) == 8 and name.lower().endswith('.lst'):
            return Form('ExpW', 8, 0, 7, box=(3, 2, 4, 5), corners=True, codes=EXPW)
        raise InputError(f'{name}, line 1: {len(header)} columns without a header: a first line with path, label, … would tell them')

    header = [re.sub(r'[\s-]+', '_', column) for column in header]

    def one(group: Sequence[str], what: str) -> int | None:
        own = [column for column in header if column in group]
        if len(own) > 1:
            raise InputError(f'{name}, line 1: several columns for the {what}: {shown(own)}: rename all but one')
        return header.index(own[0]) if own else None

    path, label = one(PATHS, 'picture'), one(LABELS, 'label')
    if path is None or label is None:
        found = ascii(','.join(header)[:60])
        raise InputError(f'{name}, line 1: expected a header with a column for the picture (path) and one for the label, found {found}')
    told = f'picture from {header[path]}, label from {header[label]}'
    form = Form(told, len(header), path, label, one(SPLIT_COLUMNS, 'split'), one(SUBJECTS, 'subject'))
    for sides, corners in [(each, False) for each in BOXES] + [(each, True) for each in CORNERS]:
        if not form.box and set(sides) <= set(header):
            form.box, form.corners = tuple(map(header.index, sides)), corners
    if 'subdirectory_filepath' in header:
        form.codes = AFFECTNET
    if 'face_id_in_image' in header:
        form.codes = EXPW
    for field, what in ((form.split, 'split'), (form.subject, 'subject')):
        form.name += f', {what} from {header[field]}' if field is not None else ''
    form.name += f', box from {", ".join(header[field] for field in form.box)}' if form.box else ''
    heeded = {form.path, form.label, form.split, form.subject, *form.box}
    rest = [column for place, column in enumerate(header) if place not in heeded and column]
    form.name += f'; not heeded: {shown(rest)}' if rest else ''
    return form


Rows = Iterator[tuple[str, list[Any]]]  # of a table: the place of each, for messages, and its fields


def _open_text(path: str | os.PathLike, name: str) -> tuple[Form, Rows]:
    header = _header(path, name)

    def read_rows() -> Rows:
        with open_member(path, name) as (stream, _):
            for number, fields in itertools.islice(rows(stream, name, DELIMITERS), not is_image_name(header[0]), None):
                yield f'{name}, line {number}', [field.strip() for field in fields]

    return _form(name, header), read_rows()


def _parquet(file: pathlib.Path) -> tuple[Any, Form]:
    """The schema of a file of parquet, and what its columns mean; InputError where it is none."""
    import pyarrow
    import pyarrow.parquet  # slow to import

    if not file.is_file():
        raise InputError(f'{file}: parquet is read where it is a file: unpack it')
    try:
        schema = pyarrow.parquet.ParquetFile(file).schema_arrow
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise InputError(f'{file}: damaged, or no parquet: {error}') from None
    return schema, _form(file.name, [column.lower() for column in schema.names])


def _open_parquet(file: pathlib.Path) -> tuple[Form, Rows]:
    schema, form = _parquet(file)
    told: Any = None
    with contextlib.suppress(ValueError):
        told = json.loads((schema.metadata or {}).get(b'huggingface', b'{}'))
    for key in ('info', 'features', schema.names[form.label], 'names'):
        told = told.get(key) if isinstance(told, dict) else None
    form.codes = dict(enumerate(told)) if isinstance(told, list) and all(isinstance(each, str) for each in told) else form.codes
    below = itertools.islice(parquet_rows(file, str(file)), 1, None)
    return form, ((f'{file.name}, row {number}', fields) for number, fields in below)


@contextlib.contextmanager
def _noted(bad: dict[str, str], place: str) -> Iterator[None]:
    try:
        yield
    except InputError as error:
        bad[place] = str(error)


def _row(place: str, fields: Sequence[Any], form: Form) -> Row:
    """The face that a row is about; InputError says what is wrong with it."""
    if len(fields) != form.columns:
        raise InputError(f'has {len(fields)} fields, the first line {form.columns}')
    picture, label = fields[form.path], _word(fields[form.label])
    if isinstance(picture, dict):  # as Hugging Face writes them
        picture = picture.get('bytes') or picture.get('path') or ''
    if not isinstance(picture, bytes):
        picture = _word(picture)
    if not picture or not label:
        raise InputError('names no picture' if not picture else 'has no label')
    label = re.sub(r'^(\d+)\.0*$', r'\1', label)
    if form.codes:
        if not label.isdecimal() or len(label) > 3 or int(label) not in form.codes:
            raise InputError(
                f'unknown label {ascii(label[:20])}: known are {", ".join(f"{code} {name}" for code, name in form.codes.items() if name)}'
            )
        label = form.codes[int(label)]
    split = None
    if form.split is not None:
        word = _word(fields[form.split])
        split = split_of(word)
        if split is None:
            raise InputError(f'unknown split {ascii(word[:20])}: known are train, validation and test')
    elif form.codes is RAF_DB:
        split = split_of(posixpath.basename(picture).partition('_')[0])
    subject = '' if form.subject is None else _word(fields[form.subject])
    return Row(place, picture, label, split, subject, _box([fields[each] for each in form.box], form.corners))


def _word(value: Any) -> str:
    """What a cell says, '' where it stands for an empty one; InputError where it holds more than one value."""
    if isinstance(value, list | dict | tuple | set):
        raise InputError(f'{ascii(str(value)[:40])} where one word, number or picture was expected')
    text = (value.decode('utf-8', 'replace') if isinstance(value, bytes) else str(value)).strip()
    return '' if text.lower() in MISSING else text


def _box(sides: Sequence[Any], corners: bool) -> Box | None:
    if not any(map(_word, sides)):
        return None
    try:
        exact = [float(side) for side in sides]
        left, top, right, bottom = map(round, exact)
    except (ValueError, OverflowError):
        raise InputError(f'a box of {ascii(", ".join(map(str, sides))[:60])}, which are no four numbers') from None
    if max(exact) <= 1:
        raise InputError(f'a box of {ascii(", ".join(map(str, sides))[:60])}: parts of the picture, where pixels are expected')
    box = Box(left, top, right - left, bottom - top) if corners else Box(left, top, right, bottom)
    if box.width < 1 or box.height < 1:
        raise InputError(f'a box of {box.width}×{box.height} pixels')
    return box


def _faces(
    path: str | os.PathLike, names: Listing, found: Sequence[Row], bad: dict[str, str], megapixels: int
) -> tuple[dict[int, np.ndarray], list[str]]:
    """(number of the row → face, of those whose picture can be read; the pictures that are in no row)."""
    faces: dict[int, np.ndarray] = {}
    files = pictures_in(path, names) if names.files else frozenset()
    ends: dict[str, list[str]] = {}
    for file in files:
        ends.setdefault(_bare(posixpath.basename(file)), []).append(file)
    wanted: dict[str, list[tuple[int, Box | None]]] = {}
    for number, row in enumerate(found):
        with _noted(bad, row.place):
            if isinstance(row.picture, bytes):
                faces[number] = face_in(*decode(row.picture, megapixels), row.box)
            else:
                wanted.setdefault(_find(row, files, ends), []).append((number, row.box))
    boxes = {file: [box for _, box in each] for file, each in wanted.items()}
    for (file, place), face in read_faces(path, boxes, megapixels).items() if boxes else ():
        number = wanted[file][place][0]
        if isinstance(face, InputError):
            bad[f'{found[number].place}, {printable(file)}'] = str(face)
        else:
            faces[number] = face
    return faces, sorted(files - wanted.keys())


def _loose(name: str) -> str:
    """A name but for capital letters and how accents are encoded, which systems that do not tell them apart write as they like."""
    return unicodedata.normalize('NFC', name).casefold()


def _bare(name: str) -> str:
    """As of `_loose`, without a picture's ending."""
    return posixpath.splitext(_loose(name))[0] if is_image_name(name) else _loose(name)


def _find(row: Row, files: frozenset[str], ends: Mapping[str, Sequence[str]]) -> str:
    """The file that a row's picture is. `ends` has the files by the `_bare` last part of their names."""
    table = row.place.rpartition(', line ')[0]
    name = row.picture.replace('\\', '/')
    name = re.sub(r'^(\./)+', '', name)
    near = ends.get(_bare(posixpath.basename(name)), ())
    if re.match(r'/|[A-Za-z]:', name):  # from another machine's root: as much of its end as is here
        name = max((file for file in near if f'/{name}'.endswith(f'/{file}')), key=len, default=name)
    for each in (posixpath.join(posixpath.dirname(table), name), name):
        if posixpath.normpath(each) in files:
            return posixpath.normpath(each)
    stem, ending = posixpath.splitext(name)
    aligned = f'{stem}_aligned{ending}'
    ways = [(aligned, str), (name, str), (name, _loose)] + [(name, _bare)] * (not is_image_name(name))
    for each, told in ways:
        found = [file for file in ends.get(_bare(posixpath.basename(each)), ()) if f'/{told(file)}'.endswith(f'/{told(each)}')]
        if len(found) > 1:
            raise InputError(f'{printable(name)} may be {shown(sorted(found))}: write more of its path')
        if found:
            return found[0]
    raise InputError(f'no such picture: {printable(name)}')
