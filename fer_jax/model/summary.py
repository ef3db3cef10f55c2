"""The paper's Table 1 for a configured network: rows, parameters, multiply-adds and activations' size; for baselines a plain one."""

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from clu import parameter_overview
from ml_collections import ConfigDict

from fer_jax.data.views import CROP_SIDE
from fer_jax.model.baselines import Baseline, make_any
from fer_jax.model.fernet import FERNet

OPERATORS = {
    'stem': 'convolution k3 s1 p1',
    'spatial_attention': 'SA',
    'channel_attention': 'CA',
    'head': 'convolution k3 s1 p1',
}


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of Table 1."""

    input: tuple[int, int, int]  # channels, height, width
    operator: str
    parameters: int
    multiply_adds: int  # a forward pass of one image


def table_rows(network: FERNet) -> list[Row]:
    """The rows of Table 1, from the network's own parameters and output shapes; nothing is computed."""
    images = jax.ShapeDtypeStruct((1, CROP_SIDE, CROP_SIDE, 1), jnp.float32)
    variables = jax.eval_shape(lambda x: network.init(jax.random.key(0), x, train=False), images)
    parameters = variables['params']
    outputs = module_outputs(network, variables, images)
    rows, shape = [], (1, CROP_SIDE, CROP_SIDE)
    for name in (name for name in outputs if not name.endswith('_bn') and name != '__call__'):
        own = [parameters.get(part, {}) for part in (name, f'{name}_bn')]  # an attention may have none
        count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(own))
        operator = 'CSP_BLOCK' if name in block_names(network) else OPERATORS.get(name, name.rpartition('_')[2].upper())
        rows.append(Row(shape, operator, count, multiply_adds(own[0], outputs[name])))
        _, height, width, channels = outputs[name]['__call__'][0].shape
        shape = (channels, height, width)
    rows.append(Row(shape, 'AdaptiveAvgPool2d', 0, 0))
    return [*rows, Row((network.classes, 1, 1), 'softmax', 0, 0)]


def block_names(network: FERNet) -> list[str]:
    """The names of the CSP blocks among the network's parameters."""
    return [f'block{number}' for number in range(1, len(network.blocks) + 1)]


def module_outputs(network: nn.Module, variables: Any, images: jax.ShapeDtypeStruct) -> dict[str, Any]:
    """Module name → … → `__call__` → the shapes of its outputs, one a call, in the order of the forward pass."""

    order: list[str] = []  # the transformation sorts what it returns

    def forward(variables: Any, images: jax.Array) -> Any:
        outputs = network.apply(variables, images, train=False, capture_intermediates=True, mutable=['intermediates'])[1]['intermediates']
        order.extend(outputs)
        return outputs

    shapes = jax.eval_shape(forward, variables, images)
    return {name: shapes[name] for name in order}


def multiply_adds(parameters: dict, outputs: dict) -> int:
    """Multiply-adds of the convolutions and dense layers below one module: a kernel's weights times its output places."""
    total = 0
    for name, leaf in parameters.items():
        if name == 'kernel':
            total += sum(leaf.size * math.prod(output.shape[:-1]) for output in outputs['__call__'])
        elif isinstance(leaf, dict):
            total += multiply_adds(leaf, outputs[name])
    return total


