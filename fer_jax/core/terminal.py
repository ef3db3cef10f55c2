"""A user's terminal: what it can show, what it is told by libraries, and how the process leaves it."""

import codecs
import errno
import inspect
import io
import logging
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any, NoReturn

from fer_jax.core.errors import DataWarning

SPELLED = {'→': '->', '…': '...', '–': '-', '×': 'x', '±': '+-'}  # where an encoding lacks them; anything else is escaped
QUIET_SECONDS = 10.0  # between lines that say how far something is


def spell(error: UnicodeError) -> tuple[str, int]:
    """What stands in ASCII for the characters that an encoding lacks: an error handler of Python's codecs."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return ''.join(SPELLED.get(each) or ascii(each)[1:-1] for each in error.object[error.start : error.end]), error.end


codecs.register_error('fer_jax.spell', spell)


class Stream(io.TextIOWrapper):
    """A text stream that never raises for what is written to it: nothing that is only printed may cost a result."""

    lost: OSError | None = None  # why some of it could not be written: the reader is gone, the disk is full

    def write(self, text: str) -> int:
        """Writes `text`, in the characters that the encoding has; returns its length."""
        try:
            super().write(text)
        except OSError as error:
            self.lost = self.lost or error
        return len(text)

    def flush(self) -> None:
        """Brings to the system what was written."""
        try:
            super().flush()
        except OSError as error:
            self.lost = self.lost or error


def forgiving(stream: io.TextIOWrapper) -> Stream:
    """`stream`, which is used up, as one that never raises."""
    encoding, by_line = stream.encoding, stream.line_buffering
    return Stream(stream.detach(), encoding=encoding, errors='fer_jax.spell', line_buffering=by_line)


def forgive_output() -> None:
    """From now on nothing that is printed raises, whatever standard output and error are: of any encoding, cut off, full or closed."""
    for number, name in ((1, 'stdout'), (2, 'stderr')):
        if getattr(sys, name) is None:  # closed before we were started, so that the next file opened would have its number
            os.dup2(os.open(os.devnull, os.O_WRONLY), number)
            setattr(sys, name, os.fdopen(number, 'w', closefd=False))
        stream = forgiving(getattr(sys, name))
        setattr(sys, name, stream)
        setattr(sys, f'__{name}__', stream)  # of which shutil asks the terminal's size


def reader_is_gone() -> bool:
    """Whether nobody reads standard output any more, as behind `| head`."""
    sys.stdout.flush()
    lost = getattr(sys.stdout, 'lost', None)
    return lost is not None and lost.errno == errno.EPIPE


def tell_warnings(command: str) -> None:
    """Warnings about the user's data are one line each; those that libraries give one another are not the user's.

    A Ctrl-C that Python drops, as it does one that comes within a `__del__` or a callback of the garbage collection, of which JAX has one,
    comes again a moment later.
    """
    for name in ('absl', 'asyncio', 'concurrent.futures'):  # Orbax and TFDS; what fails in them is raised, too, and told once
        logging.getLogger(name).setLevel(logging.CRITICAL)
    elsewhere = sys.unraisablehook

    def tell_unraisable(unraisable: Any) -> None:
        if isinstance(unraisable.exc_value, KeyboardInterrupt):
            again = threading.Timer(0.05, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT))
            again.daemon = True
            again.start()
            return
        # When one of Orbax's reads has met an error, which is raised and told, the others that were under way have nobody to tell:
        # they find tensorstore's event loop closed, or end when their coroutines are collected.
        orphan = inspect.iscoroutine(unraisable.object) and '/orbax/' in unraisable.object.cr_code.co_filename
        if not orphan and str(unraisable.exc_value) != 'Event loop is closed':
            elsewhere(unraisable)

    sys.unraisablehook = tell_unraisable
    if not sys.warnoptions:
        warnings.simplefilter('ignore')
    # `prepare` prints them with its manifest.
    warnings.simplefilter('ignore' if command == 'prepare' else 'always', DataWarning)
    elsewise = warnings.formatwarning

    def tell(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> str:
        return f'warning: {message}\n' if issubclass(category, DataWarning) else elsewise(message, category, *where, **more)

    warnings.formatwarning = tell


def now_and_then() -> Callable[[str], None]:
    """A function that prints a line on standard error, if the last one, or the beginning, was QUIET_SECONDS ago."""
    last = time.monotonic()

    def tell(line: str) -> None:
        nonlocal last
        if time.monotonic() >= last + QUIET_SECONDS:
            last = time.monotonic()
            print(line, file=sys.stderr, flush=True)

    return tell


def leave(code: int) -> NoReturn:
    """Ends the process: threads of a save that failed wait minutes for the rest of it, and Python would wait for them.

    Where standard output could not be written and somebody still reads it, that is told, and code 0 becomes 1.
    """
    sys.stdout.flush()
    lost = getattr(sys.stdout, 'lost', None)
    if lost is not None and not reader_is_gone():
        print(f'error: some of what was printed is lost ({lost.strerror}); files that were written are whole', file=sys.stderr)
        code = code or 1
    sys.stderr.flush()
    if any(type(thread).__module__.startswith('orbax') for thread in threading.enumerate()):
        os._exit(code)
    sys.exit(code)
