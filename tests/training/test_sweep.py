"""Sweeps: each run once, skipped or resumed, failures told and the rest carried on, shared by many processes; configs/ablation.py."""

import functools
import json
import math
import os
import pathlib
import re
import signal
import subprocess
import sys
import textwrap
import time
import types

import jax
import jax.numpy as jnp
import pytest

from fer_jax.core.config import load_variants, values
from fer_jax.core.errors import Diverged, InputError, Interrupted
from fer_jax.core.processes import stop_signals
from fer_jax.model.fernet import make_network
from fer_jax.runs.claims import heartbeat, latest
from fer_jax.training import plan
from fer_jax.training import sweep as module
from tests import tiny

ROOT = pathlib.Path(__file__).parent.parent.parent
ABLATION = str(ROOT / 'configs' / 'ablation.py')
TWO = """
from fer_jax.core.fields import default_config
def get_configs():
    for name, groups in (('a', 2), ('b', 4)):
        config = default_config()
        config.name = name
        config.network.shuffle_groups = groups
        yield config
"""
ALL = ['a-seed0', 'b-seed0', 'a-seed1', 'b-seed1']


@pytest.fixture
def two(tmp_path: pathlib.Path) -> str:
    """A file of the configurations a and b."""
    path = tmp_path / 'two.py'
    path.write_text(TWO)
    return str(path)


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The runs that a train of no computation has begun; each ends with 70 + 2 · seed % of the images right."""
    names = []

    def train(config, workdir):
        names.append(f'{config.name}-seed{config.seed}')
        finish(config, workdir)

    stand_in(monkeypatch, train)
    return names


def stand_in(monkeypatch: pytest.MonkeyPatch, train) -> None:
    """Puts `train` in the place of fer_jax.training.train's; such runs leave nothing to collect, which takes a while with JAX loaded."""
    monkeypatch.setattr(module, 'train', train)
    monkeypatch.setattr(module, 'give_memory_back', lambda: None)


def begin(config, workdir):
    """The folder of a run that has begun."""
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / 'config.json').write_text(json.dumps(config.to_dict()))


def finish(config, workdir):
    """What a run leaves, as far as a sweep looks at it."""
    begin(config, workdir)
    (workdir / 'result.json').write_text(json.dumps({'test_centre': {'accuracy': 0.70 + 0.02 * config.seed}}))


def failing(monkeypatch: pytest.MonkeyPatch, errors: dict[str, BaseException]) -> list[str]:
    """Puts a train in place that raises these errors for these runs, once each; returns the list of those begun."""
    names, left = [], dict(errors)

    def train(config, workdir):
        names.append(f'{config.name}-seed{config.seed}')
        if names[-1] in left:
            begin(config, workdir)
            raise left.pop(names[-1])
        finish(config, workdir)

    stand_in(monkeypatch, train)
    return names


def sweep(reference: str, folder: pathlib.Path, *arguments: str) -> int:
    """`python -m fer_jax sweep`, here."""
    return tiny.command(['sweep', '--config', reference, '--seeds', '0-1', '--workdir', str(folder), *arguments])


# --- What is run


@pytest.mark.parametrize(
    ('text', 'seeds'), [('0-4', [0, 1, 2, 3, 4]), ('3', [3]), ('0,3,7-9', [0, 3, 7, 8, 9]), ('2, 1-2', [2, 1]), ('4294967295', [2**32 - 1])]
)
def test_seeds(text, seeds):
    assert plan.parse_seeds(text) == seeds


@pytest.mark.parametrize('text', ['', '4-0', '-1', 'a', '1-', '0,,1', '1.5', '0:4', '4294967296', '0-4294967295', '0-9999,10000', '٣'])
def test_wrong_seeds_are_one_line(text):
    with pytest.raises(InputError, match=re.escape(f'--seeds {text}')) as error:
        plan.parse_seeds(text)
    assert '\n' not in str(error.value)


