"""Several processes train the run that one does: same batches, same losses, one checkpoint; and the loss of one ends all."""

import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from tests.tiny import overrides, run, start

# Of a smooth network by plain gradient descent rounding stays rounding. A ReLU or a maximum may fall to the other side by it, and Adam
# would make a whole step of a gradient that is nothing else.
FIELDS = {
    'network__activation': 'silu',
    'optimizer__name': 'sgd',
    'optimizer__learning_rate': '0.05',
    'evaluation__test': 'false',
    'epochs': '3',
    'train__log_every': '1',
}
BOUND = 150  # seconds in which processes that lost another must have ended: more than processes.LOST_SECONDS on a busy machine


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp('distributed')


@pytest.fixture(scope='module')
def alone(folder: pathlib.Path) -> pathlib.Path:
    """The run by one process with four devices."""
    workdir = folder / 'alone'
    code, _, err = run('train', '--workdir', str(workdir), *overrides(folder, **FIELDS, parallel__cpu_devices='4'))
    assert code == 0, err
    return workdir


@pytest.fixture(scope='module')
def pair(folder: pathlib.Path, alone: pathlib.Path) -> pathlib.Path:
    """The run by two processes with two devices each."""
    outcomes = wait(together(folder, folder / 'pair', 2))
    assert [code for code, _, _ in outcomes] == [0, 0], outcomes
    assert outcomes[1][1:] == ('', ''), 'only the lead prints'
    assert 'finished:' in outcomes[0][1] and 'Gloo' not in outcomes[0][1]
    return folder / 'pair'


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


def together(folder: pathlib.Path, workdir: pathlib.Path, processes: int, devices: int = 2, **fields: str) -> list[subprocess.Popen]:
    """The processes of one run, each started by hand."""
    address = f'127.0.0.1:{free_port()}'
    arguments = ['train', '--workdir', str(workdir), f'--distributed={address}', f'--processes={processes}', '--join-timeout=200']
    arguments += overrides(folder, **FIELDS | fields, parallel__cpu_devices=str(devices))
    return [start(*arguments, f'--process-id={process}') for process in range(processes)]


def wait(processes: list[subprocess.Popen], seconds: float = 300) -> list[tuple[int, str, str]]:
    """Exit code, standard output and standard error of each; all are read at once, for none may wait for a full pipe."""
    outcomes: dict[int, tuple[int, str, str]] = {}

    def read(number: int) -> None:
        out, err = processes[number].communicate(timeout=seconds)
        outcomes[number] = (processes[number].returncode, out, err)

    readers = [threading.Thread(target=read, args=(number,)) for number in range(len(processes))]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    for process in processes:
        process.kill()
    assert len(outcomes) == len(processes), f'still running after {seconds} s: {[n for n in range(len(processes)) if n not in outcomes]}'
    return [outcomes[number] for number in range(len(processes))]


def wait_for_step(workdir: pathlib.Path, step: int) -> None:
    """Returns when the log of the run has come to `step`."""
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
        path = workdir / 'metrics.jsonl'
        if path.exists() and any(json.loads(line)['step'] >= step for line in path.read_text().splitlines() if line.endswith('}')):
            return
        time.sleep(0.02)
    raise AssertionError(f'{workdir} never came to step {step}')


def log_of(workdir: pathlib.Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]


def assert_equal_to_rounding(workdir: pathlib.Path, other: pathlib.Path) -> None:
    """The same lines, with losses and gradients of every step that differ by rounding only."""
    left, right = log_of(workdir), log_of(other)
    assert [(line['step'], line['kind']) for line in left] == [(line['step'], line['kind']) for line in right]
    for name in ('loss', 'gradient_norm', 'nll'):
        ours, theirs = ([line[name] for line in lines if name in line] for lines in (left, right))
        assert len(ours) >= 3
        np.testing.assert_allclose(ours, theirs, rtol=2e-6, err_msg=name)


def assert_same_bits(workdir: pathlib.Path, other: pathlib.Path) -> None:
    """Log, chosen step and every prediction."""
    assert (workdir / 'metrics.jsonl').read_text() == (other / 'metrics.jsonl').read_text()
    predictions = 'evaluations/best-validation-centre/predictions.csv'
    assert (workdir / predictions).read_text() == (other / predictions).read_text()


