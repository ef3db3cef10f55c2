"""Where a network looks, asked from outside: Grad-CAM by its gradient, occlusion by hiding a square of the face.

Both are of any network whose layers are submodules; the attention maps that the paper's network makes itself are pictures.attention's.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Float32, Int, UInt8

from fer_jax.data.views import normalise

SMALLEST_MAP = 5  # places on a side of the map that Grad-CAM takes: the last maps, of 2×2, tell no places apart
SQUARE = 8  # pixels on a side of the grey square, about an eye or half a mouth


def last_layer_with_places(found: dict[str, tuple[int, int, int]]) -> str:
    """The last layer with at least SMALLEST_MAP places on a side or, where none has, the last of the largest.

    Args:
      found: of the layers whose output is maps, in the order they run, name → (height, width, channels).
    """
    smallest = min(SMALLEST_MAP, max(min(shape[:2]) for shape in found.values()))
    return [name for name, shape in found.items() if min(shape[:2]) >= smallest][-1]


@functools.partial(jax.jit, static_argnums=0)
def grad_cam(
    network: nn.Module, variables: Any, crops: UInt8[Array, 'n side side'], labels: Int[Array, ' n'] | None = None
) -> tuple[Float[Array, 'n classes'], Float[Array, 'n rows columns'], dict[str, Any]]:
    """Logits of the crops, Grad-CAM of each for its class in `labels`, by default the predicted one, and what the network sows.

    The map is max(0, Σ_k α_k A_k) (Selvaraju et al., 2017, equations 1 and 2): A are the output maps of `last_layer_with_places`,
    α_k the mean over the places of the gradient of the class's logit by A_k. Its numbers compare within a map, not between maps.
    """
    outputs: list[tuple[str, Any]] = []  # of the network's direct submodules, in the order they run

    def keep(call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        y = call(*args, **kwargs)
        if is_layer(context):
            outputs.append((context.module.path[0], y))
        return y

    with nn.intercept_methods(keep):
        logits, sown = network.apply(variables, normalise(crops), train=False, mutable=['intermediates'])
    layer = last_layer_with_places({name: y.shape[1:] for name, y in outputs if y.ndim == 4})
    last = [name for name, _ in outputs].index(layer)
    maps = outputs[last][1]

    def from_there(maps: Array) -> Array:
        """The logits by the layer's output; what runs before it has run, and is not traced again."""
        known = iter([*(y for _, y in outputs[:last]), maps])

        def replay(call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
            y = next(known, None) if is_layer(context) else None
            return call(*args, **kwargs) if y is None else y

        with nn.intercept_methods(replay):
            return network.apply(variables, normalise(crops), train=False)

    _, gradient_of = jax.vjp(from_there, maps)
    labels = logits.argmax(-1) if labels is None else labels
    (gradient,) = gradient_of(jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype))
    gradient, maps = gradient.astype(jnp.float32), maps.astype(jnp.float32)
    return logits, nn.relu((gradient.mean((1, 2), keepdims=True) * maps).sum(-1)), sown.get('intermediates', {})


def is_layer(context: nn.module.InterceptorContext) -> bool:
    """Whether it is the call of a direct submodule of the network."""
    return len(context.module.path) == 1 and context.method_name == '__call__'


def occlusion(
    probabilities: Callable[[UInt8[np.ndarray, 'views side side']], Float32[np.ndarray, 'views classes']],
    crops: UInt8[np.ndarray, 'n side side'],
    labels: Int[np.ndarray, ' n'],
    stride: int,
) -> Float32[np.ndarray, 'n rows columns']:
    """By how much a grey square of SQUARE pixels lowers the probability of each crop's class in `labels` (Zeiler & Fergus, 2014,
    section 4.2).

    At place (i, j) the square's centre is that of the (i, j)th `stride` × `stride` pixels; beyond the border it is cut off. Grey is
    the crop's mean, rounded. Values are in -1..1: where one is below zero, what the square hides spoke against the class.

    Args:
      probabilities: what a network says of crops, however many.
      stride: a divisor of the side.
    """
    side = crops.shape[1]
    centres = np.arange(stride / 2, side, stride)
    hides = np.abs(np.arange(side) + 0.5 - centres[:, None]) < SQUARE / 2
    squares = (hides[:, None, :, None] & hides[:, None, :]).reshape(-1, side, side)
    squares = np.concatenate([np.zeros((1, side, side), bool), squares])  # the first hides nothing
    grey = crops.mean((1, 2)).round().astype(np.uint8)
    found = []
    for crop, tone, label in zip(crops, grey, labels, strict=True):
        chances = probabilities(np.where(squares, tone, crop))[:, label]
        found.append((chances[0] - chances[1:]).reshape(len(centres), len(centres)))
    return np.stack(found)
