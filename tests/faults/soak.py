"""A run of 200,000 steps with hundreds of checkpoints and evaluations: memory, open files, threads and time per step stay as they were."""

import json
import os
import pathlib
import statistics
import time

from tests.faults.findings import Findings
from tests.faults.runs import left_behind
from tests.tiny import ROOT, overrides, start

STEPS = 200_000
SMALL_STEPS = 2_000
FIELDS = {
    'network__blocks': '8',
    'augment__rotate': '0',
    'augment__scale': '0',
    'batch_size': '8',
    'train__steps_per_call': '50',
    'train__tensorboard': 'true',
    'parallel__cpu_devices': '1',
}
STEPS_PER_EPOCH = 252 // 8
OCCASIONS, SMALL_OCCASIONS = 200, 50  # checkpoints, and as many evaluations, and ten times as many lines of the log
MEGABYTES = 8  # that the memory of the last tenth may be above that of the second
SLOWER = 0.05  # that the last tenth may be, against the first
SECONDS = 1.0  # between two looks
TICKS = os.sysconf('SC_CLK_TCK')


def campaign(folder: pathlib.Path, seed: int, small: bool) -> Findings:
    """Looks at one long run from outside, once a second.

    What is judged is the processor time per step: of the wall clock other programs take their share, more at one time than at another.
    """
    findings = Findings()
    steps, occasions = (SMALL_STEPS, SMALL_OCCASIONS) if small else (STEPS, OCCASIONS)
    every = str(steps / STEPS_PER_EPOCH / occasions)
    fields = FIELDS | {'seed': str(seed), 'epochs': str(steps / STEPS_PER_EPOCH), 'train__log_every': str(steps // occasions // 10)}
    fields |= {'train__checkpoint_every_epochs': every, 'train__evaluate_every_epochs': every}
    workdir, said = folder / 'run', folder / 'said'
    with open(said, 'w') as stream:
        process = start('train', '--workdir', str(workdir), *overrides(folder, **fields), to=stream, cwd=ROOT)
    samples = []
    while process.poll() is None:
        sample = look(process.pid, workdir)
        if sample:
            samples.append(sample)
        time.sleep(SECONDS / 10 if small else SECONDS)
    findings.check(process.returncode == 0, lambda: f'it ended with {process.returncode}: {said.read_text()[-2000:]}')
    findings.count('steps', steps)
    findings.told['evaluations'] = (workdir / 'metrics.jsonl').read_text().count('"validation"')
    judge(findings, samples, steps, small)
    findings.wrong += [f'{path} was left behind' for path in left_behind(workdir)]
    return findings


def look(process: int, workdir: pathlib.Path) -> dict[str, float] | None:
    """What a process holds and has used at this moment, and how far its log has come; None where it takes no steps."""
    try:
        status = pathlib.Path(f'/proc/{process}/status').read_text()
        resident, threads = (int(status.partition(f'{name}:')[2].split()[0]) for name in ('VmRSS', 'Threads'))
        files = len(os.listdir(f'/proc/{process}/fd'))
        used = pathlib.Path(f'/proc/{process}/stat').read_text().rpartition(')')[2].split()
        with open(workdir / 'metrics.jsonl', 'rb') as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - 2000))
            last = log.read().splitlines(keepends=True)
    except (OSError, ValueError, IndexError):  # at the very beginning and end
        return None
    whole = [line for line in last if line.startswith(b'{') and line.endswith(b'\n')]
    if not whole:
        return None
    return {
        'step': json.loads(whole[-1])['step'],
        'clock': time.monotonic(),
        'processor': (int(used[11]) + int(used[12])) / TICKS,
        'resident': resident / 1024,
        'threads': threads,
        'files': files,
    }


def judge(findings: Findings, samples: list[dict[str, float]], steps: int, small: bool) -> None:
    """Notes what is not flat over the tenths of the steps."""
    tenths = [[sample for sample in samples if k * steps / 10 <= sample['step'] < (k + 1) * steps / 10] for k in range(10)]
    if not all(len(tenth) >= 2 for tenth in tenths):
        findings.wrong.append(f'it was looked at too seldom: {[len(tenth) for tenth in tenths]} times in the tenths')
        return

    def middle(name: str) -> list[float]:
        return [round(statistics.median(sample[name] for sample in tenth), 1) for tenth in tenths]

    def per_step(name: str) -> list[float]:
        ends = [(tenth[0], tenth[-1]) for tenth in tenths]
        return [1e6 * (last[name] - first[name]) / (last['step'] - first['step']) for first, last in ends]

    resident, files, threads, used, clock = middle('resident'), middle('files'), middle('threads'), per_step('processor'), per_step('clock')
    findings.told |= {
        'resident megabytes, by tenths': resident,
        'open files, by tenths': files,
        'threads, by tenths': threads,
        'microseconds of processor time per step, by tenths': [round(each) for each in used],
        'microseconds per step by the clock, by tenths': [round(each) for each in clock],
    }
    if small:
        return
    growth, slower = resident[-1] - resident[1], used[-1] / used[0] - 1
    findings.told |= {'growth in megabytes': round(growth, 1), 'last tenth slower by': round(slower, 4)}
    findings.told['last tenth slower by, by the clock'] = round(clock[-1] / clock[0] - 1, 4)
    findings.check(growth < MEGABYTES, f'memory grew by {growth:.1f} MB from the second tenth to the last')
    findings.check(files[-1] <= files[1], f'open files went from {files[1]} to {files[-1]}')
    findings.check(threads[-1] <= threads[1], f'threads went from {threads[1]} to {threads[-1]}')
    findings.check(slower < SLOWER, f'a step of the last tenth takes {slower:.1%} more processor time than one of the first')
