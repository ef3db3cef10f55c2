"""The processes that run one program: how they start, agree with each other, and end."""

import contextlib
import hashlib
import itertools
import logging
import os
import pathlib
import platform
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from fer_jax.core.errors import Diverged, InputError, Interrupted, NotSaved, ToldElsewhere, first_line, out_of_memory
from fer_jax.core.mesh import meet_on_all_devices
from fer_jax.core.terminal import forgiving

LOST_SECONDS = 60  # without a sign of life, after which a process is taken to be lost; most losses are seen at once, by a closed connection
STUCK_SECONDS = 20.0  # that a signal waits for the main thread: less than the 30 s that clusters give a process to end
MESSAGE_BYTES = 1000  # of an error that processes tell one another

Outcome = TypeVar('Outcome')


def start(cpu_devices: int) -> None:
    """Splits the CPU into virtual devices; to be called before JAX first looks at its devices.

    XLA runs a convolution's weight gradient on one thread, so sharing the batch over as many devices as there are
    cores is what fills a CPU. Other platforms ignore it. 0 takes what JAX was told (JAX_NUM_CPU_DEVICES), else the cores, at most 8.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    told = jax.config.jax_num_cpu_devices
    if (devices := virtual_devices(cpu_devices, told, cores)) != told:
        jax.config.update('jax_num_cpu_devices', devices)
    keep_compiled_programs()


def virtual_devices(asked: int, told: int, cores: int) -> int:
    """How many the CPU is split into: as many as are `asked` for, else as JAX was `told`, else as it has `cores`, at most 8."""
    return asked or (told if told > 0 else min(cores, 8))


def keep_compiled_programs() -> None:
    """Compiled programs go to ~/.cache/fer_jax (or below XDG_CACHE_HOME), and a second start takes them from there.

    Where JAX has been told a place, as by JAX_COMPILATION_CACHE_DIR, it stays. Programs for a CPU hold its instructions,
    and a home folder may be shared by machines of several kinds, so each kind has a folder of its own.
    """
    if jax.config.jax_compilation_cache_dir is None:
        cache = pathlib.Path(os.environ.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache')
        kind = hashlib.sha256(cpu_says('flags', 'Features').encode()).hexdigest()[:12]
        jax.config.update('jax_compilation_cache_dir', str(cache / 'fer_jax' / f'{platform.machine()}-{kind}'))
        # JAX itself would keep what took a second; several programs of half of one make a start as long as a large one does.
        jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.1)


def cpu_says(*begins: str) -> str:
    """The first line that begins with one of these among those in which Linux describes the CPU, elsewhere the platform's name of it."""
    try:
        lines = pathlib.Path('/proc/cpuinfo').read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(begins)), platform.processor())


def connect(how: str, processes: int | None, process: int | None, seconds: int) -> None:
    """Makes this process one of several that run the same program, by JAX's own distributed runtime; to be called right after `start`.

    Args:
      how: `off`; `auto` for what JAX finds by itself (a TPU pod, SLURM, Open MPI, Kubernetes); or HOST:PORT of process 0.
      processes: how many there must be; may be None with `auto`, which then takes what it finds.
      process: this one's number, from 0; None with `auto`.
      seconds: to wait for the others. After that one line is printed and the process ends with exit code 1.

    Raises:
      InputError: `auto` where JAX finds nothing; another number of processes than `processes`; or arguments that do not fit together.
    """
    if how == 'off':
        if processes not in (None, 1):
            raise InputError(f'--processes={processes} needs --distributed=auto or --distributed=HOST:PORT')
        return
    explicit = how != 'auto'
    if explicit and (not how.rpartition(':')[0] or not how.rpartition(':')[2].isdecimal()):
        raise InputError(f'--distributed={how} is none of off, auto and HOST:PORT')
    if explicit and (processes is None or process is None or not 0 <= process < processes):
        raise InputError(f'--distributed={how} needs --processes=N and --process-id=K with K from 0 to N - 1')
    if seconds < 1:
        raise InputError(f'--join-timeout={seconds}: expected the seconds to wait for the others, 1 or more')
    waiting = threading.Timer(seconds, give_up, (how, processes, process, seconds))
    waiting.daemon = True
    waiting.start()
    # JAX itself would end the process with a stack trace; its patience is longer, so that ours ends first.
    patience = {'initialization_timeout': seconds + 60, 'heartbeat_timeout_seconds': LOST_SECONDS, 'shutdown_timeout_seconds': LOST_SECONDS}
    try:
        jax.distributed.initialize(how if explicit else None, processes if explicit else None, process, **patience)
        keep_stdout_to_python()
        multihost_utils.sync_global_devices('start')
        meet_on_all_devices()
    except (ValueError, RuntimeError) as error:
        if explicit:
            raise InputError(f'--distributed={how}: {first_line(error)}') from None
        reason = 'JAX finds no TPU pod, SLURM, Open MPI or Kubernetes here' if 'should be defined' in str(error) else first_line(error)
        raise InputError(f'--distributed=auto: {reason}; --distributed=HOST:PORT --processes=N --process-id=K says it all') from None
    finally:
        waiting.cancel()
    if processes is not None and jax.process_count() != processes:
        raise InputError(f'--processes={processes}, but {jax.process_count()} were started')


def give_up(how: str, processes: int | None, process: int | None, seconds: int) -> None:
    """Ends the process, whose main thread waits in JAX for others that do not come."""
    who = 'this process' if process is None else f'process {process} of {processes}'
    where = 'the coordinator, process 0' if how == 'auto' else how
    end_at_once(f'error: {who} waited {seconds} s for all the others at {where}; are all started, and can this host reach it?', 1)


