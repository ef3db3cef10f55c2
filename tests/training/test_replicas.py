"""Several seeds in one program: each the run that it would be alone, with a folder, log and checkpoints of its own."""

import json
import math
import pathlib
import re
import signal
import time

import numpy as np
import pytest

from fer_jax.core.config import load_config
from fer_jax.core.errors import Diverged, InputError
from fer_jax.training import loop, plan, replicas
from fer_jax.training import sweep as module
from fer_jax.training.train import train
from tests import tiny

TOY = str(tiny.ROOT / 'configs' / 'toyfaces.py')
# Smooth, and by plain gradient descent: rounding then stays rounding.
SMOOTH = {'network__activation': 'silu', 'optimizer__name': 'sgd', 'train__log_every': '1', 'epochs': '2', 'evaluation__test': 'false'}


def toy(folder: pathlib.Path, seed: int, **fields: str):
    arguments = [text.removeprefix('--config.').split('=', 1) for text in tiny.overrides(folder, seed=str(seed), **SMOOTH | fields)]
    return load_config(TOY, dict(arguments))


def lines(workdir: pathlib.Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]


@pytest.mark.parametrize(
    ('together', 'expected'),
    [
        (1, [['a0'], ['b0'], ['a1'], ['b1'], ['a2'], ['b2']]),
        (2, [['a0', 'a1'], ['b0', 'b1'], ['a2'], ['b2']]),
        (9, [['a0', 'a1', 'a2'], ['b0', 'b1', 'b2']]),
    ],
)
def test_groups_differ_in_their_seed_only_and_come_in_order(together, expected):
    def of(name, seed):
        config = load_config(TOY, {'name': name, 'seed': str(seed)})
        return plan.SweepRun(f'{name}{seed}', f'{name}{seed}', config, pathlib.Path(name), 0)

    runs = [of(name, seed) for seed in range(3) for name in 'ab']
    assert [[each.key for each in group] for group in plan.groups(runs, together)] == expected


def test_a_sweep_gives_each_group_one_program_and_each_run_its_claim(tmp_path, monkeypatch, capsys):
    seen = []

    def train_together(configs, workdirs):
        seen.append([config.seed for config in configs])
        for config, workdir in zip(configs, workdirs, strict=True):
            workdir.mkdir(parents=True)
            (workdir / 'config.json').write_text(json.dumps(config.to_dict()))
            if config.seed != 1:
                (workdir / 'result.json').write_text(json.dumps({'test_centre': {'accuracy': 0.5}}))
        return [Diverged('the loss is nan') if config.seed == 1 else None for config in configs]

    monkeypatch.setattr(module, 'train_together', train_together)
    arguments = ['sweep', '--config', TOY, '--workdir', str(tmp_path / 's'), '--together']
    assert tiny.command([*arguments, '4', '--seeds', '0-2']) == 1
    assert seen == [[0, 1, 2]]
    out, err = capsys.readouterr()
    assert out.count('finished, test accuracy 50.00 %') == 2 and 'seed 1: failed: the loss is nan' in err
    states = {path.name: json.loads(path.read_text())['state'] for path in (tmp_path / 's' / 'claims').iterdir()}
    assert sorted(states.values()) == ['diverged', 'finished', 'finished']
    with pytest.raises(InputError, match='--together 0'):
        tiny.command([*arguments, '0', '--seeds', '0-2'])


def test_a_bad_folder_is_no_concern_of_the_others(tmp_path):
    """One of another configuration, one whose checkpoint is damaged, and one that has taken its steps and is only scored."""
    seeds, folders = (0, 1, 2), [tmp_path / f'r{seed}' for seed in range(3)]
    configs = [toy(tmp_path, seed, epochs='0.1') for seed in seeds]
    for folder, config in zip(folders, [toy(tmp_path, 0, epochs='7'), *configs[1:]], strict=True):
        folder.mkdir()
        (folder / 'config.json').write_text(json.dumps(config.to_dict()))
    (folders[1] / 'checkpoints' / 'latest' / '1' / 'state').mkdir(parents=True)
    (folders[1] / 'checkpoints' / 'latest' / '1' / '_CHECKPOINT_METADATA').write_text('{}')
    errors = replicas.train_together(configs, folders)
    assert 'another configuration (epochs: 7.0 → 0.1)' in str(errors[0]) and 'no checkpoint is what was saved' in str(errors[1])
    result = json.loads((folders[2] / 'result.json').read_text())
    assert errors[2] is None and result['runs_at_once'] == 1
    log = (folders[2] / 'logs' / 'process-0.log').read_text()
    assert 'start: process 0 of 1' in log and '1 seeds in one program' in log and log.rstrip().endswith('end')
    assert not (folders[0] / 'logs').exists()


