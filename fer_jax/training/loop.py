"""The steps of a run: the loop over them, and what is due after a step, always in the same order."""

import contextlib
import dataclasses
import functools
import io
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from fer_jax.core.errors import Diverged, Interrupted
from fer_jax.core.mesh import check_program, settle
from fer_jax.core.processes import is_lead
from fer_jax.data.schema import Faces
from fer_jax.evaluation.evaluate import Evaluation, make_evaluator
from fer_jax.runs.checkpoint import Checkpoints
from fer_jax.runs.metric_writer import MetricWriter
from fer_jax.runs.state import TrainState, evaluated_variables
from fer_jax.runs.workdir import note_start
from fer_jax.training.batches import Data, call_bounds, training_batches
from fer_jax.training.history import Best
from fer_jax.training.memory import CURE
from fer_jax.training.reestimate import make_reestimate
from fer_jax.training.run import Run
from fer_jax.training.saving import Saver, restore
from fer_jax.training.step import Metrics, TrainChunk, make_train_chunk, steps_per_call
from fer_jax.training.tracing import tracing

Evaluator = Callable[[Any, Faces], Evaluation]


class Loop:
    """The steps of one run from where it stands.

    Steps are taken in compiled calls of a fixed length; what is due at a step happens at the end of the call that
    reaches it, always in this order: log, evaluate, save, stop. Do not change the order: a checkpoint must hold what
    the log says, and a stop must come after its checkpoint.

    While steps are taken nothing passes between host and device that is not asked for: what would, and slow them, is an error.

    Args:
      stopped: whether the run is to stop; asked once after each call.
      evaluators: of `make_evaluators`, which several runs of one configuration may share; its own where None.
      shown: progress is shown; in the log it is in any case.

    Raises:
      InputError: as of saving.restore; or the folder cannot be written.
    """

    def __init__(
        self,
        run: Run,
        workdir: pathlib.Path,
        checkpoints: Checkpoints,
        stopped: Callable[[], bool],
        evaluators: Callable[[int, str], Evaluator] | None = None,
        shown: bool = True,
    ):
        self.undamped, self.workdir, self.checkpoints, self.stopped = run, workdir, checkpoints, stopped
        self.evaluators = evaluators or make_evaluators(run)
        self.restore()
        if is_lead():
            note_start(workdir, run.config)
        self.history.starts += 1
        self.writer = MetricWriter(
            workdir,
            total_steps=run.steps,
            steps_per_epoch=run.steps_per_epoch,
            batch_size=run.config.batch_size,
            resumed_at=self.step or None,
            tensorboard=run.config.train.tensorboard,
            lead=is_lead(),
            stream=None if shown else io.StringIO(),
        )
        self.saver = Saver(run, checkpoints, self.writer)

    def restore(self, **known: int) -> None:
        """Goes to the newest checkpoint, or to the initial state; of the history saved there, `known` is better known."""
        self.state, history = restore(self.undamped, self.checkpoints)
        self.history = dataclasses.replace(history, **known)
        self.step = int(self.state.step)
        self.run = self.undamped.damped(self.history.rollbacks)

    def say_where(self) -> None:
        """Says where a run goes on that did not just begin."""
        if self.step:
            self.writer.message(f'resuming at step {self.step} of {self.run.steps}')

    def advance(self) -> None:
        """Takes the steps that are left.

        Raises:
          InputError: training data that cannot be read.
          Diverged, Interrupted, NotSaved: as of `take`.
        """
        run = self.run
        calls = call_bounds(self.step, run.steps, steps_per_call(run.config), run.boundaries)
        with contextlib.ExitStack() as stack:
            batches = stack.enter_context(contextlib.closing(training_batches(run, calls)))
            trace = stack.enter_context(tracing(run.config.train.profile, self.workdir / 'profile'))
            stack.enter_context(jax.transfer_guard('disallow'))
            compiled = None
            for (first, last), data in zip(calls, batches, strict=False):
                if compiled != last - first or first in run.boundaries:
                    compiled = last - first
                    chunk = self.compile(data, first, compiled)
                trace(first, last - first, self.state)
                self.state, metrics = chunk(self.state, data)
                settle(metrics)
                trace(last, 0, metrics)
                self.take(metrics, last, lambda: self.state)

    def compile(self, data: Data, first: int, length: int) -> TrainChunk:
        """The compiled call of `length` steps from step `first` on, and of those after it that do the same."""
        with self.aside():
            run, train, config, side = self.run, self.run.dataset.splits['train'], self.run.config_at(first), self.run.side(first)
            streamed = 0 if train.in_memory else len(train)
            what = f'{len(train):,} images{", streamed" if streamed else ""}, {run.steps_per_epoch} steps an epoch'
            where = f'{run.mesh.size} {run.mesh.devices.flat[0].platform} device(s)'
            self.writer.message(f'compiling the training step for {what}, on {where} …')
            chunk = make_train_chunk(config, run.network, run.optimizer, run.mesh, length, streamed, side, mean_from=run.mean_from)
            program = chunk.lower(self.state, data).compile()
            check_program(program, f'a step of {config.batch_size:,} images', CURE)
            return program

    def take(self, metrics: Metrics, step: int, read_state: Callable[[], TrainState]) -> None:
        """Takes over what the call of the steps up to `step` gave, and does what is due after it.

        The metrics stay on the device until they are logged.

        Args:
          read_state: gives the state after that step, to evaluate or save.

        Raises:
          Diverged: a loss that is not finite, or exploded.
          Interrupted: a signal came; a checkpoint is saved.
          NotSaved: what could not be written.
        """
        run, train, before, self.step = self.run, self.run.config.train, self.step, step
        for name, values in metrics.items():
            self.history.pending.setdefault(name, []).append(values)
        read_whole = functools.cache(lambda: self.with_statistics(read_state()))

        def due(every: int) -> bool:
            return step // every > before // every or step == run.steps

        if due(train.log_every):
            self.log()
        improved = due(max(1, round(train.evaluate_every_epochs * run.steps_per_epoch))) and self.evaluate(read_whole)
        stopping = self.stopped() and step < run.steps
        if improved or stopping or due(max(1, round(train.checkpoint_every_epochs * run.steps_per_epoch))):
            self.save(read_whole, improved)
        if stopping:
            with self.aside():
                self.saver.check_stop(step)
            raise Interrupted(f'stopped by a signal at step {step}, which is saved; the same command goes on from there')

    def with_statistics(self, state: TrainState) -> TrainState:
        """The state as it is evaluated and saved: where its average is a plain mean, with batch norms of that mean's own.

        The steps neither read nor keep those, so that it does not matter how often they are made.
        """
        if self.run.mean_from is None or self.step <= self.run.mean_from:
            return state
        with self.aside():
            return self.reestimate(state, self.run.side(self.step - 1))

    @functools.cached_property
    def reestimate(self) -> Callable[[TrainState, int], TrainState]:
        return make_reestimate(self.run)

    def log(self) -> None:
        """One line of the log: the means since the last one."""
        means = {name: float(np.mean(values, dtype=np.float64)) for name, values in self.pending().items()}
        self.history.pending = {}
        with jax.transfer_guard('allow'):  # the schedule's few scalars
            rate = float(self.run.schedule(self.step - 1))
        with self.saver.may_fail(self.history):
            self.writer.train(self.step, means | {'learning_rate': rate})

    def evaluate(self, read_state: Callable[[], TrainState]) -> bool:
        """Scores the validation split by the views that are due, and says whether that is the best so far of those by the last's.

        Raises:
          Diverged: the network's outputs are not finite.
        """
        validation = self.run.validation(self.step)
        with self.aside():
            try:
                variables = evaluated_variables(read_state())
                summary = self.evaluators(*validation)(variables, self.run.dataset.splits['validation']).summary
            except Diverged as error:
                self.pending()  # where a loss told of it before, that one's step is named
                raise Diverged(f'{error} after step {self.step}; {self.saver.what_stands()}') from None
        found = Best(self.step, summary['accuracy'], summary['nll'])
        improved = validation == self.run.validation(self.run.steps) and found.beats(self.history.best)
        if improved:
            self.history.best = found
        with self.saver.may_fail(self.history):
            self.writer.validation(self.step, {name: summary[name] for name in ('accuracy', 'macro_f1', 'nll', 'calibration_error')})
        return improved

    def save(self, read_state: Callable[[], TrainState], improved: bool) -> None:
        """Saves the state, as the best one too where it has `improved`.

        Raises:
          Diverged: a loss since the last line of the log, or the state, is not finite.
          NotSaved: as of Saver.save.
        """
        with self.aside():
            self.history.pending = {name: [values.tolist()] for name, values in self.pending().items()}
            state = read_state()
            if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.device_get(state))):
                raise Diverged(f'parameters or statistics are not finite after step {self.step}; {self.saver.what_stands()}')
            self.saver.save(state, self.history, improved)

    def pending(self) -> dict[str, np.ndarray]:
        """Each metric of each step since the last line of the log, fetched from the device.

        Raises:
          Diverged: a loss among them is not finite, or exploded.
        """
        held = jax.device_get(self.history.pending)
        fetched = {name: np.concatenate([np.ravel(part) for part in parts]) for name, parts in held.items()}
        limit = self.run.config.train.loss_limit
        bad = np.flatnonzero(~(fetched.get('loss', np.zeros(0)) <= limit))  # a NaN among them
        if len(bad):
            first, loss = self.step - len(fetched['loss']) + 1, fetched['loss'][bad[0]]
            what = f'the loss is {loss}' + (f', above train.loss_limit={limit:g},' if np.isfinite(loss) else '')
            seen = f'seen when steps {first} to {self.step} were looked at'
            raise Diverged(f'{what} at step {first + bad[0]}, {seen}; {self.saver.what_stands()}')
        return fetched

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """What is no step: its time counts in no rate, and values may pass between host and device."""
        with self.writer.pause(), jax.transfer_guard('allow'):
            yield


def make_evaluators(run: Run) -> Callable[[int, str], Evaluator]:
    """A function of the side and the kind of the views that gives the evaluator by them, each made once."""
    names, size = run.dataset.class_names, run.config.evaluation.batch_size
    return functools.cache(lambda side, views: make_evaluator(run.logits, run.mesh, views, names, size, side))
