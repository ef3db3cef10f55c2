"""The network of the paper: stem, spatial attention, six CSP blocks with channel shuffle, channel attention, head.

The paper prints parameter counts but not the block. The block here is a reconstruction: it meets every row of the
paper's Table 1 through params(ci, co) = co² + h·co + 22·h² + 47·h + 2·co with h = ci / 2, and nothing more is known.
"""

import dataclasses
import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float
from ml_collections import ConfigDict

from fer_jax.core.errors import InputError
from fer_jax.core.fields import CHOICES
from fer_jax.model.attention import ATTENTIONS, ChannelAttention, Modules
from fer_jax.model.batch_norm import BatchNorm, identity
from fer_jax.model.convolution import HEAD_INIT, KERNEL_INIT, Convolution, Images

Norm = Callable[..., nn.Module]
ACTIVATIONS = {name: getattr(nn, name) for name in CHOICES['network.activation']}


@dataclasses.dataclass(frozen=True)
class BlockOptions:
    """What the blocks of a network have in common: the fields of config.network of these names, each explained in core/fields."""

    shuffle_groups: int | None
    fusion: str
    preactivation: bool
    residual: bool
    zero_last_gamma: bool
    shortcut: bool
    fusion_scale: float
    activation: str  # of the stem, too
    dtype: DTypeLike  # of the arithmetic of all layers


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
    options: BlockOptions
    norm: Norm

    @nn.compact
    def __call__(self, x: Images, keep: Float[Array, ''] | None = None) -> Float[Array, 'batch out_height out_width features']:
        """Args: keep: what the block's own part, without the shortcut, is multiplied by."""
        half, options = x.shape[-1] // 2, self.options
        activation = ACTIVATIONS[options.activation]
        convolution = functools.partial(Convolution, dtype=options.dtype)
        dense, depthwise = jnp.split(x, 2, axis=-1)
        dense = self.unit(dense, 'dense', [('conv1', 3, False), ('conv2', 3, False)])
        for stage in ('depthwise1', 'depthwise2'):
            depthwise = self.unit(depthwise, stage, [('depth', 3, True), ('point', 1, False)], inner_activation=False)
        y = jnp.concatenate([dense, depthwise], axis=-1)
        y = self.norm(name='concat_bn', activation=activation)(y)
        y = convolution(half, 1, shuffle_groups=options.shuffle_groups, name='reduce')(y)
        y = self.norm(name='reduce_bn', activation=activation)(y)
        y = convolution(half, 3, self.stride, depthwise=True, name='spatial')(y)
        y = self.norm(name='spatial_bn')(y)
        y = self.norm(name='expand_bn', activation=activation)(convolution(self.features, 1, name='expand')(y))
        if options.fusion == 'attention':
            y = ChannelAttention(dtype=options.dtype, name='fusion')(y)
        else:
            y = convolution(self.features, 1, kernel_init=lambda *draw: options.fusion_scale * KERNEL_INIT(*draw), name='fusion')(y)
        y = y if keep is None else y * keep.astype(y.dtype)
        return y + widen(x, self.features, self.stride) if options.shortcut else y

    def unit(self, x: Images, name: str, layers: list[tuple[str, int, bool]], inner_activation: bool = True) -> Images:
        """Two convolutions (name, size, depthwise) of one path, with their norms before or after, and the identity sum."""
        options, activation = self.options, ACTIVATIONS[self.options.activation]
        y = x
        for index, (layer, size, depthwise) in enumerate(layers):
            last = index == len(layers) - 1
            conv = Convolution(x.shape[-1], size, depthwise=depthwise, dtype=options.dtype, name=f'{name}_{layer}')
            gamma = nn.initializers.zeros if last and options.residual and options.zero_last_gamma else nn.initializers.ones
            norm = functools.partial(self.norm, name=f'{name}_{layer}_bn', scale_init=gamma)
            if options.preactivation:
                y = conv(norm(activation=activation if inner_activation or not last else identity)(y))
            else:
                y = norm(activation=activation if inner_activation and not last else identity)(conv(y))
        if options.residual:
            y = x + y
        return y if options.preactivation else activation(y)


class FERNet(nn.Module):
    """The whole network, [B, 40, 40, 1] → logits [B, classes] in float32; 1,906,382 parameters as in Table 1.

    The fields are those of config.network, which has their defaults: `make_network` makes it.
    """

    classes: int
    attention: str  # of ATTENTIONS
    stem: int
    blocks: tuple[int, ...]
    strides: tuple[int, ...]
    options: BlockOptions
    stochastic_depth: float
    batch_norm_momentum: float
    statistics_axis: str | None

    @nn.compact
    def __call__(self, images: Float[Array, 'batch height width 1'], train: bool) -> Float[Array, 'batch classes']:
        """Args: images: normalised; train: use and update batch statistics (over `statistics_axis` too) or the running ones."""
        options, attention = self.options, ATTENTIONS[self.attention]
        norm = functools.partial(
            BatchNorm, train=train, momentum=self.batch_norm_momentum, dtype=options.dtype, statistics_axis=self.statistics_axis
        )
        x = Convolution(self.stem, dtype=options.dtype, name='stem')(images)
        x = norm(name='stem_bn', activation=ACTIVATIONS[options.activation])(x)
        x = self.attend(x, attention.first)
        for number, (features, stride) in enumerate(zip(self.blocks, self.strides, strict=True), start=1):
            block = CSPBlock(features, stride, options, norm, name=f'block{number}')
            x = block(x, self.survival(number) if train and self.stochastic_depth else None)
            x = self.attend(x, attention.block, f'block{number}_')
        x = self.attend(x, attention.last)
        x = Convolution(self.classes, bias=True, kernel_init=HEAD_INIT, dtype=options.dtype, name='head')(x)
        return x.astype(jnp.float32).mean((1, 2))

    def attend(self, x: Images, modules: Modules, before: str = '') -> Images:
        """x weighed by each of the modules in turn; `before` stands before their names."""
        for name, module in modules.items():
            x = module.copy(name=before + name, dtype=self.options.dtype)(x)
        return x

    def survival(self, number: int) -> Float[Array, '']:
        """0, or 1 over the probability that block `number` (from 1) is not left out of this step (Huang et al., 2016)."""
        probability = 1 - self.stochastic_depth * number / len(self.blocks)
        return jax.random.bernoulli(self.make_rng('depth'), probability) / probability


def make_network(config: ConfigDict, classes: int, statistics_axis: str | None = None) -> FERNet:
    """The network of a checked `config.network`; `statistics_axis` names the mesh axis that global batch norm sums over.

    Raises:
      InputError: the configuration names another network, which `baselines.make_any` makes.
    """
    if config.name != 'fernet':
        raise InputError(f"network.name={config.name}: this is for the paper's network only, network.name=fernet")
    fields = {field.name: config[field.name] for field in dataclasses.fields(BlockOptions)}
    return FERNet(
        classes=classes,
        attention=config.attention,
        stem=config.stem,
        blocks=tuple(config.blocks),
        strides=tuple(config.strides),
        options=BlockOptions(**fields | {'dtype': jnp.dtype(config.dtype)}),
        stochastic_depth=config.stochastic_depth,
        batch_norm_momentum=config.batch_norm_momentum,
        statistics_axis=statistics_axis,
    )
