"""What a run takes of memory, worked out before anything of it is compiled or computed."""

import functools
import math
from typing import Any

import flax
import flax.linen as nn
import jax
from jax import Array

from fer_jax.core.memory import Room, check_room
from fer_jax.core.mesh import device_room
from fer_jax.data.views import CROP_SIDE
from fer_jax.runs.state import tree_bytes
from fer_jax.training.run import Run

CURE = 'a smaller batch_size or network, or another machine, would do'


def check_memory(run: Run, runs: int = 1, place: tuple[Room, int] | None = None) -> None:
    """Returns if what the run holds is left of the memory: on CPU, that of all its virtual devices together.

    XLA's own plan, which may be somewhat more or less, is looked at when the step is compiled (mesh.check_program).

    Args:
      runs: that are trained in one program.
      place: the memory and how many devices share it; None is `mesh.device_room`'s.

    Raises:
      InputError: it is not; the message has the parts.
    """
    room, sharing = place or device_room()
    copies = min(sharing, run.mesh.size)
    check_room(memory_parts(run, runs, copies), room, f'{copies} {jax.default_backend()} device(s)', CURE)


def memory_parts(run: Run, runs: int, copies: int) -> dict[str, int]:
    """Bytes that so many runs in one program take of a memory that `copies` devices share, by what for.

    They are counted as XLA holds them: on each device the state and the gradients, the resident training images, and of its share of
    a batch what the forward pass keeps for the backward one.
    """
    state, train, config = run.abstract_state(), run.dataset.splits['train'], run.config
    data = len(train) * (math.prod(train.images.shape[1:]) + 4 * len(run.dataset.class_names) + 4) if train.in_memory else 0
    kept = activation_bytes(run.network, flax.core.freeze(state.variables), config.batch_size // run.mesh.size)
    return {
        f'activations of {config.batch_size:,} images': copies * kept,
        'parameters, moments, average and gradients': copies * runs * (tree_bytes(state) + tree_bytes(state.variables['params'])),
        'training images': copies * data,
        'the copy that a checkpoint is written from': tree_bytes(state) if jax.default_backend() == 'cpu' else 0,  # else on the host
    }


@functools.cache
def activation_bytes(network: nn.Module, variables: Any, images: int) -> int:
    """Bytes of what a network's forward pass keeps of so many images for the backward pass; nothing is computed.

    Args:
      variables: shapes and types, as a FrozenDict.
    """

    def backward(variables: dict[str, Any], images: Array) -> Any:
        def logits(params: dict[str, Any]) -> Array:
            streams = {'depth': jax.random.key(0)}
            return network.apply(variables | {'params': params}, images, train=True, mutable=['batch_stats'], rngs=streams)[0]

        return jax.vjp(logits, variables['params'])[1]

    network = network.clone(statistics_axis=None)  # there is no mesh here
    views = jax.ShapeDtypeStruct((images, CROP_SIDE, CROP_SIDE, 1), jax.numpy.float32)
    return tree_bytes(jax.eval_shape(backward, flax.core.unfreeze(variables), views))
