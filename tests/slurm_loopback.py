"""A real SLURM on this machine alone: its daemons on loopback, in a temporary folder, for as long as a test needs them."""

import contextlib
import os
import pathlib
import pwd
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

from tests.tiny import ROOT

# One node, whose name is an address too: JAX takes its coordinator's from it.
NODE = 'localhost'
# More CPUs than the machine may have, for the tasks of a test need no core each. A requeued job waits for cred_expire seconds.
CONFIGURATION = """
ClusterName=loopback
SlurmctldHost=localhost
SlurmctldPort={controller_port}
SlurmdPort={node_port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock,cred_expire=5
CredType=cred/munge
SlurmUser={user}
SlurmdUser={user}
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=2,batch_sched_delay=0
ReturnToService=2
MailProg=/bin/true
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
NodeName={node} CPUs=16 RealMemory=1000 State=UNKNOWN
PartitionName=all Nodes={node} Default=YES MaxTime=INFINITE State=UP
"""
PROGRAMS = ('munged', 'slurmctld', 'slurmd', 'sbatch', 'srun', 'scontrol', 'scancel')


def program(name: str) -> str | None:
    """Where a program of SLURM's is; daemons often lie outside of a user's PATH."""
    return shutil.which(name, path=os.pathsep.join([os.environ.get('PATH', ''), '/usr/sbin', '/sbin']))


def why_not() -> str:
    """Why there can be no SLURM here; empty where there can."""
    lacking = [name for name in PROGRAMS if program(name) is None]
    return f'{", ".join(lacking)} not installed (Debian, Ubuntu: apt-get install slurm-wlm munge)' if lacking else ''


class NoSlurm(RuntimeError):
    """The daemons did not come up; the message holds their last words."""


@contextlib.contextmanager
def cluster() -> Iterator[dict[str, str]]:
    """Starts munged, slurmctld and slurmd, and yields the environment in which SLURM's commands find them.

    Raises:
      NoSlurm: they are not up after a minute.
    """
    folder = pathlib.Path(tempfile.mkdtemp(prefix='slurm-'))  # a socket's path is short, unlike those of pytest's folders
    for name in ('state', 'spool'):
        (folder / name).mkdir()
    (folder / 'munge.key').write_bytes(os.urandom(1024))
    (folder / 'munge.key').chmod(0o600)
    controller_port, node_port = free_ports(2)
    text = CONFIGURATION.format(
        folder=folder, controller_port=controller_port, node_port=node_port, node=NODE, user=pwd.getpwuid(os.getuid()).pw_name
    )
    (folder / 'slurm.conf').write_text(text)
    (folder / 'cgroup.conf').write_text('CgroupAutomount=no\n')
    environment = {name: value for name, value in os.environ.items() if not name.startswith(('SLURM_', 'SBATCH_', 'SRUN_'))}
    environment['SLURM_CONF'] = str(folder / 'slurm.conf')
    munge = {'socket': 'sock', 'key-file': 'key', 'pid-file': 'pid', 'log-file': 'log', 'seed-file': 'seed'}
    commands = {
        'munged': ['--foreground', '--force', *(f'--{option}={folder}/munge.{kind}' for option, kind in munge.items())],
        'slurmctld': ['-D', '-i', '-c'],
        'slurmd': ['-D', '-N', NODE],
    }
    daemons: list[subprocess.Popen] = []
    try:
        for name, arguments in commands.items():
            with open(folder / f'{name}.out', 'wb') as output:
                daemons.append(subprocess.Popen([program(name), *arguments], env=environment, stdout=output, stderr=output))
            if name == 'munged':
                wait_until(lambda: (folder / 'munge.sock').exists(), 60, folder)
        wait_until(lambda: 'idle' in output_of(environment, 'sinfo', '--noheader', '--format=%t'), 60, folder)
        yield environment
    finally:
        subprocess.run([program('scancel'), '--full', f'--user={pwd.getpwuid(os.getuid()).pw_name}'], env=environment, timeout=60)
        for daemon in reversed(daemons):
            daemon.send_signal(signal.SIGTERM)
            try:
                daemon.wait(30)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        shutil.rmtree(folder, ignore_errors=True)


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(('127.0.0.1', 0))
        return [probe.getsockname()[1] for probe in probes]


def wait_until(condition, seconds: float, folder: pathlib.Path) -> None:
    """Returns when `condition()` holds.

    Raises:
      NoSlurm: it does not after `seconds`.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            words = {path.name: path.read_text(errors='replace').splitlines()[-2:] for path in folder.glob('*.out')}
            raise NoSlurm(f'SLURM did not come up in {seconds} s: {words}')
        time.sleep(0.2)


def output_of(environment: dict[str, str], name: str, *arguments: str) -> str:
    """What a command of SLURM's prints; empty where it fails."""
    return subprocess.run([program(name), *arguments], env=environment, capture_output=True, text=True, timeout=60).stdout


def submit(environment: dict[str, str], *arguments: str) -> int:
    """Submits a batch script by `sbatch`; returns the job's number."""
    done = subprocess.run([program('sbatch'), '--parsable', *arguments], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def show(environment: dict[str, str], job: int) -> dict[str, str]:
    """What SLURM says of a job: JobState, Restarts, ExitCode and more. Of an array's tasks the first line's."""
    lines = output_of(environment, 'scontrol', 'show', 'job', '--oneliner', str(job)).splitlines()
    return dict(re.findall(r'(\w+)=(\S*)', lines[0])) if lines else {}


def wait_for_end(environment: dict[str, str], job: int, seconds: float = 300) -> dict[str, str]:
    """What SLURM says of a job when it is neither waiting nor running any more."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        shown = show(environment, job)
        if shown.get('JobState') not in ('PENDING', 'CONFIGURING', 'RUNNING', 'COMPLETING', 'SUSPENDED', 'REQUEUED', None):
            return shown
        time.sleep(0.5)
    raise AssertionError(f'job {job} is still {show(environment, job)}')


def environment_of_this_python(folder: pathlib.Path) -> dict[str, str]:
    """Makes launch/setup.sh take the Python that runs the tests for an environment that it has made; returns what tells it so."""
    venv = folder / 'venv'
    (venv / 'bin').mkdir(parents=True)
    python = venv / 'bin' / 'python'
    python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    python.chmod(0o755)
    told = {'FER_JAX_VENV': str(venv), 'FER_JAX_ACCELERATOR': 'cpu', 'JAX_PLATFORMS': 'cpu'}
    stamp = '. launch/setup.sh; accelerator=cpu; key "$(version_of "$venv/bin/python")" "$root/requirements.txt" >"$venv/fer_jax.stamp"'
    subprocess.run(['bash', '-c', stamp], cwd=ROOT, env=os.environ | told, check=True, timeout=60)
    return told
