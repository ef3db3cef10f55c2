"""Bad data for every reader, by name, by changed bytes, by Hypothesis and led by coverage: it is read or refused in one line."""

import concurrent.futures
import functools
import multiprocessing
import pathlib
import queue
import shutil
import subprocess
import tempfile
import threading
import time
from typing import Any

from tests.faults.bad_guided import guided
from tests.faults.bad_named import CASES
from tests.faults.bad_readers import READERS
from tests.faults.bad_worker import MOST_MEMORY, MOST_SECONDS, Outcome, resident, serve
from tests.faults.findings import Findings

Job = tuple[str, str, int | str, int]  # reader, fuzzer, seed (or a named case), how many inputs

WORKERS = 2
COUNTS = {'bytes': 250, 'hypothesis': 250}
SMALL = {'bytes': 8, 'hypothesis': 8}
CHUNK = 50  # inputs of one job
FEW = 0.4  # of the inputs of a reader that takes a second for each
SLOW = ('run folder',)
START_SECONDS = 120  # that a worker may take until it is ready, and to make a job's inputs


def campaign(folder: pathlib.Path, seed: int, small: bool) -> Findings:
    """Reads all the inputs in processes that are watched, and ended where they take more than 10 seconds or 2 GiB."""
    named = {reader: list(cases)[:: 4 if small else 1] for reader, cases in CASES.items()}
    return try_all(folder, jobs(seed, SMALL if small else COUNTS, named), 0 if small else 4000, seed)


def jobs(seed: int, counts: dict[str, int], named: dict[str, list[str]]) -> list[Job]:
    """Every reader's inputs, in parts."""
    found: list[Job] = [(reader, 'named', name, 1) for reader, names in named.items() for name in names]
    for fuzzer, count in counts.items():
        for reader in READERS:
            wanted = round(count * FEW) if reader in SLOW else count
            for start in range(0, wanted, CHUNK):
                found.append((reader, fuzzer, seed * 1_000_000 + start, min(CHUNK, wanted - start)))
    return found


def try_all(folder: pathlib.Path, todo: list[Job], guided_runs: int, seed: int, workers: int = WORKERS) -> Findings:
    """What became of all the jobs' inputs, and of `guided_runs` inputs of each pure Python reader led by coverage."""
    findings, lock = Findings(), threading.Lock()
    findings.told = {'inputs': {}, 'refused': 0, 'read': 0, 'seconds of the slowest': 0.0, 'MiB of the largest': 0.0, 'named cases': {}}
    waiting: queue.SimpleQueue[Job] = queue.SimpleQueue()
    for job in todo:
        waiting.put(job)

    def work(number: int) -> None:
        with Worker(folder / f'worker-{number}') as worker:
            while True:
                try:
                    job = waiting.get_nowait()
                except queue.Empty:
                    return
                worker.do(job, functools.partial(note, findings, lock, job))

    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        for done in [pool.submit(work, number) for number in range(workers)]:
            done.result()
    guided(folder, findings, guided_runs, seed)
    findings.told['inputs'] = dict(sorted(findings.told['inputs'].items()))
    findings.told['named cases'] = dict(sorted(findings.told['named cases'].items()))
    return findings


def note(findings: Findings, lock: threading.Lock, job: Job, index: int, outcome: Outcome, place: pathlib.Path) -> None:
    """Counts one input and what became of it; keeps its files where that must not be."""
    reader, fuzzer, seed, _ = job
    with lock:
        told = findings.told
        findings.tried += 1
        counts = told['inputs'].setdefault(reader, {})
        counts[fuzzer] = counts.get(fuzzer, 0) + 1
        told['read' if outcome.said == 'read' else 'refused'] += 1
        told['seconds of the slowest'] = max(told['seconds of the slowest'], round(outcome.seconds, 2))
        told['MiB of the largest'] = max(told['MiB of the largest'], round(outcome.peak / 2**20, 1))
        if fuzzer == 'named':
            shown = (
                outcome.said.replace(f'{place / "source"}/', '')
                .replace(str(place / 'source'), '.')
                .replace(str(place / 'target'), 'target')
            )
            told['named cases'][f'{reader}: {seed}'] = shown if len(shown) <= 300 else f'{shown[:300]}…'
        if outcome.wrong:
            kept = keep(place)
            findings.wrong += [f'{reader}, {fuzzer}, {seed}, {index}: {line} (kept in {kept})' for line in outcome.wrong]


def keep(place: pathlib.Path) -> pathlib.Path | None:
    """Where the files of an input now are for good; None where they cannot be copied."""
    total = sum(path.lstat().st_blocks * 512 for path in place.rglob('*'))
    if total > 1 << 26:
        return None
    kept = pathlib.Path(tempfile.mkdtemp(prefix='bad-data-'))
    for path in (place / 'source').rglob('*'):
        target = kept / path.relative_to(place / 'source')
        if path.is_dir() and not path.is_symlink():
            target.mkdir(parents=True, exist_ok=True)
        elif path.is_file() and not path.is_symlink() and path.stat().st_size < 1 << 26:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    return kept


class Worker:
    """A process that reads inputs, and is started again where one ends it or it has to be ended."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder

    def __enter__(self) -> 'Worker':
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def start(self) -> None:
        context = multiprocessing.get_context('spawn')
        self.connection, other = context.Pipe()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.process = context.Process(target=serve, args=(other, self.folder), daemon=True)
        self.process.start()
        other.close()
        if not self.connection.poll(START_SECONDS) or self.connection.recv() != 'ready':
            raise RuntimeError('a worker did not get ready')

    def end(self) -> None:
        self.connection.close()
        self.process.kill()
        self.process.join()
        subprocess.run(['rm', '-rf', self.folder / 'input'], check=True)  # Python's own way goes only some hundred folders down

    def do(self, job: Job, tell: Any) -> None:
        """Has one job done, and tells of each input: its number, what became of it, and where its files are."""
        skip, place = 0, self.folder / 'input'
        while skip is not None:
            reader, fuzzer, seed, count = job
            self.connection.send((reader, fuzzer, seed, skip, count))
            skip = self.follow(tell, place)

    def follow(self, tell: Any, place: pathlib.Path) -> int | None:
        """Until the job is done; or the number of the input to go on from, after one that ended the process."""
        while True:
            if not self.connection.poll(START_SECONDS):
                raise RuntimeError('a worker did not make its inputs')
            index = self.connection.recv()
            if index is None:
                return None
            base, began = resident(self.process.pid), time.monotonic()
            outcome = None
            try:
                while not self.connection.poll(0.05):
                    seconds, taken = time.monotonic() - began, resident(self.process.pid) - base
                    if seconds > 1.5 * MOST_SECONDS or taken > 1.25 * MOST_MEMORY:
                        reason = 'hangs' if seconds > MOST_SECONDS else f'takes {taken / 2**30:.1f} GiB and more'
                        outcome = Outcome(reason, (reason,), seconds, taken)
                        break
                outcome = outcome or self.connection.recv()
            except (EOFError, OSError):
                outcome = Outcome('ended the process', (f'ended the process, with {self.process.exitcode}',), time.monotonic() - began, 0)
                self.process.join()
                outcome = outcome._replace(wrong=(f'ended the process: exit code {self.process.exitcode}',))
            if len(outcome.wrong) == 1 and outcome.wrong[0] == outcome.said or outcome.said == 'ended the process':
                self.end()
                tell(index, outcome, place)
                self.start()
                return index + 1
            tell(index, outcome, place)
            self.connection.send('go on')
