"""The network of the paper: stem, spatial attention, six CSP blocks with channel shuffle, channel attention, head.

The paper prints parameter counts but not the block. The block here is a reconstruction: it meets every row of the
paper's Table 1 through params(ci, co) = co² + h·co + 22·h² + 47·h + 2·co with h = ci / 2, and nothing more is known.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float
from ml_collections import ConfigDict

from fer_jax.core.errors import InputError
from fer_jax.model.batch_norm import BatchNorm, identity
from fer_jax.model.convolution import convolve, convolve_depthwise

TRUNCATED_STD = 0.87962566  # of a unit normal cut off at ±2
# Fan-out keeps the variance of the gradients through fifty layers of ReLU (He et al., 2015, section 2.2).
KERNEL_INIT = nn.initializers.variance_scaling(2.0, 'fan_out', 'truncated_normal')
# The head has no batch norm behind it: fan-in keeps the first logits near the size of its input.
HEAD_INIT = nn.initializers.variance_scaling(1.0, 'fan_in', 'truncated_normal')
Images = Float[Array, 'batch height width channels']
Norm = Callable[..., nn.Module]
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {'relu': nn.relu, 'leaky_relu': nn.leaky_relu, 'silu': nn.silu, 'gelu': nn.gelu}


def depthwise_init(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Float[Array, 'k k 1 channels']:
    """He's normal draw for depthwise filters, whose fan is k²: no sum runs over channels."""
    std = (2.0 / (shape[0] * shape[1])) ** 0.5
    return std * jax.random.truncated_normal(key, -2.0, 2.0, shape, dtype) / TRUNCATED_STD


def scaled(init: Callable[..., Array], factor: float) -> Callable[..., Array]:
    """`init`, its draws times `factor`."""
    return lambda *arguments: factor * init(*arguments)


def channel_shuffle(x: Float[Array, '*shape channels'], groups: int) -> Float[Array, '*shape channels']:
    """Deals the channels of `groups` consecutive groups out in turn (ShuffleNet, Zhang et al., 2018).

    Channel g·n + i goes to position i·groups + g, where n = channels / groups. `channel_shuffle(·, channels // groups)`
    is its inverse, and one group the identity.
    """
    split = x.reshape(*x.shape[:-1], groups, x.shape[-1] // groups)
    return jnp.swapaxes(split, -1, -2).reshape(x.shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def maximum(x: Float[Array, '...'], axis: int) -> Float[Array, '...']:
    """The maximum over one axis, whose gradient goes to the first place that has it.

    JAX's own is shared among the places that equal the maximum. Where XLA computes x once for the maximum and once more,
    rounded otherwise, for that comparison, no place does, and 0/0 follows. This one is faster on CPU, too.
    """
    return x.max(axis)


def maximum_backward(axis: int, x: Array, gradient: Array) -> tuple[Array]:
    place = jnp.expand_dims(jax.lax.argmax(x, axis, jnp.int32), axis)
    here = jax.lax.broadcasted_iota(jnp.int32, x.shape, axis) == place
    return (jnp.where(here, jnp.expand_dims(gradient, axis), 0),)


maximum.defvjp(lambda x, axis: (x.max(axis), x), maximum_backward)


class Convolution(nn.Module):
    """A k×k convolution with padding k // 2; `depthwise` has one filter a channel.

    `shuffle_groups` puts a channel shuffle before it. The shuffle is done to the kernel, turned round: that gives the same
    sums, and a kernel's rows are few where the maps' channels would have to be copied.
    """

    features: int
    size: int = 3
    stride: int = 1
    depthwise: bool = False
    bias: bool = False
    shuffle_groups: int | None = None
    kernel_init: Callable[..., Array] = KERNEL_INIT
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Images) -> Float[Array, 'batch out_height out_width features']:
        shape = (self.size, self.size, 1 if self.depthwise else x.shape[-1], self.features)
        kernel = self.param('kernel', depthwise_init if self.depthwise else self.kernel_init, shape)
        if self.shuffle_groups is not None:
            inverse = x.shape[-1] // self.shuffle_groups
            kernel = channel_shuffle(kernel.swapaxes(2, 3), inverse).swapaxes(2, 3)
        function = convolve_depthwise if self.depthwise else convolve
        y = function(x.astype(self.dtype), kernel.astype(self.dtype), self.stride)
        if self.bias:
            y = y + self.param('bias', nn.initializers.zeros_init(), (self.features,)).astype(self.dtype)
        return y


class SpatialAttention(nn.Module):
    """Weighs each place by a convolution over the channels' mean and maximum (CBAM, Woo et al., 2018).

    Table 1's row SA: 2·3² + 1 = 19 parameters. The map is sown as `intermediates/.../map`.
    """

    size: int = 3
    dtype: Any = jnp.float32

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
    dtype: Any = jnp.float32

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

    dtype: Any = jnp.float32

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

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Images) -> Images:
        width = int(abs(math.log2(x.shape[-1]) / 2 + 0.5))
        conv = nn.Conv(1, (width + 1 - width % 2,), use_bias=False, dtype=self.dtype, name='conv')
        gate = nn.sigmoid(conv(x.mean((1, 2))[..., None])[..., 0])
        self.sow('intermediates', 'gate', gate)
        return x * gate[:, None, None, :]


