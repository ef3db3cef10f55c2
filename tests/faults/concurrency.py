"""Several at once on one folder: runs (all but one refuse, naming who is at work), `prepare`s, ten sweep workers, claims of one instant."""

import json
import pathlib
import platform
import random
import re
import subprocess
import sys
import time

from tests.faults.findings import Findings
from tests.faults.runs import differences, end, left_behind, uninterrupted
from tests.tiny import ROOT, overrides, run, start
from tests.training.test_sweep import TWO, start_worker

RUN = {'epochs': '12', 'evaluation__test': 'false', 'parallel__cpu_devices': '2'}
SEEDS = 12  # of a sweep of two configurations
WORKERS = 10
RIVALS = 16

# Processes that wait for one instant and then claim one folder, as a run does; each that is refused is to name the one that is not.
CLAIM = """
import os, pathlib, sys, time
from fer_jax.runs.claims import holding
from fer_jax.core.errors import InputError

folder, rivals, rounds = pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
assert 'jax' not in sys.modules
for number in range(rounds):
    instant, children = time.monotonic() + 0.02, []
    for _ in range(rivals):
        child = os.fork()
        if not child:
            while time.monotonic() < instant:
                pass
            said = 'holds it'
            try:
                with holding(folder / str(number), 'run', 'it'):
                    time.sleep(0.2)
            except InputError as error:
                said = str(error)
            os.write(1, f'{number}\\t{os.getpid()}\\t{said}\\n'.encode())
            os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)
"""


def campaign(folder: pathlib.Path, seed: int, small: bool) -> Findings:
    """Each of the four again and again, begun at moments that are drawn."""
    findings, draws = Findings(), random.Random(seed)
    at_one_instant(findings, folder / 'claims', 5 if small else 200)
    for number in range(1 if small else 12):
        sweeps(findings, folder / f'sweep-{number}', draws, lost=0 if number % 2 == 0 else 2)
    for number in range(1 if small else 6):
        prepares(findings, folder / f'prepared-{number}', draws, 2 if small else 4)
    fields = RUN | ({'epochs': '1'} if small else {})
    began = time.monotonic()
    reference = uninterrupted(folder, **fields)
    seconds = time.monotonic() - began
    for number in range(1 if small else 5):
        runs(findings, folder / f'run-{number}', reference, draws, fields, seconds, 2 if small else 4)
    return findings


def at_one_instant(findings: Findings, folder: pathlib.Path, rounds: int) -> None:
    """Claims that processes make at the same moment."""
    folder.mkdir()
    command = [sys.executable, '-W', 'ignore', '-c', CLAIM, str(folder), str(RIVALS), str(rounds)]
    out = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    said: dict[int, dict[str, str]] = {}
    for line in out.splitlines():
        number, process, text = line.split('\t')
        said.setdefault(int(number), {})[process] = text
    for number in range(rounds):
        findings.count('claims of one instant', RIVALS)
        holders = [process for process, text in said[number].items() if text == 'holds it']
        findings.check(len(said[number]) == RIVALS and bool(holders), f'round {number}: {len(holders)} of {len(said[number])} held it')
        for text in set(said[number].values()) - {'holds it'}:
            named = re.fullmatch(rf'it: process (\d+) on host {re.escape(platform.node())} is at work there; .*', text)
            findings.check(bool(named) and named[1] in holders, f'round {number}: {holders} held it, and another was told: {text}')
        # One after the other some may hold it, but each then has a claim of its own, which tells of its end.
        records = [json.loads(path.read_text()) for path in (folder / str(number)).glob('run.*.json')]
        ended = sorted(str(record['process']) for record in records if record['state'] == 'ended')
        findings.check(ended == sorted(holders), f'round {number}: {holders} held it, but the claims are those of {ended}')
        findings.check(not left_behind(folder / str(number)), f'round {number}: temporary files were left behind')


