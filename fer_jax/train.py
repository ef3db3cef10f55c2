"""A training run: start or resume, the loop, and the one scoring of the test split at its end."""

import contextlib
import json
import pathlib
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from fer_jax import parallel
from fer_jax.checkpoint import Checkpoints
from fer_jax.data.teacher import read_teacher
from fer_jax.errors import Diverged, Interrupted
from fer_jax.evaluate import make_evaluator
from fer_jax.figures import curves_png
from fer_jax.files import write_atomic, write_json
from fer_jax.losses import class_weights, smooth
from fer_jax.neighbour import MOST_TRAIN_IMAGES, one_nearest_neighbour
from fer_jax.run import Run, build, check_content, check_workdir, claim_workdir, default_workdir
from fer_jax.score import score
from fer_jax.state import TrainState, evaluated_variables
from fer_jax.step import Data, TrainChunk, make_train_chunk
from fer_jax.writers import MetricWriter


def train(config: ConfigDict, workdir: pathlib.Path | None = None) -> dict[str, Any] | None:
    """Trains `config` in `workdir` (default: run.default_workdir) from the start, or from its latest checkpoint, and scores it.

    Returns:
      What it wrote to result.json; None when the run was finished before.

    Raises:
      InputError: bad data, or a workdir that holds something else.
      Diverged: a loss that is not finite; the checkpoints before it stand.
      Interrupted: after SIGTERM or SIGINT, with a checkpoint saved.
    """
    workdir = workdir or default_workdir(config)
    check_workdir(workdir, config)
    if (workdir / 'result.json').exists():
        print(f'{workdir}: this run is finished; its result is in {workdir / "result.json"}')
        return None
    run = build(config)
    print(f'run: {workdir}')
    claim_workdir(workdir, config)
    checkpoints = Checkpoints(workdir / 'checkpoints', config.train.keep_checkpoints)
    with contextlib.closing(checkpoints), stop_signals() as stopped:
        loop = Loop(run, workdir, checkpoints, stopped)
        loop.run_to_end()
        return finish(run, workdir, checkpoints, loop.record)


def training_data(run: Run) -> Data:
    """The training split as the step takes it, whole on every device."""
    faces, classes = run.dataset.splits['train'], len(run.dataset.class_names)
    targets = np.eye(classes, dtype=np.float32)[faces.labels] if faces.votes is None else faces.votes
    if run.config.data.teacher is not None:
        share = np.float32(run.config.data.teacher_share)
        targets = (1 - share) * targets + share * read_teacher(run.config.data.teacher, faces, run.dataset.class_names)
    weights = np.ones(len(faces), np.float32)
    if run.config.data.class_weights:
        weights = class_weights(faces.labels, classes)[faces.labels]
    targets = smooth(targets, run.config.optimizer.label_smoothing)
    return parallel.replicate(run.mesh, {'images': faces.images, 'targets': targets, 'weights': weights})