def widen(x: Images, features: int, stride: int) -> Float[Array, 'batch out_height out_width features']:
    """The identity without parameters from a block's input to its output: averaged over `stride`, new channels zero.

    ResNet's shortcut A (He et al., 2016) with an average instead of a sample. Where the block narrows, the first
    `features` channels go on.
    """
    if stride > 1:
        odd = x.shape[1] % stride, x.shape[2] % stride
        if any(odd):
            x = jnp.pad(x, [(0, 0), (0, odd[0]), (0, odd[1]), (0, 0)], mode='edge')
        batch, height, width, channels = x.shape
        x = x.reshape(batch, height // stride, stride, width // stride, stride, channels).mean((2, 4))
    missing = max(0, features - x.shape[-1])
    return jnp.pad(x[..., :features], ((0, 0), (0, 0), (0, 0), (0, missing)))


class CSPBlock(nn.Module):
    """Halves of the channels take a dense and a depthwise path, are shuffled together and fused (a reconstruction).

    params(ci, co) = co² + h·co + 22·h² + 47·h + 2·co, h = ci / 2, whatever `fusion`, `preactivation` and `residual`.
    """

    features: int
    stride: int
    norm: Norm
    shuffle_groups: int | None = None
    fusion: str = 'pointwise'
    preactivation: bool = False
    residual: bool = False
    zero_last_gamma: bool = False
    shortcut: bool = False
    fusion_scale: float = 1.0
    activation: Callable[[Array], Array] = nn.relu
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Images, keep: Float[Array, ''] | None = None) -> Float[Array, 'batch out_height out_width features']:
        """Args: keep: what the block's own part, without the shortcut, is multiplied by."""
        half = x.shape[-1] // 2
        dense, depthwise = jnp.split(x, 2, axis=-1)
        dense = self.unit(dense, 'dense', [('conv1', 3, False), ('conv2', 3, False)])
        for stage in ('depthwise1', 'depthwise2'):
            depthwise = self.unit(depthwise, stage, [('depth', 3, True), ('point', 1, False)], inner_activation=False)
        y = jnp.concatenate([dense, depthwise], axis=-1)
        y = self.norm(name='concat_bn', activation=self.activation)(y)
        y = Convolution(half, 1, shuffle_groups=self.shuffle_groups, dtype=self.dtype, name='reduce')(y)
        y = self.norm(name='reduce_bn', activation=self.activation)(y)
        y = Convolution(half, 3, self.stride, depthwise=True, dtype=self.dtype, name='spatial')(y)
        y = self.norm(name='spatial_bn')(y)
        y = self.norm(name='expand_bn', activation=self.activation)(Convolution(self.features, 1, dtype=self.dtype, name='expand')(y))
        if self.fusion == 'attention':
            y = ChannelAttention(dtype=self.dtype, name='fusion')(y)
        else:
            y = Convolution(self.features, 1, kernel_init=scaled(KERNEL_INIT, self.fusion_scale), dtype=self.dtype, name='fusion')(y)
        y = y if keep is None else y * keep.astype(y.dtype)
        return y + widen(x, self.features, self.stride) if self.shortcut else y

    def unit(self, x: Images, name: str, layers: list[tuple[str, int, bool]], inner_activation: bool = True) -> Images:
        """Two convolutions (name, size, depthwise) of one path, with their norms before or after, and the identity sum."""
        y = x
        for index, (layer, size, depthwise) in enumerate(layers):
            last = index == len(layers) - 1
            conv = Convolution(x.shape[-1], size, depthwise=depthwise, dtype=self.dtype, name=f'{name}_{layer}')
            gamma = nn.initializers.zeros if last and self.residual and self.zero_last_gamma else nn.initializers.ones
            norm = functools.partial(self.norm, name=f'{name}_{layer}_bn', scale_init=gamma)
            if self.preactivation:
                y = conv(norm(activation=self.activation if inner_activation or not last else identity)(y))
            else:
                y = norm(activation=self.activation if inner_activation and not last else identity)(conv(y))
        if self.residual:
            y = x + y
        return y if self.preactivation else self.activation(y)


