"""The steps of a run: the loop over them, and what is due after a step, always in the same order."""

import contextlib
import copy
import dataclasses
import io
import itertools
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fer_jax.core import processes
from fer_jax.core.errors import Diverged, InputError, Interrupted, NotSaved
from fer_jax.core.mesh import settle
from fer_jax.data.schema import Faces
from fer_jax.data.views import CROP_SIDE
from fer_jax.evaluation.evaluate import Evaluation, make_evaluator
from fer_jax.runs.checkpoint import Checkpoints
from fer_jax.runs.metric_writer import MetricWriter
from fer_jax.runs.process_log import warn
from fer_jax.runs.state import TrainState, evaluated_variables
from fer_jax.training.feed import training_batches
from fer_jax.training.optimizer import make_optimizer
from fer_jax.training.run import Run, check_content
from fer_jax.training.step import Data, Metrics, TrainChunk, make_train_chunk


class Loop:
    """The steps of one run from where it stands to its end.

    Steps are taken in compiled calls of a fixed length; what is due at a step happens at the end of the call that
    reaches it, always in this order: log, evaluate, save, stop. Do not change the order: a checkpoint must hold what
    the log says, and a stop must come after its checkpoint.

    Args:
      shown: progress is shown; in the log it is in any case.
    """

    def __init__(self, run: Run, workdir: pathlib.Path, checkpoints: Checkpoints, stopped: Callable[[], bool], shown: bool = True):
        self.run, self.undamped, self.checkpoints, self.stopped = run, run, checkpoints, stopped
        self.owed: tuple[TrainState, dict[str, Any]] | None = None  # the best state and its record, where saving them failed
        self.went_back_to: int | None = None  # the step of the last rollback
        self.evaluators: dict[int, Callable[[Any, Faces], Evaluation]] = {}  # by the side of their views
        self.start()
        self.call_length = run.config.train.steps_per_call or (1 if jax.default_backend() == 'cpu' else 50)
        self.clock = time.monotonic()
        self.writer = MetricWriter(
            workdir,
            total_steps=run.steps,
            steps_per_epoch=run.steps_per_epoch,
            batch_size=run.config.batch_size,
            resumed_at=self.step or None,
            tensorboard=run.config.train.tensorboard,
            lead=processes.is_lead(),
            stream=None if shown else io.StringIO(),
        )

    def start(self) -> None:
        """Takes the newest checkpoint that is whole, or else the initial state, and the record that goes into the next one.

        Raises:
          InputError: no checkpoint is whole, or the best one is not; or the data are not those that the run began with.
        """
        run, train = self.undamped, self.undamped.config.train
        self.record = {'starts': 0, 'seconds': 0.0, 'runs_at_once': 1, 'rollbacks': 0, 'failed_saves': 0, 'best': None, 'pending': {}}
        self.record['init_from'] = None
        if any(self.checkpoints.steps(kind) for kind in ('latest', 'best')):
            self.state, saved, damaged = self.checkpoints.restore_newest(run.abstract_state(), run.mesh)
            for found in damaged:
                warn(f'{found}; going on from the checkpoint of step {int(self.state.step)}')
            self.record |= {key: saved[key] for key in self.record if key in saved}
            self.check_best(saved)
            check_content(run.dataset, saved)
        else:
            self.state, self.record['init_from'] = run.first_state()
        self.record |= {'starts': self.record['starts'] + 1} | run.record()
        self.step = int(self.state.step)
        self.run = damped(run, train.rollback_factor ** self.record['rollbacks']) if self.record['rollbacks'] else run

    def check_best(self, saved: dict[str, Any]) -> None:
        """Returns when the best checkpoint is there and whole; one that the restored state itself is, is saved again where it is not.

        Raises:
          InputError: it is lost.
        """
        best, step = self.record['best'], int(self.state.step)
        if not best:
            return
        held = best['step'] in self.checkpoints.steps('best')
        try:
            if not held:
                raise InputError(f'{self.checkpoints.folder / "best" / str(best["step"])}: no such checkpoint')
            processes.agreed(lambda: self.checkpoints.restore('best', best['step'], self.undamped.abstract_state(), self.undamped.mesh))
        except InputError as error:
            if best['step'] != step:
                cure = 'train anew in another --workdir: the same configuration gives the same run'
                raise InputError(f'{error}; it was the best on the validation split, and no other copy is there; {cure}') from None
            if held:
                warn(f'{error}; saved again from the latest checkpoint of step {step}')
                self.checkpoints.put_aside('best', step)
            # Where it is not there, the run was killed between the two saves of one step.
            self.checkpoints.save('best', self.state, saved)

    def run_to_end(self) -> None:
        """Takes the steps that are left.

        Raises:
          InputError: training data that cannot be read.
          Diverged: a loss that is not finite, or exploded.
          Interrupted: a signal came; a checkpoint is saved.
          NotSaved: what could not be written.
        """
        with self.writer:
            self.say_where()
            while self.step < self.run.steps:
                try:
                    self.advance()
                except Diverged as error:
                    self.roll_back(error)
            if self.owed:
                self.checkpoints.save('best', *self.owed)
            self.writer.flush()
            self.checkpoints.wait()

    def advance(self) -> None:
        """Takes steps to the end of the run.

        Raises:
          InputError, Diverged, Interrupted, NotSaved: as of `run_to_end`.
        """
        chunks: dict[tuple[int, int], TrainChunk] = {}
        with contextlib.closing(training_batches(self.run, self.step, self.call_length)) as batches:
            while self.step < self.run.steps:
                length, side = self.next_length(), self.run.side(self.step)
                data = next(batches)
                if (length, side) not in chunks:
                    chunks.clear()  # what ran on smaller views will not again
                    chunks[length, side] = self.compile(data, length, side)
                self.state, metrics = chunks[length, side](self.state, data)
                settle(metrics)
                self.take(metrics, length)

    def roll_back(self, error: Diverged) -> None:
        """Goes back to the newest checkpoint, or to the start, with a smaller learning rate, as often as the configuration allows.

        One that it went back to before, without coming to a newer one, may hold the beginning of what went wrong: it is put aside.

        Raises:
          Diverged: `error`, when that has been done often enough.
        """
        train, times = self.run.config.train, self.record['rollbacks'] + 1
        if times > train.rollbacks:
            raise error
        with self.saving():
            self.checkpoints.wait()
        held = {kind: self.checkpoints.steps(kind) for kind in self.checkpoints.managers}
        newest = max(itertools.chain(*held.values()), default=None)
        if newest is not None and newest == self.went_back_to:
            for kind in (kind for kind, steps in held.items() if newest in steps):
                self.checkpoints.put_aside(kind, newest)
        starts, self.owed = self.record['starts'], None
        self.start()
        self.went_back_to = self.step
        self.record |= {'starts': starts, 'rollbacks': times}
        self.run = damped(self.undamped, train.rollback_factor**times)
        self.writer.rewind(self.step or None)
        rate = f'{train.rollback_factor**times:.3g} of the learning rate'
        self.writer.message(f'{error}; going back to step {self.step} with {rate} (rollback {times} of {train.rollbacks})')

    def read_state(self) -> TrainState:
        """The state, to evaluate or save. Of several runs in one program `replicas` puts another in this one's place."""
        return self.state

    def say_where(self) -> None:
        """Says where a run goes on that did not just begin."""
        if self.step:
            self.writer.message(f'resuming at step {self.step} of {self.run.steps}')

    def next_length(self) -> int:
        """Steps of the next compiled call."""
        end = self.run.early_steps if self.step < self.run.early_steps else self.run.steps
        return min(self.call_length - self.step % self.call_length, end - self.step)

    def compile(self, data: Data, length: int, side: int) -> TrainChunk:
        """The compiled call of `length` steps on views of `side`²."""
        with self.writer.pause():
            self.writer.message(f'compiling the training step for {run_size(self.run)} …')
            streamed = not self.run.dataset.splits['train'].in_memory
            chunk = make_train_chunk(self.run.config, self.run.network, self.run.optimizer, self.run.mesh, length, streamed, side)
            return chunk.lower(self.state, data).compile()

    def take(self, metrics: Metrics, length: int) -> None:
        """Takes over what a call of `length` steps gave, of which `state` is there already, and does what is due after it.

        The metrics stay on the device until they are logged.

        Raises:
          Diverged, Interrupted, NotSaved: as of `run_to_end`.
        """
        run, train, before = self.run, self.run.config.train, self.step
        self.step += length
        for name, values in metrics.items():
            self.record['pending'].setdefault(name, []).append(values)

        def due(every: int) -> bool:
            return self.step // every > before // every or self.step == run.steps

        if due(train.log_every):
            self.log()
        improved = due(max(1, round(train.evaluate_every_epochs * run.steps_per_epoch))) and self.evaluate()
        stopping = self.stopped() and self.step < run.steps
        if improved or stopping or due(max(1, round(train.checkpoint_every_epochs * run.steps_per_epoch))):
            self.save(improved)
        if stopping:
            self.checkpoints.wait()
            if self.step not in self.checkpoints.steps('latest'):
                raise NotSaved(f'stopped by a signal at step {self.step}, which could not be saved')
            raise Interrupted(f'stopped by a signal at step {self.step}, which is saved; the same command goes on from there')

    def pending(self) -> dict[str, np.ndarray]:
        """Each metric of each step since the last line of the log, fetched from the device.

        Raises:
          Diverged: a loss among them is not finite, or exploded.
        """
        fetched = {name: np.concatenate([np.ravel(part) for part in parts]) for name, parts in self.record['pending'].items()}
        limit = self.run.config.train.loss_limit
        bad = np.flatnonzero(~(fetched.get('loss', np.zeros(0)) <= limit))  # a NaN among them
        if len(bad):
            first, loss = self.step - len(fetched['loss']) + 1, fetched['loss'][bad[0]]
            what = f'the loss is {loss}' + (f', above train.loss_limit={limit:g},' if np.isfinite(loss) else '')
            raise Diverged(f'{what} at step {first + bad[0]}, seen when steps {first} to {self.step} were looked at; {self.what_stands()}')
        return fetched

    def what_stands(self) -> str:
        """Which checkpoint a run that ends here leaves."""
        kept = self.checkpoints.steps('latest')
        return f'the checkpoint of step {kept[-1]} stands' if kept else 'no checkpoint was due before'

    def log(self) -> None:
        """One line of the log: the means since the last one."""
        means = {name: float(np.mean(values, dtype=np.float64)) for name, values in self.pending().items()}
        self.record['pending'] = {}
        with self.saving():
            self.writer.train(self.step, means | {'learning_rate': float(self.run.schedule(self.step - 1))})

    def validate(self, side: int) -> Callable[[Any, Faces], Evaluation]:
        """The evaluator of centre crops brought to `side`², made once."""
        if side not in self.evaluators:
            names, size = self.run.dataset.class_names, self.run.config.evaluation.batch_size
            self.evaluators[side] = make_evaluator(self.run.logits, self.run.mesh, 'centre', names, size, side)
        return self.evaluators[side]

    def evaluate(self) -> bool:
        """Scores the validation split by views of the side trained on, and says whether that is the best so far, at full size.

        Raises:
          Diverged: the network's outputs are not finite.
        """
        with self.writer.pause():
            try:
                side = self.run.side(self.step - 1)
                summary = self.validate(side)(evaluated_variables(self.read_state()), self.run.dataset.splits['validation']).summary
            except Diverged as error:
                self.pending()  # where a loss told of it before, that one's step is named
                raise Diverged(f'{error} after step {self.step}; {self.what_stands()}') from None
        improved = side == CROP_SIDE and (self.record['best'] is None or summary['accuracy'] > self.record['best']['accuracy'])
        if improved:
            self.record['best'] = {'step': self.step, 'accuracy': summary['accuracy']}
        with self.saving():
            self.writer.validation(self.step, {name: summary[name] for name in ('accuracy', 'macro_f1', 'nll', 'calibration_error')})
        return improved

    def save(self, improved: bool) -> None:
        """Saves the latest checkpoint, then the best, and one that is still owed.

        Raises:
          Diverged: a loss since the last line of the log, or the state, is not finite.
          NotSaved: a checkpoint or the log could not be written, and the configuration does not say to go on.
        """
        with self.writer.pause():
            now = time.monotonic()
            self.record['seconds'] += now - self.clock
            self.clock = now
            self.record['pending'] = {name: [values.tolist()] for name, values in self.pending().items()}
            state = self.read_state()
            if not is_finite(state):
                raise Diverged(f'parameters or statistics are not finite after step {self.step}; {self.what_stands()}')
            with self.saving():
                self.writer.flush()  # a checkpoint must not lie beyond what the log says
                self.checkpoints.save('latest', state, self.record)
                if improved or self.goes_on():
                    self.checkpoints.wait()
            if improved:
                self.owed = (state, self.record)
            if self.owed:
                self.save_best()

    def save_best(self) -> None:
        """Saves the best state that is owed, and keeps a copy of what is still owed after that."""
        state, record = self.owed
        with self.saving():
            self.checkpoints.save('best', state, record)
            if self.goes_on():
                self.checkpoints.wait()
            self.owed = None
        if self.owed:
            self.owed = (jax.tree.map(jnp.copy, state), copy.deepcopy(record))

    def goes_on(self) -> bool:
        """Whether the run goes on after what could not be written; it then waits for each save, to know."""
        return self.run.config.train.on_failed_save == 'go_on'

    @contextlib.contextmanager
    def saving(self) -> Iterator[None]:
        """Tells of what could not be written meanwhile, counts it, and goes on where the configuration says so.

        Raises:
          NotSaved: where it does not.
        """
        try:
            yield
        except NotSaved as error:
            if not self.goes_on():
                raise
            self.record['failed_saves'] += 1
            self.writer.message(f'warning: {error}; going on, for train.on_failed_save=go_on')


def damped(run: Run, factor: float) -> Run:
    """`run` with its learning rate times `factor`."""

    def schedule(step: Any) -> Any:
        return factor * run.schedule(step)

    return dataclasses.replace(run, schedule=schedule, optimizer=make_optimizer(run.config.optimizer, schedule))


def is_finite(state: TrainState) -> bool:
    """Whether no number of the state is NaN or infinite."""
    return all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(state))


def run_size(run: Run) -> str:
    """`28,709 images, 224 steps an epoch, on 4 cpu device(s)`."""
    train, platform = run.dataset.splits['train'], run.mesh.devices.flat[0].platform
    images = f'{len(train):,} images{"" if train.in_memory else ", streamed"}'
    return f'{images}, {run.steps_per_epoch} steps an epoch, on {run.mesh.size} {platform} device(s)'