def test_every_configuration_with_every_seed(two, begun, tmp_path, capsys):
    assert sweep(two, tmp_path / 's', '--config.epochs=3') == 0
    assert begun == ALL
    out = capsys.readouterr().out
    assert '[3/4] a seed 1: not begun\n[3/4] a seed 1: finished, test accuracy 72.00 %\n' in out
    # Mean of 70 and 72, and sqrt((1 + 1) / 1).
    assert re.search(r'^a +2/2 +test +71\.00 +1\.41$', out, re.MULTILINE) and re.search(r'^b +2/2 +test +71\.00 +1\.41$', out, re.MULTILINE)
    assert f'python -m fer_jax report --workdir {tmp_path / "s"}' in out
    order = json.loads((tmp_path / 's' / 'sweep.json').read_text())
    assert order == {'config': two, 'overrides': {'epochs': '3'}, 'variants': ['a', 'b'], 'seeds': [0, 1]}
    assert {path.name for path in (tmp_path / 's').iterdir()} == {'a', 'b', 'claims', 'sweep.json'}


def test_a_runs_configuration_is_the_files_with_its_seed(two, tmp_path):
    variants = plan.name_variants(two, {'epochs': '3'})
    runs = plan.plan_runs(variants, [0, 5], '', tmp_path)
    assert [(run.config.name, run.config.seed) for run in runs] == [('a', 0), ('b', 0), ('a', 5), ('b', 5)]
    assert [run.folder.relative_to(tmp_path).as_posix() for run in runs] == ['a/seed0', 'b/seed0', 'a/seed5', 'b/seed5']
    for made in runs:
        assert values(made.config) == values(load_variants(two, {'epochs': '3', 'seed': str(made.config.seed)})[made.config.name])
        assert made.config.is_locked


def test_only_some(two, begun, tmp_path):
    assert sweep(two, tmp_path / 's', '--only', 'b') == 0
    assert begun == ['b-seed0', 'b-seed1']


def test_one_configuration_is_a_sweep_too(begun, tmp_path):
    assert sweep(str(ROOT / 'configs' / 'toyfaces.py'), tmp_path / 's', '--config.name=other') == 0
    assert begun == ['other-seed0', 'other-seed1'] and (tmp_path / 's' / 'other' / 'seed1' / 'result.json').exists()


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--only', 'c,a'], "unknown configuration 'c'"),
        (['--config.seed=3'], 'give --seeds'),
        (['--config.name=x'], 'gives the 2 configurations'),
        (['--config.epochs=-1'], 'epochs=-1.0'),
        (['--seeds', '3-1'], '--seeds 3-1'),
    ],
)
def test_wrong_input_is_one_line(two, begun, tmp_path, arguments, message):
    with pytest.raises(InputError, match=re.escape(message)) as error:
        sweep(two, tmp_path / 's', *arguments)
    assert '\n' not in str(error.value) and not begun and not (tmp_path / 's').exists()


@pytest.mark.parametrize('name', ['../up', 'a/b', '', '.', 'claims', 'sweep.json', 'a b'])
def test_names_that_are_no_folders(two, name):
    path = pathlib.Path(two)
    path.write_text(TWO.replace("'a'", repr(name)))
    with pytest.raises(InputError, match='would be a folder of the sweep'):
        plan.name_variants(two, {})


def test_a_seed_behind_the_file_is_refused(two):
    with pytest.raises(InputError, match='give --seeds'):
        plan.name_variants(two + ':groups=2,seed=3', {})


def test_the_folder_of_a_run_is_no_folder_for_a_sweep(two, begun, tmp_path):
    begin(plan.name_variants(two, {})['a'], tmp_path / 's')
    with pytest.raises(InputError, match='is the folder of a run'):
        sweep(two, tmp_path / 's')
    (tmp_path / 'file').write_text('')
    with pytest.raises(InputError, match='--workdir'):
        sweep(two, tmp_path / 'file')