class FERNet(nn.Module):
    """The whole network, [B, 40, 40, 1] → logits [B, classes] in float32; 1,906,382 parameters as in Table 1."""

    classes: int
    attention: str = 'both'
    shuffle_groups: int | None = 4
    fusion: str = 'pointwise'
    preactivation: bool = False
    residual: bool = False
    zero_last_gamma: bool = False
    shortcut: bool = False
    fusion_scale: float = 1.0
    stochastic_depth: float = 0.0
    activation: str = 'relu'
    stem: int = 8
    blocks: tuple[int, ...] = (24, 32, 72, 216, 360, 512)
    strides: tuple[int, ...] = (1, 2, 2, 2, 2, 2)
    dtype: Any = jnp.float32
    batch_norm_momentum: float = 0.9
    statistics_axis: str | None = None

    @nn.compact
    def __call__(self, images: Float[Array, 'batch height width 1'], train: bool) -> Float[Array, 'batch classes']:
        """Args: images: normalised; train: use and update batch statistics (over `statistics_axis` too) or the running ones."""
        norm = functools.partial(
            BatchNorm, train=train, momentum=self.batch_norm_momentum, dtype=self.dtype, statistics_axis=self.statistics_axis
        )
        activation = ACTIVATIONS[self.activation]
        x = norm(name='stem_bn', activation=activation)(Convolution(self.stem, dtype=self.dtype, name='stem')(images))
        if self.attention in ('spatial', 'both'):
            x = SpatialAttention(dtype=self.dtype, name='spatial_attention')(x)
        for number, (features, stride) in enumerate(zip(self.blocks, self.strides, strict=True), start=1):
            x = CSPBlock(
                features,
                stride,
                norm,
                self.shuffle_groups,
                self.fusion,
                self.preactivation,
                self.residual,
                self.zero_last_gamma,
                self.shortcut,
                self.fusion_scale,
                activation,
                self.dtype,
                name=f'block{number}',
            )(x, self.survival(number) if train and self.stochastic_depth else None)
            x = self.embedded_attention(x, f'block{number}')
        if self.attention in ('channel', 'both'):
            x = ChannelAttention(dtype=self.dtype, name='channel_attention')(x)
        x = Convolution(self.classes, bias=True, kernel_init=HEAD_INIT, dtype=self.dtype, name='head')(x)
        return x.astype(jnp.float32).mean((1, 2))

    def survival(self, number: int) -> Float[Array, '']:
        """0, or 1 over the probability that block `number` (from 1) is not left out of this step (Huang et al., 2016)."""
        probability = 1 - self.stochastic_depth * number / len(self.blocks)
        return jax.random.bernoulli(self.make_rng('depth'), probability) / probability

    def embedded_attention(self, x: Images, name: str) -> Images:
        """The named alternatives stand after every block, where their own papers put them."""
        match self.attention:
            case 'se':
                return SqueezeExcitation(self.dtype, name=f'{name}_se')(x)
            case 'eca':
                return EfficientChannelAttention(self.dtype, name=f'{name}_eca')(x)
            case 'cbam':
                x = ChannelAttention(16, self.dtype, name=f'{name}_cbam_channel')(x)
                return SpatialAttention(7, self.dtype, name=f'{name}_cbam_spatial')(x)
        return x


def make_network(config: ConfigDict, classes: int, statistics_axis: str | None = None) -> FERNet:
    """The network of a checked `config.network`; `statistics_axis` names the mesh axis that global batch norm sums over.

    Raises:
      InputError: the configuration names another network, which `baselines.make_any` makes.
    """
    if config.name != 'fernet':
        raise InputError(f"network.name={config.name}: this is for the paper's network only, network.name=fernet")
    fields = ('attention', 'shuffle_groups', 'fusion', 'preactivation', 'residual', 'zero_last_gamma', 'shortcut', 'activation')
    fields += ('fusion_scale', 'stochastic_depth', 'stem', 'batch_norm_momentum')
    return FERNet(
        classes=classes,
        blocks=tuple(config.blocks),
        strides=tuple(config.strides),
        dtype=jnp.dtype(config.dtype),
        statistics_axis=statistics_axis,
        **{field: config[field] for field in fields},
    )
