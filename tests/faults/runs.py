"""Runs to do harm to, and what tells two of them apart."""

import json
import pathlib
import signal
import subprocess

import jax
import numpy as np
import orbax.checkpoint as ocp

from tests.tiny import overrides, run

SCORES = ('validation_centre', 'test_centre', 'test_ten', 'best_step', 'steps', 'parameters')


def uninterrupted(folder: pathlib.Path, name: str = 'uninterrupted', **fields: str) -> pathlib.Path:
    """The workdir of a tiny run that nothing happened to; the data of others lie beside it."""
    workdir = folder / name
    code, _, err = run('train', '--workdir', str(workdir), *overrides(folder, **fields))
    if code:
        raise RuntimeError(f'the run that nothing was to happen to ended with {code}: {err}')
    return workdir


def saved_steps(workdir: pathlib.Path, kind: str = 'latest') -> list[int]:
    """The steps whose checkpoints are complete."""
    return sorted(int(path.name) for path in (workdir / 'checkpoints' / kind).glob('*') if path.name.isdecimal())


def arrays(workdir: pathlib.Path, step: int | None = None) -> dict[str, np.ndarray]:
    """Every array of a latest checkpoint, read by Orbax alone; of the last one where no step is given."""
    step = saved_steps(workdir)[-1] if step is None else step
    path = (workdir / 'checkpoints' / 'latest' / str(step) / 'state').absolute()
    with ocp.PyTreeCheckpointer() as reader:  # as NumPy arrays, whatever devices this process has
        kinds = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), reader.metadata(path).item_metadata.tree)
        tree = reader.restore(path, restore_args=kinds)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(tree)}


def different_arrays(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> list[str]:
    """The names of those that are not equal to the last bit."""
    if left.keys() != right.keys():
        return sorted(left.keys() ^ right.keys())
    return [name for name in left if left[name].dtype != right[name].dtype or left[name].tobytes() != right[name].tobytes()]


def differences(workdir: pathlib.Path, reference: pathlib.Path) -> list[str]:
    """What is not to the last bit as in `reference`, of two finished runs: arrays, log, scores, predictions; and what was left behind."""
    if not (workdir / 'result.json').exists():
        return ['it has no result.json']
    found = [f'{name} differs' for name in different_arrays(arrays(workdir), arrays(reference))]
    names = ['metrics.jsonl', *(path.relative_to(reference) for path in reference.glob('evaluations/*/predictions.csv'))]
    found += [f'{name} differs' for name in names if (workdir / name).read_bytes() != (reference / name).read_bytes()]
    ours, theirs = (json.loads((each / 'result.json').read_text()) for each in (workdir, reference))
    found += [f'result.json: {key} differs' for key in SCORES if ours.get(key) != theirs.get(key)]
    return found + [f'{path} was left behind' for path in left_behind(workdir)]


def left_behind(workdir: pathlib.Path) -> list[str]:
    """Temporary files and folders below `workdir`."""
    return [str(path.relative_to(workdir)) for path in workdir.rglob('*') if 'tmp' in path.name or path.name.startswith('.time-')]


def end(process: subprocess.Popen, seconds: float = 240) -> tuple[int, str]:
    """Exit code and standard error of a process, which is killed when it takes too long."""
    try:
        _, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        _, err = process.communicate()
        err = f'{err or ""}\nkilled after {seconds} s'
    return process.returncode, err or ''
