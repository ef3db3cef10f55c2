"""Files that are whole or not there at all: atomic writes, JSON, checksums."""

import contextlib
import hashlib
import json
import os
import pathlib
import re
import secrets
import stat
from collections.abc import Iterator
from typing import Any, BinaryIO

from fer_jax.core.errors import InputError, printable

TEMPORARY = re.compile(r'\..+\.\d+-[0-9a-f]{8}\.tmp')  # the names that `open_atomic` gives
MOST_TEXT = 64 << 20  # bytes of a file that is read at once
NUMBER = (int, float)
LARGEST = 1e300


def write_atomic(path: str | os.PathLike, content: bytes | str) -> None:
    """Writes `content` to `path` by temp file, fsync and rename, so that a kill leaves the old file or the new one.

    Raises:
      OSError: the disk is full or the folder cannot be written; the old file stands and no temp file is left.
    """
    with open_atomic(path) as file:
        # A name that is no UTF-8, as of a folder of pictures, comes as lone surrogates.
        file.write(content.encode(errors='backslashreplace') if isinstance(content, str) else content)


def is_sink(path: pathlib.Path) -> bool:
    """Whether `path` is there to be written into, and never to be replaced: a pipe, a device, or another name of one, as /dev/stdout."""
    if path.is_symlink() and path.absolute().parts[1] in ('dev', 'proc'):
        return path.exists()
    return path.exists() and not path.is_file() and not path.is_dir()


@contextlib.contextmanager
def open_atomic(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """A file to write into, which takes the place of `path` when the block ends, and goes away if that raises; what `is_sink` stays.

    Raises:
      OSError: as of `write_atomic`.
    """
    path = pathlib.Path(path)
    if is_sink(path):
        with open(path, 'ab') as file:
            yield file
        return
    temporary = path.with_name(f'.{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp')
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with os.fdopen(descriptor, 'wb') as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError) and error.errno and not error.filename:  # a full disk does not say whose write it ended
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # makes the rename survive a power cut
    finally:
        os.close(folder)


def clear_temporaries(folder: pathlib.Path) -> None:
    """Deletes what `open_atomic` has left below `folder` where it was killed: nobody else may be writing there."""
    for path in folder.rglob('.*.tmp'):
        if TEMPORARY.fullmatch(path.name):
            path.unlink(missing_ok=True)


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Writes `value` as indented JSON, atomically; keys keep their order and NaN is refused."""
    write_atomic(path, json.dumps(value, indent=2, allow_nan=False) + '\n')


def open_regular(path: str | os.PathLike) -> BinaryIO:
    """A regular file to read from; InputError where it is none: no pipe that nobody writes into, no device without an end is waited for."""
    file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), 'rb')
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise InputError(f'{printable(os.fspath(path))}: not a regular file')
    return file


def read_bytes(path: str | os.PathLike, most: int) -> bytes:
    """The content of a regular file of at most `most` bytes.

    Raises:
      InputError: the file is missing, no regular one, larger, or cannot be read.
    """
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            content = file.read(most + 1) if size <= most else b''
    except FileNotFoundError:
        raise InputError(f'{path}: no such file') from None
    except OSError as error:
        raise InputError(f'{path}: cannot be read ({error.strerror})') from None
    if max(size, len(content)) > most:
        raise InputError(f'{path}: larger than {most:,} bytes, which no such file is')
    return content


def read_text(path: str | os.PathLike) -> str:
    """The content of a text file; what is no UTF-8 in it becomes replacement characters.

    Raises:
      InputError: as of `read_bytes`.
    """
    return read_bytes(path, MOST_TEXT).decode(errors='replace')


def read_json(path: str | os.PathLike) -> Any:
    """The JSON value in `path`.

    Raises:
      InputError: as of `read_bytes`, or it is not JSON; the message names file and line.
    """
    try:
        return json.loads(read_bytes(path, MOST_TEXT).decode())
    except (ValueError, RecursionError) as error:  # also of a number with thousands of digits
        if isinstance(error, InputError):
            raise
        raise InputError(f'{path}: not JSON: {error}') from None


def check_fields(record: Any, fields: dict[str, Any], path: pathlib.Path, prefix: str = '') -> None:
    """Returns if `record` is an object with at least these fields, of these types, and finite numbers; InputError names what is not.

    A type may be the fields of an object in the record's own.
    """
    if not isinstance(record, dict):
        raise InputError(f'{path}: {f"field {prefix[:-1]}" if prefix else "it"} is not an object of fields')
    for field, kind in fields.items():
        if field not in record:
            raise InputError(f'{path}: has no field {prefix}{field}')
        value = record[field]
        if isinstance(kind, dict):
            check_fields(value, kind, path, f'{prefix}{field}.')
        elif not isinstance(value, kind) or (isinstance(value, bool) and bool not in (kind if isinstance(kind, tuple) else (kind,))):
            raise InputError(f'{path}: field {prefix}{field} is {json.dumps(value)[:40]}, which is of another type')
        elif kind == NUMBER and not -LARGEST < value < LARGEST:  # nor of hundreds of digits, as JSON's whole numbers may be
            raise InputError(f'{path}: field {prefix}{field} is {json.dumps(value)[:40]}, which is no finite number')


def sha256_file(path: str | os.PathLike) -> str:
    """The sha256 of a regular file's bytes, in hex; InputError where it is none."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()
