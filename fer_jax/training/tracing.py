"""The steps that train.profile names, traced for XProf or Perfetto."""

import contextlib
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax

from fer_jax.core.config import profiled_steps
from fer_jax.core.processes import is_lead

Trace = Callable[[int, int, Any], None]


@contextlib.contextmanager
def tracing(profile: str | None, folder: pathlib.Path) -> Iterator[Trace]:
    """Yields what is to be called before and after each compiled call: with the step, the steps that are about to be taken (0
    after the call), and arrays to wait for, so that work on the device stands in the trace as a whole or not at all.

    The lead traces whole calls: those that hold the steps after the first of `profile` up to the last. Whatever happens between
    them, such as an evaluation, is in the trace too.
    """
    span, is_on = profiled_steps(profile) if is_lead() else None, False

    def trace(step: int, ahead: int, arrays: Any) -> None:
        nonlocal is_on
        wanted = span is not None and step + ahead > span[0] and step < span[1]
        if wanted != is_on:
            jax.block_until_ready(arrays)
            if wanted:
                jax.profiler.start_trace(folder)
            else:
                jax.profiler.stop_trace()
            is_on = wanted

    try:
        yield trace
    finally:
        if is_on:
            jax.profiler.stop_trace()
