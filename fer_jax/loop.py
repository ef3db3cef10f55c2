"""The steps of a run: their data, the loop over them, and what is due after a step, always in the same order."""

import contextlib
import io
import itertools
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jaxtyping import Float32

from fer_jax import parallel
from fer_jax.checkpoint import Checkpoints
from fer_jax.data.stream import stream
from fer_jax.data.teacher import read_teacher
from fer_jax.errors import Diverged, Interrupted
from fer_jax.evaluate import make_evaluator
from fer_jax.losses import class_weights, smooth
from fer_jax.run import Run, check_content
from fer_jax.state import TrainState, evaluated_variables
from fer_jax.step import Data, Metrics, TrainChunk, make_train_chunk
from fer_jax.writers import MetricWriter


def training_data(run: Run) -> Data:
    """The training split as the step takes it, whole on every device."""
    targets, weights = training_targets(run)
    return parallel.replicate(run.mesh, {'images': run.dataset.splits['train'].images, 'targets': targets, 'weights': weights})


def training_targets(run: Run) -> tuple[Float32[np.ndarray, 'n classes'], Float32[np.ndarray, 'n']]:
    """What each training image is to be taken for, and how much it weighs in the loss.

    Raises:
      InputError: a teacher's predictions that cannot be read or are not of these images.
    """
    faces, classes = run.dataset.splits['train'], len(run.dataset.class_names)
    targets = np.eye(classes, dtype=np.float32)[faces.labels] if faces.votes is None else faces.votes
    if run.config.data.teacher is not None:
        share = np.float32(run.config.data.teacher_share)
        targets = (1 - share) * targets + share * read_teacher(run.config.data.teacher, faces, run.dataset.class_names)
    weights = np.ones(len(faces), np.float32)
    if run.config.data.class_weights:
        weights = class_weights(faces.labels, classes)[faces.labels]
    return smooth(targets, run.config.optimizer.label_smoothing), weights


def training_batches(run: Run, first: int, steps_per_call: int) -> Iterator[Data]:
    """What each call of the step takes from step `first` on: always the resident split, or what is read ahead; to be closed."""
    images, config = run.dataset.splits['train'].images, run.config
    if run.dataset.splits['train'].in_memory:
        data = training_data(run)
        return (data for _ in itertools.count())
    return stream(
        run.mesh,
        images,
        *training_targets(run),
        seed=config.seed,
        batch_size=config.batch_size,
        first=first,
        last=run.steps,
        steps_per_call=steps_per_call,
        neighbours=config.augment.mixup > 0 or config.augment.cutmix > 0,
    )


