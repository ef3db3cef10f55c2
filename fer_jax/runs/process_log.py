"""logs/process-<k>.log of a run: what each of its processes did, and how it ended."""

import contextlib
import logging
import os
import pathlib
import platform
import sys
from collections.abc import Iterator, Sequence

import jax

LOG = logging.getLogger('fer_jax.run')


@contextlib.contextmanager
def process_log(workdirs: Sequence[pathlib.Path], process: int) -> Iterator[None]:
    """Writes what this process does meanwhile to logs/process-<k>.log of each run: who and where it is, each message, how it ended."""
    LOG.propagate = False
    LOG.setLevel(logging.INFO)
    handlers = []
    try:
        for workdir in workdirs:
            (workdir / 'logs').mkdir(exist_ok=True)
            handler = logging.FileHandler(workdir / 'logs' / f'process-{process}.log', encoding='utf-8', errors='backslashreplace')
            handlers.append(handler)
            handler.handleError = lambda record: None  # a full disk is told of by what matters more than this log
            handler.setFormatter(logging.Formatter('%(asctime)s  %(message)s'))
            LOG.addHandler(handler)
        devices = f'{jax.local_device_count()} of {jax.device_count()} {jax.default_backend()} device(s)'
        LOG.info(f'start: process {process} of {jax.process_count()}, number {os.getpid()} on {platform.node()}, {devices}')
        yield
        LOG.info('end')
    except BaseException as error:
        LOG.info(f'{type(error).__name__}: {error}')
        raise
    finally:
        for handler in handlers:
            LOG.removeHandler(handler)
            with contextlib.suppress(OSError):
                handler.close()


def warn(text: str) -> None:
    """A warning before there is a MetricWriter: the lead shows it, every process notes it in its own log."""
    LOG.info(f'warning: {text}')
    if jax.process_index() == 0:
        print(f'warning: {text}', file=sys.stderr)
