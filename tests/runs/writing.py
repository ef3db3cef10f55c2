"""What tests of a run's writers write with: a clock that stands still, a terminal, a writer of a run of 100 steps."""

import io
import json
import pathlib
from typing import Any

from fer_jax.runs.metric_writer import MetricWriter


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def make_writer(folder: pathlib.Path, **options: Any) -> MetricWriter:
    """Of 100 steps, 10 an epoch, of 32 images."""
    options = {'stream': io.StringIO(), 'clock': Clock()} | options
    return MetricWriter(folder, total_steps=100, steps_per_epoch=10, batch_size=32, **options)


def lines_of(folder: pathlib.Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / 'metrics.jsonl').read_text().splitlines()]