@pytest.mark.slow
def test_each_run_is_what_it_is_alone(tmp_path, monkeypatch):
    """Three seeds, of which the second is made to diverge, beside two of them by train."""
    pending = loop.Loop.pending

    def diverging(self):
        if self.run.config.seed == 1 and self.step > 9:
            raise Diverged('the loss is nan at step 10')
        return pending(self)

    monkeypatch.setattr(loop.Loop, 'pending', diverging)
    seeds = (0, 1, 4)
    errors = replicas.train_together([toy(tmp_path, seed) for seed in seeds], [tmp_path / f'r{seed}' for seed in seeds])
    assert [error and str(error) for error in errors] == [None, 'the loss is nan at step 10', None]
    assert not (tmp_path / 'r1' / 'result.json').exists()
    for seed in (0, 4):
        train(toy(tmp_path, seed), tmp_path / f'a{seed}')
        ours, alone = lines(tmp_path / f'r{seed}'), lines(tmp_path / f'a{seed}')
        assert [(line['step'], line['kind']) for line in ours] == [(line['step'], line['kind']) for line in alone]
        for name in ('loss', 'gradient_norm', 'nll'):
            values = [[line[name] for line in each if name in line] for each in (ours, alone)]
            np.testing.assert_allclose(*values, rtol=1e-5, err_msg=name)
        result = json.loads((tmp_path / f'r{seed}' / 'result.json').read_text())
        assert result['seed'] == seed and result['runs_at_once'] == 3
    assert abs(lines(tmp_path / 'r0')[0]['loss'] - lines(tmp_path / 'r4')[0]['loss']) > 1e-4


@pytest.mark.slow
def test_stopped_together_and_gone_on_from_different_steps(tmp_path):
    """SIGTERM saves both; with one of them put back to an earlier checkpoint, both still end as if nothing had been."""
    arguments = ['sweep', '--config', TOY, '--seeds', '0-1', '--together', '2']
    fields = tiny.overrides(tmp_path, **SMOOTH | {'epochs': '4'})
    code, _, err = tiny.run(*arguments, '--workdir', str(tmp_path / 'whole'), *fields)
    assert code == 0 and '2 seeds in one program' in err, err
    process = tiny.start(*arguments, '--workdir', str(tmp_path / 'cut'), *fields)
    log, deadline = tmp_path / 'cut' / 'toyfaces' / 'seed1' / 'metrics.jsonl', time.monotonic() + 200
    while not (log.exists() and '"step": 16' in log.read_text()) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=200)
    assert process.returncode == 75, err
    steps = {}
    for seed in range(2):
        latest = tmp_path / 'cut' / 'toyfaces' / f'seed{seed}' / 'checkpoints' / 'latest'
        steps[seed] = sorted(int(path.name) for path in latest.iterdir() if path.name.isdecimal())
    assert steps[0] == steps[1] and steps[0][-1] == int(re.search(r'at step (\d+), which is saved', err)[1])
    last = tmp_path / 'cut' / 'toyfaces' / 'seed1' / 'checkpoints' / 'latest' / str(steps[1][-1])
    last.rename(tmp_path / 'gone')
    code, _, err = tiny.run(*arguments, '--workdir', str(tmp_path / 'cut'), *fields)
    assert code == 0, err
    for seed in range(2):
        whole, cut = (lines(tmp_path / name / 'toyfaces' / f'seed{seed}') for name in ('whole', 'cut'))
        assert [(line['step'], line['kind']) for line in whole] == [(line['step'], line['kind']) for line in cut]
        for left, right in zip(whole, cut, strict=True):
            assert math.isclose(left.get('loss', left.get('nll')), right.get('loss', right.get('nll')), rel_tol=1e-5)
