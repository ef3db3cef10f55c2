"""The campaigns of faults, a few tries of each; and that what does not hold is told."""

import json
import pathlib
import re
import subprocess
import sys
import types

import pytest

from fer_jax.core.errors import InputError
from tests import faults
from tests.faults.__main__ import campaigns, perform
from tests.faults.bad_named import CASES
from tests.faults.bad_readers import READERS
from tests.faults.findings import Findings
from tests.tiny import ROOT


def as_campaign(monkeypatch: pytest.MonkeyPatch, findings: Findings) -> None:
    module = types.ModuleType('tests.faults.stub', 'Finds what it was told to.')
    module.campaign = lambda folder, seed, small: findings
    monkeypatch.setitem(sys.modules, 'tests.faults.stub', module)
    monkeypatch.setattr(faults, 'stub', module, raising=False)


def test_what_does_not_hold_is_told_and_recorded(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    findings = Findings()
    findings.count('kind', 3)
    findings.check(True, 'never told')
    findings.check(False, lambda: 'the third was lost')
    as_campaign(monkeypatch, findings)
    assert not perform('stub', 7, True, tmp_path)
    record = json.loads((tmp_path / 'stub.json').read_text())
    assert (record['tried'], record['wrong'], record['seed'], record['told']) == (3, ['the third was lost'], 7, {'kind': 3})
    assert record['command'] == 'python -m tests.faults stub --seed 7 --small'
    assert 'wrong: the third was lost\nstub: 3 tried, 1 wrong' in capsys.readouterr().out


def test_where_all_holds(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    as_campaign(monkeypatch, Findings(tried=1))
    assert perform('stub', 0, False, tmp_path)


def test_every_kind_of_fault_has_its_campaign() -> None:
    expected = ['bad_data', 'concurrency', 'damage', 'determinism', 'disk', 'elastic', 'fates', 'kills', 'memory', 'numbers', 'soak']
    assert sorted(campaigns()) == expected


@pytest.mark.filterwarnings('ignore::fer_jax.core.errors.DataWarning')  # of the counts, in the small sets beside the bad files
@pytest.mark.parametrize(
    ('reader', 'case', 'said'),
    [
        ('tar', 'a sparse map that is no numbers', 'damaged archive'),
        ('tar', 'a pax header of 3 GiB in gzip', 'a header of 3,221,225,472 bytes'),
        ('tar', 'a name of 3 GiB in gzip', 'a header of 3,221,225,472 bytes'),
        ('tar', 'a member of 8 EiB, it says', 'unpacks to more than'),
        ('zip', 'a member without a name', 'a member without a name'),
        ('FER+ votes', 'a file of 2¼ GiB of zeros', 'longer than 1,048,576 bytes'),
        ('FER+ votes', 'a line of 3 GiB in gzip', 'line 44: longer than 1,048,576 bytes'),
        ('CK+ tree', 'a thousand folders in each other', 'more than 100 folders in each other'),
        ('config.json', 'a pipe that nobody writes into', 'not a regular file'),
        ('config.json', 'a number of 5,000 digits', 'not JSON'),
        ('config.json', 'a number of 400 digits for a fraction', 'is not a number'),
        ('config.json', 'a file of 2¼ GiB of zeros', 'larger than'),
        ('safetensors', 'a pipe that nobody writes into', 'not a regular file'),
        ('safetensors', 'a network of 200,000 blocks', 'at most 100'),
        ('run folder', 'a sweep of variants that are no names', 'not a list of names'),
        ('run folder', 'an accuracy of 400 digits', 'no finite number'),
        ('run folder', 'metrics.jsonl: a link to an endless device', 'not a regular file'),
        ('prepared set', 'a manifest that is empty', 'has no field format'),
    ],
)
def test_what_a_campaign_once_found(reader: str, case: str, said: str, tmp_path: pathlib.Path) -> None:
    source, target = tmp_path / 'source', tmp_path / 'target'
    source.mkdir()
    target.mkdir()
    CASES[reader][case](source)
    try:
        with pytest.raises(InputError, match=re.escape(said)):
            READERS[reader].read(source, target)
    finally:  # Python's own way to delete folders has not the stack for a thousand in each other
        subprocess.run(['rm', '-rf', source], check=True)


@pytest.mark.slow
@pytest.mark.parametrize('name', campaigns())
def test_a_few_tries_of_each(name: str, tmp_path: pathlib.Path) -> None:
    # In a process of its own: reads that met damage leave Orbax's coroutines behind, of which pytest would make failures.
    command = [sys.executable, '-W', 'ignore', '-m', 'tests.faults', name, '--small', '--out', str(tmp_path)]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    record = json.loads((tmp_path / f'{name}.json').read_text())
    assert (process.returncode, record['wrong']) == (0, []) and record['tried'] > 0, process.stderr[-3000:]