def test_the_default_folder_is_found_again(two):
    def folder(reference: str = two, **overrides: str) -> pathlib.Path:
        fields = {name.replace('__', '.'): text for name, text in overrides.items()}
        return plan.default_sweep_workdir(reference, plan.name_variants(reference, fields))

    assert re.fullmatch(r'runs/two-[0-9a-f]{8}', folder().as_posix())
    assert folder() == folder(data__prepared='elsewhere') != folder(epochs='3') and folder(f'{two}:epochs=3') == folder(epochs='3')


# --- How it goes on


def test_finished_runs_are_skipped(two, begun, tmp_path, capsys):
    sweep(two, tmp_path / 's', '--only', 'a')
    assert sweep(two, tmp_path / 's') == 0
    assert begun == ['a-seed0', 'a-seed1', 'b-seed0', 'b-seed1']
    assert '[1/4] a seed 0: finished, test accuracy 70.00 %' in capsys.readouterr().out


@pytest.mark.parametrize('error', [Interrupted('stopped at step 7'), KeyboardInterrupt()], ids=repr)
def test_a_signal_stops_the_sweep_and_the_same_command_goes_on(two, tmp_path, monkeypatch, error):
    names = failing(monkeypatch, {'b-seed0': error})
    with pytest.raises(Interrupted):
        sweep(two, tmp_path / 's')
    assert names == ALL[:2]
    assert sweep(two, tmp_path / 's') == 0
    assert names == [*ALL[:2], *ALL[1:]]


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize('at_the_end', [True, False])
def test_a_real_signal(two, tmp_path, monkeypatch, number, at_the_end):
    """Outside of a run's steps it breaks off at once; a run that takes it at its very end is finished, and the sweep stops."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # nohup, or a shell in the background, has tests ignore it
    before, names = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)], []

    def train(config, workdir):
        names.append(f'{config.name}-seed{config.seed}')
        if at_the_end:
            with stop_signals():
                os.kill(os.getpid(), number)
                finish(config, workdir)
        else:
            os.kill(os.getpid(), number)
            finish(config, workdir)

    stand_in(monkeypatch, train)
    with pytest.raises(Interrupted):
        sweep(two, tmp_path / 's')
    assert names == ALL[:1] and (tmp_path / 's' / 'a' / 'seed0' / 'result.json').exists() == at_the_end
    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)] == before
    assert latest(tmp_path / 's' / 'claims', 'a-seed0').record['state'] != 'running'


@pytest.mark.parametrize(
    ('errors', 'code', 'told'),
    [
        ({'b-seed0': InputError('no such image')}, 1, 'b seed 0: failed: no such image'),
        ({'b-seed0': Diverged('the loss is nan')}, 1, 'b seed 0: failed: the loss is nan'),
        ({'b-seed0': OSError(28, 'No space left on device')}, 1, 'No space left on device'),
        ({'b-seed0': RuntimeError('INTERNAL:\nno such thing')}, 1, 'failed: RuntimeError: INTERNAL: no such thing'),
        ({run: InputError('no such file') for run in ALL}, 2, 'a seed 1: failed: no such file'),
        ({run: InputError('no such file') for run in ALL[1:]} | {'a-seed0': Diverged('nan')}, 1, 'a seed 0: failed: nan'),
    ],
    ids=['input', 'diverged', 'disk', 'unforeseen', 'all input', 'all, not all of them input'],
)
def test_a_failure_is_told_and_the_rest_carried_on(two, tmp_path, monkeypatch, capsys, errors, code, told):
    names = failing(monkeypatch, errors)
    assert sweep(two, tmp_path / 's') == code
    captured = capsys.readouterr()
    assert names == ALL and told in captured.err
    assert captured.out.count('finished, test') == 4 - len(errors)
    assert ('Traceback' in captured.err) == any(isinstance(error, RuntimeError) for error in errors.values())
    if len(errors) == 1:
        assert re.search(r'^b +1/2 +test +72\.00 +–$', captured.out, re.MULTILINE)
    assert sweep(two, tmp_path / 's') == 0, 'what failed is tried again by the next command'


def test_a_run_of_another_configuration_fails_with_its_fields(two, begun, tmp_path, capsys):
    sweep(two, tmp_path / 's', '--only', 'a')
    assert sweep(two, tmp_path / 's', '--config.epochs=3') == 1
    assert 'epochs: 20.0 → 3.0' in capsys.readouterr().err
    assert begun == ['a-seed0', 'a-seed1', 'b-seed0', 'b-seed1']
    assert sweep(two, tmp_path / 's', '--config.epochs=3', '--only', 'a') == 2


def test_a_result_without_accuracy_fails(two, begun, tmp_path, capsys):
    sweep(two, tmp_path / 's')
    (tmp_path / 's' / 'a' / 'seed0' / 'result.json').write_text('{}')
    (tmp_path / 's' / 'b' / 'seed0' / 'result.json').write_text('{')
    assert sweep(two, tmp_path / 's') == 1
    err = capsys.readouterr().err
    assert 'has no accuracy of test' in err and 'not JSON' in err


def test_another_number_of_cpu_devices_fails(two, begun, tmp_path, capsys):
    pathlib.Path(two).write_text(TWO.replace('yield', 'config.parallel.cpu_devices = groups; yield'))
    assert sweep(two, tmp_path / 's') == 1
    assert begun == ['a-seed0', 'a-seed1'] and 'parallel.cpu_devices=4, but this process has 2' in capsys.readouterr().err
    assert sweep(two, tmp_path / 's', '--only', 'b') == 0


def test_dry_run_tells_how_far_each_is_and_writes_nothing(two, begun, tmp_path, capsys):
    folder = tmp_path / 's'
    assert sweep(two, folder, '--dry-run') == 0
    assert not folder.exists() and not begun
    variants = plan.name_variants(two, {})
    finish(variants['a'], folder / 'a' / 'seed0')
    for step in (5, 120):
        (folder / 'b' / 'seed0' / 'checkpoints' / 'latest' / str(step)).mkdir(parents=True)
    begin(variants['b'], folder / 'b' / 'seed0')
    (folder / 'claims').mkdir()
    claim = {'host': 'elsewhere', 'process': 7, 'machine': 'another'}
    (folder / 'claims' / 'a-seed1.1.json').write_text(json.dumps(claim | {'state': 'running'}))
    (folder / 'claims' / 'b-seed1.1.json').write_text(json.dumps(claim | {'state': 'diverged', 'reason': 'the loss is nan'}))
    before = sorted(folder.rglob('*'))
    capsys.readouterr()
    assert sweep(two, folder, '--dry-run') == 0
    assert capsys.readouterr().out.splitlines() == [
        '[1/4] a seed 0: finished, test accuracy 70.00 %',
        '[2/4] b seed 0: unfinished, at step 120',
        '[3/4] a seed 1: not begun, running on elsewhere, process 7',
        '[4/4] b seed 1: not begun, failed: the loss is nan',
    ]
    assert sorted(folder.rglob('*')) == before and not begun
    sweep(two, folder, '--dry-run', '--config.epochs=3')
    assert 'another configuration (epochs: 20.0 → 3.0)' in capsys.readouterr().out


# --- Several at once


def claimed_elsewhere(folder: pathlib.Path, run: str, **fields: object) -> pathlib.Path:
    """A claim of another host on `run`, alive just now."""
    (folder / 'claims').mkdir(parents=True, exist_ok=True)
    path = folder / 'claims' / f'{run}.1.json'
    path.write_text(json.dumps({'host': 'elsewhere', 'process': 7, 'machine': 'another', 'state': 'running'} | fields))
    return path


def once_it_waits(monkeypatch: pytest.MonkeyPatch, function, *arguments) -> None:
    """Calls the function when the sweep first has nothing to do but wait."""
    left = [function]

    def sleep(seconds: float) -> None:
        assert seconds == module.POLL_SECONDS
        if left:
            left.pop()(*arguments)

    monkeypatch.setattr(module, 'time', types.SimpleNamespace(sleep=sleep))


def test_it_waits_for_what_others_have(two, begun, tmp_path, monkeypatch, capsys):
    claimed_elsewhere(tmp_path / 's', 'b-seed0')
    once_it_waits(monkeypatch, finish, plan.name_variants(two, {})['b'], tmp_path / 's' / 'b' / 'seed0')
    assert sweep(two, tmp_path / 's') == 0
    assert begun == ['a-seed0', 'a-seed1', 'b-seed1']
    out = capsys.readouterr().out
    assert out.count('waiting for b-seed0 (elsewhere, process 7)\n') == 1 and '[2/4] b seed 0: finished' in out


def test_it_takes_over_what_others_lose(two, begun, tmp_path, monkeypatch):
    claim = claimed_elsewhere(tmp_path / 's', 'b-seed0')
    once_it_waits(monkeypatch, os.utime, claim, (0, 0))
    assert sweep(two, tmp_path / 's') == 0
    assert begun == ['a-seed0', 'a-seed1', 'b-seed1', 'b-seed0']


def test_what_diverges_elsewhere_meanwhile_is_not_tried_again(two, begun, tmp_path, monkeypatch, capsys):
    claimed_elsewhere(tmp_path / 's', 'b-seed0')
    once_it_waits(monkeypatch, lambda: claimed_elsewhere(tmp_path / 's', 'b-seed0', state='diverged', reason='the loss is nan'))
    assert sweep(two, tmp_path / 's') == 1
    assert begun == ['a-seed0', 'a-seed1', 'b-seed1'] and 'b seed 0: failed: the loss is nan' in capsys.readouterr().err


def test_what_diverged_before_is_tried_again(two, begun, tmp_path):
    claim = claimed_elsewhere(tmp_path / 's', 'b-seed0', state='diverged', reason='the loss is nan')
    os.utime(claim, (time.time() - 60,) * 2)
    assert sweep(two, tmp_path / 's') == 0 and begun == ALL


def test_what_failed_here_and_was_done_elsewhere_is_done(two, tmp_path, monkeypatch):
    def train(config, workdir):
        if (config.name, config.seed) == ('b', 1):
            finish(plan.name_variants(two, {})['a'], tmp_path / 's' / 'a' / 'seed0')
        if (config.name, config.seed) == ('a', 0):
            raise InputError('fer2013.csv: no such file')
        finish(config, workdir)

    stand_in(monkeypatch, train)
    assert sweep(two, tmp_path / 's') == 0


def test_who_is_taken_over_leaves_the_run_and_goes_on(two, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, 'heartbeat', functools.partial(heartbeat, seconds=0.02))
    folder, names = tmp_path / 's', []
    once_it_waits(monkeypatch, finish, plan.name_variants(two, {})['b'], folder / 'b' / 'seed0')

    def train(config, workdir):
        names.append(f'{config.name}-seed{config.seed}')
        if names[-1] == 'b-seed0':
            claimed_elsewhere(folder, 'b-seed0').rename(folder / 'claims' / 'b-seed0.2.json')
            time.sleep(60)
        finish(config, workdir)

    stand_in(monkeypatch, train)
    assert sweep(two, folder) == 0
    assert names == ALL and 'b seed 0: another process has taken it over' in capsys.readouterr().err


# A worker whose train takes a moment and notes each begin and end; it needs no JAX.
WORKER = """
import os, sys, time, types
from fer_jax.core.files import write_json

