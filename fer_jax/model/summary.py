"""The paper's Table 1 for a configured network: rows, parameters, multiply-adds and activations' size; for baselines a plain one."""

import dataclasses
import math
import re
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from clu import parameter_overview
from ml_collections import ConfigDict

from fer_jax.data import fer2013, ferplus
from fer_jax.data.views import CROP_SIDE
from fer_jax.model.baselines import Baseline, make_any
from fer_jax.model.fernet import FERNet

INPUT = jax.ShapeDtypeStruct((1, CROP_SIDE, CROP_SIDE, 1), jnp.float32)  # one image
OPERATORS = {
    'stem': 'convolution k3 s1 p1',
    'spatial_attention': 'SA',
    'channel_attention': 'CA',
    'head': 'convolution k3 s1 p1',
}


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of Table 1, or one layer of a baseline."""

    shape: tuple[int, int, int]  # channels, height, width: of its input in Table 1, of its output in a list of layers
    operator: str
    parameters: int
    multiply_adds: int  # a forward pass of one image


def variable_shapes(network: nn.Module) -> dict[str, Any]:
    """The network's variables as shapes and types; nothing is computed."""
    return jax.eval_shape(lambda x: network.init(jax.random.key(0), x, train=False), INPUT)


def network_of(config: ConfigDict) -> FERNet | Baseline:
    """The network of a checked configuration for FER+'s 8 classes or FER2013's 7; a folder's are not known before it is read."""
    return make_any(config.network, len((ferplus if config.data.dataset == 'ferplus' else fer2013).CLASSES))


def table_rows(network: FERNet) -> list[Row]:
    """The rows of Table 1, from the network's own parameters and output shapes; nothing is computed."""
    rows, shape = [], (1, CROP_SIDE, CROP_SIDE)
    for layer in layer_rows(network):
        name = layer.operator
        operator = 'CSP_BLOCK' if re.fullmatch(r'block\d+', name) else OPERATORS.get(name, name.rpartition('_')[2].upper())
        rows.append(dataclasses.replace(layer, shape=shape, operator=operator))
        shape = layer.shape
    rows.append(Row(shape, 'AdaptiveAvgPool2d', 0, 0))
    return [*rows, Row((network.classes, 1, 1), 'softmax', 0, 0)]


def layer_rows(network: FERNet | Baseline) -> list[Row]:
    """A row for each module that the network itself calls, by its name, with the batch norm behind it and the shape of the output."""
    variables = variable_shapes(network)
    parameters, outputs, rows = variables['params'], module_outputs(network, variables), []
    for name in (name for name in outputs if not name.endswith('_bn') and name != '__call__'):
        own = [parameters.get(part, {}) for part in (name, f'{name}_bn')]  # an attention may have none
        count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(own))
        below = outputs[name] | outputs.get(f'{name}_bn', {})  # the norm's, for a part of what the convolution puts out may be cut off
        _, height, width, channels = below['__call__'][0].shape
        rows.append(Row((channels, height, width), name, count, multiply_adds(own[0], below)))
    return rows


def module_outputs(network: nn.Module, variables: Any) -> dict[str, Any]:
    """Module name → … → `__call__` → the shapes of its outputs, one a call, in the order of the forward pass."""
    order: list[str] = []  # the transformation sorts what it returns

    def forward(variables: Any, images: jax.Array) -> Any:
        outputs = network.apply(variables, images, train=False, capture_intermediates=True, mutable=['intermediates'])[1]['intermediates']
        order.extend(outputs)
        return outputs

    shapes = jax.eval_shape(forward, variables, INPUT)
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
    # The outputs of other activations are as large, but not all of them can be told by a name.
    network = network.clone(options=dataclasses.replace(network.options, activation='relu'))
    variables = variable_shapes(network)

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

    forward = jax.make_jaxpr(lambda variables, x: network.apply(variables, x, train=False))(variables, INPUT)
    return 2 * 4 * (layers(module_outputs(network, variables)) + relus(forward.jaxpr))


def summary(config: ConfigDict) -> str:
    """Table 1 as the paper prints it, with FLOPs (2 a multiply-add) and the forward/backward pass size; of a baseline its layers."""
    network = network_of(config)
    if isinstance(network, Baseline):
        size, operator, rows, more = 'output (C,H,W)', 'layer', layer_rows(network), []
    else:
        size, operator, rows = 'input (C,H,W)', 'operator', table_rows(network)
        more = [f'Forward/backward pass size (MB): {activation_bytes(network) / 2**20:.2f} (the paper prints 9.46)']
    parameters, work = sum(row.parameters for row in rows), sum(row.multiply_adds for row in rows)

    def line(size: str, operator: str, parameters: int, multiply_adds: int) -> str:
        return f'{size:<14}  {operator:<28}  {parameters:>10,}  {2 * multiply_adds / 1e6:>9.3f}'

    lines = [f'{size:<14}  {operator:<28}  {"parameters":>10}  {"MFLOPs":>9}']
    lines += [line(','.join(map(str, row.shape)), row.operator, row.parameters, row.multiply_adds) for row in rows]
    lines += [line('total', '', parameters, work), '', f'Parameters size (MB): {4 * parameters / 2**20:.2f}', *more]
    return '\n'.join(lines)


def parameter_table(config: ConfigDict) -> str:
    """Every parameter's name, shape and size."""
    return parameter_overview.get_parameter_overview(variable_shapes(network_of(config))['params'], include_stats=False)
