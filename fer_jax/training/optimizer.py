"""Optimizers and schedules, from optax, as `config.optimizer` names them."""

import jax
import optax
from ml_collections import ConfigDict

from fer_jax.core.errors import unknown
from fer_jax.core.fields import CHOICES


def make_schedule(config: ConfigDict, steps: int, steps_per_epoch: int) -> optax.Schedule:
    """Step → learning rate, over `steps` in all.

    cosine: linear from 0 over `warmup_epochs`, then half a cosine to 0 (Loshchilov & Hutter, 2017).
    onecycle: cosine up from 1/25 of the peak over 30 % of the run, then down to 1/10,000 of that (Smith & Topin, 2018).
    """
    match config.schedule:
        case 'cosine':
            warmup = min(round(config.warmup_epochs * steps_per_epoch), steps - 1)
            return optax.warmup_cosine_decay_schedule(0.0, config.learning_rate, warmup, steps)
        case 'onecycle':
            return optax.cosine_onecycle_schedule(steps, config.learning_rate)
    raise unknown('optimizer.schedule', config.schedule, CHOICES['optimizer.schedule'])


def is_kernel(params: dict) -> dict:
    """The tree of `params` with True at kernels and False at biases and batch norm's scales."""
    return jax.tree.map_with_path(lambda path, _: path[-1].key == 'kernel', params)


def make_optimizer(config: ConfigDict, schedule: optax.Schedule) -> optax.GradientTransformation:
    """Clipping by the global norm, then the named optimizer; weight decay falls on kernels only.

    Raises:
      InputError: unknown name.
    """
    clip = optax.identity() if config.clip is None else optax.clip_by_global_norm(config.clip)
    match config.name:
        case 'sgd':
            update = optax.chain(
                optax.add_decayed_weights(config.weight_decay, is_kernel),
                optax.sgd(schedule, momentum=config.momentum, nesterov=True),
            )
        case 'adamw':
            update = optax.adamw(schedule, weight_decay=config.weight_decay, mask=is_kernel)
        case 'muon':
            update = optax.contrib.muon(
                schedule,
                beta=config.momentum,
                weight_decay=config.weight_decay,
                weight_decay_mask=is_kernel,
                adam_learning_rate=lambda step: config.adam_ratio * schedule(step),
                muon_weight_dimension_numbers=muon_dimensions,
            )
        case _:
            raise unknown('optimizer.name', config.name, CHOICES['optimizer.name'])
    return optax.chain(clip, update)


def muon_dimensions(params: dict) -> dict:
    """Which axes of each kernel Muon takes as a matrix's; None leaves a parameter to Adam.

    A convolution is the matrix from its k²·inputs to its features. Depthwise filters and vectors are no matrices; the
    stem's nine inputs are left to Adam with them.
    """

    def dimensions(path: tuple, leaf: jax.Array) -> optax.contrib.MuonDimensionNumbers | None:
        if path[-1].key != 'kernel' or leaf.shape[-2] == 1:
            return None
        return optax.contrib.MuonDimensionNumbers(tuple(range(leaf.ndim - 1)), leaf.ndim - 1)

    return jax.tree.map_with_path(dimensions, params)
