"""What of a run is saved and taken up again; and where that fails, what is owed, what is counted, and whether the run goes on."""

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from fer_jax.core.errors import InputError, NotSaved
from fer_jax.core.processes import agreed
from fer_jax.runs.checkpoint import Checkpoints
from fer_jax.runs.metric_writer import MetricWriter
from fer_jax.runs.process_log import warn
from fer_jax.runs.state import TrainState
from fer_jax.training.history import Best, History
from fer_jax.training.identity import check_content, check_files
from fer_jax.training.run import Run


def restore(run: Run, checkpoints: Checkpoints) -> tuple[TrainState, History]:
    """The newest checkpoint that is whole, or else the initial state.

    Raises:
      InputError: no checkpoint is whole, or the best one is not; or the data, votes or teachers are not those that the run began with.
    """
    if not any(checkpoints.steps(kind) for kind in ('latest', 'best')):
        state, init_from = run.first_state()
        return state, History(init_from=init_from)
    state, record, damaged = checkpoints.restore_newest(run.abstract_state(), run.mesh)
    for found in damaged:
        warn(f'{found}; going on from the checkpoint of step {int(state.step)}')
    history = History.of_record(record)
    if history.best:
        check_best(run, checkpoints, history.best, state, record)
    check_content(run.dataset.manifest, record)
    check_files(run.files_sha256, record)
    return state, history


def check_best(run: Run, checkpoints: Checkpoints, best: Best, state: TrainState, record: dict[str, Any]) -> None:
    """Returns when the best checkpoint is there and whole; one that the restored `state` itself is, is saved again where it is not.

    Raises:
      InputError: it is lost.
    """
    held = best.step in checkpoints.steps('best')
    try:
        if not held:
            raise InputError(f'{checkpoints.folder / "best" / str(best.step)}: no such checkpoint')
        agreed(lambda: checkpoints.restore('best', best.step, run.abstract_state(), run.mesh))
    except InputError as error:
        if best.step != int(state.step):
            cure = 'train anew in another --workdir: the same configuration gives the same run'
            raise InputError(f'{error}; it was the best on the validation split, and no other copy is there; {cure}') from None
        if held:
            warn(f'{error}; saved again from the latest checkpoint of step {best.step}')
            checkpoints.put_aside('best', best.step)
        # Where it is not there, the run was killed between the two saves of one step.
        checkpoints.save('best', state, record)


class Saver:
    """Saves a run's latest state and its best one, and knows which of them could not be written."""

    def __init__(self, run: Run, checkpoints: Checkpoints, writer: MetricWriter):
        self.checkpoints, self.writer, self.of_run = checkpoints, writer, run.record()
        self.go_on = run.config.train.on_failed_save == 'go_on'  # each save is then waited for, to know
        self.owed: tuple[TrainState, dict[str, Any]] | None = None  # the best state and its record, where saving them failed
        self.clock = time.monotonic()

    def save(self, state: TrainState, history: History, improved: bool) -> None:
        """Saves the latest checkpoint, then the best, and one that is still owed.

        Raises:
          NotSaved: a checkpoint or the log could not be written, and the configuration does not say to go on.
        """
        now = time.monotonic()
        history.seconds += now - self.clock
        self.clock = now
        with self.may_fail(history):
            self.writer.flush()  # a checkpoint must not lie beyond what the log says
            self.checkpoints.save('latest', state, history.to_record() | self.of_run)
            if improved or self.go_on:
                self.checkpoints.wait()
        if improved:
            self.owed = (state, history.to_record() | self.of_run)
        if self.owed:
            best, record = self.owed
            with self.may_fail(history):
                self.checkpoints.save('best', best, record)
                if self.go_on:
                    self.checkpoints.wait()
                self.owed = None
            if self.owed:  # a copy, for training goes on and gives the memory of the state away
                self.owed = (jax.tree.map(jnp.copy, best), record)

    @contextlib.contextmanager
    def may_fail(self, history: History) -> Iterator[None]:
        """Tells of what could not be written meanwhile, counts it, and goes on where the configuration says so.

        Raises:
          NotSaved: where it does not.
        """
        try:
            yield
        except NotSaved as error:
            if not self.go_on:
                raise
            history.failed_saves += 1
            self.writer.message(f'warning: {error}; going on, for train.on_failed_save=go_on')

    def what_stands(self) -> str:
        """Which checkpoint a run that ends here leaves."""
        kept = self.checkpoints.steps('latest')
        return f'the checkpoint of step {kept[-1]} stands' if kept else 'no checkpoint was due before'

    def check_stop(self, step: int) -> None:
        """Returns when all is written that a run which is stopped at `step` needs to go on.

        Raises:
          NotSaved: it could not be.
        """
        self.checkpoints.wait()
        if step not in self.checkpoints.steps('latest'):
            raise NotSaved(f'stopped by a signal at step {step}, which could not be saved')

    def finish(self) -> None:
        """Returns when all is written that was owed.

        Raises:
          NotSaved: it could not be.
        """
        if self.owed:
            self.checkpoints.save('best', *self.owed)
        self.writer.flush()
        self.checkpoints.wait()
