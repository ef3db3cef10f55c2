"""One input read under watch: what the reader says, what it writes and where, how much memory it takes, and what it leaves."""

import os
import pathlib
import re
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

MOST_MEMORY = 2 << 30  # bytes above what the process had before
MOST_SECONDS = 10
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# Events of the interpreter after which a file is another, and where their paths stand among the arguments: path, then folder's descriptor.
CHANGES = {
    'os.mkdir': ((0, 2),), 'os.rename': ((0, 2), (1, 3)), 'os.remove': ((0, 1),), 'os.rmdir': ((0, 1),), 'os.symlink': ((1, 2),),
    'os.link': ((1, 3),), 'os.truncate': ((0, None),), 'os.chmod': ((0, 2),), 'os.chown': ((0, 3),), 'os.utime': ((0, 3),),
}  # fmt: skip
NEVER = (
    'pickle.find_class',
    'marshal.loads',
    'subprocess.Popen',
    'os.system',
    'os.exec',
    'os.posix_spawn',
    'socket.connect',
    'ctypes.dlopen',
)
LEFT = re.compile(r'\.tmp$|^\.preparing-')


def imported() -> bool:
    """Whether it is Python's own import of a module that unmarshals, from what was compiled of it before."""
    return sys._getframe(2).f_code.co_filename == '<frozen importlib._bootstrap_external>'


class Outcome(NamedTuple):
    """What became of one input."""

    said: str  # 'read', or the message that it was refused with
    wrong: tuple[str, ...]  # what must not be, one line each
    seconds: float
    peak: int  # bytes of memory above those before


class Watch:
    """Notes what the interpreter is about to do outside of one folder, and what it must never do at all."""

    def __init__(self) -> None:
        self.allowed: str | None = None  # None: not watching
        self.found: list[str] = []
        sys.addaudithook(self)

    def __call__(self, event: str, arguments: tuple) -> None:
        if self.allowed is None:
            return
        allowed, self.allowed = self.allowed, None
        try:
            if event in NEVER and not (event == 'marshal.loads' and imported()):
                self.found.append(f'{event} {str(arguments[:2])[:100]}')
            elif event == 'open' and isinstance(arguments[2], int) and arguments[2] & WRITING and not isinstance(arguments[0], int):
                self.look(event, arguments[0], None, allowed)
            for path, folder in CHANGES.get(event, ()):
                self.look(event, arguments[path], arguments[folder] if folder is not None and folder < len(arguments) else None, allowed)
        finally:
            self.allowed = allowed

    def look(self, event: str, path: Any, folder: int | None, allowed: str) -> None:
        if path is None or isinstance(path, int):
            return
        where = os.getcwd() if folder is None or folder < 0 else os.readlink(f'/proc/self/fd/{folder}')
        whole = os.path.realpath(os.path.join(where, os.fsdecode(path)))
        if whole != '/dev/null' and not (whole + '/').startswith(allowed + '/'):
            self.found.append(f'{event} outside of the target: {whole!r}')


def attempt(read: Callable[[], object], place: pathlib.Path, watch: Watch) -> Outcome:
    """Reads what stands in place/source, with place/target to write into, and looks at what happened and at what is there afterwards."""
    from fer_jax.core.errors import DataWarning, InputError

    before, base = snapshot(place), reset_peak()
    wrong: list[str] = []
    began = time.monotonic()
    watch.found, watch.allowed = [], os.path.realpath(place / 'target')
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter('always')
            read()
        said = 'read'
    except InputError as error:
        said = str(error)
        wrong += unclear(said)
    except BaseException as error:
        watch.allowed = None
        frames = ' < '.join(
            f'{pathlib.Path(each.filename).name}:{each.lineno}' for each in traceback.extract_tb(error.__traceback__)[:-6:-1]
        )
        said = f'{type(error).__name__}: {error}'[:200]
        wrong.append(f'traceback: {said!a} at {frames}')
    finally:
        watch.allowed = None
    seconds, peak = time.monotonic() - began, peak_memory() - base
    for each in caught:
        if not issubclass(each.category, DataWarning):
            wrong.append(f'warning: {each.category.__name__}: {str(each.message)[:150]!a}')
        else:
            wrong += unclear(str(each.message))
    wrong += watch.found
    if seconds > MOST_SECONDS:
        wrong.append(f'took {seconds:.0f} s')
    if peak > MOST_MEMORY:
        wrong.append(f'took {peak / 2**30:.1f} GiB')
    wrong += differences(before, snapshot(place))
    wrong += [f'left behind: {each.name}' for each in (place / 'target').rglob('*') if LEFT.search(each.name)]
    return Outcome(said, tuple(dict.fromkeys(wrong)), seconds, peak)


