"""Whether what a run is given is what it was trained on: the images, and the files beside them that say what they are taken for."""

import hashlib
import os
import pathlib
from typing import Any

from ml_collections import ConfigDict

from fer_jax.core.errors import InputError
from fer_jax.core.files import MOST_TEXT, check_fields, read_bytes, read_json
from fer_jax.data.prepare import prepare


def check_content(manifest: dict[str, Any], record: dict[str, Any]) -> None:
    """Returns if the data of `manifest` are what the checkpoint, or the run, with this record was trained on.

    Raises:
      InputError: they are not.
    """
    found, wanted = manifest['content_sha256'], record['content_sha256']
    if found != wanted:
        raise InputError(
            f'{manifest["dataset"]}: these are not the data that the run was trained on: their content has sha256'
            f' {found[:12]}…, not {wanted[:12]}…; give the same with --config.data.path=…, or another --workdir'
        )


def files_sha256(data: ConfigDict) -> dict[str, list[str]]:
    """The sha256 of FER+'s votes and of each teacher's predictions, by their fields.

    A field whose file is not there is left out: who reads it will tell.

    Raises:
      InputError: a file cannot be read.
    """
    paths = {'data.votes': [data.votes] * bool(data.votes), 'data.teacher': data.teacher.split(',') if data.teacher else []}
    return {
        field: [hashlib.sha256(read_bytes(path, MOST_TEXT)).hexdigest() for path in given]
        for field, given in paths.items()
        if given and all(map(os.path.exists, given))
    }


def check_files(found: dict[str, list[str]], record: dict[str, Any]) -> None:
    """Returns if `found` (as of files_sha256) are the files of the run with this record, as far as it names any.

    Raises:
      InputError: they are not.
    """
    known = record.get('files_sha256', {})
    for field, sums in found.items():
        wanted = known.get(field, sums)
        if sums != wanted:
            now, then = (', '.join(f'{each[:12]}…' for each in several) for several in (sums, wanted))
            raise InputError(f'{field}: not what the run was trained by: its sha256 is {now}, not {then}; give that, or another --workdir')


def check_finished(workdir: pathlib.Path, config: ConfigDict) -> None:
    """Returns if the finished run in `workdir` had the data that `config` names; where those are gone, it is as the folder says.

    Raises:
      InputError: it had others, or its result.json does not say which.
    """
    path = workdir / 'result.json'
    record = read_json(path)
    there = bool(config.data.path and os.path.exists(config.data.path))  # what is drawn has no path: the configuration decides it
    check_fields(record, {'content_sha256': str} if there else {}, path)
    if there:
        check_content(prepare(config.data), record)
    check_files(files_sha256(config.data), record)
