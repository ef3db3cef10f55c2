"""Writes a data set once, as ArrayRecord shards with a manifest of what is in them."""

import contextlib
import errno
import hashlib
import inspect
import io
import json
import os
import pathlib
import shutil
import tempfile
import time
import warnings

import numpy as np
from ml_collections import ConfigDict

from fer_jax.core.errors import DataWarning, InputError
from fer_jax.core.files import sha256_file, write_json
from fer_jax.data.archive import listing
from fer_jax.data.manifest import FORMAT, manifest_of, read_manifest
from fer_jax.data.near_duplicates import CLOSENESS, closeness, counts
from fer_jax.data.readers import FILES, READERS, read_source, request_of
from fer_jax.data.schema import IMAGE_SIDE, Source

RECORD_BYTES = IMAGE_SIDE**2 + 256  # of a record with its share of padding and index, rounded up
STALE = 86400  # seconds after which a temporary folder belongs to a process that was killed


def prepare(data: ConfigDict) -> dict:
    """The manifest of the data set that `data` (config.data) names, prepared under data.prepared if it is not already.

    What was prepared from the same path with the same options is taken as it is while the source's files keep their sizes and
    times of change, and also when the source is gone. Each warning in the manifest is also issued as a DataWarning.

    Raises:
      InputError: the source is missing or wrong, or the target cannot be written; nothing half-prepared is left.
    """
    try:
        request = request_of(data)
        signature = _signature(request)
        if signature is None:
            manifest = _prepared_of_missing(data, request)
        else:
            key = hashlib.sha256(json.dumps([FORMAT, request, signature]).encode()).hexdigest()[:16]
            if not (_root(data) / key / 'manifest.json').exists():
                _write(data, request, signature, key)
            manifest = read_manifest(_root(data) / key / 'manifest.json')
    except OSError as error:  # the system's refusals, such as a full disk or no permission
        where = error.filename or data.prepared
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise InputError(f'{where}: disk full while preparing {data.dataset}: free some space or set data.prepared') from None
        raise InputError(f'{where}: cannot be read or written: {error.strerror or error}') from None
    for warning in manifest['warnings']:
        warnings.warn(warning, DataWarning, stacklevel=2)
    return manifest


def prepared_folder(data: ConfigDict, manifest: dict) -> pathlib.Path:
    """Where the shards of a manifest lie."""
    return _root(data) / manifest['key']


def _root(data: ConfigDict) -> pathlib.Path:
    return pathlib.Path(data.prepared) / data.dataset


def _signature(request: dict) -> dict | None:
    """The source's state, cheap enough to look at on every run: names, sizes and times. None: it is not there."""
    if request['path'] is None:
        return {'code': sha256_file(inspect.getfile(READERS[request['dataset']]))}
    path = pathlib.Path(request['path'])
    if not path.exists():
        return None
    names = [''] if path.is_file() else listing(path).files
    for field in (field for field in FILES if field != 'path' and field in request):
        if not os.path.exists(request[field]):
            raise InputError(f'data.{field}: no such file: {request[field]}')
        names = [*names, request[field]]
    digest, total = hashlib.sha256(), 0
    for name in names:
        file = path / name
        status = os.stat(file) if file.exists() else os.lstat(file)  # of a link to nothing, of which the reader will tell
        total += status.st_size
        digest.update(json.dumps([name, status.st_size, status.st_mtime_ns]).encode())
    return {'files': len(names), 'bytes': total, 'state': digest.hexdigest()}


def _prepared_of_missing(data: ConfigDict, request: dict) -> dict:
    found = [read_manifest(path) for path in _root(data).glob('*/manifest.json')]
    found = [manifest for manifest in found if manifest['format'] == FORMAT and manifest['request'] == request]
    if not found:
        raise InputError(f'{data.path}: no such file or folder, and nothing prepared from it in {_root(data)}')
    return max(found, key=lambda manifest: manifest['prepared_at'])


def _write(data: ConfigDict, request: dict, signature: dict, key: str) -> None:
    """Reads the source and puts shards and manifest at <root>/<key>, in one rename."""
    root = _root(data)
    # Made before the source is read, which may take minutes: a folder that cannot be written is told at once.
    root.mkdir(parents=True, exist_ok=True)
    for leftover in root.glob('.preparing-*'):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - leftover.stat().st_mtime > STALE:
                shutil.rmtree(leftover, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f'.preparing-{key}-', dir=root, ignore_cleanup_errors=True) as temporary:
        source = read_source(data)
        sha256 = signature['code'] if request['path'] is None else _source_sha256(pathlib.Path(request['path']))
        if _signature(request) != signature:
            raise InputError(f'{data.path}: changed while it was read: prepare it again when it is whole')
        need, free = sum(map(len, source.splits.values())) * RECORD_BYTES + (1 << 20), shutil.disk_usage(root).free
        if free < need:
            found = f'{source.name} needs {need / 1e6:,.1f} MB, {free / 1e6:,.1f} MB are free'
            raise InputError(f'{root}: disk full: {found}: make room or set data.prepared to another disk')
        try:
            folder = _write_shards(source, pathlib.Path(temporary))
        except RuntimeError as error:  # of the shards' writer, which is C++, with the system's words in it
            code = errno.ENOSPC if os.strerror(errno.ENOSPC) in str(error) else errno.EIO
            raise OSError(code, ' '.join(str(error).split()), str(root)) from None
        near = closeness(source.splits) if request['path'] else None  # drawn faces are all alike
        if near is not None:
            np.savez(folder / CLOSENESS, **near)
        manifest = manifest_of(source, near and counts(near))
        write_json(folder / 'manifest.json', {'key': key, 'request': request, 'source': {'sha256': sha256, **signature}, **manifest})
        for file in folder.iterdir():
            with open(file, 'rb') as stream:
                os.fsync(stream.fileno())
        try:
            os.rename(folder, root / key)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise  # otherwise another process prepared the same meanwhile, and its copy is as good


def _source_sha256(path: pathlib.Path) -> str:
    """The sha256 of a file, or of a folder's names and files in order."""
    if path.is_file():
        return sha256_file(path)
    digest = hashlib.sha256()
    for name in listing(path).files:
        file = path / name
        # What is no file, such as a pipe, has no content; the reader has told of it.
        digest.update(json.dumps([name, sha256_file(file) if file.is_file() else None]).encode())
    return digest.hexdigest()


def _write_shards(source: Source, temporary: pathlib.Path) -> pathlib.Path:
    import tensorflow_datasets as tfds  # slow to import, and not needed where the set is prepared already

    from fer_jax.data.builders import BUILDERS

    tfds.disable_progress_bar()
    with contextlib.redirect_stdout(io.StringIO()):  # it announces a download
        builder = BUILDERS[source.name](source=source, data_dir=temporary)
        builder.download_and_prepare()
    return pathlib.Path(builder.data_path)
