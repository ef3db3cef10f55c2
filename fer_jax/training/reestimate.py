"""Batch norm of parameters that no step had, such as the mean of many steps': its statistics, taken anew from training images."""

import copy
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.sharding import PartitionSpec as P

from fer_jax.core.mesh import DATA, settle
from fer_jax.data.views import crops, normalise, resized
from fer_jax.evaluation.evaluate import batches
from fer_jax.model.baselines import make_any
from fer_jax.runs.state import TrainState
from fer_jax.training.run import Run, outputs
from fer_jax.training.step import sum_over_devices

BATCHES = 32  # of training images that the statistics are the mean of, at most


def make_reestimate(run: Run) -> Callable[[TrainState, int], TrainState]:
    """A function of (state, side of the views) that gives the state's average the batch statistics of its own parameters.

    They are the mean over BATCHES batches of centre crops of training images, as an evaluation takes them (Izmailov et al., 2018,
    take the batches of an epoch): the images lie evenly over the split, and are the same each time.
    """
    options, train = copy.deepcopy(run.config.network), run.dataset.splits['train']
    options.update({'batch_norm_momentum': 0.0, 'stochastic_depth': 0.0})  # the running statistics are then the last batch's
    network = make_any(options, outputs(run.config, run.dataset), DATA if options.batch_norm == 'global' else None)
    count, devices, batch_size = min(BATCHES, run.steps_per_epoch), run.mesh.size, run.config.batch_size

    @functools.cache
    def statistics(side: int) -> Callable[[Any, Array], Any]:
        def of_share(variables: Any, images: Array) -> Any:
            inputs = resized(normalise(crops(images, 'centre')[0]), side)
            _, updated = network.apply(variables, inputs, train=True, mutable=['batch_stats'])
            return sum_over_devices(jax.tree.map(lambda x: x / devices, updated['batch_stats']), devices)

        return jax.jit(jax.shard_map(of_share, mesh=run.mesh, in_specs=(P(), P(DATA)), out_specs=P(), check_vma=False))

    @functools.cache
    def chosen() -> Any:
        return train.take(np.linspace(0, len(train) - 1, count * batch_size).astype(np.int64))

    mean = jax.jit(lambda found: jax.tree.map(lambda *each: sum(each) / len(each), *found))

    def reestimate(state: TrainState, side: int) -> TrainState:
        found = []
        for images, _, _ in batches(chosen(), batch_size, run.mesh):
            found.append(statistics(side)(state.average, images))
            settle(found[-1])
        return state.replace(average=state.average | {'batch_stats': mean(found)})

    return reestimate
