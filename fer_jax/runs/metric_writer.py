"""The metrics of a run as they come: to metrics.jsonl, on request to TensorBoard, and to whoever looks on."""

import contextlib
import json
import math
import os
import pathlib
import time
from collections.abc import Iterator
from typing import Any

from fer_jax.core.errors import InputError, NotSaved
from fer_jax.core.files import write_atomic
from fer_jax.runs.process_log import LOG
from fer_jax.runs.progress import Progress, shown


class MetricWriter(contextlib.AbstractContextManager):
    """Writes each metric to metrics.jsonl, on request to TensorBoard's event files, and shows progress.

    Each line of metrics.jsonl is in the file before its call returns, so that a killed process has lost none. One that could not be
    written is kept, and goes before the next one. Used as a context manager it closes what it opened.

    Args:
      folder: of the run; metrics.jsonl and the folder `tensorboard` are in it.
      total_steps, steps_per_epoch, batch_size: of the run, for progress.
      resumed_at: the step of the checkpoint the run goes on from: what an earlier process logged beyond it is cut off.
        None for a start from nothing, which cuts off everything.
      tensorboard: write event files too.
      lead: false in every process but one, whose writer then does nothing.
      progress: what Progress takes: stream, clock, quiet_seconds.

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
        **progress: Any,
    ):
        self._folder, self._tensorboard, self._lead = pathlib.Path(folder), tensorboard, lead
        self._steps_per_epoch, self._file, self._events = steps_per_epoch, None, None
        self._progress = Progress(total_steps, steps_per_epoch, batch_size, **progress)
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
        self._progress.restart(step or 0)

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the progress line and closes the files."""
        self._progress.close()
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

    def pause(self) -> contextlib.AbstractContextManager[None]:
        """Leaves what happens inside, as compiling or an evaluation, out of images/s and time left."""
        return self._progress.pause()

    def train(self, step: int, metrics: dict[str, float]) -> None:
        """Logs training metrics after `step` steps, and shows progress with the images/s since the last call.

        What was measured by the clock goes to the terminal and to TensorBoard, not to metrics.jsonl, which is the same to the last
        byte however often a run was stopped.
        """
        rate = self._progress.rate(step)
        if self._lead:
            self._record('train', step, metrics)
            if rate is not None:
                self._note('train', step, {'images_per_second': rate})
            self._progress.show(step, metrics, rate)

    def validation(self, step: int, metrics: dict[str, float]) -> None:
        """Logs an evaluation after `step` steps, and shows it as a line that stays."""
        self.message(f'epoch {step / self._steps_per_epoch:.1f}  validation: {shown(metrics)}')
        if self._lead:
            self._record('validation', step, metrics)

    def message(self, text: str) -> None:
        """Shows a line that stays, without tearing the progress line; every process also notes it in its own log."""
        LOG.info(text)
        if self._lead:
            self._progress.line(text)

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
        if events := self._events:
            self._events = None
            with self._writing('tensorboard'):
                events.write(step, {f'{kind}/{name}': value for name, value in values.items()})
            self._events = events


class Events:
    """One of TensorBoard's event files in `folder`; TensorBoard hides what earlier files hold from `first_step` on.

    By tensorboardX's EventsWriter, which writes in the caller's own thread, so that a full disk is its caller's to know; its SummaryWriter
    has a thread, which would end. clu.metric_writers needs TensorFlow.

    Raises:
      InputError: the package tensorboardX is missing.
      OSError: the disk is full or the folder cannot be written.
    """

    def __init__(self, folder: pathlib.Path, first_step: int):
        try:
            from tensorboardX import event_file_writer
            from tensorboardX.proto import event_pb2, summary_pb2
        except ImportError:
            raise InputError('train.tensorboard=true needs the package tensorboardX: install it or set train.tensorboard=false') from None
        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        folder.mkdir(exist_ok=True)
        # Two files of one process within a second would have one name.
        self._writer = event_file_writer.EventsWriter(str(folder / 'events'), f'.{os.getpid()}.{time.monotonic_ns()}')
        self.close = self._writer.close
        started = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._writer.write_event(self._event(wall_time=time.time(), step=first_step, session_log=started))

    def write(self, step: int, values: dict[str, float]) -> None:
        """Brings to the file what was measured after `step` steps, by names such as `train/loss`."""
        summary = self._summary(value=[self._summary.Value(tag=name, simple_value=value) for name, value in values.items()])
        self._writer.write_event(self._event(wall_time=time.time(), step=step, summary=summary))
        self._writer.flush()


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
