"""How far a run is: one line that overwrites itself on a terminal, plain lines now and then in a log."""

import contextlib
import datetime
import io
import math
import shutil
import sys
import time
from collections.abc import Callable, Iterator


class Progress:
    """Shows steps, images/s and the time left, and other lines between them.

    Args:
      total_steps, steps_per_epoch, batch_size: of the run.
      stream: where it goes; standard error where None.
      clock: seconds, for tests.
      quiet_seconds: least time between two lines of progress in a log.
    """

    def __init__(
        self,
        total_steps: int,
        steps_per_epoch: int,
        batch_size: int,
        *,
        stream: io.TextIOBase | None = None,
        clock: Callable[[], float] = time.monotonic,
        quiet_seconds: float = 10.0,
    ):
        self._total, self._steps_per_epoch, self._batch_size = total_steps, steps_per_epoch, batch_size
        self._stream, self._clock, self._quiet_seconds = stream or sys.stderr, clock, quiet_seconds
        self._terminal = self._stream.isatty()
        self._overwritable = False  # the terminal's last line is progress
        self._last_line = -math.inf
        self._seconds_per_step: float | None = None
        self.restart(0)

    def restart(self, step: int) -> None:
        """Starts the next interval at `step` and now."""
        self._interval_step, self._interval_start = step, self._clock()

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Leaves what happens inside out of images/s and time left, once, also where there is a pause in it."""
        start, interval_start = self._clock(), self._interval_start
        yield
        self._interval_start = interval_start + self._clock() - start

    def rate(self, step: int) -> float | None:
        """Images/s since the last interval's start, at which the next one starts; None where no time or step has passed."""
        steps, seconds = step - self._interval_step, self._clock() - self._interval_start
        self.restart(step)
        if steps <= 0 or seconds <= 0:
            return None
        # A tenth of each interval: a slow one does not throw the time left about.
        old = self._seconds_per_step
        self._seconds_per_step = seconds / steps if old is None else 0.9 * old + 0.1 * seconds / steps
        return steps * self._batch_size / seconds

    def show(self, step: int, metrics: dict[str, float], rate: float | None) -> None:
        """Shows where the run is; in a log only when enough time has passed, or at its end."""
        now = self._clock()
        if not self._terminal and step < self._total and now - self._last_line < self._quiet_seconds:
            return
        self._last_line = now
        parts = [f'step {step}/{self._total}', f'epoch {step / self._steps_per_epoch:.1f}/{self._total / self._steps_per_epoch:.0f}']
        if rate is not None:
            parts.append(f'{rate:.0f} images/s')
        parts.append(shown({name: metrics[name] for name in ('loss', 'accuracy') if name in metrics}))
        if self._seconds_per_step is not None:
            parts.append(f'{datetime.timedelta(seconds=round((self._total - step) * self._seconds_per_step))} left')
        text = '  '.join(parts)
        if not self._terminal:
            self.line(text)
            return
        columns = shutil.get_terminal_size().columns
        self._stream.write('\r\x1b[K' + text[: columns - 1])  # a wrapped line could not be overwritten
        self._stream.flush()
        self._overwritable = True

    def line(self, text: str) -> None:
        """Shows a line that stays, in the place of one that would be overwritten."""
        self._stream.write(('\r\x1b[K' if self._overwritable else '') + text + '\n')
        self._stream.flush()
        self._overwritable = False

    def close(self) -> None:
        """Ends the line that would be overwritten."""
        if self._overwritable:
            self._stream.write('\n')
            self._stream.flush()
            self._overwritable = False


def shown(metrics: dict[str, float]) -> str:
    """`loss 1.2345  accuracy 56.7 %`."""
    return '  '.join(f'{name} {100 * value:.1f} %' if name == 'accuracy' else f'{name} {value:.4f}' for name, value in metrics.items())
