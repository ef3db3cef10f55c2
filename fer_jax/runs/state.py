"""Everything that training changes, in one pytree."""

from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import Array

from fer_jax.core import rng
from fer_jax.data.views import CROP_SIDE


@flax.struct.dataclass
class TrainState:
    """One run between two steps; what a checkpoint holds. Trees of shapes or shardings in its form have other leaves."""

    step: Any  # int32[]: steps done
    seed: Any  # uint32[]: of the run's random streams
    variables: dict[str, Any]  # params and batch_stats
    optimizer: optax.OptState
    average: dict[str, Any]  # exponential moving average of `variables`; empty when off


def create_state(network: nn.Module, optimizer: optax.GradientTransformation, seed: int | Array, ema: bool) -> TrainState:
    """The state before the first step, a pure function of `seed`."""
    seed = jnp.asarray(seed, jnp.uint32)
    images = jnp.zeros((1, CROP_SIDE, CROP_SIDE, 1))
    variables = network.init(rng.key(seed, 'init'), images, train=False)
    variables = {'params': variables['params'], 'batch_stats': variables['batch_stats']}
    average = jax.tree.map(jnp.copy, variables) if ema else {}
    return TrainState(jnp.zeros((), jnp.int32), seed, variables, optimizer.init(variables['params']), average)


def tree_bytes(tree: Any) -> int:
    """Bytes of all arrays of a tree, such as a state, or of their shapes and types."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def evaluated_variables(state: TrainState) -> dict[str, Any]:
    """The averaged variables where there are such, the trained ones otherwise."""
    return state.average or state.variables
