"""The paper's network with its weights as a list of plain operations, from which files for other runtimes are written.

Batch norm, the channel shuffle, the normalisation's scale and the mean behind the head are folded into weights; the halves that
a block splits its input into are made as two maps by the block before. Arithmetic on weights is float64, once, here.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from fer_jax.core.errors import InputError
from fer_jax.data.schema import IMAGE_SIDE
from fer_jax.data.views import CROP_SIDE, MARGIN, SCALE
from fer_jax.model.attention import (
    ATTENTIONS,
    ChannelAttention,
    EfficientChannelAttention,
    Modules,
    SpatialAttention,
    SqueezeExcitation,
)
from fer_jax.model.batch_norm import EPSILON
from fer_jax.runs.weights import Variables

Weight = Float[np.ndarray, '...']
# A batch norm as (factor, shift) of each channel.
Norm = tuple[Weight, Weight]


@dataclasses.dataclass
class Node:
    """One operation, on the outputs of the nodes at `inputs`.

    Kinds, their inputs' shapes → their output's (without the batch):
      faces: uint8 (48, 48); pixels: their crop from row and column `start` on, float32 less views.MEAN → (40, 40, 1)
      conv: (h, w, i) → (h', w', o) by `kernel` [k, k, i, o], `bias` [o], padding k // 2; depthwise: by `kernel` [k, k, 1, o]
      affine: times `kernel` [c], plus `bias` [c]
      add: of two like maps or vectors; multiply: maps by a map (h, w, 1) or by a vector (c,); halve: 2×2 averages of what is there
      channels: those from `start`, as many as `shape` has; concat: of maps, along the channels
      channel_mean, channel_max: (h, w, c) → (h, w, 1); place_mean, place_max: (h, w, c) → (c,)
      dense: (i,) → (o,) by `kernel` [i, o], `bias` [o]; project: (h, w, i) → (o,) by `kernel` [h, w, i, o], `bias` [o]
      softmax: (c,) → (c,)
    """

    kind: str
    inputs: tuple[int, ...]
    shape: tuple[int, ...]
    activation: str | None = None
    kernel: np.ndarray | None = None
    bias: np.ndarray | None = None
    stride: int = 1
    start: int = 0


class Graph:
    """The nodes in the order they run. Each method adds one and returns its place."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []

    def add(self, kind: str, inputs: Sequence[int], shape: Sequence[int], **fields: Any) -> int:
        """Adds a node, its weights as float32; returns its number."""
        weights = {name: fields[name].astype(np.float32) for name in ('kernel', 'bias') if name in fields}
        self.nodes.append(Node(kind, tuple(inputs), tuple(shape), **fields | weights))
        return len(self.nodes) - 1

    def shape(self, x: int) -> tuple[int, ...]:
        """The shape of what node `x` gives, without the batch."""
        return self.nodes[x].shape

    def conv(
        self,
        x: int,
        kernel: Weight,
        norm: Norm | None = None,
        activation: str | None = None,
        stride: int = 1,
        depthwise: bool = False,
        width: int = 0,
    ) -> int:
        """A convolution and the batch norm behind it, whose output has at least `width` channels: zeros fill it up."""
        height, breadth, channels = self.shape(x)
        factor, shift = norm or (np.ones(kernel.shape[3]), np.zeros(kernel.shape[3]))
        kernel = kernel * factor
        width = channels if depthwise else max(width, kernel.shape[3])
        surplus = (0 if depthwise else channels - kernel.shape[2], width - kernel.shape[3])
        kernel = np.pad(kernel, ((0, 0), (0, 0), (0, surplus[0]), (0, surplus[1])))
        bias = np.pad(shift, (0, surplus[1]))
        shape = (-(-height // stride), -(-breadth // stride), width)
        kind = 'depthwise' if depthwise else 'conv'
        return self.add(kind, [x], shape, activation=activation, kernel=kernel, bias=bias, stride=stride)

    def affine(self, x: int, norm: Norm, activation: str | None) -> int:
        """`x` times a factor and a shift for each channel, those of padding zero."""
        factor, shift = (np.pad(part, (0, self.shape(x)[-1] - len(part))) for part in norm)
        return self.add('affine', [x], self.shape(x), activation=activation, kernel=factor, bias=shift)

    def sum(self, x: int, y: int, activation: str | None = None) -> int:
        """The sum of two nodes."""
        return self.add('add', [x, y], self.shape(x), activation=activation)

    def dense(self, x: int, kernel: Weight, bias: Weight | None = None, activation: str | None = None) -> int:
        """A linear layer."""
        bias = np.zeros(kernel.shape[1]) if bias is None else bias
        return self.add('dense', [x], kernel.shape[1:], activation=activation, kernel=kernel, bias=bias)

    def select(self, x: int, real: int, start: int, width: int, offset: int) -> int:
        """A 1×1 convolution of zeros and ones: `real` channels from `start` stand from `offset` among `width`."""
        kernel = np.zeros((1, 1, self.shape(x)[-1], width))
        kernel[0, 0, start + np.arange(real), offset + np.arange(real)] = 1
        return self.conv(x, kernel)


class Folder:
    """Walks the network of a checked `config.network` as `fernet.FERNet` does, and adds its operations to `graph`.

    Between blocks x is one node, or two: the halves that the next block takes. Where a block's halves are filled up to a multiple
    of `align` channels, only the first channels count.
    """

    def __init__(self, config: ConfigDict, variables: Variables, align: int) -> None:
        self.graph, self.config, self.variables, self.align = Graph(), config, variables, align
        self.activation, self.attention = config.activation, ATTENTIONS[config.attention]

    def weight(self, path: str) -> Weight:
        """A parameter in float64."""
        return self.variables[f'params/{path}'].astype(np.float64)

    def norm(self, path: str, part: slice = slice(None)) -> Norm:
        """What a batch norm multiplies with and adds, of part of its channels."""
        mean, variance = (self.variables[f'batch_stats/{path}/{name}'].astype(np.float64) for name in ('mean', 'var'))
        factor = self.weight(f'{path}/scale') / np.sqrt(variance + EPSILON)
        return factor[part], (self.weight(f'{path}/bias') - mean * factor)[part]

    def run(self, classes: int) -> Graph:
        """The whole network, from uint8 faces to logits and, last, probabilities."""
        graph, config = self.graph, self.config
        x = graph.add('pixels', [graph.add('faces', [], (IMAGE_SIDE, IMAGE_SIDE))], (CROP_SIDE, CROP_SIDE, 1), start=MARGIN)
        x = graph.conv(x, self.weight('stem/kernel') / SCALE, self.norm('stem_bn'), self.activation)
        parts = [self.attend(x, self.attention.first)]
        inputs = config.stem
        for number, (features, stride) in enumerate(zip(config.blocks, config.strides, strict=True), start=1):
            parts = self.block(parts, f'block{number}', inputs, features, stride, number == len(config.blocks))
            if self.attention.block:
                parts = [self.attend(parts[0], self.attention.block, f'block{number}_')]
            inputs = features
        logits = self.head(self.attend(parts[0], self.attention.last), classes)
        graph.add('softmax', [logits], (classes,))
        return graph

    def block(self, parts: list[int], name: str, inputs: int, features: int, stride: int, is_last: bool) -> list[int]:
        """`fernet.CSPBlock`, its output as two halves where the next block takes it as it is."""
        graph, half = self.graph, inputs // 2
        few = len(parts) == 1 and inputs <= self.align and not self.config.preactivation
        y = self.merged(parts[0], name, half) if few else self.paths(parts, name, half)
        y = graph.conv(y, self.weight(f'{name}/spatial/kernel'), self.norm(f'{name}/spatial_bn'), stride=stride, depthwise=True)
        y = graph.conv(y, self.weight(f'{name}/expand/kernel'), self.norm(f'{name}/expand_bn'), self.activation)
        kernel = None
        if self.config.fusion == 'attention':
            y = self.channel_attention(y, f'{name}/fusion')
        else:
            kernel = self.weight(f'{name}/fusion/kernel')
        whole = is_last or kernel is None or self.attention.block
        bounds = [(0, features)] if whole else [(0, features // 2), (features // 2, features)]
        shortcut = [self.halved(x) if stride > 1 else x for x in parts] if self.config.shortcut else []
        found = []
        for start, stop in bounds:
            width = features if whole else self.aligned(stop - start)
            z = y if kernel is None else graph.conv(y, kernel[..., start:stop], width=width)
            for index, x in enumerate(shortcut):
                # x holds the channels from `first` of the block's input; some of them may go here.
                first = index * half
                low, high = max(first, start), min(first + inputs // len(shortcut), stop)
                if low < high:
                    z = graph.sum(graph.select(x, high - low, low - first, width, low - start), z)
            found.append(z)
        return found

    def paths(self, parts: list[int], name: str, half: int) -> int:
        """The block's two paths, each over a half, and the 1×1 convolution that reduces both to one: `half` channels."""
        graph, width = self.graph, self.aligned(half)
        halves = parts if len(parts) == 2 else [self.half(parts[0], half, start) for start in (0, half)]
        dense = self.unit(halves[0], name, ('dense_conv1', 'dense_conv2'), False)
        depthwise = halves[1]
        for stage in ('depthwise1', 'depthwise2'):
            depthwise = self.unit(depthwise, name, (f'{stage}_depth', f'{stage}_point'), True)
        kernel, (factor, shift) = self.reduce(name)
        y = []
        for x, part, moved in ((dense, slice(half), shift), (depthwise, slice(half, None), np.zeros(half))):
            x = graph.affine(x, self.norm(f'{name}/concat_bn', part), self.activation)
            y.append(graph.conv(x, kernel[:, :, part], (factor, moved), width=width))
        return graph.sum(*y, self.activation)

    def merged(self, x: int, name: str, half: int) -> int:
        """`paths` of few channels in two dense convolutions over both halves together.

        The depthwise path's pairs of convolutions, with no activation between them, are one dense convolution each; its first
        identity sum is that one's middle tap.
        """
        graph, y = self.graph, x
        for number, layer in enumerate(('dense_conv1', 'dense_conv2'), start=1):
            stage = f'{name}/depthwise{number}'
            (depth_factor, depth_shift), (factor, shift) = self.norm(f'{stage}_depth_bn'), self.norm(f'{stage}_point_bn')
            point = self.weight(f'{stage}_point/kernel')[0, 0] * factor
            kernel, norm = np.zeros((3, 3, 2 * half, 2 * half)), self.norm(f'{name}/{layer}_bn')
            kernel[:, :, :half, :half] = self.weight(f'{name}/{layer}/kernel') * norm[0]
            kernel[:, :, half:, half:] = (self.weight(f'{stage}_depth/kernel')[:, :, 0] * depth_factor)[..., None] * point
            if self.config.residual:
                kernel[1, 1, half:, half:] += np.eye(half)
            shifts = np.concatenate([norm[1], depth_shift @ point + shift])
            sums_up = self.config.residual and number == 2
            activation = None if sums_up else self.activation
            # The first's few channels go to the second in the plain order, which costs less than filling them up.
            width = self.aligned(2 * half) if number == 2 else 0
            y = graph.conv(y, kernel, (np.ones(2 * half), shifts), activation, width=width)
            if sums_up:
                y = graph.sum(graph.select(x, half, 0, width, 0), y, self.activation)
        y = graph.affine(y, self.norm(f'{name}/concat_bn'), self.activation)
        return graph.conv(y, *self.reduce(name), self.activation, width=self.aligned(half))

    def reduce(self, name: str) -> tuple[Weight, Norm]:
        """The kernel of the block's first 1×1 convolution for channels that are not shuffled before it, and the batch norm behind it.

        Its row for a channel is that of the place that the shuffle moves the channel to.
        """
        kernel = self.weight(f'{name}/reduce/kernel')
        if self.config.shuffle_groups is not None:
            kernel = kernel[:, :, np.arange(kernel.shape[2]).reshape(-1, self.config.shuffle_groups).T.ravel()]
        return kernel, self.norm(f'{name}/reduce_bn')

    def aligned(self, width: int) -> int:
        """The width, rounded up to what the runtime is fast with."""
        return -(-width // self.align) * self.align

    def half(self, x: int, half: int, start: int) -> int:
        """`half` channels of `x` from `start` on, padded where the runtime wants that."""
        if half < self.aligned(half):
            return self.graph.select(x, half, start, self.aligned(half), 0)
        return self.graph.add('channels', [x], (*self.graph.shape(x)[:2], half), start=start)

    def halved(self, x: int) -> int:
        """Every second place of `x`."""
        height, width, channels = self.graph.shape(x)
        return self.graph.add('halve', [x], (-(-height // 2), -(-width // 2), channels))

    def unit(self, x: int, name: str, layers: tuple[str, str], is_depthwise: bool) -> int:
        """`fernet.CSPBlock.unit`: two convolutions, of which the first may be depthwise; then no activation stands between them."""
        kernels = [self.weight(f'{name}/{layer}/kernel') for layer in layers]
        norms = [self.norm(f'{name}/{layer}_bn') for layer in layers]
        inner, after = None if is_depthwise else self.activation, None if self.config.preactivation else self.activation
        width = self.graph.shape(x)[-1]
        y = x
        if self.config.preactivation:
            y = self.graph.affine(x, norms[0], self.activation)
            norms = [norms[1], None]
        y = self.graph.conv(y, kernels[0], norms[0], inner, depthwise=is_depthwise, width=width)
        y = self.graph.conv(y, kernels[1], norms[1], None if self.config.residual else after, width=width)
        return self.graph.sum(x, y, after) if self.config.residual else y

    def attend(self, x: int, modules: Modules, before: str = '') -> int:
        """`fernet.FERNet.attend`."""
        for name, module in modules.items():
            match module:
                case SpatialAttention():
                    x = self.spatial_attention(x, before + name)
                case ChannelAttention():
                    x = self.channel_attention(x, before + name)
                case SqueezeExcitation():
                    gate = self.pooled(x, 'place_mean')
                    for layer, activation in (('squeeze', 'relu'), ('excite', 'sigmoid')):
                        path = f'{before}{name}/{layer}'
                        gate = self.graph.dense(gate, self.weight(f'{path}/kernel'), self.weight(f'{path}/bias'), activation)
                    x = self.weigh(x, gate)
                case EfficientChannelAttention():
                    # A convolution over the channels is a banded matrix.
                    taps = self.weight(f'{before}{name}/conv/kernel')[:, 0, 0]
                    bands = (tap * np.eye(*self.graph.shape(x)[-1:], k=len(taps) // 2 - place) for place, tap in enumerate(taps))
                    x = self.weigh(x, self.graph.dense(self.pooled(x, 'place_mean'), sum(bands), activation='sigmoid'))
                case _:
                    attention = self.config.attention
                    raise InputError(f'network.attention={attention}: not written in this format yet; --format stablehlo takes any')
        return x

    def spatial_attention(self, x: int, name: str) -> int:
        """`x` weighed place by place, as by attention.SpatialAttention."""
        height, width, _ = self.graph.shape(x)
        pooled = [self.graph.add(kind, [x], (height, width, 1)) for kind in ('channel_mean', 'channel_max')]
        stacked = self.graph.add('concat', pooled, (height, width, 2))
        norm = np.ones(1), self.weight(f'{name}/conv/bias')
        return self.weigh(x, self.graph.conv(stacked, self.weight(f'{name}/conv/kernel'), norm, 'sigmoid'))

    def channel_attention(self, x: int, name: str) -> int:
        """The perceptron's second layer is linear and without bias, so it is done once, on the sum."""
        squeeze = self.weight(f'{name}/squeeze/kernel')
        pooled = [self.pooled(x, kind) for kind in ('place_mean', 'place_max')]
        hidden = self.graph.sum(*(self.graph.dense(y, squeeze, activation='relu') for y in pooled))
        return self.weigh(x, self.graph.dense(hidden, self.weight(f'{name}/excite/kernel'), activation='sigmoid'))

    def pooled(self, x: int, kind: str) -> int:
        """The mean or the maximum of each channel over the places."""
        return self.graph.add(kind, [x], self.graph.shape(x)[-1:])

    def weigh(self, x: int, gate: int) -> int:
        """`x` times the weights `gate`."""
        return self.graph.add('multiply', [x, gate], self.graph.shape(x))

    def head(self, x: int, classes: int) -> int:
        """The convolution and the mean over its places as one linear map: what a place gives is the sum of the taps that reach the maps."""
        kernel = self.weight('head/kernel')
        height, width, channels = self.graph.shape(x)
        whole = np.zeros((height, width, channels, classes))
        for row in range(height):
            for column in range(width):
                # Tap t at output place p reads p + t - 1, which must be this place.
                down = slice(max(0, row + 2 - height), min(3, row + 2))
                right = slice(max(0, column + 2 - width), min(3, column + 2))
                whole[row, column] = kernel[down, right].sum((0, 1)) / (height * width)
        return self.graph.add('project', [x], (classes,), kernel=whole, bias=self.weight('head/bias'))


def fold(config: ConfigDict, variables: Variables, classes: int, align: int = 1) -> Graph:
    """The operations from faces (uint8, 48×48) to the logits, last but one, and their probabilities, last.

    Args:
      config: a checked config.network.
      variables: path → array, of `weights.Weights`.
      align: the channels of a block's paths are filled up with zeros to a multiple of it; a block of so few has both in one.

    Raises:
      InputError: the network is none of the paper's.
    """
    if config.name != 'fernet':
        raise InputError(f"network.name={config.name}: only the paper's network is written in this format; --format stablehlo takes any")
    return Folder(config, variables, align).run(classes)