def unclear(said: str) -> list[str]:
    """Why a message is not one line that a terminal can show."""
    if not said.isprintable() or not said:
        return [f'message that is not one printable line: {said[:200]!a}']
    return [f'message of {len(said):,} characters: {said[:100]!a}…'] if len(said) > 5000 else []


def snapshot(place: pathlib.Path) -> dict[str, tuple]:
    """What stands beside the target: each path's kind, size and time of change."""
    found, todo = {}, [str(place)]
    while todo:  # not by os.walk, which takes the interpreter's stack for each folder in another
        for entry in os.scandir(todo.pop()):
            status, folder = entry.stat(follow_symlinks=False), entry.is_dir(follow_symlinks=False)
            if folder and entry.path == str(place / 'target'):
                continue
            found[entry.path] = (status.st_mode, *((0, 0) if folder else (status.st_size, status.st_mtime_ns)))
            todo += [entry.path] * folder
    return found


def differences(before: dict[str, tuple], after: dict[str, tuple]) -> list[str]:
    changed = sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
    return [f'changed outside of the target: {path!r}' for path in changed[:5]]


def reset_peak() -> int:
    """Makes the kernel count the most memory anew; returns what there is, in bytes."""
    pathlib.Path('/proc/self/clear_refs').write_text('5')
    return peak_memory()


def peak_memory() -> int:
    status = pathlib.Path('/proc/self/status').read_text()
    return int(re.search(r'VmHWM:\s+(\d+)', status)[1]) << 10


def resident(process: int) -> int:
    """The memory of a process now, in bytes; 0 where it is gone."""
    try:
        return int(pathlib.Path(f'/proc/{process}/statm').read_text().split()[1]) * os.sysconf('SC_PAGE_SIZE')
    except (OSError, IndexError):
        return 0


def places(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """A fresh folder for each input, with source, target and a folder to stand in; the one before goes away."""
    while True:
        place = folder / 'input'
        subprocess.run(['rm', '-rf', str(place)], check=True)  # which goes down into folders of any depth
        for name in ('source', 'target', 'here'):
            (place / name).mkdir(parents=True)
        os.chdir(place / 'here')
        yield place


def serve(connection: Connection, folder: pathlib.Path) -> None:
    """Reads the inputs of one job after the other, and says before and after each which it is."""
    sys.dont_write_bytecode = True
    from tests.faults.bad_inputs import inputs, write
    from tests.faults.bad_named import CASES
    from tests.faults.bad_readers import READERS

    warnings.simplefilter('ignore')
    watch, fresh = Watch(), places(folder)
    for reader in READERS.values():  # what is imported and made once is no fault of an input
        for files in reader.seeds()[:1]:
            place = next(fresh)
            write(files, place / 'source')
            reader.read(place / 'source', place / 'target')
    connection.send('ready')
    while True:
        try:
            reader, fuzzer, seed, skip, count = connection.recv()
        except EOFError:
            return
        builds = [CASES[reader][seed]] if fuzzer == 'named' else inputs(reader, fuzzer, seed, count)
        for index, build in enumerate(builds):
            if index < skip:
                continue
            place = next(fresh)
            if callable(build):
                build(place / 'source')
            elif not write(build, place / 'source'):
                continue
            connection.send(index)
            connection.send(
                attempt(lambda reader=reader, place=place: READERS[reader].read(place / 'source', place / 'target'), place, watch)
            )
            connection.recv()
        connection.send(None)