def sweeps(findings: Findings, folder: pathlib.Path, draws: random.Random, lost: int) -> None:
    """Workers of one sweep that begin within two seconds, some of which are killed: every run is trained to its end once."""
    folder.mkdir()
    reference = folder / 'two.py'
    reference.write_text(TWO)
    workers = []
    for delay in sorted(draws.uniform(0, 2) for _ in range(WORKERS)):
        workers.append((delay, None))
    began, started = time.monotonic(), []
    for delay, _ in workers:
        time.sleep(max(0.0, began + delay - time.monotonic()))
        started.append(start_worker(folder, str(reference), f'0-{SEEDS - 1}'))
    killed = draws.sample(started, lost)
    for victim in killed:
        time.sleep(draws.uniform(0, 1))
        victim.kill()
    findings.count('sweep workers', WORKERS)
    findings.note('of them killed', lost)
    for worker in started:
        code, err = end(worker)
        findings.check(worker in killed or code == 0, f'{folder.name}: a worker ended with {code}: {err}')
    notes = (folder / 'log').read_text().splitlines()
    results = len(list((folder / 's').glob('*/seed*/result.json')))
    findings.check(results == 2 * SEEDS, f'{folder.name}: {results} of {2 * SEEDS} runs have a result')
    begins, ends = ([line for line in notes if line.startswith(what)] for what in ('begin', 'end'))
    # A worker that is killed takes a run with it, which another begins anew.
    findings.check(
        len(begins) - len(set(begins)) <= lost, f'{folder.name}: runs were begun twice, with {lost} workers killed: {sorted(begins)}'
    )
    findings.check(len(set(ends)) == 2 * SEEDS, f'{folder.name}: {len(set(ends))} of {2 * SEEDS} runs were trained to the end')
    findings.check(len(ends) - len(set(ends)) <= lost, f'{folder.name}: runs were trained to the end twice: {sorted(ends)}')
    findings.check(bool(lost) or not left_behind(folder / 's'), lambda: f'{folder.name}: left {left_behind(folder / "s")}')


def prepares(findings: Findings, folder: pathlib.Path, draws: random.Random, count: int) -> None:
    """Processes that prepare one set within a second: all end well with the same, and one copy of it is there."""
    arguments = ['prepare', '--config.data.toyfaces_images=350', f'--config.data.prepared={folder}']
    started = []
    for delay in [0.0, *(draws.choice([0.0, draws.uniform(0, 1)]) for _ in range(count - 1))]:
        time.sleep(delay)
        started.append(start(*arguments, cwd=ROOT))
    outcomes = [(*process.communicate(timeout=240), process.returncode) for process in started]
    findings.count('prepares', count)
    findings.check({code for _, _, code in outcomes} == {0}, lambda: f'{folder.name}: {[(code, err) for _, err, code in outcomes]}')
    findings.check(len({out for out, _, _ in outcomes}) == 1, f'{folder.name}: they did not print the same')
    there = [path.name for path in (folder / 'toyfaces').iterdir()]
    findings.check(len(there) == 1 and not there[0].startswith('.'), f'{folder.name}: it holds {there}')
    code, out, err = run(*arguments, cwd=ROOT)
    findings.check((code, out) == (0, outcomes[0][0]), f'{folder.name}: what was prepared is told as {out} {err}')


def runs(
    findings: Findings,
    workdir: pathlib.Path,
    reference: pathlib.Path,
    draws: random.Random,
    fields: dict[str, str],
    seconds: float,
    count: int,
) -> None:
    """Processes that are given the same run, some of them at once: one trains it, and the others name that one or find it finished."""
    delays = sorted([0.0, draws.uniform(0, 0.05), *(draws.uniform(0, 0.8 * seconds) for _ in range(count - 2))])
    began, started = time.monotonic(), []
    for delay in delays:
        time.sleep(max(0.0, began + delay - time.monotonic()))
        started.append(start('train', '--workdir', str(workdir), *overrides(workdir.parent, **fields), cwd=ROOT))
    outcomes = {process.pid: (*process.communicate(timeout=300), process.returncode) for process in started}
    findings.count('runs on one workdir', count)
    trained = [process for process, (out, _, code) in outcomes.items() if code == 0 and 'finished: ' in out]
    findings.check(len(trained) == 1, f'{workdir.name}: {len(trained)} of {count} trained it: {outcomes}')
    refusal = re.compile(rf'error: {re.escape(str(workdir))}: process (\d+) on host {re.escape(platform.node())} is at work there; .*\n')
    for process, (out, err, code) in outcomes.items():
        if process in trained:
            continue
        named = refusal.fullmatch(err)
        told = code == 2 and named and int(named[1]) in trained
        findings.note('refused, naming the other' if told else 'found it finished' if code == 0 else 'ended otherwise')
        findings.check(bool(told) or code == 0 and 'is finished' in out, f'{workdir.name}: after {delays} s one ended with {code}: {err}')
    findings.wrong += [f'{workdir.name}: {each}' for each in differences(workdir, reference)]
    starts = json.loads((workdir / 'result.json').read_text())['starts']
    findings.check(starts == 1, f'{workdir.name}: it was begun {starts} times')
