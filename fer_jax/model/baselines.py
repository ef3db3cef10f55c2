"""Networks to compare the paper's with, in the same harness, each as the field adapts it to pictures of 32 to 48 pixels.

Their layers are their sources', their recipe is not: initialisation and batch norm's constants are this project's, and
dropout before the last layer (VGG 0.5, MobileNetV2 0.2) is left out, so that all are trained exactly alike.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float
from ml_collections import ConfigDict

from fer_jax.core.errors import InputError
from fer_jax.model.batch_norm import BatchNorm, identity
from fer_jax.model.convolution import HEAD_INIT, Convolution, Images, channel_shuffle, places, shift
from fer_jax.model.fernet import FERNet, make_network

Maps = Float[Array, 'batch out_height out_width features']
# (x, name, features, size, stride, …) → maps: `Baseline.__call__`'s own, which knows the type of the arithmetic and the norm.
Layer = Callable[..., Array]


class Baseline(nn.Module):
    """One of ARCHITECTURES, [B, 40, 40, 1] → logits [B, classes] in float32.

    A 1×1 convolution before the mean over the places is the linear layer behind it that most of them end in.
    """

    architecture: str
    classes: int
    dtype: Any = jnp.float32
    batch_norm_momentum: float = 0.9
    statistics_axis: str | None = None

    @nn.compact
    def __call__(self, images: Float[Array, 'batch height width 1'], train: bool) -> Float[Array, 'batch classes']:
        """Args: images: normalised; train: use and update batch statistics (over `statistics_axis` too) or the running ones."""
        norm = functools.partial(
            BatchNorm, train=train, momentum=self.batch_norm_momentum, dtype=self.dtype, statistics_axis=self.statistics_axis
        )

        def layer(
            x: Images,
            name: str,
            features: int,
            size: int = 3,
            stride: int = 1,
            depthwise: bool = False,
            activation: Callable[[Array], Array] = nn.relu,
            valid: bool = False,
            bare: bool = False,
        ) -> Maps:
            """A convolution with its batch norm and activation, or `bare` of them; `valid` keeps to places inside the maps."""
            if size == 1 and stride > 1:
                # Of the same value, and much faster on CPU than a strided convolution.
                x, stride = x[:, ::stride, ::stride], 1
            y = Convolution(features, size, stride, depthwise, dtype=self.dtype, name=name)(x)
            y = y[:, size // 2 : -(size // 2), size // 2 : -(size // 2)] if valid else y
            return y if bare else norm(name=f'{name}_bn', activation=activation)(y)

        body, head_size = ARCHITECTURES[self.architecture]
        head = Convolution(self.classes, head_size, bias=True, kernel_init=HEAD_INIT, dtype=self.dtype, name='head')
        return head(body(layer, images)).astype(jnp.float32).mean((1, 2))


def max_pool(x: Images, size: int, padded: bool) -> Maps:
    """The maximum of `size` × `size` windows at every second place; `padded` as Keras' 'same', so that half of an odd side is rounded up.

    As a chain of choices XLA makes one pass of it, gradient included; its own pooling's gradient is five times as slow on CPU.

    Raises:
      InputError: no window fits into the maps.
    """
    if padded:
        x = jnp.pad(x, ((0, 0), *((side % 2, 1) for side in x.shape[1:3]), (0, 0)), constant_values=-jnp.inf)
    rows, columns = ((side - size) // 2 + 1 for side in x.shape[1:3])
    if min(rows, columns) < 1:
        maps = '×'.join(map(str, x.shape[1:3]))
        raise InputError(f'views are too small for this network: pooling by {size}×{size} leaves nothing of its maps of {maps}')
    windows = (shift(x, down, right, (rows, columns), 2) for down, right in places(size))
    return functools.reduce(lambda best, other: jnp.where(other > best, other, best), windows)


def mini_xception(layer: Layer, x: Images) -> Maps:
    """mini-Xception (Arriaga et al., 2017, arXiv 1710.07557, and its code `mini_XCEPTION`): 56,951 parameters for 7 classes.

    Nothing is adapted: made for 64×64 and mostly used at 48×48, it leaves maps of 3×3 of 40×40.
    """
    for name in ('stem1', 'stem2'):
        x = layer(x, name, 8, valid=True)
    for number, features in enumerate((16, 32, 64, 128), start=1):
        name = f'module{number}'
        shortcut = layer(x, f'{name}_shortcut', features, 1, 2, activation=identity)
        for part, activation in (('first', nn.relu), ('second', identity)):
            x = layer(x, f'{name}_{part}_depth', x.shape[-1], depthwise=True, bare=True)
            x = layer(x, f'{name}_{part}_point', features, 1, activation=activation)
        x = shortcut + max_pool(x, 3, padded=True)
    return x


def shufflenet_v2(layer: Layer, x: Images) -> Maps:
    """ShuffleNetV2 ×1 (Ma et al., 2018; torchvision's widths): 1,260,347 parameters for 7 classes.

    As usual for CIFAR the stem has stride 1 and no pooling behind it; the maps are 40, 20, 10 and 5 wide.
    """
    x = layer(x, 'stem', 24)
    for number, (features, units) in enumerate(((116, 4), (232, 8), (464, 4)), start=1):
        for unit in range(1, units + 1):
            x = shuffle_unit(layer, x, f'stage{number}_unit{unit}', features, 2 if unit == 1 else 1)
    return layer(x, 'last', 1024, 1)


def shuffle_unit(layer: Layer, x: Images, name: str, features: int, stride: int) -> Maps:
    """Half of the channels by way of three convolutions, the other half as it is, or by two where the unit has a stride."""
    kept, y = jnp.split(x, 2, axis=-1) if stride == 1 else (x, x)
    half = features // 2
    if stride > 1:
        kept = layer(kept, f'{name}_other_depth', x.shape[-1], 3, stride, depthwise=True, activation=identity)
        kept = layer(kept, f'{name}_other_point', half, 1)
    y = layer(y, f'{name}_reduce', half, 1)
    y = layer(y, f'{name}_depth', half, 3, stride, depthwise=True, activation=identity)
    y = layer(y, f'{name}_point', half, 1)
    return channel_shuffle(jnp.concatenate([kept, y], axis=-1), 2)


def mobilenet_v2(layer: Layer, x: Images) -> Maps:
    """MobileNetV2 ×1 (Sandler et al., 2018, table 2): 2,232,263 parameters for 7 classes.

    As usual for CIFAR the stem and the second stage have stride 1 instead of 2; the maps are 40, 20, 10 and 5 wide.
    """
    x = layer(x, 'stem', 32, activation=nn.relu6)
    stages = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    for number, (expansion, features, units, stride) in enumerate(stages, start=1):
        for unit in range(1, units + 1):
            x = inverted_residual(layer, x, f'stage{number}_unit{unit}', expansion, features, stride if unit == 1 else 1)
    return layer(x, 'last', 1280, 1, activation=nn.relu6)


def inverted_residual(layer: Layer, x: Images, name: str, expansion: int, features: int, stride: int) -> Maps:
    """1×1 to `expansion` times the channels, depthwise 3×3, 1×1 back; with the identity where the shape stays."""
    y = x if expansion == 1 else layer(x, f'{name}_expand', expansion * x.shape[-1], 1, activation=nn.relu6)
    y = layer(y, f'{name}_depth', y.shape[-1], 3, stride, depthwise=True, activation=nn.relu6)
    y = layer(y, f'{name}_project', features, 1, activation=identity)
    return x + y if y.shape == x.shape else y


def resnet18(layer: Layer, x: Images) -> Maps:
    """ResNet-18 (He et al., 2016) with the 3×3 stem and no pooling of its CIFAR version: 11,171,271 parameters for 7 classes."""
    x = layer(x, 'stem', 64)
    for number, (features, stride) in enumerate(((64, 1), (128, 2), (256, 2), (512, 2)), start=1):
        for block in (1, 2):
            x = basic_block(layer, x, f'stage{number}_block{block}', features, stride if block == 1 else 1)
    return x


def basic_block(layer: Layer, x: Images, name: str, features: int, stride: int) -> Maps:
    """Two 3×3 convolutions beside the identity, or beside a 1×1 convolution where the shape changes."""
    y = layer(x, f'{name}_first', features, 3, stride)
    y = layer(y, f'{name}_second', features, activation=identity)
    return nn.relu(y + (x if y.shape == x.shape else layer(x, f'{name}_shortcut', features, 1, stride, activation=identity)))


def vgg10(layer: Layer, x: Images) -> Maps:
    """The VGG of ten layers of Pramerdorfer & Kampel (2016), who report 72.7 % with it: 1,764,775 parameters for 7 classes.

    Its linear layer of 256 is a 3×3 convolution before the mean here, of as many weights as theirs on 3×3 maps.
    """
    for number, features in enumerate((32, 64, 128, 256), start=1):
        for part in ('first', 'second'):
            x = layer(x, f'stage{number}_{part}', features)
        x = max_pool(x, 2, padded=False)
    return layer(x, 'linear', 256)


def vgg13(layer: Layer, x: Images) -> Maps:
    """VGG-13 with batch norm (Simonyan & Zisserman, 2015), one linear layer for its three: 9,410,375 parameters for 7 classes."""
    for number, features in enumerate((64, 128, 256, 512, 512), start=1):
        for part in ('first', 'second'):
            x = layer(x, f'stage{number}_{part}', features)
        x = max_pool(x, 2, padded=False)
    return x


# The values of config.network.name beside the paper's own: the layers up to the head, and the size of the head's convolution.
ARCHITECTURES: dict[str, tuple[Callable[[Layer, Array], Array], int]] = {
    'mini_xception': (mini_xception, 3),
    'shufflenet_v2': (shufflenet_v2, 1),
    'mobilenet_v2': (mobilenet_v2, 1),
    'resnet18': (resnet18, 1),
    'vgg10': (vgg10, 1),
    'vgg13': (vgg13, 1),
}


def make_any(config: ConfigDict, classes: int, statistics_axis: str | None = None) -> FERNet | Baseline:
    """The network that a checked `config.network` names: the paper's, by `fernet.make_network`, or a baseline.

    Of a baseline the configuration decides the type of the arithmetic and batch norm; the other fields are FERNet's.
    """
    if config.name not in ARCHITECTURES:
        return make_network(config, classes, statistics_axis)
    return Baseline(config.name, classes, jnp.dtype(config.dtype), config.batch_norm_momentum, statistics_axis)
