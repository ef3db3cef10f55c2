"""Our launcher of several processes on this host, with a stand-in for what it starts."""

import importlib.util
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest

from tests.tiny import ROOT

LAUNCHER = ROOT / 'launch/processes.py'
# Does what `plan` says of its start and number: an exit code; -N for signal N; `joined`, which ends with 75 as soon as one of the
# processes has had a SIGTERM, as those do that have found each other; `waits`, which only a signal ends; `deaf`, which SIGKILL does.
STAND_IN = """
import json, os, pathlib, signal, sys, time

folder = pathlib.Path(os.environ['STAND_IN'])
process = int(next(argument for argument in sys.argv if argument.startswith('--process-id=')).partition('=')[2])
start = len(list(folder.glob(f'*-{process}.json')))
action = json.loads((folder / 'plan').read_text())[start][process]
if action == 'joined':
    signal.signal(signal.SIGTERM, lambda *_: (folder / f'stop-{start}').open('a').write(f'{process} '))
if action == 'deaf':
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
seen = {name: os.environ.get(name) for name in ('JAX_NUM_CPU_DEVICES', 'CUDA_VISIBLE_DEVICES')}
(folder / f"new-{process}").write_text(json.dumps({'arguments': sys.argv[1:], 'process': os.getpid(), **seen}))
(folder / f"new-{process}").rename(folder / f'{start}-{process}.json')
os.write(1, f'{process} prints\\n'.encode())  # whole, whoever else writes there
os.write(2, f'{process} says\\n'.encode())
if isinstance(action, int):
    if action < 0:
        os.kill(os.getpid(), -action)
    sys.exit(action)
while not (action == 'joined' and (folder / f'stop-{start}').exists()):
    time.sleep(0.01)
sys.exit(75)
"""


# Undoes what nohup, or a shell in the background, has a child ignore. A program between, for to fork beside JAX's threads is unsafe.
LISTENING = """
import os, signal, sys
for number in (signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])
"""


