"""Too little memory, by ulimit and by cgroup, at the start or from a step on: one line tells it, nothing hangs, what is saved stands."""

import contextlib
import os
import pathlib
import random
import resource
import subprocess
import sys
from collections.abc import Iterator

from tests.faults.disk import reached, until
from tests.faults.findings import Findings
from tests.faults.runs import differences, end, uninterrupted
from tests.tiny import ROOT, overrides, run

MB = 1 << 20
SECONDS = 600  # after which a run hangs
FIELDS = {'parallel__cpu_devices': '2', 'evaluation__test': 'false'}
# Activations of some 10 GB, and a state of some 20: what machines have, and less than the bounds that are drawn.
LARGE = (
    {'batch_size': '252', 'network__blocks': '512,512', 'network__strides': '1,1', 'epochs': '1'},
    {'network__blocks': ','.join(['2048'] * 40), 'network__strides': ','.join(['2'] * 40), 'epochs': '1'},
    {'epochs': '1'},  # and one that fits, where there is room for JAX
)
BOUNDS = {'ulimit -v': (3000, 8000), 'ulimit -d': (1000, 4000), 'cgroup': (300, 2000)}  # MB
CGROUPS = (pathlib.Path('/sys/fs/cgroup/memory'), pathlib.Path('/sys/fs/cgroup'))  # of version 1 and 2
NAMES = ('memory.limit_in_bytes', 'memory.max')


def campaign(folder: pathlib.Path, seed: int, small: bool) -> Findings:
    """Runs that are bound from the start, each kind of size by each kind of bound; and runs that are bound when they are under way."""
    findings, draws = Findings(), random.Random(seed)
    reference = uninterrupted(folder, **FIELDS)
    tries = [(kind, fields) for kind in BOUNDS for fields in LARGE]
    for number, (kind, fields) in enumerate(tries[::4] if small else tries + tries[:5]):
        most = draws.randint(*BOUNDS[kind]) * MB
        with bounded(kind, most) as bind:
            if bind is None:
                findings.told['left out'] = 'cgroups, which this user may not make'
                continue
            findings.count(kind)
            workdir = folder / f'bound-{number}'
            process = start(bind, 'train', '--workdir', str(workdir), *overrides(folder, **FIELDS | fields))
            judge(findings, f'{kind} of {most // MB} MB, {fields}', *end(process, SECONDS), may_be_killed=kind == 'cgroup')
    for number in range(1 if small else 6):
        in_the_middle(findings, folder / f'middle-{number}', reference, draws.randint(7, 35), draws.randint(0, 64) * MB)
    return findings


def start(bind: str, *arguments: str) -> subprocess.Popen:
    """`python -m fer_jax` in a shell that has bound itself first."""
    command = ['bash', '-c', f'{bind} && exec "$0" "$@"', sys.executable, '-W', 'ignore', '-m', 'fer_jax', *arguments]
    environment = os.environ | {'JAX_PLATFORMS': 'cpu'}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


@contextlib.contextmanager
def bounded(kind: str, most: int) -> Iterator[str | None]:
    """What binds a shell, and what it then starts, to so many bytes; None where this user may not make a cgroup."""
    if kind != 'cgroup':
        yield f'{kind} {most // 1024}'
        return
    for top, name in zip(CGROUPS, NAMES, strict=True):
        group = top / f'fer_jax-{os.getpid()}'
        try:
            group.mkdir()
            (group / name).write_text(str(most))
        except OSError:
            with contextlib.suppress(OSError):
                group.rmdir()
            continue
        try:
            yield f'echo $$ >{group}/cgroup.procs'
        finally:
            group.rmdir()
        return
    yield None


def judge(findings: Findings, name: str, code: int, said: str, may_be_killed: bool = False) -> None:
    """Notes how a run ended, and what is wrong about that.

    What the kernel ends in a cgroup, or C++ in the middle of a run, nothing in the process can tell of.
    """
    findings.note(f'ended with {code}')
    last = (said.strip().splitlines() or [''])[-1]
    told = {0: True, 1: 'out of memory' in last or 'could not be' in last, 2: ' of memory' in last}
    fair = told.get(code, may_be_killed and code in (-9, -6))
    findings.check(fair and 'Traceback' not in said and 'killed after' not in said, f'{name}: it ended with {code}: {said[-1500:]}')


def in_the_middle(findings: Findings, workdir: pathlib.Path, reference: pathlib.Path, step: int, more: int) -> None:
    """A run that from a step on may take no more than it has and `more`; then the same command, unbound, and what came of both."""
    arguments = ['train', '--workdir', str(workdir), *overrides(reference.parent, **FIELDS)]
    process = start('true', *arguments)
    until(lambda: reached(workdir, step), process)
    with contextlib.suppress(ProcessLookupError, FileNotFoundError):
        pages = int(pathlib.Path(f'/proc/{process.pid}/statm').read_text().split()[0])
        resource.prlimit(process.pid, resource.RLIMIT_AS, (pages * resource.getpagesize() + more,) * 2)
    findings.count('in the middle')
    judge(findings, f'{workdir.name}, {more // MB} MB more from step {step}', *end(process, SECONDS), may_be_killed=True)
    code, _, err = run(*arguments)
    findings.check(code == 0, f'{workdir.name}: the same command with enough memory ended with {code}: {err}')
    findings.wrong += [f'{workdir.name}: {each}' for each in differences(workdir, reference)]
