"""The launch scripts' logic, with stand-ins for Python, pip and the devices; the real installation is .ci/run's."""

import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).parent.parent.parent
# All that the scripts may call; the test machine's own Pythons are not among them.
TOOLS = 'awk bash cat cksum cp dirname echo env find flock getconf grep head ls mkdir rm sleep tail touch uname'.split()

# Evaluates -c in the real Python under another version (only what launch/setup.sh itself says there, nothing from data); makes
# an environment that is one more stand-in; logs pip's calls.
PYTHON = """#!/usr/bin/env bash
[ "$1" != -I ] || shift
case "$1 $2" in
    '-c '*) exec {real} -I -c 'import sys; sys.version_info = {version}; {missing}; exec(sys.argv[1])' "$2" ;;
    '-m venv') echo "venv" >>"{log}"; mkdir -p "$3/bin"; cp "$0" "$3/bin/python" ;;
    '-m pip')
        shift 2
        echo "pip $*" >>"{log}"
        if [ -e "{log}.slow" ]; then sleep "$(cat "{log}.slow")"; fi
        if [ -e "{log}.fails" ]; then cat "{log}.fails"; exit 1; fi
        ;;
    '-P -m') echo "ran in $PWD"; printf '<%s>' "$@"; echo; env | grep -E '^(PYTHONPATH|GLIBC_TUNABLES|LD_PRELOAD|MALLOC_CONF)=' ;;
    *) exit 99 ;;
esac
"""


