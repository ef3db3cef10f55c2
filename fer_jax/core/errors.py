"""What a user may be told: wrong input, a run that diverged or was stopped; and the hint that goes with an unknown name."""

import difflib
from collections.abc import Iterable

MOST_CHARACTERS = 2000  # of a message, which may quote what a file says


def printable(text: str) -> str:
    """`text` fit for one line of a terminal: control characters and undecodable bytes are escaped."""
    return text if text.isprintable() else ''.join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


class InputError(ValueError):
    """Something the user gave is wrong; the message is one line: what, where, what would do.

    `python -m fer_jax` prints it without a traceback and exits with code 2.
    """

    everywhere = False  # whether all processes of the run raise it

    def __init__(self, message: str = ''):
        super().__init__(one_line(message))


class ToldElsewhere(InputError):
    """An InputError that another process of the same run prints. Exit code 2."""


class Diverged(Exception):
    """The loss is not finite, or exploded; the message names the steps and the checkpoint that stands. Exit code 1."""


class NotSaved(Exception):
    """What a run had to write could not be written; the message says why, and what stands. Exit code 1."""


class Interrupted(Exception):
    """A signal stopped a run after a checkpoint; the same command resumes it. Exit code 75 (EX_TEMPFAIL)."""


class DataWarning(UserWarning):
    """The data can be used but are not what they seem: counts off the official ones, files left out, a class without test images."""

    def __init__(self, message: str):
        super().__init__(one_line(message))


def out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, or a thread's, in Python or in JAX."""
    return isinstance(error, MemoryError) or any(each in str(error) for each in ('RESOURCE_EXHAUSTED', "can't start new thread"))


def first_line(error: BaseException) -> str:
    """The first line of what a library says, cut to a length that can be read."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def one_line(message: str) -> str:
    """A message that may hold anything from a file, as one line of bounded length that a terminal can show."""
    message = printable(str(message))
    return message if len(message) <= MOST_CHARACTERS else f'{message[:MOST_CHARACTERS]}… ({len(message):,} characters)'


def unknown(what: str, name: str, known: Iterable[str]) -> InputError:
    """The error for a `name` that is none of `known`, with the nearest of them as a hint."""
    known = [str(each) for each in known]
    near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    return InputError(f'unknown {what} {name!r}: ' + (f'did you mean {near[0]!r}?' if near else f'known are {", ".join(known)}'))
