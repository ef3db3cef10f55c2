"""kill -9 at random moments, half of them inside a checkpoint write, of one process and of two: resumed, the same bits come out."""

import json
import pathlib
import random
import subprocess
import time
from collections.abc import Callable
from typing import NamedTuple

from tests.faults.findings import Findings
from tests.faults.runs import differences, end, left_behind, saved_steps
from tests.tiny import ROOT, overrides, start
from tests.training.test_distributed import free_port

# A checkpoint every other step, so that there is hardly a moment without a write under way, which takes about half a second.
FIELDS = {
    'epochs': '4',
    'train__log_every': '1',
    'train__checkpoint_every_epochs': '0.286',
    'train__evaluate_every_epochs': '1',
}
SMALL = {'epochs': '2', 'evaluation__test': 'false'}
WRITE_SECONDS = 0.5
CHAIN = 5  # kills of one run before it may come to its end
KINDS = ('inside a write', 'anywhere')


class Topology(NamedTuple):
    """What is started, and how."""

    processes: int
    fields: dict[str, str]

    @property
    def steps(self) -> int:
        return 7 * int(self.fields['epochs'])


def campaign(folder: pathlib.Path, seed: int, small: bool) -> Findings:
    """Kills runs again and again, lets each come to its end at last, and compares it with one that nothing happened to."""
    findings, draws = Findings(), random.Random(seed)
    findings.told['kills'] = []
    for processes in (1,) if small else (1, 2):
        began = time.monotonic()
        topology = Topology(processes, FIELDS | SMALL if small else FIELDS)
        reference = folder / f'uninterrupted-{processes}'
        to_the_end(findings, reference, topology)
        seconds, number = 0.7 * (time.monotonic() - began), 0
        left = dict.fromkeys(KINDS, 1 if small else 25)
        while any(left.values()) and number < 80:
            workdir, number = folder / f'killed-{processes}-{number}', number + 1
            for _ in range(min(CHAIN, sum(left.values()))):
                wanted = draws.choices(KINDS, [left[kind] for kind in KINDS])[0]
                kind = kill(findings, workdir, topology, wanted, seconds, draws)
                if kind is None:
                    break
                left[kind] = max(0, left[kind] - 1)
            to_the_end(findings, workdir, topology)
            findings.note('runs brought to their end')
            findings.wrong += [f'{workdir.name}: {each}' for each in differences(workdir, reference)]
        findings.check(not any(left.values()), f'{processes} process(es): {left} kills are missing')
    return findings


def launch(workdir: pathlib.Path, topology: Topology) -> list[subprocess.Popen]:
    """The processes of a run, each with its standard error in a file."""
    arguments = [
        'train',
        '--workdir',
        str(workdir),
        *overrides(workdir.parent, **topology.fields, parallel__cpu_devices=str(topology.processes)),
    ]
    if topology.processes > 1:
        arguments += [f'--distributed=127.0.0.1:{free_port()}', f'--processes={topology.processes}', '--join-timeout=200']
    started = []
    for number in range(topology.processes):
        with open(said_by(workdir, number), 'w') as stream:
            rank = [f'--process-id={number}'] if topology.processes > 1 else []
            started.append(start(*arguments, *rank, to=stream, cwd=ROOT))
    return started


def said_by(workdir: pathlib.Path, number: int) -> pathlib.Path:
    """Where the standard error of a process goes."""
    return workdir.with_name(f'{workdir.name}.{number}.err')


def to_the_end(findings: Findings, workdir: pathlib.Path, topology: Topology) -> None:
    """Lets a run go on to its end."""
    codes = [end(process)[0] for process in launch(workdir, topology)]
    findings.check(
        codes == [0] * topology.processes,
        lambda: f'{workdir.name}: it ended with {codes}: {[said_by(workdir, number).read_text() for number in range(topology.processes)]}',
    )


def kill(findings: Findings, workdir: pathlib.Path, topology: Topology, kind: str, seconds: float, draws: random.Random) -> str | None:
    """Starts or resumes a run and kills it, one of its processes or all; returns where that was, or None where the run ended before."""
    processes = topology.processes
    victims = draws.choice([[0], [1], [0, 1]]) if processes > 1 else [0]
    step = progress(workdir) + draws.randint(1, topology.steps // CHAIN)
    moment, delay = draws.uniform(0, seconds), draws.uniform(0, WRITE_SECONDS)
    started, began = launch(workdir, topology), time.monotonic()

    def running() -> bool:
        return all(process.poll() is None for process in started)

    def until(holds: Callable[[], bool]) -> None:
        while running() and time.monotonic() - began < 200 and not holds():
            time.sleep(0.001)

    if kind == KINDS[0]:
        until(lambda: progress(workdir) >= step)
        until(lambda: writes(workdir))
        time.sleep(delay)
        until(lambda: writes(workdir))
    else:
        until(lambda: time.monotonic() - began > moment)
    under_way, was_running = writes(workdir), running()
    for victim in victims if was_running else ():
        started[victim].kill()
    after = time.monotonic() - began
    codes = [end(process)[0] for process in started]
    if not was_running:
        findings.check(codes == [0] * processes, f'{workdir.name}: it ended with {codes} before it was killed')
        return None
    told_rightly(findings, workdir, codes, victims)
    # Only what still lies there, and was never renamed, is a write that was cut.
    cut = sorted(under_way & writes(workdir))
    inside = KINDS[0] if cut else KINDS[1]
    findings.count(f'{inside}, {processes} process{"es" * (processes > 1)}')
    findings.told['kills'].append(
        {
            'run': workdir.name,
            'killed': victims,
            'after_seconds': round(after, 3),
            'logged_step': progress(workdir),
            'saved_step': max(saved_steps(workdir), default=0),
            'cut': cut,
            'other_left_behind': [each for each in left_behind(workdir) if 'orbax' not in each],
        }
    )
    return inside


def told_rightly(findings: Findings, workdir: pathlib.Path, codes: list[int], victims: list[int]) -> None:
    """Notes what a process that was not killed does wrong: it is to say in one line that another is gone, and to end."""
    for number in set(range(len(codes))) - set(victims):
        said, code = said_by(workdir, number).read_text(), codes[number]
        # While it waits for JAX's coordinator it is ended by JAX's C++, which says so too. And it may have been at its end already.
        # Where the other was killed before both had met, it is waited for in vain.
        alone = code == 1 and said.startswith('error: process') and said.count('\n') == 1 and 'for all the others' in said
        ours = (code in (0, 75) or alone) and 'Traceback' not in said
        findings.note(f'the other process ended with {code}')
        findings.check(ours or (code == -6 and 'another task died' in said), f'{workdir.name}: the other ended with {code}: {said}')


def progress(workdir: pathlib.Path) -> int:
    """The last step in a run's log; 0 where there is none."""
    path = workdir / 'metrics.jsonl'
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return max((json.loads(line)['step'] for line in lines if line.endswith('\n')), default=0)


def writes(workdir: pathlib.Path) -> set[str]:
    """The checkpoints that are being written, or whose writing was cut, by the names of their temporary folders."""
    return {str(path.relative_to(workdir)) for path in workdir.glob('checkpoints/*/*.orbax-checkpoint-tmp*')}
