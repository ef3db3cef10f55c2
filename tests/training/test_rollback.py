"""A run whose numbers go wrong at a step: it stops, says where, and keeps the last good state; or goes back by itself."""

import json
import pathlib
import re

import pytest

from tests.faults.inject import POISONS
from tests.tiny import ROOT, overrides, start

PER_EPOCH = 7  # steps of an epoch of tests/tiny.py: 252 training images by 32, rounded down


def poisoned(kind: str, step: int, times: int, *arguments: str) -> tuple[int, str, str]:
    """Exit code and outputs of a run that `kind` strikes after `step`, until it has been rolled back `times` times."""
    process = start(*arguments, module=('tests.faults.inject', kind, str(step), str(times)), cwd=ROOT)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def steps_of(workdir: pathlib.Path) -> list[int]:
    return [json.loads(line)['step'] for line in (workdir / 'metrics.jsonl').read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize('kind', POISONS)
def test_it_stops_and_names_the_steps_and_what_stands(tmp_path: pathlib.Path, kind: str) -> None:
    workdir = tmp_path / 'run'
    code, _, err = poisoned(kind, 2 * PER_EPOCH + 3, 1, 'train', '--workdir', str(workdir), *overrides(tmp_path))
    assert code == 1 and 'Traceback' not in err, err
    said = err.splitlines()[-1]
    assert re.search(rf'^diverged: .*(at|after) step \d+.*the checkpoint of step {2 * PER_EPOCH} stands', said), err
    assert sorted(int(path.name) for path in (workdir / 'checkpoints' / 'latest').iterdir()) == [PER_EPOCH, 2 * PER_EPOCH]
    assert not (workdir / 'result.json').exists()


@pytest.mark.slow
def test_it_goes_back_with_a_smaller_rate_and_counts_that(tmp_path: pathlib.Path) -> None:
    workdir = tmp_path / 'run'
    fields = overrides(tmp_path, train__rollbacks='2', train__log_every='1', optimizer__warmup_epochs='0', evaluation__test='false')
    code, _, err = poisoned('nan-parameters', 2 * PER_EPOCH + 3, 2, 'train', '--workdir', str(workdir), *fields)
    assert code == 0, err
    assert re.search(r'the loss is nan at step 18, .*; going back to step 14 with 0\.5 of the learning rate \(rollback 1 of 2\)', err), err
    assert re.search(r'going back to step 7 with 0\.25 of the learning rate \(rollback 2 of 2\)', err), err
    result = json.loads((workdir / 'result.json').read_text())
    assert result['rollbacks'] == 2 and result['starts'] == 1 and result['steps'] == 6 * PER_EPOCH
    lines = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
    rates = {line['step']: line['learning_rate'] for line in lines if line['kind'] == 'train'}
    assert list(rates) == list(range(1, 6 * PER_EPOCH + 1))  # none twice, though some were taken thrice
    # The cosine schedule falls from one step to the next by less than a tenth here, but for the cut to a quarter.
    assert rates[8] < 0.26 * rates[7] and rates[9] > 0.9 * rates[8] and rates[7] > 0.9 * rates[6]
    aside = {path.name for path in (workdir / 'checkpoints' / 'aside').iterdir()}
    assert aside - {'best-14-0'} == {'latest-14-0'}  # and the best, where that was the best so far


@pytest.mark.slow
def test_it_stops_when_it_has_gone_back_often_enough(tmp_path: pathlib.Path) -> None:
    workdir = tmp_path / 'run'
    fields = overrides(tmp_path, train__rollbacks='1')
    code, _, err = poisoned('explosion', 3, 9, 'train', '--workdir', str(workdir), *fields)
    assert code == 1 and 'going back to step 0 with 0.5 of the learning rate (rollback 1 of 1)' in err
    assert re.search(r'diverged: the loss is .*no checkpoint was due before', err.splitlines()[-1]), err