class Machine:
    """A repository with the launch scripts, a PATH of stand-ins, and a user's folder to start from."""

    def __init__(self, folder: pathlib.Path):
        self.root = folder / 'the repository'
        self.bin = folder / 'bin'
        self.home = folder / 'home'
        self.log = folder / 'log'
        self.venv = self.root / '.venv'
        shutil.copytree(ROOT / 'launch', self.root / 'launch')
        for path in (self.root / 'requirements', self.bin, self.home):
            path.mkdir()
        for name in ('requirements.txt', *(f'requirements/{each}.txt' for each in ('build', 'dev', 'cuda12', 'cuda13', 'tpu'))):
            (self.root / name).write_text(f'of {name}\n')
        for tool in filter(shutil.which, TOOLS):
            (self.bin / tool).symlink_to(shutil.which(tool))
        self.command('ldconfig', '#!/usr/bin/env bash\n')

    def command(self, name: str, text: str) -> None:
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    def python(self, name: str, version: str, missing: str = '') -> None:
        """Puts a Python of that version on PATH, without the module `missing`."""
        numbers = tuple(int(part) for part in version.split('.'))
        lacks = f'sys.modules["{missing}"] = None' if missing else 'pass'
        self.command(name, PYTHON.format(real=sys.executable, version=numbers, missing=lacks, log=self.log))

    def gpus(self, *rows: str) -> None:
        """Puts a nvidia-smi on PATH that answers with those rows of 'driver version, compute capability'."""
        answer = '\n'.join(rows)
        self.command('nvidia-smi', f'#!/usr/bin/env bash\nif [ "$1" = -L ]; then echo "GPU 0: some"; else echo "{answer}"; fi\n')

    def start(self, script: str, *arguments: str, **variables: str) -> subprocess.Popen:
        environment = {'PATH': str(self.bin), 'HOME': str(self.home)} | variables
        return subprocess.Popen(
            [self.root / 'launch' / f'{script}.sh', *arguments],
            cwd=self.home,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def run(self, script: str, *arguments: str, **variables: str) -> tuple[int, str, str]:
        process = self.start(script, *arguments, **variables)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    def calls(self) -> list[str]:
        """What was called since the last look: 'venv' and 'pip install …' lines."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return lines


@pytest.fixture
def machine(tmp_path):
    machine = Machine(tmp_path)
    machine.python('python3.12', '3.12.4')
    return machine


def test_first_start_sets_up_and_later_ones_only_run(machine):
    code, out, err = machine.run('train', '--config', 'a b.py', '')
    assert code == 0, err
    venv, build, packages = machine.calls()
    assert venv == 'venv'
    assert build.endswith(f'--require-hashes --only-binary :all: -r {machine.root}/requirements/build.txt')
    assert packages.endswith(f'--no-binary promise -r {machine.root}/requirements.txt')
    assert '--require-hashes' in packages
    assert 'setting up' in err and 'with Python 3.12.4 for cpu' in err and err.count('\n') == 2
    assert out.splitlines()[:2] == [f'ran in {machine.home}', '<-P><-m><fer_jax><train><--config><a b.py><>']

    assert machine.run('train') == (0, out.replace('<--config><a b.py><>', ''), '')
    assert machine.calls() == []


def test_the_repository_comes_first_on_pythonpath(machine):
    assert f'PYTHONPATH={machine.root}\n' in machine.run('train')[1]
    assert f'PYTHONPATH={machine.root}:mine\n' in machine.run('train', PYTHONPATH='mine')[1]


def test_tests_add_their_tools_once(machine):
    machine.run('train')
    machine.calls()
    code, out, err = machine.run('test', '-k', 'name')
    assert code == 0, err
    (tools,) = machine.calls()
    assert tools.endswith(f'-r {machine.root}/requirements/dev.txt')
    assert f'<-m><pytest><-c><{machine.root}/pyproject.toml>' in out
    assert out.splitlines()[1].endswith(f'<-k><name><{machine.root}/tests>')
    assert machine.run('train')[2] == machine.run('test')[2] == ''
    assert machine.calls() == []


def test_tests_named_by_the_user_are_the_only_ones(machine):
    (machine.home / 'mine.py').touch()
    _, out, _ = machine.run('test', 'mine.py::test_this')
    assert out.splitlines()[1].endswith('<mine.py::test_this>')


def test_changed_requirements_make_the_environment_anew(machine):
    machine.run('train')
    machine.calls()
    (machine.venv / 'left over').touch()
    (machine.root / 'requirements.txt').write_text('newer\n')
    assert machine.run('train')[0] == 0
    assert [call.split()[0] for call in machine.calls()] == ['venv', 'pip', 'pip']
    assert not (machine.venv / 'left over').exists()


def test_changed_test_tools_are_added_to_the_environment(machine):
    machine.run('test')
    machine.calls()
    (machine.root / 'requirements/dev.txt').write_text('newer\n')
    assert machine.run('train')[2] == ''
    assert machine.run('test')[0] == 0
    assert [call.split()[0] for call in machine.calls()] == ['pip']


def test_another_python_on_path_changes_nothing_but_a_named_one_does(machine):
    machine.run('train')
    machine.calls()
    machine.python('python3.13', '3.13.1')
    machine.python('old', '3.11.9')
    assert machine.run('train')[2] == ''
    assert 'with Python 3.11.9' in machine.run('train', FER_JAX_PYTHON='old')[2]
    assert machine.run('train')[2] == machine.run('train', FER_JAX_PYTHON='old')[2] == ''


def test_an_environment_whose_python_is_gone_is_made_anew(machine):
    machine.run('train')
    (machine.venv / 'bin' / 'python').unlink()
    assert 'setting up' in machine.run('train')[2]


def test_an_environment_whose_python_was_upgraded_is_made_anew(machine):
    machine.run('train')
    machine.python('upgraded', '3.13.0')
    shutil.copy(machine.bin / 'upgraded', machine.venv / 'bin' / 'python')
    assert 'with Python 3.12.4' in machine.run('train')[2]


def test_the_newest_python_that_works_is_taken(machine):
    machine.command('python3.13', '#!/usr/bin/env bash\necho "python3.13: command not found" >&2; exit 127\n')
    machine.python('python3.11', '3.11.2')
    machine.python('python3', '3.14.0')
    assert 'with Python 3.12.4 for' in machine.run('train')[2]
    machine.python('python3.13', '3.13.0')
    assert 'with Python 3.13.0 for' in machine.run('train', FER_JAX_VENV='another')[2]


def test_no_python_names_what_was_found(machine):
    (machine.bin / 'python3.12').unlink()
    code, out, err = machine.run('train')
    assert (code, out) == (1, '')
    assert err == 'fer_jax: no Python 3.11 or newer to set up with (there is no python3 at all); install one or name it in FER_JAX_PYTHON\n'

    machine.python('python3.11', '3.11.2', missing='ensurepip')
    machine.python('python3', '3.9.1')
    code, out, err = machine.run('train')
    assert (code, out) == (1, '')
    assert 'python3.11 is 3.11.2 without venv or ensurepip (Debian and Ubuntu: apt-get install python3.11-venv)' in err
    assert 'python3 is 3.9.1' in err
    assert err.count('\n') == 1
    assert not machine.venv.exists()


@pytest.mark.parametrize(('name', 'version', 'why'), [('old', '3.10.8', 'old is 3.10.8'), ('nowhere', '', 'nowhere does not run')])
def test_a_named_python_that_will_not_do(machine, name, version, why):
    if version:
        machine.python(name, version)
    code, _, err = machine.run('train', FER_JAX_PYTHON=name)
    assert code == 1
    assert err == f'fer_jax: FER_JAX_PYTHON={why}; Python 3.11 or newer is needed\n'


@pytest.mark.parametrize(
    ('gpus', 'accelerator'),
    [
        (['580.95.05, 9.0'], 'cuda13'),
        (['580.95.05, 12.0', '580.95.05, 7.5'], 'cuda13'),
        (['580.95.05, 9.0', '580.95.05, 7.0'], 'cuda12'),
        (['550.54.14, 9.0'], 'cuda12'),
        (['unknown'], 'cuda12'),
    ],
)
def test_nvidia_gpus_get_the_cuda_they_can_run(machine, gpus, accelerator):
    machine.gpus(*gpus)
    code, _, err = machine.run('train')
    assert code == 0, err
    assert f'for {accelerator};' in err
    assert machine.calls()[-1].endswith(f'-r {machine.root}/requirements.txt -r {machine.root}/requirements/{accelerator}.txt')


def test_a_machine_whose_gpu_does_not_answer_uses_the_cpu(machine):
    machine.command('nvidia-smi', '#!/usr/bin/env bash\necho "No devices were found"; exit 6\n')
    assert 'for cpu;' in machine.run('train')[2]


def test_the_accelerator_can_be_named(machine):
    assert 'for cpu;' in machine.run('train')[2]
    assert 'for tpu;' in machine.run('train', FER_JAX_ACCELERATOR='tpu')[2]
    assert 'for cuda12;' in machine.run('train', FER_JAX_ACCELERATOR='cuda')[2]
    machine.gpus('590.1, 9.0')
    assert 'for cuda13;' in machine.run('train', FER_JAX_ACCELERATOR='cuda')[2]
    assert 'for cpu;' in machine.run('train', FER_JAX_ACCELERATOR='cpu')[2]
    code, _, err = machine.run('train', FER_JAX_ACCELERATOR='gpu')
    assert (code, err) == (1, 'fer_jax: FER_JAX_ACCELERATOR=gpu is none of cpu, cuda, cuda12, cuda13, tpu\n')


@pytest.mark.parametrize(
    ('node', 'vendor', 'pci_class', 'found'),
    [
        ('accel0', '0x1ae0', '0x120000', True),
        ('vfio/0', '0x1ae0', '0x120000', True),
        ('vfio/0', '0x1ae0', '0x020000', False),  # Google's network card, and something else passed through
        ('accel/accel0', '0x8086', '0x120000', False),  # Intel's NPU
        ('null', '0x1ae0', '0x120000', False),
    ],
)
def test_a_tpu_is_told_from_its_look_alikes(tmp_path, node, vendor, pci_class, found):
    device = tmp_path / 'sys/bus/pci/devices/0000:00:05.0'
    for path in (device, (tmp_path / 'dev' / node).parent):
        path.mkdir(parents=True)
    (tmp_path / 'dev' / node).touch()
    (device / 'vendor').write_text(vendor + '\n')
    (device / 'class').write_text(pci_class + '\n')
    code = subprocess.run(['bash', '-c', f'. "{ROOT}/launch/setup.sh"; has_tpu "$0/dev" "$0/sys"', tmp_path], timeout=60).returncode
    assert code == (0 if found else 1)


def test_a_failed_installation_is_one_line_and_is_made_anew(machine):
    fails = machine.log.with_name('log.fails')
    fails.write_text('Collecting jax\nERROR: No matching distribution found for jax==0.0.1\n')
    code, out, err = machine.run('train')
    assert (code, out) == (1, '')
    assert 'fer_jax: pip failed: ERROR: No matching distribution found for jax==0.0.1 (all of its words: ' in err.splitlines()[-1]
    fails.write_text('WARNING: Retrying after connection broken by \'NewConnectionError("Failed")\'\nERROR: No matching\n')
    assert 'the package index cannot be reached: is there a network?' in machine.run('train')[2]
    fails.unlink()
    machine.calls()
    assert machine.run('train')[0] == 0
    assert machine.calls()[0] == 'venv'


def wait_for(condition) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_killed_installation_is_made_anew(machine):
    slow = machine.log.with_name('log.slow')
    slow.write_text('60')
    process = machine.start('train')
    wait_for(lambda: machine.log.exists() and 'pip' in machine.log.read_text())
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    slow.unlink()
    machine.calls()
    assert machine.run('train')[0] == 0
    assert [call.split()[0] for call in machine.calls()] == ['venv', 'pip', 'pip']


def test_an_environment_that_was_half_removed_is_not_trusted(machine):
    machine.run('train')
    find = (machine.bin / 'find').readlink()
    (machine.bin / 'find').unlink()
    machine.command('find', '#!/usr/bin/env bash\nexit 1\n')
    (machine.root / 'requirements.txt').write_text('newer\n')
    assert machine.run('train')[0] == 1
    (machine.bin / 'find').unlink()
    (machine.bin / 'find').symlink_to(find)
    (machine.root / 'requirements.txt').write_text('of requirements.txt\n')
    assert 'setting up' in machine.run('train')[2]


@pytest.mark.skipif(shutil.which('flock') is None, reason='without flock the scripts do not wait for one another')
def test_two_starts_at_once_set_up_once(machine):
    machine.log.with_name('log.slow').write_text('0.5')
    first = machine.start('train')
    wait_for(machine.log.exists)
    second = machine.start('train')
    errors = [process.communicate(timeout=60)[1] for process in (first, second)]
    assert first.returncode == second.returncode == 0
    assert 'waiting for it' in errors[1] and errors[1].count('\n') == 1
    assert [call.split()[0] for call in machine.calls()] == ['venv', 'pip', 'pip']


@pytest.mark.skipif(shutil.which('flock') is None, reason='without flock the scripts do not wait for one another')
def test_a_run_does_not_hold_the_lock(machine):
    machine.run('train')
    # The stand-in for the run succeeds where the lock is free.
    machine.command('probe', f'#!/usr/bin/env bash\nflock -n "{machine.root}/launch/setup.sh" echo free\n')
    (machine.root / 'requirements.txt').write_text('newer\n')
    script = machine.root / 'launch' / 'train.sh'
    script.write_text(script.read_text().replace('exec "$venv/bin/python"', 'exec probe'))
    code, out, err = machine.run('train')
    assert (code, out) == (0, 'free\n'), err
    assert 'setting up' in err


def test_a_folder_of_the_users_own_is_left_alone(machine):
    mine = machine.home / 'mine'
    mine.mkdir()
    (mine / 'thesis.tex').write_text('all of it')
    code, _, err = machine.run('train', FER_JAX_VENV='mine')
    assert code == 1
    assert 'mine was not made by these scripts and is left alone' in err
    assert [path.name for path in mine.iterdir()] == ['thesis.tex']
    (mine / 'thesis.tex').unlink()
    assert machine.run('train', FER_JAX_VENV='mine')[0] == 0


def test_a_folder_that_cannot_be_written_is_named(machine):
    (machine.home / 'file').touch()
    code, _, err = machine.run('train', FER_JAX_VENV='file/venv')
    assert code == 1
    assert err.endswith('fer_jax: cannot write to file/venv; name another folder in FER_JAX_VENV\n')