BATCHES = """
import sys
import jax, numpy as np
from jax.experimental import multihost_utils
from jax.sharding import PartitionSpec as P
from fer_jax.core import processes
from fer_jax.core.mesh import make_mesh, replicate
from fer_jax.core.fields import default_config
from fer_jax.training.step import make_batch

processes.start(int(sys.argv[2]))
if sys.argv[3] != '1':
    processes.connect(sys.argv[4], int(sys.argv[3]), int(sys.argv[5]), 200)
options = default_config().augment
options.mixup = 0.2
draws = np.random.default_rng(0)
data = {
    'images': draws.integers(0, 256, (90, 48, 48)).astype(np.uint8),
    'targets': np.eye(7, dtype=np.float32)[draws.integers(0, 7, 90)],
    'weights': np.ones(90, np.float32),
}
mesh = make_mesh(32)
data = replicate(mesh, data)

def batch(data):
    share = 32 // mesh.size
    positions = jax.lax.axis_index('data') * share + jax.numpy.arange(share)
    return make_batch(jax.numpy.uint32(5), jax.numpy.uint32(4), data, positions, 32, options)

parts = jax.jit(jax.shard_map(batch, mesh=mesh, in_specs=P(), out_specs=P('data'), check_vma=False))(data)
images, targets, weights = (np.asarray(multihost_utils.process_allgather(part, tiled=True)) for part in parts)
if processes.is_lead():
    np.savez(sys.argv[1], images=images, targets=targets, weights=weights)
"""


