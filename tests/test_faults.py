"""The campaigns of faults, a few tries of each; and that what does not hold is told."""

import json
import pathlib
import sys
import types

import pytest

from tests import faults
from tests.faults.__main__ import campaigns, perform
from tests.faults.findings import Findings


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
    expected = ['bad_data', 'concurrency', 'damage', 'determinism', 'disk', 'elastic', 'kills', 'numbers', 'soak']
    assert sorted(campaigns()) == expected


@pytest.mark.slow
@pytest.mark.parametrize('name', campaigns())
def test_a_few_tries_of_each(name: str, tmp_path: pathlib.Path) -> None:
    perform(name, 0, True, tmp_path)
    record = json.loads((tmp_path / f'{name}.json').read_text())
    assert record['wrong'] == [] and record['tried'] > 0
