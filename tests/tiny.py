"""A run small enough for tests: 350 drawn faces, one small block, and the program as a process."""

import os
import pathlib
import subprocess
import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import IO

from fer_jax.__main__ import parse
from fer_jax.core.fields import default_config
from fer_jax.model.fernet import FERNet, make_network

ROOT = pathlib.Path(__file__).parent.parent
FIELDS = {
    'data.toyfaces_images': '350',
    # What compiles fastest: one block, and none of the attention, which is asked for where it is looked at.
    'network.stem': '4',
    'network.blocks': '16',
    'network.strides': '2',
    'network.attention': 'none',
    'batch_size': '32',
    'epochs': '6',
    'optimizer.learning_rate': '0.01',
    'train.log_every': '5',
    'train.tensorboard': 'false',
    'evaluation.figures': 'false',
}


def overrides(folder: pathlib.Path, **fields: str) -> list[str]:
    """The arguments of a tiny run whose prepared data lie in `folder`; `fields` with __ for the dots go on top."""
    chosen = FIELDS | {'data.prepared': str(folder / 'prepared')} | {name.replace('__', '.'): text for name, text in fields.items()}
    return [f'--config.{name}={text}' for name, text in chosen.items()]


def fernet(classes: int = 7, **fields: object) -> FERNet:
    """The paper's network with the default fields of config.network but for `fields`."""
    config = default_config().network
    config.update(fields)
    return make_network(config, classes)


def start(
    *arguments: str,
    module: tuple[str, ...] = ('fer_jax',),
    environment: Mapping[str, str] = MappingProxyType({}),
    to: IO | None = None,
    **options: object,
) -> subprocess.Popen:
    """`python -m fer_jax`, or of another module, with these arguments; its output piped, or standard error `to` a file."""
    return subprocess.Popen(
        [sys.executable, '-W', 'ignore', '-m', *module, *arguments],
        stdout=subprocess.PIPE if to is None else subprocess.DEVNULL,
        stderr=subprocess.PIPE if to is None else to,
        text=True,
        env=os.environ | {'JAX_PLATFORMS': 'cpu', 'MALLOC_CONF': ''} | environment,  # whose allocator is chosen need not start again
        **options,
    )


def command(arguments: list[str]) -> int | None:
    """Does here what `python -m fer_jax` does with these arguments, but for the errors, which are raised."""
    options = parse(arguments)
    return options.run(options)


def run(*arguments: str, **options: object) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of `python -m fer_jax` with these arguments."""
    process = start(*arguments, **options)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err