def activation_bytes(network: FERNet) -> int:
    """What PyTorch's summary tools call the forward/backward pass size: 2 × 4 bytes × the sum of the modules' outputs.

    Counted are convolutions, dense layers, batch norms and activation functions.
    """
    network = network.clone(
        options=dataclasses.replace(network.options, activation='relu')
    )  # the others' outputs are as large, but not all of them can be told by a name
    images = jax.ShapeDtypeStruct((1, CROP_SIDE, CROP_SIDE, 1), jnp.float32)
    variables = jax.eval_shape(lambda x: network.init(jax.random.key(0), x, train=False), images)

    def layers(tree: dict) -> int:
        children = [value for value in tree.values() if isinstance(value, dict)]
        if children:
            return sum(layers(child) for child in children)
        return sum(output.size for output in tree.get('__call__', ()))

    def relus(jaxpr: Any) -> int:
        total = 0
        for equation in jaxpr.eqns:
            if equation.params.get('name') == 'relu':
                total += sum(variable.aval.size for variable in equation.outvars)
            else:
                inner = equation.params.get('jaxpr') or equation.params.get('call_jaxpr')
                total += relus(inner.jaxpr) if inner else 0
        return total

    forward = jax.make_jaxpr(lambda variables, x: network.apply(variables, x, train=False))(variables, images)
    return 2 * 4 * (layers(module_outputs(network, variables, images)) + relus(forward.jaxpr))


def layer_table(network: Baseline) -> str:
    """A line a convolution, each with the batch norm behind it: output size, parameters and FLOPs (2 a multiply-add)."""
    images = jax.ShapeDtypeStruct((1, CROP_SIDE, CROP_SIDE, 1), jnp.float32)
    variables = jax.eval_shape(lambda x: network.init(jax.random.key(0), x, train=False), images)
    parameters, outputs = variables['params'], module_outputs(network, variables, images)
    lines, total, total_work = [f'{"layer":<28}  {"output (C,H,W)":<14}  {"parameters":>10}  {"MFLOPs":>9}'], 0, 0
    for name in (name for name in outputs if name in parameters and not name.endswith('_bn')):
        norm = f'{name}_bn' if f'{name}_bn' in parameters else name
        output = outputs[norm]['__call__'][0]  # behind the norm, for a part of what the convolution puts out may be cut off
        count = sum(math.prod(leaf.shape) for part in {name, norm} for leaf in jax.tree.leaves(parameters[part]))
        work = multiply_adds(parameters[name], {'__call__': [output]})
        total, total_work = total + count, total_work + work
        _, height, width, channels = output.shape
        lines.append(f'{name:<28}  {f"{channels},{height},{width}":<14}  {count:>10,}  {2 * work / 1e6:>9.3f}')
    lines.append(f'{"total":<28}  {"":<14}  {total:>10,}  {2 * total_work / 1e6:>9.3f}')
    return '\n'.join([*lines, '', f'Parameters size (MB): {4 * total / 2**20:.2f}'])


def summary(config: ConfigDict, classes: int = 7) -> str:
    """Table 1 as the paper prints it, with FLOPs (2 a multiply-add) and the forward/backward pass size; of a baseline its layers."""
    network = make_any(config.network, classes)
    if isinstance(network, Baseline):
        return layer_table(network)
    rows = table_rows(network)
    lines = [f'{"input (C,H,W)":<14}  {"operator":<22}  {"parameters":>10}  {"MFLOPs":>8}']
    for row in rows:
        size = ','.join(map(str, row.input))
        lines.append(f'{size:<14}  {row.operator:<22}  {row.parameters:>10,}  {2 * row.multiply_adds / 1e6:>8.3f}')
    parameters, work = sum(row.parameters for row in rows), sum(row.multiply_adds for row in rows)
    lines.append(f'{"total":<14}  {"":<22}  {parameters:>10,}  {2 * work / 1e6:>8.3f}')
    lines.append('')
    lines.append(f'Parameters size (MB): {4 * parameters / 2**20:.2f}')
    lines.append(f'Forward/backward pass size (MB): {activation_bytes(network) / 2**20:.2f} (the paper prints 9.46)')
    return '\n'.join(lines)


def parameter_table(config: ConfigDict, classes: int = 7) -> str:
    """Every parameter's name, shape and size."""
    network = make_any(config.network, classes)
    images = jnp.zeros((1, CROP_SIDE, CROP_SIDE, 1))
    parameters = jax.eval_shape(lambda: network.init(jax.random.key(0), images, train=False))['params']
    return parameter_overview.get_parameter_overview(parameters, include_stats=False)
