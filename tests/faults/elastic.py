"""A run saved on 1, 2, 4 or 8 devices goes on on 1, 2, 4 or 8: the state restored is the one saved, and the log the same to rounding."""

import itertools
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys

import numpy as np

from tests.faults.disk import reached, until
from tests.faults.findings import Findings
from tests.faults.runs import arrays, different_arrays, end, saved_steps, uninterrupted
from tests.tiny import ROOT, overrides, run, start
from tests.training.test_distributed import FIELDS

COUNTS = (1, 2, 4, 8)
BOUND = 2e-6  # of a relative difference that is rounding: as tests/training/test_distributed.py

# The state as the program restores it onto all devices that it was told to have, and what each of those then holds.
RESTORE = """
import pathlib, re, sys
import jax, numpy as np
from fer_jax.runs.checkpoint import Checkpoints
from fer_jax.core.config import from_record
from fer_jax.core.files import read_json
from fer_jax.training.run import build

workdir, devices, out = pathlib.Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
config = from_record(read_json(workdir / 'config.json'), 'config.json')
with config.unlocked():
    config.parallel.cpu_devices = devices
run = build(config)
assert run.mesh.size == jax.device_count() == devices
checkpoints = Checkpoints(workdir / 'checkpoints', 100)
state, _ = checkpoints.restore('latest', max(checkpoints.steps('latest')), run.abstract_state(), run.mesh)
for path, leaf in jax.tree.leaves_with_path(state):
    copies = [np.asarray(shard.data) for shard in leaf.addressable_shards]
    assert len(copies) == devices and all(copy.tobytes() == copies[0].tobytes() for copy in copies), jax.tree_util.keystr(path)
leaves = jax.tree.leaves_with_path(state)
np.savez(out, **{'.'.join(re.findall(r'\\w+', jax.tree_util.keystr(path))): np.asarray(leaf) for path, leaf in leaves})
"""


def campaign(folder: pathlib.Path, seed: int, small: bool) -> Findings:
    """Stops a run on each number of devices in its middle, and lets a copy go on on each number."""
    findings = Findings()
    counts = (2,) if small else COUNTS
    for saved_on in counts:
        whole = uninterrupted(folder, f'whole-{saved_on}', **fields(seed, saved_on))
        stopped = folder / f'stopped-{saved_on}'
        stop_in_the_middle(findings, stopped, seed, saved_on)
        saved = arrays(stopped)
        for restored_on in (4,) if small else COUNTS:
            name = f'saved on {saved_on}, restored on {restored_on}'
            findings.count(name)
            findings.check(restored(stopped, restored_on, saved), f'{name}: the state restored is not the one saved')
            copy = folder / f'{saved_on}-{restored_on}'
            shutil.copytree(stopped, copy)
            code, _, err = run('train', '--workdir', str(copy), *overrides(folder, **fields(seed, restored_on)))
            findings.check(code == 0 and 'resuming at step' in err, f'{name}: it ended with {code}: {err}')
            compare(findings, name, copy, whole, saved_on == restored_on)
    for left, right in itertools.combinations(counts, 2):
        compare(findings, f'whole on {left} and on {right}', folder / f'whole-{left}', folder / f'whole-{right}', False)
    return findings


def fields(seed: int, devices: int) -> dict[str, str]:
    """The overrides of a run."""
    return FIELDS | {'seed': str(seed), 'parallel__cpu_devices': str(devices)}


def stop_in_the_middle(findings: Findings, workdir: pathlib.Path, seed: int, devices: int) -> None:
    """A run that a signal has stopped between its first epoch and its last."""
    with open(workdir.with_suffix('.err'), 'w') as stream:
        process = start('train', '--workdir', str(workdir), *overrides(workdir.parent, **fields(seed, devices)), to=stream, cwd=ROOT)
    until(lambda: reached(workdir, 8), process)
    process.send_signal(signal.SIGTERM)
    code, _ = end(process)
    findings.check(code == 75, lambda: f'{workdir.name}: it was to be stopped, and ended with {code}')
    findings.told[f'stopped on {devices} at step'] = saved_steps(workdir)[-1]


def restored(workdir: pathlib.Path, devices: int, saved: dict[str, np.ndarray]) -> bool:
    """Whether the program restores on that many devices, each of which it gives a whole copy, what Orbax alone reads."""
    out = workdir.with_name(f'{workdir.name}-{devices}.npz')
    command = [sys.executable, '-W', 'ignore', '-c', RESTORE, str(workdir), str(devices), str(out)]
    subprocess.run(command, check=True, cwd=ROOT, env=os.environ | {'JAX_PLATFORMS': 'cpu'})
    with np.load(out) as stored:
        found = dict(stored)
    return not different_arrays(found, {'.'.join(re.findall(r'\w+', name)): array for name, array in saved.items()})


def compare(findings: Findings, name: str, workdir: pathlib.Path, reference: pathlib.Path, exact: bool) -> None:
    """Notes where the logs of two finished runs differ by more than rounding, or at all."""
    ours, theirs = ((each / 'metrics.jsonl').read_text() for each in (workdir, reference))
    left, right = ([json.loads(line) for line in text.splitlines()] for text in (ours, theirs))
    same_lines = [(line['step'], line['kind']) for line in left] == [(line['step'], line['kind']) for line in right]
    findings.check(same_lines, f'{name}: the logs have other lines')
    if exact:
        findings.check(ours == theirs and not different_arrays(arrays(workdir), arrays(reference)), f'{name}: not the same bits')
        findings.note('the same bits')
    worst = max(
        (abs(a[key] / b[key] - 1) for a, b in zip(left, right, strict=False) for key in ('loss', 'gradient_norm', 'nll') if key in b),
    )
    findings.check(worst < BOUND, f'{name}: the logs differ by {worst:.1e}')
    findings.told['largest relative difference of a log'] = max(findings.told.get('largest relative difference of a log', 0.0), worst)