@contextlib.contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """Yields a function that says whether SIGTERM or SIGINT has come; a second one acts as if nobody listened."""
    seen: list[int] = []

    def listen(number: int, frame: Any) -> None:
        seen.append(number)
        signal.signal(number, before[number])

    before = {number: signal.signal(number, listen) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: bool(seen)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Loop:
    """The steps of one run from where it stands to its end.

    Steps are taken in compiled calls of a fixed length; what is due at a step happens at the end of the call that
    reaches it, always in this order: log, evaluate, save, stop. Do not change the order: a checkpoint must hold what
    the log says, and a stop must come after its checkpoint.
    """

    def __init__(self, run: Run, workdir: pathlib.Path, checkpoints: Checkpoints, stopped: Callable[[], bool]):
        self.run, self.checkpoints, self.stopped = run, checkpoints, stopped
        self.data = training_data(run)
        self.validate = make_evaluator(run.logits, run.mesh, 'centre', run.dataset.class_names, run.config.evaluation.batch_size)
        self.state, self.record = self.start()
        self.step = int(self.state.step)
        self.call_length = run.config.train.steps_per_call or (1 if jax.default_backend() == 'cpu' else 50)
        self.chunks: dict[int, TrainChunk] = {}
        self.clock = time.monotonic()
        self.writer = MetricWriter(
            workdir,
            total_steps=run.steps,
            steps_per_epoch=run.steps_per_epoch,
            batch_size=run.config.batch_size,
            resumed_at=self.step or None,
            tensorboard=run.config.train.tensorboard,
            lead=jax.process_index() == 0,
        )

    def start(self) -> tuple[TrainState, dict[str, Any]]:
        """The initial state, or the latest checkpoint's, and the record that goes into the next checkpoint.

        Raises:
          InputError: the data are not those that the run began with.
        """
        run, steps = self.run, self.checkpoints.steps('latest')
        record = {'starts': 0, 'seconds': 0.0, 'best': None, 'pending': {}, 'init_from': None}
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
          Diverged: a loss that is not finite.
          Interrupted: a signal came; a checkpoint is saved.
        """
        run, train = self.run, self.run.config.train
        evaluate_every = max(1, round(train.evaluate_every_epochs * run.steps_per_epoch))
        save_every = max(1, round(train.checkpoint_every_epochs * run.steps_per_epoch))
        with self.writer:
            if self.step:
                self.writer.message(f'resuming at step {self.step} of {run.steps}')
            while self.step < run.steps:
                before = self.step
                self.take_steps(min(self.call_length - before % self.call_length, run.steps - before))

                def due(every: int, before: int = before) -> bool:
                    return self.step // every > before // every or self.step == run.steps

                if due(train.log_every):
                    self.log()
                improved = due(evaluate_every) and self.evaluate()
                stopping = self.stopped() and self.step < run.steps
                if improved or stopping or due(save_every):
                    self.save(improved)
                if stopping:
                    self.checkpoints.wait()
                    raise Interrupted(f'stopped by a signal at step {self.step}, which is saved; the same command goes on from there')
        self.checkpoints.wait()

    def take_steps(self, length: int) -> None:
        """One compiled call of `length` steps; its metrics stay on the device until they are logged."""
        compiling = length not in self.chunks
        if compiling:
            with self.writer.pause():
                self.writer.message(f'compiling the training step for {run_size(self.run)} …')
                chunk = make_train_chunk(self.run.config, self.run.network, self.run.optimizer, self.run.mesh, length)
                self.chunks[length] = chunk.lower(self.state, self.data).compile()
        self.state, metrics = self.chunks[length](self.state, self.data)
        parallel.settle(metrics)
        self.step += length
        for name, values in metrics.items():
            self.record['pending'].setdefault(name, []).append(values)

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
            summary = self.validate(evaluated_variables(self.state), self.run.dataset.splits['validation']).summary
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
            self.checkpoints.save('latest', self.state, self.record)
            if improved:
                self.checkpoints.wait()
                self.checkpoints.save('best', self.state, self.record)


def run_size(run: Run) -> str:
    """`28,709 images, 224 steps an epoch, on 4 cpu device(s)`."""
    images, platform = len(run.dataset.splits['train']), run.mesh.devices.flat[0].platform
    return f'{images:,} images, {run.steps_per_epoch} steps an epoch, on {run.mesh.size} {platform} device(s)'


def finish(run: Run, workdir: pathlib.Path, checkpoints: Checkpoints, record: dict[str, Any]) -> dict[str, Any]:
    """Scores the best checkpoint: validation, and once the test split, by a centre crop and by ten; writes result.json last.

    Returns:
      What result.json holds.
    """
    kind, step = checkpoints.find('best')
    state, _ = checkpoints.restore(kind, step, run.abstract_state(), run.mesh)
    result = {
        'name': run.config.name,
        'seed': run.config.seed,
        'parameters': sum(leaf.size for leaf in jax.tree.leaves(state.variables['params'])),
        'steps': run.steps,
        'best_step': step,
        'training_seconds': record['seconds'],
        'starts': record['starts'],
        'init_from': record['init_from'],
    }
    scorings = [('validation', 'centre'), *([('test', 'centre'), ('test', 'ten')] if run.config.evaluation.test else [])]
    for split, views in scorings:
        folder = workdir / 'evaluations' / f'best-{run.dataset.split_titles[split]}-{views}'
        result[f'{split}_{views}'] = score(run, state, split, views, folder)
    if run.config.evaluation.test and len(run.dataset.splits['train']) < MOST_TRAIN_IMAGES:
        result['one_nearest_neighbour'] = one_nearest_neighbour(run.dataset.splits['train'], run.dataset.splits['test'])
    lines = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
    write_atomic(workdir / 'curves.png', curves_png(lines, run.config.name))
    write_json(workdir / 'result.json', result | run.record())
    print(f'finished: {workdir}/ (result.json, curves.png, checkpoints/best/{step})')
    return result
