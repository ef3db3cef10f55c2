"""TensorBoard's event files, written in the caller's own thread, so that a full disk is its caller's to know and not a thread's end.

By tensorboardX's EventsWriter: its SummaryWriter writes from a thread of its own. clu.metric_writers needs TensorFlow.
"""

import os
import pathlib
import time

from fer_jax.core.errors import InputError


class Events:
    """One event file in `folder`; TensorBoard hides what earlier files hold from `first_step` on.

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
        started = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._writer.write_event(self._event(wall_time=time.time(), step=first_step, session_log=started))

    def scalar(self, name: str, value: float, step: int) -> None:
        """Notes one number, such as `train/loss`, after `step` steps."""
        summary = self._summary(value=[self._summary.Value(tag=name, simple_value=value)])
        self._writer.write_event(self._event(wall_time=time.time(), step=step, summary=summary))

    def flush(self) -> None:
        """Brings to the file what was noted."""
        self._writer.flush()

    def close(self) -> None:
        """Flushes and closes the file."""
        self._writer.close()