class Loop:
    """The steps of one run from where it stands to its end.

    Steps are taken in compiled calls of a fixed length; what is due at a step happens at the end of the call that
    reaches it, always in this order: log, evaluate, save, stop. Do not change the order: a checkpoint must hold what
    the log says, and a stop must come after its checkpoint.

    Args:
      shown: progress is shown; in the log it is in any case.
    """

    def __init__(self, run: Run, workdir: pathlib.Path, checkpoints: Checkpoints, stopped: Callable[[], bool], shown: bool = True):
        self.run, self.checkpoints, self.stopped = run, checkpoints, stopped
        self.validate = make_evaluator(run.logits, run.mesh, 'centre', run.dataset.class_names, run.config.evaluation.batch_size)
        self.state, self.record = self.start()
        self.step = int(self.state.step)
        self.call_length = run.config.train.steps_per_call or (1 if jax.default_backend() == 'cpu' else 50)
        self.clock = time.monotonic()
        self.writer = MetricWriter(
            workdir,
            total_steps=run.steps,
            steps_per_epoch=run.steps_per_epoch,
            batch_size=run.config.batch_size,
            resumed_at=self.step or None,
            tensorboard=run.config.train.tensorboard,
            lead=parallel.is_lead(),
            stream=None if shown else io.StringIO(),
        )

    def start(self) -> tuple[TrainState, dict[str, Any]]:
        """The initial state, or the latest checkpoint's, and the record that goes into the next checkpoint.

        Raises:
          InputError: the data are not those that the run began with.
        """
        run, steps = self.run, self.checkpoints.steps('latest')
        record = {'starts': 0, 'seconds': 0.0, 'runs_at_once': 1, 'best': None, 'pending': {}, 'init_from': None}
        if steps:
            state, saved = self.checkpoints.restore('latest', steps[-1], run.abstract_state(), run.mesh)
            check_content(run.dataset, saved)
            record |= {key: saved[key] for key in record if key in saved}
            if record['best'] and record['best']['step'] not in self.checkpoints.steps('best'):
                # Killed between the two saves of one step: that step's latest checkpoint is the best one.
                self.checkpoints.save('best', state, saved)
        else:
            state, record['init_from'] = run.first_state()
        return state, record | {'starts': record['starts'] + 1} | run.record()

    def run_to_end(self) -> None:
        """Takes the steps that are left.

        Raises:
          InputError: training data that cannot be read.
          Diverged: a loss that is not finite.
          Interrupted: a signal came; a checkpoint is saved.
        """
        chunks: dict[int, TrainChunk] = {}
        with self.writer, contextlib.closing(training_batches(self.run, self.step, self.call_length)) as batches:
            self.say_where()
            while self.step < self.run.steps:
                length = self.next_length()
                data = next(batches)
                if length not in chunks:
                    chunks[length] = self.compile(data, length)
                self.state, metrics = chunks[length](self.state, data)
                parallel.settle(metrics)
                self.take(metrics, length)
        self.checkpoints.wait()

    def read_state(self) -> TrainState:
        """The state, to evaluate or save. Of several runs in one program `replicas` puts another in this one's place."""
        return self.state

    def say_where(self) -> None:
        """Says where a run goes on that did not just begin."""
        if self.step:
            self.writer.message(f'resuming at step {self.step} of {self.run.steps}')

    def next_length(self) -> int:
        """Steps of the next compiled call."""
        return min(self.call_length - self.step % self.call_length, self.run.steps - self.step)

    def compile(self, data: Data, length: int) -> TrainChunk:
        """The compiled call of `length` steps."""
        with self.writer.pause():
            self.writer.message(f'compiling the training step for {run_size(self.run)} …')
            streamed = not self.run.dataset.splits['train'].in_memory
            chunk = make_train_chunk(self.run.config, self.run.network, self.run.optimizer, self.run.mesh, length, streamed)
            return chunk.lower(self.state, data).compile()

    def take(self, metrics: Metrics, length: int) -> None:
        """Takes over what a call of `length` steps gave, of which `state` is there already, and does what is due after it.

        The metrics stay on the device until they are logged.

        Raises:
          Diverged: a loss that is not finite.
          Interrupted: a signal came; a checkpoint is saved.
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
            raise Interrupted(f'stopped by a signal at step {self.step}, which is saved; the same command goes on from there')

    def pending(self) -> dict[str, np.ndarray]:
        """Each metric of each step since the last line of the log, fetched from the device.

        Raises:
          Diverged: a loss among them is not finite.
        """
        fetched = {name: np.concatenate([np.ravel(part) for part in parts]) for name, parts in self.record['pending'].items()}
        bad = np.flatnonzero(~np.isfinite(fetched.get('loss', ())))
        if len(bad):
            first = self.step - len(fetched['loss']) + 1
            kept = self.checkpoints.steps('latest')
            stands = f'the checkpoint of step {kept[-1]} stands' if kept else 'no checkpoint was due before'
            raise Diverged(
                f'the loss is {fetched["loss"][bad[0]]} at step {first + bad[0]}, seen when steps {first} to {self.step} were looked at;'
                f' {stands}; try a smaller optimizer.learning_rate'
            )
        return fetched

    def log(self) -> None:
        """One line of the log: the means since the last one."""
        means = {name: float(np.mean(values, dtype=np.float64)) for name, values in self.pending().items()}
        self.record['pending'] = {}
        self.writer.train(self.step, means | {'learning_rate': float(self.run.schedule(self.step - 1))})

    def evaluate(self) -> bool:
        """Scores the validation split, and says whether that is the best so far."""
        with self.writer.pause():
            summary = self.validate(evaluated_variables(self.read_state()), self.run.dataset.splits['validation']).summary
        improved = self.record['best'] is None or summary['accuracy'] > self.record['best']['accuracy']
        if improved:
            self.record['best'] = {'step': self.step, 'accuracy': summary['accuracy']}
        self.writer.validation(self.step, {name: summary[name] for name in ('accuracy', 'macro_f1', 'nll', 'calibration_error')})
        return improved

    def save(self, improved: bool) -> None:
        """Saves the latest checkpoint, then the best: a best one never lies beyond the latest."""
        with self.writer.pause():
            now = time.monotonic()
            self.record['seconds'] += now - self.clock
            self.clock = now
            self.record['pending'] = {name: [values.tolist()] for name, values in self.pending().items()}
            state = self.read_state()
            self.checkpoints.save('latest', state, self.record)
            if improved:
                self.checkpoints.wait()
                self.checkpoints.save('best', state, self.record)


def run_size(run: Run) -> str:
    """`28,709 images, 224 steps an epoch, on 4 cpu device(s)`."""
    train, platform = run.dataset.splits['train'], run.mesh.devices.flat[0].platform
    images = f'{len(train):,} images{"" if train.in_memory else ", streamed"}'
    return f'{images}, {run.steps_per_epoch} steps an epoch, on {run.mesh.size} {platform} device(s)'
