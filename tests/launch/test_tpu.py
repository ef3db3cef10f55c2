"""The TPU launcher against a stand-in for gcloud, whose workers are folders of this machine and which fails when told to."""

import json
import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).parent.parent.parent
pytestmark = pytest.mark.skipif(shutil.which('flock') is None or shutil.which('setsid') is None, reason='workers have flock and setsid')

# Ends with the next of the pod's `codes`; of `wait` when it is released, or by SIGTERM with 75.
TRAIN = """#!/usr/bin/env bash
printf '%s\\n' "$@" >"$HOME/arguments"
echo "$FER_JAX_ACCELERATOR $FER_JAX_VENV" >"$HOME/environment"
echo start >>"$HOME/started"
echo start >>"$POD/starts-$(basename "$HOME")"
code=$(sed -n "$(wc -l <"$POD/starts-$(basename "$HOME")")p" "$POD/codes")
[ "$(basename "$HOME")" != worker0 ] || echo "the lead's words, start $(wc -l <"$POD/starts-worker0")"
if [ "$code" = wait ]; then
    trap 'exit 75' TERM
    while [ ! -e "$POD/released" ]; do sleep 0.05; done
    code=0
fi
exit "${code:-0}"
"""


class Pod:
    """A repository, a PATH with the stand-in, and the pod that it acts for."""

    def __init__(self, folder: pathlib.Path):
        self.folder, self.root, bin = folder / 'pod', folder / 'the repository', folder / 'bin'
        self.folder.mkdir()
        bin.mkdir()
        for name in ('launch', 'requirements'):
            shutil.copytree(ROOT / name, self.root / name)
        for name in ('fer_jax', 'configs'):
            (self.root / name).mkdir()
        (self.root / 'requirements.txt').touch()
        (self.root / 'launch/train.sh').write_text(TRAIN)
        (bin / 'gcloud').write_text(
            f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -I -S {shlex.quote(str(ROOT / "tests/gcloud_like.py"))} "$@"\n'
        )
        (bin / 'gcloud').chmod(0o755)
        # A worker's Python is not what is tested here.
        (bin / 'python3.13').write_text('#!/bin/sh\nexit 0\n')
        (bin / 'python3.13').chmod(0o755)
        self.environment = os.environ | {
            'PATH': f'{bin}{os.pathsep}{os.environ["PATH"]}',
            'POD': str(self.folder),
            'FER_JAX_POLL_SECONDS': '0.05',
        }
        self.set(states=[], faults=[])
        self.codes(0)

    def set(self, **values: list) -> None:
        for name, value in values.items():
            (self.folder / name).write_text(json.dumps(value))

    def codes(self, *codes: object) -> None:
        """What training ends with at its first start, its second, and so on."""
        (self.folder / 'codes').write_text(''.join(f'{code}\n' for code in codes))

    def start(self, *arguments: str) -> subprocess.Popen:
        options = ['--zone=us-west4-a', '--type=v5litepod-16', '--version=v2-alpha-tpuv5-lite', '--workdir=/mnt/it is shared/run']
        return subprocess.Popen(
            [self.root / 'launch/tpu_pod.sh', *options, *arguments],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str) -> tuple[int, str, str]:
        process = self.start(*arguments)
        out, err = process.communicate(timeout=120)
        return process.returncode, out, err

    def calls(self) -> list[str]:
        """What was called since this was last asked, described states left out: `create`, `scp`, `ssh run`, …"""
        path = self.folder / 'calls'
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        path.write_text('')
        return [name_of(words, options) for words, options in lines if words != 'queued-resources describe']

    def starts(self) -> list[int]:
        """How often each worker has started training."""
        return [len(path.read_text().splitlines()) for path in sorted(self.folder.glob('starts-*'))]


def name_of(words: str, options: dict[str, str]) -> str:
    if words != 'tpu-vm ssh':
        return words.split()[1]
    return 'ssh unpack' if 'tar' in options['command'] else f'ssh {options["command"].split("tpu_worker.sh ")[-1].split()[0]}'


@pytest.fixture
def pod(tmp_path):
    pod = Pod(tmp_path)
    yield pod
    (pod.folder / 'released').touch()


def wait_for(condition) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


ALL = ['create', 'scp', 'ssh unpack', 'ssh run', 'ssh status']


