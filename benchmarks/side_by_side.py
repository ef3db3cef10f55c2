"""Contenders measured side by side: each a process of its own, taking turns, so that a noisy machine is noisy for all.

A benchmark names its contenders and makes, in the contender's process, a function that does one round of the work. The
rounds go round: the first contender's first, the second's first, … so that what is compared lies seconds apart. What is
reported of two contenders is the median of the ratios of their rounds, and the range of the middle half of them.
"""

import argparse
import itertools
import json
import os
import pathlib
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.record_run import without_folders
from fer_jax.core.allocator import settings
from fer_jax.core.files import write_json
from fer_jax.core.memory import host_room

ROOT = pathlib.Path(__file__).parent.parent
Round = Callable[[], tuple[float, float]]  # does some work and returns (how much, seconds)


def same_environment(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """These environment variables, with those of the allocator that `python -m fer_jax train` would choose."""
    return dict(environment) | settings(environment, host_room().left)


class Contender:
    """A process that holds one contender, ready, and does a round when told to."""

    def __init__(self, module: str, name: str, options: dict[str, Any], environment: dict[str, str] | None = None) -> None:
        command = [sys.executable, '-m', module, '--contender', name, '--options', json.dumps(options)]
        started = time.perf_counter()
        self.name = name
        self.process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        self.about = self.answer()  # what the contender says of itself, versions above all
        self.seconds_to_ready = time.perf_counter() - started

    def answer(self) -> Any:
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f'{self.name} ended with exit code {self.process.wait()}')
        return json.loads(line)

    def round(self) -> tuple[float, float]:
        """One round: (work, seconds)."""
        self.process.stdin.write('round\n')
        self.process.stdin.flush()
        return tuple(self.answer())

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def serve(make: Callable[[str, dict[str, Any]], tuple[Round, dict[str, Any]]]) -> bool:
    """Where this process was started as a contender, makes its round, warms it up, and does one for each line of input.

    Returns:
      Whether it was; a benchmark's main goes on only where not.
    """
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument('--contender')
    parser.add_argument('--options', type=json.loads)
    chosen, _ = parser.parse_known_args()
    if chosen.contender is None:
        return False
    replies = sys.stdout
    sys.stdout = sys.stderr  # what a library prints must not pass for a reply
    do_round, about = make(chosen.contender, chosen.options)
    do_round()
    for reply in itertools.chain([about], (do_round() for _ in sys.stdin)):
        print(json.dumps(reply), file=replies, flush=True)
    return True


def race(contenders: list[Contender], rounds: int) -> dict[str, list[float]]:
    """Work per second of each contender in each round, in turns; the processes are ended."""
    rates: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    for number in range(rounds):
        for contender in contenders:
            work, seconds = contender.round()
            rates[contender.name].append(work / seconds)
        print(f'round {number + 1}/{rounds}: ' + ', '.join(f'{name} {rate[-1]:.4g}/s' for name, rate in rates.items()), flush=True)
    for contender in contenders:
        contender.close()
    return rates


def ratio(rates: dict[str, list[float]], name: str, to: str) -> dict[str, float]:
    """How many times as fast `name` is as `to`: the median over the rounds, and the quartiles."""
    ratios = [a / b for a, b in zip(rates[name], rates[to], strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4, method='inclusive') if len(ratios) > 1 else ratios * 3
    return {'median': middle, 'low': low, 'high': high}


def record(out: pathlib.Path, measured: dict[str, Any], environment: dict[str, Any]) -> None:
    """Writes measurement.json into `out`: what was measured, by which command, on what; of absolute paths in it their last name."""
    command = shlex.join(['python', '-m', f'benchmarks.{pathlib.Path(sys.argv[0]).stem}', *sys.argv[1:]])
    write_json(out / 'measurement.json', {'command': without_folders(command), **measured, 'environment': environment})
