"""Files that are whole or not there at all: atomic writes, JSON, checksums."""

import contextlib
import hashlib
import json
import os
import pathlib
import re
import secrets
from collections.abc import Iterator
from typing import Any, BinaryIO

from fer_jax.errors import InputError

TEMPORARY = re.compile(r'\..+\.\d+-[0-9a-f]{8}\.tmp')  # the names that `open_atomic` gives


def write_atomic(path: str | os.PathLike, content: bytes | str) -> None:
    """Writes `content` to `path` by temp file, fsync and rename, so that a kill leaves the old file or the new one.

    Raises:
      OSError: the disk is full or the folder cannot be written; the old file stands and no temp file is left.
    """
    with open_atomic(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def open_atomic(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """A file to write into, which takes the place of `path` when the block ends, and goes away if that raises.

    Raises:
      OSError: as of `write_atomic`.
    """
    path = pathlib.Path(path)
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
    _sync_folder(path.parent)


def clear_temporaries(folder: pathlib.Path) -> None:
    """Deletes what `open_atomic` has left below `folder` where it was killed: nobody else may be writing there."""
    for path in folder.rglob('.*.tmp'):
        if TEMPORARY.fullmatch(path.name):
            path.unlink(missing_ok=True)


def _sync_folder(folder: pathlib.Path) -> None:
    """Makes a rename in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Writes `value` as indented JSON, atomically; keys keep their order and NaN is refused."""
    write_atomic(path, json.dumps(value, indent=2, allow_nan=False) + '\n')


def read_json(path: str | os.PathLike) -> Any:
    """The JSON value in `path`.

    Raises:
      InputError: the file is missing, cannot be read or is not JSON; the message names file and line.
    """
    try:
        return json.loads(pathlib.Path(path).read_text())
    except FileNotFoundError:
        raise InputError(f'{path}: no such file') from None
    except OSError as error:
        raise InputError(f'{path}: cannot be read ({error.strerror})') from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f'{path}: not JSON: {error}') from None


def sha256_file(path: str | os.PathLike) -> str:
    """The sha256 of a file's bytes, in hex."""
    with open(path, 'rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()
