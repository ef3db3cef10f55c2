"""What a user's terminal is told by libraries, and how the process leaves it."""

import inspect
import logging
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any, NoReturn

from fer_jax.core.errors import DataWarning


def tell_warnings(command: str) -> None:
    """Warnings about the user's data are one line each; those that libraries give one another are not the user's."""
    for name in ('absl', 'asyncio', 'concurrent.futures'):  # Orbax and TFDS; what fails in them is raised, too, and told once
        logging.getLogger(name).setLevel(logging.CRITICAL)
    elsewhere = sys.unraisablehook

    def tell_unraisable(unraisable: Any) -> None:
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


def now_and_then(seconds: float = 10.0) -> Callable[[str], None]:
    """A function that prints a line on standard error, if the last one, or the beginning, was so many seconds ago."""
    last = time.monotonic()

    def tell(line: str) -> None:
        nonlocal last
        if time.monotonic() >= last + seconds:
            last = time.monotonic()
            print(line, file=sys.stderr, flush=True)

    return tell


def leave(code: int) -> NoReturn:
    """Ends the process: threads of a save that failed wait minutes for the rest of it, and Python would wait for them."""
    sys.stdout.flush()
    sys.stderr.flush()
    if any(type(thread).__module__.startswith('orbax') for thread in threading.enumerate()):
        os._exit(code)
    sys.exit(code)
