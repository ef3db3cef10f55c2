"""Modules that weigh places or channels, and the values of config.network.attention: which of them stand where.

To add one takes a module here, a line of ATTENTIONS and its name among core/fields' CHOICES. A module weighs what it is given, has a
`dtype`, and sows its weights as `map` (of places) or `gate` (of channels), which is what the figures of attention show.
"""

import dataclasses
import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float

from fer_jax.model.convolution import KERNEL_INIT, Convolution, Images


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def maximum(x: Float[Array, '...'], axis: int) -> Float[Array, '...']:
    """The maximum over one axis, whose gradient goes to the first place that has it.

    JAX's own is shared among the places that equal the maximum. Where XLA computes x once for the maximum and once more,
    rounded otherwise, for that comparison, no place does, and 0/0 follows. This one is faster on CPU, too.
    """
    return x.max(axis)


def maximum_backward(axis: int, x: Array, gradient: Array) -> tuple[Array]:
    """The gradient of `maximum`, to the first place that has it."""
    place = jnp.expand_dims(jax.lax.argmax(x, axis, jnp.int32), axis)
    here = jax.lax.broadcasted_iota(jnp.int32, x.shape, axis) == place
    return (jnp.where(here, jnp.expand_dims(gradient, axis), 0),)


maximum.defvjp(lambda x, axis: (x.max(axis), x), maximum_backward)


class SpatialAttention(nn.Module):
    """Weighs each place by a convolution over the channels' mean and maximum (CBAM, Woo et al., 2018).

    Table 1's row SA: 2·3² + 1 = 19 parameters. The map is sown as `intermediates/.../map`.
    """

    size: int = 3
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Images) -> Images:
        pooled = jnp.stack([x.mean(-1), maximum(x, x.ndim - 1)], axis=-1)
        gate = nn.sigmoid(Convolution(1, self.size, bias=True, dtype=self.dtype, name='conv')(pooled))
        self.sow('intermediates', 'map', gate)
        return x * gate


class ChannelAttention(nn.Module):
    """Weighs each channel by one two-layer perceptron over its mean and its maximum (CBAM), without biases.

    Table 1's row CA: 512·256 + 256·512 = 262,144 parameters at ratio 2. The weights are sown as `intermediates/.../gate`.
    """

    ratio: int = 2
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Images) -> Images:
        channels = x.shape[-1]
        squeeze = nn.Dense(max(1, channels // self.ratio), use_bias=False, dtype=self.dtype, kernel_init=KERNEL_INIT, name='squeeze')
        excite = nn.Dense(channels, use_bias=False, dtype=self.dtype, name='excite')
        places = x.reshape(x.shape[0], -1, channels)
        gate = nn.sigmoid(sum(excite(nn.relu(squeeze(pooled))) for pooled in (places.mean(1), maximum(places, 1))))
        self.sow('intermediates', 'gate', gate)
        return x * gate[:, None, None, :]


class SqueezeExcitation(nn.Module):
    """Weighs each channel by a two-layer perceptron with biases over its mean, ratio 16 (Hu et al., 2018)."""

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Images) -> Images:
        hidden = nn.relu(nn.Dense(max(1, x.shape[-1] // 16), dtype=self.dtype, kernel_init=KERNEL_INIT, name='squeeze')(x.mean((1, 2))))
        gate = nn.sigmoid(nn.Dense(x.shape[-1], dtype=self.dtype, name='excite')(hidden))
        self.sow('intermediates', 'gate', gate)
        return x * gate[:, None, None, :]


class EfficientChannelAttention(nn.Module):
    """Weighs each channel by a 1-D convolution over its neighbours' means (ECA-Net, Wang et al., 2020).

    The width is their k = |log2(channels) / 2 + 1 / 2|, truncated and made odd.
    """

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Images) -> Images:
        width = int(abs(math.log2(x.shape[-1]) / 2 + 0.5))
        conv = nn.Conv(1, (width + 1 - width % 2,), use_bias=False, dtype=self.dtype, name='conv')
        gate = nn.sigmoid(conv(x.mean((1, 2))[..., None])[..., 0])
        self.sow('intermediates', 'gate', gate)
        return x * gate[:, None, None, :]


Modules = dict[str, nn.Module]  # by the names that their parameters have in checkpoints, in the order in which they run


@dataclasses.dataclass(frozen=True)
class Places:
    """Where a network's attention stands."""

    first: Modules = dataclasses.field(default_factory=dict)  # between the stem and the blocks
    block: Modules = dataclasses.field(default_factory=dict)  # behind every block, whose name goes before the module's
    last: Modules = dataclasses.field(default_factory=dict)  # between the blocks and the head


SPATIAL = {'spatial_attention': SpatialAttention()}
CHANNEL = {'channel_attention': ChannelAttention()}
# The paper's two stand once each, its alternatives where their own papers put them.
ATTENTIONS = {
    'none': Places(),
    'spatial': Places(first=SPATIAL),
    'channel': Places(last=CHANNEL),
    'both': Places(first=SPATIAL, last=CHANNEL),
    'se': Places(block={'se': SqueezeExcitation()}),
    'eca': Places(block={'eca': EfficientChannelAttention()}),
    'cbam': Places(block={'cbam_channel': ChannelAttention(ratio=16), 'cbam_spatial': SpatialAttention(size=7)}),
}
