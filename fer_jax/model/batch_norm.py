"""Batch norm with the activation behind it, as one function whose gradient passes over its input twice and keeps nothing else."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float

EPSILON = 1e-5  # added to the variance
Activation = Callable[[Array], Array]
Images = Float[Array, 'batch height width channels']
Channels = Float[Array, ' channels']


def identity(x: Array) -> Array:
    """No activation."""
    return x


class BatchNorm(nn.Module):
    """`flax.linen.BatchNorm` over all axes but the last, followed by `activation`; parameters and statistics as there.

    In training the statistics are the batch's, over the mesh axis `statistics_axis` too where it names one, and the running
    ones move by 1 - `momentum`. The arithmetic is float32, the result `dtype`.
    """

    train: bool
    momentum: float = 0.9
    dtype: DTypeLike = jnp.float32
    statistics_axis: str | None = None
    activation: Activation = identity
    scale_init: Callable[..., Array] = nn.initializers.ones

    @nn.compact
    def __call__(self, x: Images) -> Images:
        channels = (x.shape[-1],)
        mean = self.variable('batch_stats', 'mean', jnp.zeros, channels)
        variance = self.variable('batch_stats', 'var', jnp.ones, channels)
        scale = self.param('scale', self.scale_init, channels)
        bias = self.param('bias', nn.initializers.zeros, channels)
        if not self.train:
            return normalise(x, mean.value, scale / jnp.sqrt(variance.value + EPSILON), bias, self.activation).astype(self.dtype)
        y, batch_mean, batch_variance = normalise_batch(x, scale, bias, self.activation, self.statistics_axis)
        if not self.is_initializing():
            for running, new in ((mean, batch_mean), (variance, batch_variance)):
                running.value = self.momentum * running.value + (1 - self.momentum) * jax.lax.stop_gradient(new)
        return y.astype(self.dtype)


def normalise(x: Images, mean: Channels, factor: Channels, bias: Channels, activation: Activation) -> Images:
    """activation((x - mean) · factor + bias) in float32."""
    return activation((x.astype(jnp.float32) - mean) * factor + bias)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def normalise_batch(
    x: Images, scale: Channels, bias: Channels, activation: Activation, axis: str | None
) -> tuple[Images, Channels, Channels]:
    """x by its own mean and variance, scaled, shifted and activated; that mean; that (biased) variance.

    Written out with its gradient because JAX's own keeps x - mean and what the activation's gradient needs beside x, and
    asks for more sums over the devices of `axis`: here one forward and one backward.
    """
    return normalise_forward(x, scale, bias, activation, axis)[0]


def normalise_forward(x: Images, scale: Channels, bias: Channels, activation: Activation, axis: str | None) -> tuple[tuple, tuple]:
    """What batch norm gives with its statistics, and what its gradient needs."""
    wide = x.astype(jnp.float32)
    moments = jnp.stack([wide.mean((0, 1, 2)), (wide * wide).mean((0, 1, 2))])
    mean, square = moments if axis is None else jax.lax.pmean(moments, axis)
    variance = jnp.maximum(square - mean * mean, 0.0)
    inverse = jax.lax.rsqrt(variance + EPSILON)
    return (normalise(x, mean, inverse * scale, bias, activation), mean, variance), (x, mean, inverse, scale, bias)


def normalise_backward(activation: Activation, axis: str | None, saved: tuple, gradients: tuple) -> tuple[Images, Channels, Channels]:
    """Ioffe & Szegedy, 2015, section 3; the mean and the variance that came out are for the running ones and pass nothing back."""
    x, mean, inverse, scale, bias = saved
    centred = x.astype(jnp.float32) - mean
    factor = inverse * scale
    (inner,) = jax.vjp(activation, centred * factor + bias)[1](gradients[0])
    sums = jnp.stack([inner.sum((0, 1, 2)), (inner * centred).sum((0, 1, 2))])
    places = x.size // x.shape[-1] * (1 if axis is None else jax.lax.axis_size(axis))
    total, total_centred = (sums if axis is None else jax.lax.psum(sums, axis)) / places
    to_x = factor * (inner - total - centred * (inverse * inverse * total_centred))
    return to_x.astype(x.dtype), sums[1] * inverse, sums[0]


normalise_batch.defvjp(normalise_forward, normalise_backward)
