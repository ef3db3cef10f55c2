"""What a run tells while it runs: metrics.jsonl, TensorBoard events, a progress line."""

import contextlib
import io
import json
import math
import os
import pathlib
import shutil
import sys
import time
from collections.abc import Callable, Iterator

from fer_jax.core.errors import NotSaved
from fer_jax.core.files import write_atomic
from fer_jax.runs.events import Events
from fer_jax.runs.process_log import LOG


class MetricWriter:
    """Writes metrics as they come: all to metrics.jsonl, on request to TensorBoard, and progress to a terminal or a log.

    On a terminal progress is one line that overwrites itself; elsewhere plain lines, no two within `quiet_seconds`.
    Each line of metrics.jsonl is in the file before its call returns, so that a killed process has lost none. One that could not be
    written is kept, and goes before the next one. Used as a context manager it closes what it opened.

    Args:
      folder: of the run; metrics.jsonl and the folder `tensorboard` are in it.
      total_steps, steps_per_epoch, batch_size: of the run, for progress.
      resumed_at: the step of the checkpoint the run goes on from: what an earlier process logged beyond it is cut off.
        None for a start from nothing, which cuts off everything.
      tensorboard: write event files too.
      lead: false in every process but one, whose writer then does nothing.
      stream: where progress goes; standard error where None.
      clock: seconds, for tests.
      quiet_seconds: least time between two lines of progress in a log.

    Raises:
      InputError: `tensorboard` without the package tensorboardX.
      NotSaved: the disk is full or the folder cannot be written; so do its methods.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        *,
        total_steps: int,
        steps_per_epoch: int,
        batch_size: int,
        resumed_at: int | None = None,
        tensorboard: bool = False,
        lead: bool = True,
        stream: io.TextIOBase | None = None,
        clock: Callable[[], float] = time.monotonic,
        quiet_seconds: float = 10.0,
    ):
        self._total, self._steps_per_epoch, self._batch_size = total_steps, steps_per_epoch, batch_size
        self._lead, self._clock, self._quiet_seconds = lead, clock, quiet_seconds
        self._stream = stream or sys.stderr
        self._terminal = self._stream.isatty()
        self._overwritable = False  # the terminal's last line is progress
        self._last_line = -math.inf
        self._seconds_per_step: float | None = None
        self._folder, self._tensorboard, self._file, self._events = pathlib.Path(folder), tensorboard, None, None
        self.rewind(resumed_at)

    def rewind(self, step: int | None) -> None:
        """Goes on from `step`: what was logged beyond it is cut off; all of it where `step` is None."""
        self._unwritten = b''
        if self._lead:
            self.close()
            if self._tensorboard:
                with self._writing('tensorboard'):
                    self._events = Events(self._folder / 'tensorboard', 0 if step is None else step + 1)
            with self._writing('metrics.jsonl'):
                cut_after(self._folder / 'metrics.jsonl', -1 if step is None else step)
                # Unbuffered: what a full disk has taken of a line, and what not, is then known.
                self._file = open(self._folder / 'metrics.jsonl', 'ab', buffering=0)
        self.restart(step or 0)

    def __enter__(self) -> 'MetricWriter':
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the progress line and closes the files."""
        if self._overwritable:
            self._stream.write('\n')
            self._stream.flush()
            self._overwritable = False
        if self._file:
            self._file.close()
        if self._events:
            with contextlib.suppress(OSError):  # what matters stands in metrics.jsonl
                self._events.close()
            self._events = None

    def flush(self) -> None:
        """Writes the lines that could not be written when they came."""
        with self._writing('metrics.jsonl'):
            while self._unwritten:
                self._unwritten = self._unwritten[self._file.write(self._unwritten) :]

    @contextlib.contextmanager
    def _writing(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise NotSaved(f'{self._folder / name} could not be written ({error.strerror})') from None

    def restart(self, step: int) -> None:
        """Starts the next interval at `step` and now: to be called after the first step, so that compiling counts nowhere."""
        self._interval_step, self._interval_start = step, self._clock()

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Leaves what happens inside, as an evaluation, out of images/s and time left."""
        start = self._clock()
        yield
        self._interval_start += self._clock() - start

    def train(self, step: int, metrics: dict[str, float]) -> None:
        """Logs training metrics after `step` steps, and shows progress with the images/s since the last call.

        What was measured by the clock goes to the terminal and to TensorBoard, not to metrics.jsonl, which is the same to the last
        byte however often a run was stopped.
        """
        steps, seconds = step - self._interval_step, self._clock() - self._interval_start
        self.restart(step)
        rate = None
        if steps > 0 and seconds > 0:
            rate = steps * self._batch_size / seconds
            # A tenth of each interval: a slow one does not throw the time left about.
            old = self._seconds_per_step
            self._seconds_per_step = seconds / steps if old is None else 0.9 * old + 0.1 * seconds / steps
        if self._lead:
            self._record('train', step, metrics)
            self._note('train', step, {'images_per_second': rate} if rate is not None else {})
            self._progress(step, metrics, rate)

    def validation(self, step: int, metrics: dict[str, float]) -> None:
        """Logs an evaluation after `step` steps, and shows it as a line that stays."""
        self.message(f'epoch {step / self._steps_per_epoch:.1f}  validation: {shown(metrics)}')
        if self._lead:
            self._record('validation', step, metrics)

    def message(self, text: str) -> None:
        """Shows a line that stays, without tearing the progress line; every process also notes it in its own log."""
        LOG.info(text)
        if self._lead:
            self._stream.write(('\r\x1b[K' if self._overwritable else '') + text + '\n')
            self._stream.flush()
            self._overwritable = False

    def _record(self, kind: str, step: int, metrics: dict[str, float]) -> None:
        values = {name: float(value) for name, value in metrics.items()}
        # JSON has no NaN: a value that is not finite is null.
        line = {'step': step, 'kind': kind, 'epoch': step / self._steps_per_epoch}
        line |= {name: value if math.isfinite(value) else None for name, value in values.items()}
        self._unwritten += json.dumps(line, allow_nan=False).encode() + b'\n'
        self.flush()
        self._note(kind, step, values)

    def _note(self, kind: str, step: int, values: dict[str, float]) -> None:
        """For TensorBoard, which gets no more of a run after an error: half an event would hide all that come after it."""
        if self._events:
            try:
                for name, value in values.items():
                    self._events.scalar(f'{kind}/{name}', value, step)
                self._events.flush()
            except OSError as error:
                self._events = None
                raise NotSaved(f'{self._folder / "tensorboard"} could not be written ({error.strerror})') from None

    def _progress(self, step: int, metrics: dict[str, float], rate: float | None) -> None:
        now = self._clock()
        if not self._terminal and step < self._total and now - self._last_line < self._quiet_seconds:
            return
        self._last_line = now
        parts = [f'step {step}/{self._total}', f'epoch {step / self._steps_per_epoch:.1f}/{self._total / self._steps_per_epoch:.0f}']
        if rate is not None:
            parts.append(f'{rate:.0f} images/s')
        parts.append(shown({name: metrics[name] for name in ('loss', 'accuracy') if name in metrics}))
        if self._seconds_per_step is not None:
            parts.append(f'{duration((self._total - step) * self._seconds_per_step)} left')
        text = '  '.join(parts)
        if not self._terminal:
            self.message(text)
            return
        columns = shutil.get_terminal_size().columns
        self._stream.write('\r\x1b[K' + text[: columns - 1])  # a wrapped line could not be overwritten
        self._stream.flush()
        self._overwritable = True


def cut_after(path: pathlib.Path, step: int) -> None:
    """Leaves in a metrics file the whole lines of steps up to `step`, atomically; a missing file stays missing."""
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return
    kept = [line for line in lines if line.endswith(b'\n') and step_of(line, step + 1) <= step]
    if kept != lines:
        write_atomic(path, b''.join(kept))


def step_of(line: bytes, otherwise: int) -> int:
    """The step a line of metrics.jsonl is of, `otherwise` where a kill tore it."""
    try:
        return int(json.loads(line)['step'])
    except (ValueError, KeyError, TypeError):
        return otherwise


def shown(metrics: dict[str, float]) -> str:
    """`loss 1.2345  accuracy 56.7 %`."""
    return '  '.join(f'{name} {100 * value:.1f} %' if name == 'accuracy' else f'{name} {value:.4f}' for name, value in metrics.items())


def duration(seconds: float) -> str:
    """`h:mm:ss`, or `m:ss` under an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f'{hours}:{minutes:02d}:{rest:02d}' if hours else f'{minutes}:{rest:02d}'