log, hang = sys.argv[1:3]

def note(what, config):
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f'{what} {config.name}-seed{config.seed}\\n'.encode())
    os.close(descriptor)

def train(config, workdir):
    note('begin', config)
    if f'{config.name}-seed{config.seed}' == hang:
        time.sleep(1000)
    time.sleep(0.02)
    note('end', config)
    workdir.mkdir(parents=True)
    write_json(workdir / 'config.json', config.to_dict())
    write_json(workdir / 'result.json', {'test_centre': {'accuracy': 0.5}})

sys.modules['fer_jax.training.train'] = types.SimpleNamespace(train=train)
sys.modules['fer_jax.training.replicas'] = types.SimpleNamespace(train_together=None)
from fer_jax.training import sweep
from fer_jax.__main__ import main
assert 'jax' not in sys.modules
sweep.POLL_SECONDS = 0.05
sys.exit(main(sys.argv[3:]))
"""


def start_worker(folder: pathlib.Path, reference: str, seeds: str, hang: str = '') -> subprocess.Popen:
    arguments = ['sweep', '--config', reference, '--seeds', seeds, '--workdir', str(folder / 's')]
    return subprocess.Popen(
        [sys.executable, '-c', textwrap.dedent(WORKER), str(folder / 'log'), hang, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_ten_processes_run_each_run_once(two, tmp_path):
    workers = [start_worker(tmp_path, two, '0-19') for _ in range(10)]
    for worker in workers:
        out, err = worker.communicate(timeout=120)
        assert worker.returncode == 0, err
        assert len(re.findall(r'^\[\d+/40\] \w seed \d+: finished', out, re.MULTILINE)) == 40, 'each tells of all'
    notes = (tmp_path / 'log').read_text().splitlines()
    expected = [f'{what} {name}-seed{seed}' for what in ('begin', 'end') for name in 'ab' for seed in range(20)]
    assert sorted(notes) == sorted(expected)


def test_a_killed_workers_run_is_picked_up(two, tmp_path):
    lost = start_worker(tmp_path, two, '0-2', hang='a-seed0')
    deadline = time.monotonic() + 60
    while not (tmp_path / 'log').exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    worker = start_worker(tmp_path, two, '0-2')
    for line in worker.stdout:
        if line.startswith('waiting for'):
            break
    assert line == f'waiting for a-seed0 ({os.uname().nodename}, process {lost.pid})\n'
    lost.kill()
    lost.communicate()
    _, err = worker.communicate(timeout=60)
    assert worker.returncode == 0, err
    notes = (tmp_path / 'log').read_text().splitlines()
    assert notes.count('begin a-seed0') == 2 and notes.count('end a-seed0') == 1 and len(notes) == 13


# --- Real runs


def alone_in_a_file(two: str) -> str:
    """A file of b alone, beside that of both."""
    path = pathlib.Path(two).with_name('b.py')
    path.write_text(TWO.replace("('a', 2), ('b', 4)", "('b', 4),"))
    return str(path)


@pytest.mark.slow
def test_real_runs_stopped_and_resumed(two, tmp_path):
    """Two networks × two seeds, stopped in the second run; the last one is to the byte what `train` makes of it by itself."""
    b = alone_in_a_file(two)
    fields = {'epochs': '3', 'train__log_every': '1'}
    arguments = ['--config', two, '--seeds', '0,7', '--workdir', str(tmp_path / 's'), *tiny.overrides(tmp_path, **fields)]
    process = tiny.start('sweep', *arguments)
    log, deadline = tmp_path / 's' / 'b' / 'seed0' / 'metrics.jsonl', time.monotonic() + 240
    while not (log.exists() and '"step": 9,' in log.read_text()) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=240)
    assert process.returncode == 75 and 'goes on from there' in err, err
    code, out, _ = tiny.run('sweep', *arguments, '--dry-run')
    assert code == 0 and re.search(r'^\[2/4\] b seed 0: unfinished, at step \d+$', out, re.MULTILINE)
    code, out, err = tiny.run('sweep', *arguments)
    assert code == 0 and 'resuming at step' in err, err
    assert re.search(r'^a +2/2 +test +\d+\.\d\d +\d+\.\d\d$', out, re.MULTILINE)
    alone = ['--config', b, '--workdir', str(tmp_path / 'b'), *tiny.overrides(tmp_path, seed='7', **fields)]
    code, _, err = tiny.run('train', *alone)
    assert code == 0, err
    assert (tmp_path / 's' / 'b' / 'seed7' / 'metrics.jsonl').read_text() == (tmp_path / 'b' / 'metrics.jsonl').read_text()


@pytest.mark.slow
def test_no_run_leaves_arrays_behind(two, tmp_path):
    """One process for many runs: what the device holds after the second is what it held after the first."""
    one = alone_in_a_file(two)
    held = [sum(array.nbytes for array in jax.live_arrays())]  # what other tests left
    fields = {'epochs': '1', 'evaluation__test': 'false'}
    arguments = ['--config', one, '--workdir', str(tmp_path / 's'), *tiny.overrides(tmp_path, **fields)]
    for seeds in ('0', '1'):
        assert tiny.command(['sweep', *arguments, '--seeds', seeds]) == 0
        held.append(sum(array.nbytes for array in jax.live_arrays()))
    before, first, second = held
    assert second <= first < before + 100_000


# --- configs/ablation.py

BASE = 1_644_219  # Table 1 without SA's 19 and CA's 262,144: 1,906,382 − 262,163
# Name → parameters in the order of Table 2, then the alternatives, whose own parameters tests/model/test_network.py works out by hand.
PARAMETERS = {
    'base': BASE,
    'base-g1': BASE,
    'base-g2': BASE,
    'base-g4': BASE,
    'base-g8': BASE,
    'sa-base-ca': 1_906_382,
    'sa-base-g4-ca': 1_906_382,
    'sa-base-g4': 1_644_238,  # + 19
    'base-g4-ca': 1_906_363,  # + 262,144
    'base-g4-se': 1_700_485,  # + 56,266
    'base-g4-eca': 1_644_243,  # + 24
    'base-g4-cbam': 1_699_789,  # + 55,570
    'sa-base-g4-ca-fusion-attention': 1_906_382,  # co·co/2 twice is co²
    'sa-base-g4-ca-preactivation': 1_906_382,
}


@pytest.fixture(scope='module')
def ablation() -> dict:
    return load_variants(ABLATION, {'data.path': 'fer2013.csv'})


def test_the_ablation_is_table_2_and_the_alternatives(ablation):
    assert list(ablation) == list(PARAMETERS)
    groups = [ablation[name].network.shuffle_groups for name in list(ablation)[:7]]
    assert groups == [None, 1, 2, 4, 8, None, 4], "Table 2's order"
    assert [config.network.attention for config in ablation.values()][:7] == ['none'] * 5 + ['both'] * 2
    fer2013 = values(load_variants(str(ROOT / 'configs' / 'fer2013.py'), {'data.path': 'fer2013.csv'})['fer2013'])
    free = {'name', 'network.attention', 'network.shuffle_groups', 'network.fusion', 'network.preactivation', 'network.zero_last_gamma'}
    for config in ablation.values():
        assert {field for field, value in values(config).items() if value != fer2013[field]} <= free, config.name
    assert len({json.dumps(values(config) | {'name': ''}) for config in ablation.values()}) == len(ablation), 'two are the same'


@pytest.mark.parametrize('name', PARAMETERS)
def test_the_ablations_parameters(ablation, name):
    network = make_network(ablation[name].network, 7)
    shapes = jax.eval_shape(lambda: network.init(jax.random.key(0), jnp.zeros((1, 40, 40, 1)), train=False))['params']
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) == PARAMETERS[name]


def test_the_ablation_can_be_listed_from_anywhere(begun, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = ['sweep', '--config', 'configs/ablation.py', '--seeds', '0-4', '--dry-run', '--config.data.path=fer2013.csv']
    assert tiny.command(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 70 and lines[0] == '[1/70] base seed 0: not begun' and lines[14] == '[15/70] base seed 1: not begun'