def test_train_gets_a_slice_and_trains_on_all_its_workers(pod):
    code, out, err = pod.run('--delete', 'train', '--', '--config', "configs/fer2013.py:name=it's", '--config.seed=3')
    assert code == 0, err
    assert out == "the lead's words, start 1\n"
    assert 'fer-jax is WAITING_FOR_RESOURCES; waiting' in err and err.rstrip().endswith('the workers ended with: 0')
    assert pod.calls() == [*ALL, 'delete']
    for worker in ('worker0', 'worker1'):
        arguments = (pod.folder / worker / 'arguments').read_text().splitlines()
        assert arguments == [
            '--distributed=auto',
            '--workdir=/mnt/it is shared/run',
            '--config',
            "configs/fer2013.py:name=it's",
            '--config.seed=3',
        ]
        assert (pod.folder / worker / 'environment').read_text() == f'tpu {pod.folder / worker}/fer_jax_venv\n'


@pytest.mark.slow
def test_every_step_may_be_repeated(pod):
    assert pod.run('delete')[0] == 0 and pod.calls() == []
    assert [pod.run('create')[0] for _ in range(2)] == [0, 0] and pod.calls() == ['create']
    assert pod.run('describe')[1] == 'ACTIVE\n'
    for _ in range(2):
        assert pod.run('copy')[0] == 0
        assert (pod.folder / 'worker1/fer_jax/launch/setup.sh').exists()
    (pod.folder / 'worker0/fer_jax/configs/left_over.py').touch()
    assert pod.run('copy')[0] == 0 and not (pod.folder / 'worker0/fer_jax/configs/left_over.py').exists()
    assert [pod.run('run')[0] for _ in range(2)] == [0, 0] and pod.starts() == [2, 2]
    pod.calls()
    assert [pod.run('delete')[0] for _ in range(2)] == [0, 0] and pod.calls() == ['delete']
    assert pod.run('describe')[1] == 'NONE\n'


def test_a_preempted_slice_is_asked_for_anew_and_training_goes_on_in_the_same_folder(pod):
    pod.codes('wait', 0)
    pod.set(faults=[['tpu_worker.sh run', 'preempted']])
    code, out, err = pod.run('train', '--', '--config.seed=3')
    assert code == 0, err
    assert pod.calls() == ['create', 'scp', 'ssh unpack', 'ssh run', 'ssh status', 'delete', *ALL]
    assert (
        'the connection to fer-jax broke' in err and 'fer-jax is SUSPENDED, and asked for anew' in err and 'attempt 2 of at most 50' in err
    )
    assert '--workdir=/mnt/it is shared/run' in (pod.folder / 'worker1/arguments').read_text()


def test_training_outlives_its_connection_which_joins_in_again(pod):
    pod.codes('wait')
    pod.set(faults=[['tpu_worker.sh run', 'drop']])
    process = pod.start('train')
    wait_for(lambda: (pod.folder / 'calls').exists() and (pod.folder / 'calls').read_text().count('tpu_worker.sh run') == 2)
    (pod.folder / 'released').touch()
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert pod.starts() == [1, 1], 'nothing is started twice'
    assert "the lead's words, start 1" in out
    assert 'the workers ended with: running' in err and pod.calls() == ['create', *ALL[1:], *ALL[1:]]


@pytest.mark.slow
def test_a_copy_leaves_the_files_of_a_run_that_goes_on(pod):
    pod.codes('wait')
    pod.set(faults=[['tpu_worker.sh run', 'drop']])
    assert [pod.run(step)[0] for step in ('create', 'copy', 'run')] == [0, 0, 75]
    mark = pod.folder / 'worker0/fer_jax/mark'
    mark.touch()
    assert pod.run('copy')[0] == 0 and mark.exists()
    (pod.folder / 'released').touch()
    wait_for(lambda: all((pod.folder / worker / '.fer_jax_pod/exit').exists() for worker in ('worker0', 'worker1')))
    wait_for(lambda: pod.run('copy')[0] == 0 and not mark.exists())


def test_stop_ends_training_which_is_not_started_again(pod):
    pod.codes('wait', 0)
    process = pod.start('train')
    wait_for(lambda: pod.starts() == [1, 1])
    wait_for((pod.folder / 'worker0/.fer_jax_pod/process').exists)
    time.sleep(0.3)  # for its trap
    assert pod.run('stop')[0] == 0
    (pod.folder / 'released').touch()  # the other process, which real training would have stopped at the same step
    out, err = process.communicate(timeout=120)
    assert process.returncode == 75 and 'stopped' in err and pod.starts() == [1, 1], err