class Program:
    """The launcher with a stand-in for fer_jax."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        (folder / 'fer_jax').mkdir()
        (folder / 'fer_jax/__init__.py').touch()
        (folder / 'fer_jax/__main__.py').write_text(STAND_IN)

    def start(self, plan: list[list], *arguments: str, **environment: str) -> subprocess.Popen:
        (self.folder / 'plan').write_text(json.dumps(plan))
        kept = {name: text for name, text in os.environ.items() if name not in ('JAX_NUM_CPU_DEVICES', 'CUDA_VISIBLE_DEVICES')}
        environment = {'PYTHONPATH': str(self.folder), 'STAND_IN': str(self.folder), 'JAX_PLATFORMS': 'cpu'} | environment
        return subprocess.Popen(
            [sys.executable, '-c', LISTENING, sys.executable, '-P', LAUNCHER, f'--processes={len(plan[0])}', *arguments],
            env=kept | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, plan: list[list], *arguments: str, **environment: str) -> tuple[int, str, str]:
        process = self.start(plan, *arguments, **environment)
        out, err = process.communicate(timeout=120)
        return process.returncode, out, err

    def seen(self) -> dict[str, dict]:
        """What each process was given, by START-PROCESS."""
        return {path.stem: json.loads(path.read_text()) for path in sorted(self.folder.glob('*-*.json'))}

    def wait_for(self, names: set[str]) -> None:
        deadline = time.monotonic() + 60
        while not names <= set(self.seen()):
            assert time.monotonic() < deadline
            time.sleep(0.02)


@pytest.fixture
def program(tmp_path):
    return Program(tmp_path)


def test_the_loss_of_a_process_is_told_at_once(program):
    """Before the others end, by themselves or, as here, killed when they do not."""
    code, _, err = program.run([['waits', -signal.SIGKILL]], FER_JAX_PATIENCE='0.1')
    assert code == 75
    assert err.splitlines().count('fer_jax: process 1 was killed by signal 9; the others end with it') == 1


def test_each_process_gets_its_number_and_only_the_first_prints(program):
    code, out, err = program.run([[0, 0, 0]], '--config', 'configs/fer2013.py', '--config.seed=3')
    assert (code, out) == (0, '0 prints\n')
    assert sorted(err.splitlines()) == ['0 says', '1 prints', '1 says', '2 prints', '2 says']
    seen = program.seen()
    addresses = set()
    for process in range(3):
        *given, address, count, number = seen[f'0-{process}']['arguments']
        assert given == ['train', '--config', 'configs/fer2013.py', '--config.seed=3']
        assert (count, number) == ('--processes=3', f'--process-id={process}')
        addresses.add(address)
    assert len(addresses) == 1 and re.fullmatch(r'--distributed=127\.0\.0\.1:\d+', addresses.pop())


@pytest.mark.parametrize(
    ('codes', 'code'),
    [
        ([0, 75], 75),
        ([75, -signal.SIGKILL], 75),
        ([134, 75], 75),
        ([1, 75], 1),
        ([1, 1], 1),
        ([2, 2], 2),
        ([2, 1], 2),
    ],
    ids=str,
)
def test_the_exit_code_is_that_of_training(program, codes, code):
    assert program.run([codes])[0] == code


@pytest.mark.parametrize('first', [[75, 75], [-9, 75], [134, 137], [1, 75]], ids=str)
def test_all_start_again_after_a_stop_or_a_loss(program, first):
    code, _, err = program.run([first, first, [0, 0]], '--restarts=2')
    assert code == 0 and set(program.seen()) == {f'{start}-{process}' for start in range(3) for process in range(2)}
    assert f'the processes ended with {first[0]}, {first[1]}; restart 2 of at most 2' in err


@pytest.mark.parametrize(('first', 'code'), [([1, 1], 1), ([2, 2], 2)], ids=str)
def test_what_would_fail_again_is_not_started_again(program, first, code):
    assert program.run([first, [0, 0]], '--restarts=2')[0] == code and len(program.seen()) == 2


def test_restarts_are_used_up(program):
    assert program.run([[75, 75], [75, 75], [0, 0]], '--restarts=1')[0] == 75 and len(program.seen()) == 4


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_goes_to_one_process_and_nothing_starts_again(program, number):
    process = program.start([['joined', 'joined'], [0, 0]], '--restarts=1')
    program.wait_for({'0-0', '0-1'})
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == 75 and len(program.seen()) == 2
    assert (program.folder / 'stop-0').read_text() == '0 '


def test_a_signal_before_the_processes_have_found_each_other_ends_all(program):
    process = program.start([['waits', 'deaf']])
    program.wait_for({'0-0', '0-1'})
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 75


def test_a_second_signal_kills_all(program):
    process = program.start([['deaf', 'deaf']])
    program.wait_for({'0-0', '0-1'})
    process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 75


def launcher():
    spec = importlib.util.spec_from_file_location('processes', LAUNCHER)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize('code', [1, 75])
def test_those_that_wait_for_a_lost_one_in_vain_are_killed(code):
    """Also one that is frozen, which the others found lost and ended with 75, to be begun again."""
    programs = [f'import sys; sys.exit({code})', 'import time; time.sleep(600)']
    started = [subprocess.Popen([sys.executable, '-c', each]) for each in programs]
    assert launcher().attend(started, [], patience=0.2) == [code, -signal.SIGKILL]


def test_gpus_and_cores_are_shared_out(program, monkeypatch):
    share = launcher().shares
    monkeypatch.delenv('JAX_PLATFORMS')
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '0,2,5,7')
    assert share(2) == [{'CUDA_VISIBLE_DEVICES': '0,2'}, {'CUDA_VISIBLE_DEVICES': '5,7'}]
    with pytest.raises(SystemExit, match='2'):
        share(3)
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '')
    monkeypatch.setattr(os, 'sched_getaffinity', lambda _: set(range(14)), raising=False)
    assert share(2) == [{'JAX_NUM_CPU_DEVICES': '4'}] * 2
    assert share(20) == [{'JAX_NUM_CPU_DEVICES': '1'}] * 20
    monkeypatch.setenv('JAX_NUM_CPU_DEVICES', '3')
    assert share(2) == [{}, {}]


def test_gpus_are_counted_by_the_driver(tmp_path, monkeypatch):
    (tmp_path / 'nvidia-smi').write_text("#!/bin/sh\nprintf 'GPU 0: H100 (UUID: x)\\nGPU 1: H100 (UUID: y)\\n'\n")
    (tmp_path / 'nvidia-smi').chmod(0o755)
    monkeypatch.delenv('JAX_PLATFORMS')
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
    monkeypatch.setenv('PATH', str(tmp_path), prepend=os.pathsep)
    assert launcher().shares(2) == [{'CUDA_VISIBLE_DEVICES': '0'}, {'CUDA_VISIBLE_DEVICES': '1'}]


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--processes=0'], '--processes is 1 or more'),
        (['--distributed=auto'], '--distributed is what this launcher gives each process'),
        (['--process-id', '1'], '--process-id is what this launcher gives each process'),
    ],
)
def test_the_launcher_refuses_what_is_its_own(program, arguments, message):
    code, _, err = program.run([[0]], *arguments)
    assert code == 2 and message in err and not program.seen()