@pytest.mark.slow
def test_batches_are_the_same_however_many_processes_make_them(tmp_path):
    def made(processes: int, devices: int) -> dict[str, np.ndarray]:
        path, address = tmp_path / f'{processes}.npz', f'127.0.0.1:{free_port()}'
        command = [sys.executable, '-W', 'ignore', '-c', BATCHES, str(path), str(devices), str(processes), address]
        started = [
            subprocess.Popen([*command, str(k)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for k in range(processes)
        ]
        outcomes = wait(started)
        assert [code for code, _, _ in outcomes] == [0] * processes, outcomes
        with np.load(path) as stored:
            return dict(stored)

    one, two = made(1, 1), made(2, 2)
    assert one['images'].shape == (32, 40, 40, 1) and one['images'].std() > 0.1
    for name in one:
        np.testing.assert_array_equal(one[name], two[name], err_msg=name)


LATE = """
import sys, time
import jax, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
from fer_jax.core import processes
from fer_jax.core.mesh import make_mesh

processes.start(2)
processes.connect(sys.argv[1], 2, int(sys.argv[2]), 200)
mesh = make_mesh(4)
total = jax.jit(jax.shard_map(lambda x: jax.lax.psum(x, 'data'), mesh=mesh, in_specs=P('data'), out_specs=P()))
numbers = jax.make_array_from_callback((4,), NamedSharding(mesh, P('data')), lambda index: np.arange(4.0)[index])
if not processes.is_lead():
    time.sleep(40)
print(float(total(numbers)[0]))
"""


@pytest.mark.slow
def test_one_process_may_compile_longer_than_another():
    address = f'127.0.0.1:{free_port()}'
    command = [sys.executable, '-W', 'ignore', '-c', LATE, address]
    outcomes = wait([subprocess.Popen([*command, str(k)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for k in range(2)])
    assert [(code, out) for code, out, _ in outcomes] == [(0, '6.0\n')] * 2, outcomes


@pytest.mark.slow
def test_two_processes_train_the_run_that_one_does(alone, pair):
    assert_equal_to_rounding(pair, alone)
    mine, theirs = (json.loads((workdir / 'result.json').read_text()) for workdir in (pair, alone))
    assert mine['environment']['device']['processes'] == 2 and theirs['environment']['device']['processes'] == 1
    logs = [(pair / 'logs' / f'process-{process}.log').read_text() for process in range(2)]
    for process, text in enumerate(logs):
        assert f'start: process {process} of 2' in text and '2 of 4 cpu device(s)' in text and text.rstrip().endswith('end')
    assert sorted(path.name for path in (pair / 'checkpoints' / 'best').iterdir() if path.name.isdecimal()) == [str(mine['best_step'])]


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which('mpirun'), reason='mpirun is not installed (Debian: openmpi-bin)')
def test_open_mpi_starts_the_run(folder, alone):
    fields = overrides(folder, **FIELDS, parallel__cpu_devices='2')
    command = [
        'mpirun',
        '--allow-run-as-root',
        '--oversubscribe',
        '--bind-to',
        'none',
        '-n',
        '2',
        sys.executable,
        '-W',
        'ignore',
        '-m',
        'fer_jax',
    ]
    command += ['train', '--workdir', str(folder / 'mpi'), '--distributed=auto', '--processes=2', '--join-timeout=200', *fields]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=os.environ | {'JAX_PLATFORMS': 'cpu'})
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('finished:') == 1
    assert_equal_to_rounding(folder / 'mpi', alone)


@pytest.mark.slow
def test_a_signal_to_one_stops_all_at_one_step_and_any_number_of_processes_goes_on(folder, pair):
    """With two the same bits come out; with one, and with four, the same to rounding."""
    workdir = folder / 'stopped'
    processes = together(folder, workdir, 2)
    wait_for_step(workdir, 5)
    processes[1].send_signal(signal.SIGTERM)
    outcomes = wait(processes)
    assert [code for code, _, _ in outcomes] == [75, 75], outcomes
    step = int(re.search(r'stopped by a signal at step (\d+), which is saved', outcomes[0][2])[1])
    assert 5 <= step < 21
    assert all('SIGTERM caught' in line for line in outcomes[1][2].splitlines())  # which JAX's C++ says
    assert all(f'at step {step}' in (workdir / 'logs' / f'process-{process}.log').read_text() for process in range(2))
    assert max(int(path.name) for path in (workdir / 'checkpoints' / 'latest').iterdir() if path.name.isdecimal()) == step
    copies = {(processes, devices): folder / f'stopped-{processes}-{devices}' for processes, devices in ((1, 1), (4, 1))}
    for copy in copies.values():
        shutil.copytree(workdir, copy)
    assert [code for code, _, _ in wait(together(folder, workdir, 2))] == [0, 0]
    assert_same_bits(workdir, pair)
    for (count, devices), copy in copies.items():
        if count == 1:
            code, _, err = run('train', '--workdir', str(copy), *overrides(folder, **FIELDS, parallel__cpu_devices=str(devices)))
            assert code == 0 and f'resuming at step {step}' in err, err
        else:
            outcomes = wait(together(folder, copy, count, devices))
            assert [code for code, _, _ in outcomes] == [0] * count, outcomes
            assert [outcome[1:] for outcome in outcomes[1:]] == [('', '')] * (count - 1), 'only the lead prints'
        assert_equal_to_rounding(copy, pair)


@pytest.mark.slow
@pytest.mark.parametrize(('killed', 'pipeline'), [(0, 'resident'), (1, 'stream')])
def test_the_others_end_soon_after_one_is_killed_and_the_same_command_goes_on(folder, pair, killed, pipeline):
    """Streamed the batches are those that two processes pick from resident images."""
    workdir = folder / f'killed-{killed}'
    processes = together(folder, workdir, 2, data__pipeline=pipeline)
    wait_for_step(workdir, 10)  # beyond the checkpoint of the first epoch
    processes[killed].kill()
    started = time.monotonic()
    outcomes = wait(processes, seconds=BOUND)
    assert time.monotonic() - started < BOUND
    assert outcomes[killed][0] == -signal.SIGKILL
    code, _, err = outcomes[1 - killed]
    # The one that waits for the other's answer at that moment says so itself. One that waits for JAX's coordinator, as while a
    # checkpoint is completed, is ended by JAX's C++, which says so too.
    ours = 'process 0 of 2: another process is gone; the same command goes on from the last checkpoint'
    assert (
        code == 75 and (killed == 0 or ours in err and 'Traceback' not in err) or code == -signal.SIGABRT and 'another task died' in err
    ), err
    outcomes = wait(together(folder, workdir, 2, data__pipeline=pipeline))
    assert [code for code, _, _ in outcomes] == [0, 0], outcomes
    assert ('images, streamed' in (workdir / 'logs' / 'process-1.log').read_text()) == (pipeline == 'stream')
    assert 'resuming at step 7' in outcomes[0][2] or 'resuming at step 14' in outcomes[0][2]
    assert_same_bits(workdir, pair)


@pytest.mark.slow
def test_a_coordinator_that_cannot_be_reached_ends_in_one_line(folder, tmp_path):
    arguments = ['--workdir', str(tmp_path / 'run'), f'--distributed=127.0.0.1:{free_port()}', '--processes=2', '--process-id=1']
    started = time.monotonic()
    code, out, err = run('train', *arguments, '--join-timeout=5', *overrides(folder))
    assert time.monotonic() - started < 60
    assert code == 1 and out == '' and not (tmp_path / 'run').exists()
    assert re.fullmatch(
        r'error: process 1 of 2 waited 5 s for all the others at 127\.0\.0\.1:\d+; are all started, and can this host reach it\?\n', err
    )


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--distributed=sideways'], '--distributed=sideways is none of off, auto and HOST:PORT'),
        (['--distributed=:1234'], 'is none of off, auto and HOST:PORT'),
        (['--distributed=here:1', '--processes=2', '--process-id=1', '--join-timeout=-1'], '--join-timeout=-1: expected the seconds'),
        (['--distributed=here:1'], 'needs --processes=N and --process-id=K'),
        (['--distributed=here:1', '--processes=2', '--process-id=2'], 'with K from 0 to N - 1'),
        (['--processes=2'], 'needs --distributed=auto or --distributed=HOST:PORT'),
    ],
)
def test_arguments_that_do_not_fit_together(arguments, message, capsys, monkeypatch):
    from fer_jax.__main__ import main
    from fer_jax.core import processes

    monkeypatch.setattr(processes, 'start', lambda devices: None)
    assert main(['train', *arguments]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count('\n') == 1


@pytest.mark.slow
def test_auto_where_there_is_nothing_to_find(tmp_path, folder):
    code, _, err = run('train', '--workdir', str(tmp_path / 'run'), '--distributed=auto', *overrides(folder))
    assert code == 2 and err.count('\n') == 1
    assert 'JAX finds no TPU pod, SLURM, Open MPI or Kubernetes here' in err