@pytest.mark.slow
def test_interrupted_here_training_goes_on_there(pod):
    pod.codes('wait')
    process = pod.start('train')
    wait_for(lambda: pod.starts() == [1, 1])
    process.send_signal(signal.SIGTERM)
    # bash sees to a signal when the command that it waits for has ended.
    (pod.folder / 'released').touch()
    _, err = process.communicate(timeout=120)
    assert process.returncode == 75 and 'fer-jax goes on training; run joins in again, stop ends it' in err
    assert pod.run('run')[0] == 0 and pod.starts() == [2, 2]


@pytest.mark.slow
@pytest.mark.parametrize(('codes', 'starts'), [((75, 0), 2), ((134, 137, 0), 3)], ids=['stopped', 'lost'])
def test_training_that_was_stopped_or_lost_a_process_is_started_again(pod, codes, starts):
    pod.codes(*codes)
    assert pod.run('train')[0] == 0
    assert pod.starts() == [starts, starts]


@pytest.mark.slow
@pytest.mark.parametrize('code', [1, 2])
def test_training_that_failed_is_not_started_again(pod, code):
    pod.codes(code)
    assert pod.run('--delete', 'train')[0] == code
    assert pod.calls() == [*ALL, 'delete'] and pod.starts() == [1, 1]


@pytest.mark.slow
def test_attempts_are_limited(pod):
    pod.codes(75, 75, 75)
    code, _, err = pod.run('--attempts=2', 'train')
    assert code == 75 and pod.starts() == [2, 2]
    assert err.rstrip().endswith('gave up after 2 attempts; the same command goes on')


def test_no_quota_is_told_and_not_tried_again(pod):
    pod.set(faults=[['create', 'text', "RESOURCE_EXHAUSTED: Quota limit 'TPUV5sLitepodPerProjectPerZone' has been exceeded"]])
    code, _, err = pod.run('train')
    assert code == 2 and pod.calls() == ['create']
    assert 'no quota for v5litepod-16 in us-west4-a; ask for it, or for another --type or --zone' in err and 'TPUV5sLitepod' in err


@pytest.mark.slow
def test_what_passes_is_tried_again(pod):
    faults = [['create', 'text', 'UNAVAILABLE'], ['describe', 'text', 'deadline exceeded'], ['scp', 'text', 'Broken pipe']]
    pod.set(faults=faults)
    code, _, err = pod.run('train')
    assert code == 0 and 'attempt 4 of at most 50' in err, err
    pod.set(states=[], faults=[['create', 'states', ['PROVISIONING', 'FAILED']]])
    code, _, err = pod.run('train')
    assert code == 0 and 'fer-jax is FAILED, and asked for anew' in err, err


def test_a_dry_run_prints_the_commands_and_calls_nothing(pod):
    code, out, err = pod.run('--dry-run', '--spot', '--project=mine', '--delete', '--mount=mount it', 'train', '--', '--config.name=a b')
    assert (code, err, pod.calls()) == (0, '', [])
    commands = [shlex.split(line) for line in out.splitlines()]
    assert [name_of(' '.join(words[3:5]), dict(word[2:].split('=', 1) for word in words if '=' in word)) for words in commands] == [
        'create',
        'scp',
        'ssh unpack',
        'ssh run',
        'delete',
    ]
    assert all(
        {'--zone=us-west4-a', '--project=mine', '--quiet'} <= set(words) and words[:3] == ['gcloud', 'compute', 'tpus']
        for words in commands
    )
    assert '--spot' in commands[0] and '--accelerator-type=v5litepod-16' in commands[0]
    (sent,) = (word.removeprefix('--command=') for word in commands[3] if word.startswith('--command='))
    assert shlex.split(sent)[1:] == [
        'FER_JAX_MOUNT=mount it',
        'fer_jax/launch/tpu_worker.sh',
        'run',
        '--workdir=/mnt/it is shared/run',
        '--config.name=a b',
    ]


@pytest.mark.slow
def test_a_folder_that_cannot_be_mounted_is_told(pod):
    code, out, _ = pod.run('--mount=echo no such server; false', 'train')
    assert code == 1 and 'no such server' in out and 'fer_jax: --mount failed: echo no such server; false' in out
    assert pod.starts() == []


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ([], 'which step? train, describe,'),
        (['run', 'copy'], 'one step at a time: run or copy'),
        (['--config=x', 'run'], 'unknown argument --config=x; what training is to get stands behind --'),
        (['--zone=', 'describe'], '--zone=… is needed'),
        (['--type=', 'create'], '--type=… is needed'),
        (['--workdir=', 'run'], '--workdir=… is needed'),
    ],
)
def test_wrong_input_is_told(pod, arguments, message):
    code, _, err = pod.run(*arguments)
    assert code == 2 and message in err and pod.calls() == []
