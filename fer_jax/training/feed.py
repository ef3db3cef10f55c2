"""The training split as the step takes it: images, targets and weights, on the devices or read ahead."""

import itertools
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float32

from fer_jax.core.mesh import replicate
from fer_jax.data.predictions import read_teacher
from fer_jax.training.losses import class_weights, smooth
from fer_jax.training.run import Run
from fer_jax.training.step import Data
from fer_jax.training.stream import stream


def training_data(run: Run) -> Data:
    """The training split as the step takes it, whole on every device."""
    targets, weights = training_targets(run)
    return replicate(run.mesh, {'images': run.dataset.splits['train'].images, 'targets': targets, 'weights': weights})


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
        boundary=run.early_steps,
    )
