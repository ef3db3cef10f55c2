"""Bits flipped, bytes lost and files gone in checkpoints: each is noticed or without effect, and the one before is taken."""

import contextlib
import pathlib
import random
import shutil

import jax
import numpy as np

from fer_jax.core.config import from_record
from fer_jax.core.errors import InputError
from fer_jax.core.files import read_json
from fer_jax.runs.checkpoint import Checkpoints
from fer_jax.training.run import Run, build
from tests.faults.findings import Findings
from tests.faults.runs import saved_steps, uninterrupted
from tests.tiny import overrides, run

FIELDS = {'epochs': '3', 'evaluation__test': 'false'}
HARMS = ('flip', 'flip', 'truncate', 'zeros', 'delete', 'swap')


def campaign(folder: pathlib.Path, seed: int, small: bool) -> Findings:
    """Harms the newest checkpoint of a run, one file at a time, and looks at what is restored; some of it by whole commands."""
    findings, draws = Findings(), random.Random(seed)
    workdir = uninterrupted(folder, **FIELDS)
    run_of = build(from_record(read_json(workdir / 'config.json'), 'config.json'))
    whole = {step: states(run_of, workdir, step) for step in saved_steps(workdir)}
    kept = folder / 'kept'
    shutil.copytree(workdir / 'checkpoints', kept)
    for _ in range(12 if small else 300):
        shutil.rmtree(workdir / 'checkpoints')
        shutil.copytree(kept, workdir / 'checkpoints')
        harm = hurt(workdir / 'checkpoints' / 'latest' / str(max(whole)), draws)
        findings.count(harm.partition(' ')[0])
        with contextlib.closing(Checkpoints(workdir / 'checkpoints', 2)) as checkpoints:
            try:
                state, record, damaged = checkpoints.restore_newest(run_of.abstract_state(), run_of.mesh)
            except InputError as error:
                findings.wrong.append(f'{harm}: nothing was restored: {error}')
                continue
        step = int(state.step)
        findings.note('noticed' if damaged else 'without effect')
        equal = all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(state), whole[step], strict=True))
        findings.check(equal, f'{harm}: the state of step {step} is not what was saved')
        findings.check(record['config'] == read_json(workdir / 'config.json'), f'{harm}: the record of step {step} is not what was saved')
        # The best of the last step, where it is that, is as good as the latest one.
        findings.check((step < max(whole)) <= bool(damaged), f'{harm}: step {step} was taken without a word')
    shutil.rmtree(workdir / 'checkpoints')
    shutil.copytree(kept, workdir / 'checkpoints')
    by_command(folder, workdir, 1 if small else 4, draws, findings)
    return findings


def states(run_of: Run, workdir: pathlib.Path, step: int) -> list[np.ndarray]:
    """The leaves of the state that was saved."""
    with contextlib.closing(Checkpoints(workdir / 'checkpoints', 2)) as checkpoints:
        state, _ = checkpoints.restore('latest', step, run_of.abstract_state(), run_of.mesh)
    return [np.asarray(leaf) for leaf in jax.tree.leaves(state)]


def hurt(checkpoint: pathlib.Path, draws: random.Random) -> str:
    """Harms one file of a checkpoint, drawn with the larger ones first as often, and says how."""
    files = sorted(path for path in checkpoint.rglob('*') if path.is_file() and path.stat().st_size)
    victim = draws.choices(files, [path.stat().st_size ** 0.5 for path in files])[0]
    content, harm = bytearray(victim.read_bytes()), draws.choice(HARMS)
    place = draws.randrange(len(content))
    match harm:
        case 'flip':
            content[place] ^= 1 << draws.randrange(8)
        case 'truncate':
            del content[place:]
        case 'zeros':
            content[place : place + 4096] = bytes(len(content[place : place + 4096]))
        case 'swap':
            content = bytearray(draws.choice(files).read_bytes())
    if harm == 'delete':
        victim.unlink()
    else:
        victim.write_bytes(content)
    return f'{harm} at byte {place} of {victim.relative_to(checkpoint)}'


def by_command(folder: pathlib.Path, workdir: pathlib.Path, times: int, draws: random.Random, findings: Findings) -> None:
    """Harms the arrays of the newest checkpoints of an unfinished run, and gives the command of the run again."""
    for number in range(times):
        copy = folder / f'harmed-{number}'
        shutil.copytree(workdir, copy)
        (copy / 'result.json').unlink()
        newest, before = sorted(saved_steps(copy))[::-1][:2]
        kinds = ['latest', *(['best'] if newest in saved_steps(copy, 'best') else [])]
        for kind in kinds:
            for path in (copy / 'checkpoints' / kind / str(newest) / 'state').rglob('d/*'):
                content = bytearray(path.read_bytes())
                content[draws.randrange(len(content) // 4, len(content))] ^= 1
                path.write_bytes(content[: len(content) // 2] if number % 2 else content)
        code, _, err = run('train', '--workdir', str(copy), *overrides(folder, **FIELDS))
        findings.count('by the command')
        said = f'checkpoints/latest/{newest}: damaged' in err and f'going on from the checkpoint of step {before}' in err
        findings.check(said and 'Traceback' not in err, f'the command did not tell of both checkpoints: {err}')
        findings.check(code == 0, f'the command ended with {code}: {err}')
