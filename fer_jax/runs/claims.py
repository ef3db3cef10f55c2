"""Who runs what, where several processes or hosts share a folder: numbered claims, each with a heartbeat.

The claims on a run are the files `<run>.1.json`, `<run>.2.json`, … of one folder, and the last of them counts. A run is taken, at first
or from a process that was lost, by making the file of the next number, which the file system lets one process do and no other; and
nobody but its maker ever writes to a claim. So at no moment do two hold a run, and none is locked for good by a process that dies.
A claim's heartbeat is its file's time of change, set anew while its process works.

Looked at: filelock, whose SoftFileLease has a heartbeat too, but numbers no claims, so that two may hold one, and deletes its file at the
end, where a claim goes on telling sweep and report how its run ended; and portalocker, whose locks are the operating system's, which
not every file system shares between hosts.
"""

import contextlib
import json
import os
import pathlib
import platform
import re
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from fer_jax.core.errors import InputError
from fer_jax.core.files import write_json

HEARTBEAT_SECONDS = 15.0  # between two signs of life of a claim
POLL_SECONDS = 1.0  # between two looks at a claim that may be lost
STALE_SECONDS = 120.0  # without one, after which it is taken to be lost; network file systems show changes up to a minute late


class Claim(NamedTuple):
    """The claim that counts, of those on one run."""

    number: int  # 0 where there is none
    record: dict[str, Any]  # host, process, machine, state ('running', or how it ended) and reason; empty while it is being written
    time: float  # of its last heartbeat or its end, in seconds, by the clock of the folder


def latest(folder: pathlib.Path, run: str) -> Claim:
    """The last claim on `run`; one of number 0 where there is none."""
    try:
        matches = [re.fullmatch(rf'{re.escape(run)}\.(\d+)\.json', name) for name in os.listdir(folder)]
        number = max(int(match[1]) for match in matches if match)
        path = folder / f'{run}.{number}.json'
        content, changed = path.read_bytes(), path.stat().st_mtime
    except (FileNotFoundError, NotADirectoryError, ValueError):  # no folder, no claim, or one that was deleted just now
        return Claim(0, {}, 0.0)
    try:
        record = json.loads(content)
    except ValueError:
        record = {}
    return Claim(number, record if isinstance(record, dict) else {}, changed)


def latest_written(folder: pathlib.Path, run: str) -> Claim:
    """As `latest`, after the moment that its maker takes between making the file and writing into it."""
    deadline = time.monotonic() + POLL_SECONDS
    while not (claim := latest(folder, run)).record and claim.number and time.monotonic() < deadline:
        time.sleep(0.005)
    return claim


def is_live(claim: Claim, now: float) -> bool:
    """Whether the claim's process still works on the run, as far as can be seen at `now` by the folder's clock."""
    if claim.number == 0 or claim.record.get('state', 'running') != 'running':
        return False
    if claim.record.get('machine') == machine() and is_gone(claim.record.get('process')):
        return False
    return now - claim.time < STALE_SECONDS


def acquire(folder: pathlib.Path, run: str) -> pathlib.Path | None:
    """Claims `run`, and returns the claim's file; None where another has it."""
    claim = latest(folder, run)
    if is_live(claim, folder_time(folder)):
        return None
    path = folder / f'{run}.{claim.number + 1}.json'
    try:
        with open(path, 'x') as file:
            json.dump(record('running'), file)
    except FileExistsError:
        return None
    return path


@contextlib.contextmanager
def heartbeat(path: pathlib.Path, lost: threading.Event, seconds: float = HEARTBEAT_SECONDS) -> Iterator[None]:
    """Keeps the claim at `path` alive meanwhile, by a sign of life every so many seconds.

    When another process has taken the run over, as happens to one that stood still for long, it sets `lost` and sends the main
    thread a SIGTERM: two may not go on with one run.
    """
    run, number = re.fullmatch(r'(.*)\.(\d+)\.json', path.name).groups()
    successor = path.with_name(f'{run}.{int(number) + 1}.json')
    done = threading.Event()

    def beat() -> None:
        while not done.wait(seconds):
            try:
                taken = successor.exists()
                if not taken:
                    os.utime(path)
            except FileNotFoundError:  # deleted by somebody, so that anybody may claim the run
                taken = True
            except OSError:  # a file server that is away for a moment
                continue
            if taken:
                lost.set()
                signal.pthread_kill(threading.main_thread().ident, signal.SIGTERM)
                return

    thread = threading.Thread(target=beat, name=f'heartbeat of {run}', daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@contextlib.contextmanager
def holding(folder: pathlib.Path, run: str, what: str, sleep: Callable[[float], None] = time.sleep) -> Iterator[None]:
    """Keeps other processes away from `what` meanwhile, by a claim on `run` in `folder`; `sleep` is for tests.

    The claim of a process of this machine that is gone is taken over at once; that of another host's, which cannot be asked, when
    it has given no sign of life for STALE_SECONDS, and until then this one waits.

    Raises:
      InputError: another process is at work there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    first, told = latest(folder, run), False
    while (path := acquire(folder, run)) is None:
        claim = latest_written(folder, run)
        holder = f'process {claim.record.get("process")} on host {claim.record.get("host")}'
        if claim.record.get('machine') == machine() or (claim.number, claim.time) > (first.number, first.time):
            raise InputError(f'{what}: {holder} is at work there; wait for its end, stop it, or choose another --workdir')
        if not told:
            print(f'{what}: waiting up to {STALE_SECONDS:.0f} s for a sign of life of {holder}, which was at work there', file=sys.stderr)
        told = True
        sleep(POLL_SECONDS)
    try:
        with heartbeat(path, threading.Event()):
            yield
    finally:
        end(path, 'ended')


def end(path: pathlib.Path, state: str, reason: str = '') -> None:
    """Ends the claim at `path`: whoever wants the run may claim it from now on."""
    with contextlib.suppress(OSError):  # on a full disk, say; its heartbeat has stopped, which comes to the same a little later
        write_json(path, record(state) | {'reason': reason})


def record(state: str) -> dict[str, Any]:
    """What a claim of this process says."""
    return {'host': platform.node(), 'process': os.getpid(), 'machine': machine(), 'state': state}


def machine() -> str:
    """What process numbers belong to: this boot of this machine, and the container's own count of them where there is one."""
    try:
        boot = pathlib.Path('/proc/sys/kernel/random/boot_id').read_text().strip()
        return f'{boot} {os.readlink("/proc/self/ns/pid")}'
    except OSError:
        return platform.node()


def is_gone(process: Any) -> bool:
    """Whether no process of this number is on this machine."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except (OSError, TypeError, OverflowError):  # another user's, or no number at all
        return False
    return False


def folder_time(folder: pathlib.Path) -> float:
    """The time by the clock that stamps files in `folder`: on a network that of its server, whatever this host's says."""
    with tempfile.TemporaryFile(dir=folder) as file:  # without a name, so that a kill leaves nothing
        return os.fstat(file.fileno()).st_mtime
