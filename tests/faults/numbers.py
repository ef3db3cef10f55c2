"""Losses, parameters and moments turned to NaN, infinity or nonsense at a step: it stops, names the steps and keeps the last good state."""

import json
import pathlib
import random
import re
import shutil

import numpy as np

from tests.faults.findings import Findings
from tests.faults.inject import POISONS
from tests.faults.runs import arrays, differences, different_arrays, end, saved_steps, uninterrupted
from tests.tiny import ROOT, overrides, run, start

FIELDS = {'train__keep_checkpoints': '100', 'evaluation__test': 'false'}
STEPS, PER_EPOCH = 42, 7


def campaign(folder: pathlib.Path, seed: int, small: bool) -> Findings:
    """Each poison at steps that are drawn: without a rollback, then the same command without it; and with rollbacks."""
    findings, draws = Findings(), random.Random(seed)
    reference = uninterrupted(folder, **FIELDS)
    for number in range(1 if small else 4 * len(POISONS)):
        kind = list(POISONS)[number % len(POISONS)]
        stops(findings, reference, folder / f'stops-{number}', kind, draws.randrange(1, STEPS - 1))
    for number in range(1 if small else 2 * len(POISONS)):
        kind = list(POISONS)[number % len(POISONS)]
        goes_back(findings, folder, f'goes-back-{number}', kind, draws.randrange(1, STEPS - 1), draws.randrange(1, 4))
    return findings


def poisoned(workdir: pathlib.Path, kind: str, step: int, times: int, arguments: list[str]) -> tuple[int, str]:
    """Exit code and standard error of a run that `kind` strikes after `step`, until it has been rolled back `times` times."""
    process = start('train', '--workdir', str(workdir), *arguments, module=('tests.faults.inject', kind, str(step), str(times)), cwd=ROOT)
    return end(process)


def stops(findings: Findings, reference: pathlib.Path, workdir: pathlib.Path, kind: str, step: int) -> None:
    """One run that is to stop, and what it leaves; then the same command, which goes on from there."""
    arguments = overrides(reference.parent, **FIELDS)
    name = f'{kind} after step {step}'
    findings.count(kind)
    code, err = poisoned(workdir, kind, step, 1, arguments)
    last = (err.splitlines() or [''])[-1]
    findings.check(code == 1 and last.startswith('diverged: ') and 'Traceback' not in err, f'{name}: it ended with {code}: {err}')
    told = re.search(r'seen when steps (\d+) to (\d+) were looked at|(?:not finite|images) after step (\d+)', last)
    first, final = (0, -1) if told is None else map(int, (told[3], told[3]) if told[3] else (told[1], told[2]))
    # Poisoned parameters show in the loss of the step after, moments in that of the one after it, where the state was not looked at before.
    findings.check(first <= step + 1 + (kind == 'nan-moments') and step <= final, f'{name}: it said {last!r}')
    standing = saved_steps(workdir)
    findings.check(not standing or standing[-1] < step or kind == 'explosion', f'{name}: checkpoint {standing[-1:]} was saved after it')
    for each in (good for good in standing if good < step):
        different = different_arrays(arrays(workdir, each), arrays(reference, each))
        findings.check(not different, f'{name}: checkpoint {each}: {different[:3]} differ')
    for each in standing:
        finite = all(np.isfinite(array).all() for array in arrays(workdir, each).values())
        findings.check(finite, f'{name}: checkpoint {each} is not finite')
    if kind != 'explosion':
        code, _, err = run('train', '--workdir', str(workdir), *arguments)
        findings.check(code == 0, f'{name}: the same command ended with {code}: {err}')
        findings.wrong += [f'{name}: {each}' for each in differences(workdir, reference)]
    shutil.rmtree(workdir, ignore_errors=True)


def goes_back(findings: Findings, folder: pathlib.Path, name: str, kind: str, step: int, times: int) -> None:
    """One run that is to go back by itself, `times` times, and then to the end."""
    workdir = folder / name
    name = f'{kind} after step {step}, {times} times'
    findings.count(f'{kind}, rolled back')
    code, err = poisoned(workdir, kind, step, times, overrides(folder, **FIELDS, train__rollbacks='3', train__log_every='1'))
    findings.check(code == 0 and err.count('going back to step') == times, f'{name}: it ended with {code}: {err}')
    if code == 0:
        result = json.loads((workdir / 'result.json').read_text())
        findings.check(result['rollbacks'] == times, f'{name}: result.json counts {result["rollbacks"]} rollbacks')
        lines = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
        steps = [line['step'] for line in lines if line['kind'] == 'train']
        findings.check(steps == list(range(1, STEPS + 1)), f'{name}: the log has the steps {steps}')
    shutil.rmtree(workdir, ignore_errors=True)
