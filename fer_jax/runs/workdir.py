"""The folder of a run: where it is by default, whose it is, and what configuration it holds."""

import contextlib
import hashlib
import json
import pathlib
from collections.abc import Iterator

from ml_collections import ConfigDict

from fer_jax.core.config import decisive_values, differences, from_record
from fer_jax.core.errors import InputError
from fer_jax.core.files import TEMPORARY, clear_temporaries, read_json, write_json
from fer_jax.runs.claims import holding
from fer_jax.runs.environment import environment

CLAIMS = 'claims'  # the folder of a run's own claims


def default_workdir(config: ConfigDict) -> pathlib.Path:
    """runs/<name>-<hash of what decides the result>: the same command finds its own unfinished run again."""
    return pathlib.Path('runs') / f'{config.name}-{hashlib.sha256(json.dumps(decisive_values(config)).encode()).hexdigest()[:8]}'


def check_workdir(workdir: pathlib.Path, config: ConfigDict) -> None:
    """Returns if `workdir` is free or holds a run of this configuration.

    Raises:
      InputError: it holds a run of another configuration (the fields that differ are named), or something else.
    """
    if (workdir / 'config.json').exists():
        stored = stored_config(workdir)
        before, after = decisive_values(stored), decisive_values(config)
        differing = [line for line in differences(stored, config) if before.get(field := line.partition(':')[0]) != after.get(field)]
        if differing:
            raise InputError(f'{workdir} holds a run of another configuration ({"; ".join(differing)}); choose another --workdir')
    elif workdir.exists():
        # A run that was killed at its very start leaves its claims, and a file half written.
        begun = workdir.is_dir() and all(path.name == CLAIMS or TEMPORARY.fullmatch(path.name) for path in workdir.iterdir())
        if not begun:
            raise InputError(f'{workdir} is there already and is no run; choose another --workdir')


@contextlib.contextmanager
def claim_workdir(workdir: pathlib.Path, config: ConfigDict) -> Iterator[None]:
    """Makes the folder this process's meanwhile, clears away what a killed one has left, and writes config.json where none is.

    Raises:
      InputError: it cannot be written, holds something else, or another process is at work there.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(holding(workdir / CLAIMS, 'run', str(workdir)))
            check_workdir(workdir, config)  # once more: now nobody else can make another run of it
            clear_temporaries(workdir)
            if not (workdir / 'config.json').exists():
                write_json(workdir / 'config.json', config.to_dict())
        except OSError as error:
            raise InputError(f'--workdir {workdir}: {error.strerror}') from None
        yield


def note_start(workdir: pathlib.Path, config: ConfigDict) -> None:
    """Writes config.json and environment.json, as of the newest start; before it is known that the run can go on, the last one's stand.

    Raises:
      InputError: they cannot be written.
    """
    try:
        write_json(workdir / 'config.json', config.to_dict())
        write_json(workdir / 'environment.json', environment())
    except OSError as error:
        raise InputError(f'--workdir {workdir}: {error.strerror}') from None


def stored_config(workdir: pathlib.Path) -> ConfigDict:
    """The configuration of the run in `workdir`.

    Raises:
      InputError: no run is there, or its config.json does not fit this version.
    """
    path = workdir / 'config.json'
    if not path.exists():
        raise InputError(f'{workdir}: no run there (it has no config.json)')
    return from_record(read_json(path), str(path))