def end_at_once(text: str, code: int) -> NoReturn:
    """Ends the process from any thread, whatever the others wait for, with `text` on standard error and in the run's log."""
    logging.getLogger('fer_jax.run').info(text)
    print(text, file=sys.stderr)
    sys.stderr.flush()
    os._exit(code)


def keep_stdout_to_python() -> None:
    """From now on only Python writes to standard output, and what C++ says there is lost: each process tells of each connection."""
    sys.stdout.flush()
    ours = os.fdopen(os.dup(1), 'w', buffering=1, encoding=sys.stdout.encoding)
    with open(os.devnull, 'w') as nowhere:
        os.dup2(nowhere.fileno(), 1)
    sys.stdout = forgiving(ours)


def is_lead() -> bool:
    """Whether this process is the one that writes and prints."""
    return jax.process_index() == 0


def agreed(action: Callable[[], Outcome]) -> Outcome:
    """What `action` returns; where it raises InputError in any process, all raise the first one's: nobody waits for who is gone.

    Raises:
      InputError: of the first process that raised it, which is named where it is not the lead.
    """
    if jax.process_count() == 1:
        return action()
    outcome, failure = None, ''
    try:
        outcome = action()
    except InputError as error:
        if error.everywhere:  # told to all by an `agreed` inside this one
            raise
        failure = str(error)
    told = failure.encode()[:MESSAGE_BYTES].ljust(MESSAGE_BYTES, b'\0')
    told = multihost_utils.process_allgather(np.frombuffer(told, np.uint8)).reshape(-1, MESSAGE_BYTES)
    for process, message in enumerate(told):
        if message.any():
            text = bytes(message).rstrip(b'\0').decode(errors='ignore')
            error = (InputError if is_lead() else ToldElsewhere)(text if process == 0 else f'process {process}: {text}')
            error.everywhere = True
            raise error
    return outcome


def as_lead_sees(flag: bool) -> bool:
    """The lead's `flag`, in every process."""
    return flag if jax.process_count() == 1 else bool(multihost_utils.broadcast_one_to_all(np.array(flag)))


@contextlib.contextmanager
def ending_together() -> Iterator[None]:
    """Of several processes: ends this one at once when another is gone, or when it fails alone, instead of waiting for the others.

    With exit code 75 in the first case, for the same command then goes on from the last checkpoint; in the second with 2 for wrong
    input, such as a shard that one host alone finds damaged, and with 1 for anything else.
    """
    try:
        yield
    except BaseException as error:
        together = isinstance(error, Diverged | Interrupted) or isinstance(error, InputError) and error.everywhere
        if jax.process_count() == 1 or together:
            raise
        who = f'process {jax.process_index()} of {jax.process_count()}'
        lost = isinstance(error, jax.errors.JaxRuntimeError) and not out_of_memory(error)
        what = 'another process is gone; the same command goes on from the last checkpoint' if lost else type(error).__name__
        text = f'error: {who}: {error}' if isinstance(error, InputError | NotSaved) else f'{who}: {what} ({first_line(error)})'
        end_at_once(text, 75 if lost else 2 if isinstance(error, InputError) else 1)


@contextlib.contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """Yields a function that says whether SIGTERM or SIGINT has come; a second one acts as if nobody listened.

    Of several processes each is to ask equally often: a signal to one of them then stops all at the same question. JAX
    listens for SIGTERM there, and SIGINT is passed on as one. A single process is ended by `watch` where C++ does not let go of it.
    """
    several, seen, questions = jax.process_count() > 1, [], itertools.count(1)

    def listen(number: int, frame: Any) -> None:
        seen.append(number)
        signal.signal(number, kept[number])
        if several:
            os.kill(os.getpid(), signal.SIGTERM)

    def stopped() -> bool:
        return multihost_utils.reached_preemption_sync_point(next(questions)) if several else bool(seen)

    kept = {number: signal.signal(number, listen) for number in ((signal.SIGINT,) if several else (signal.SIGTERM, signal.SIGINT))}
    try:
        with contextlib.nullcontext() if several else watched(seen):
            yield stopped
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def watched(seen: list[int]) -> Iterator[None]:
    """Ends this process when a signal to stop does not come to `seen`, as none does while the main thread is held by C++.

    That is within `STUCK_SECONDS`, or at once when another comes. A computation may never end: where one of several virtual devices finds
    no memory, say, and the others wait for it. Python hands a signal's number to a pipe, whatever the main thread does.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    elsewhere = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    watcher = threading.Thread(target=watch, args=(reading, elsewhere, seen), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(elsewhere)
        os.write(writing, bytes(1))
        watcher.join()
        os.close(reading)
        os.close(writing)


def watch(reading: int, elsewhere: int, seen: list[int], seconds: float = STUCK_SECONDS) -> None:
    """Passes the numbers of signals on to the pipe that had them before, until a 0; one not taken waits `seconds`, see `watched`."""
    came = 0
    while True:
        ready = select.select([reading], [], [], seconds if came > len(seen) else None)[0]
        number = os.read(reading, 1)[0] if ready else None
        if number == 0:
            return
        if number is not None and elsewhere >= 0:
            with contextlib.suppress(OSError):
                os.write(elsewhere, bytes([number]))
        if number in (signal.SIGTERM, signal.SIGINT, None):
            if came > len(seen):
                what = 'stopped by a signal within a computation that did not end'
                end_at_once(f'{what}; what was saved before stands, the same command goes on from there', 75)
            came += number is not None
