"""A folded network as an ONNX file, its maps in channels-first order.

Its numbers are float32: in eight bits ONNX Runtime was no faster on the CPU that it was measured on, and 0.3 points less accurate.
jax2onnx 0.17.1 has no way for `lax.platform_dependent`, which the network's convolutions choose their form by; its file of the same
network without that takes 1.6 (one face) to 1.9 times (32 faces) as long in ONNX Runtime, for 207 transposes and batch norms not folded.
"""

from collections.abc import Callable, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from fer_jax.data.views import MEAN
from fer_jax.export.folded import Graph, Node

# The first that has Gelu; ONNX Runtime reads it since 1.17, of January 2024.
OPSET, IR_VERSION = 20, 9
# Channels that ONNX Runtime's kernels for maps work on together: where they are no multiple of it, some operations bring the maps into
# the plain order and back.
ALIGN = 16
SIMPLE = {'relu': 'Relu', 'sigmoid': 'Sigmoid', 'softmax': 'Softmax'}


class Writer:
    """Collects the ONNX nodes and constants of a graph; node i's output is called t{i}, but for those in `names`."""

    def __init__(self, names: dict[int, str]) -> None:
        self.names = names
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[tuple, onnx.TensorProto] = {}  # by what each holds

    def name(self, number: int) -> str:
        """The name of what a node gives."""
        return self.names.get(number, f't{number}')

    def constant(self, array: np.ndarray, name: str) -> str:
        """The name of an array, which is written once."""
        key = (array.dtype.name, array.shape, array.tobytes())
        if key not in self.constants:
            self.constants[key] = numpy_helper.from_array(np.ascontiguousarray(array), name)
        return self.constants[key].name

    def emit(self, kind: str, inputs: Sequence[str], output: str, **attributes: object) -> str:
        """Writes a node; returns the name of what it gives."""
        self.nodes.append(helper.make_node(kind, list(inputs), [output], name=output, **attributes))
        return output

    def activated(self, x: str, activation: str, output: str) -> None:
        """`x` under its activation."""
        match activation:
            case 'leaky_relu':
                self.emit('LeakyRelu', [x], output, alpha=0.01)
            case 'gelu':
                self.emit('Gelu', [x], output, approximate='tanh')
            case 'silu':
                self.emit('Mul', [x, self.emit('Sigmoid', [x], f'{output}_sigmoid')], output)
            case name:
                self.emit(SIMPLE[name], [x], output)

    def write(self, number: int, node: Node, graph: Graph) -> None:
        """One node of the graph: its operation, and its activation, if any, behind it."""
        inputs = [self.name(i) for i in node.inputs]
        out = self.name(number) if node.activation is None else f'{self.name(number)}_linear'
        match node.kind:
            case 'pixels':
                self.pixels(inputs[0], node, out)
            case 'conv' | 'depthwise':
                self.conv(inputs[0], node, out)
            case 'affine':
                ones = [self.constant(make(node.shape[-1:], np.float32), f'{out}_{make.__name__}') for make in (np.zeros, np.ones)]
                parameters = [self.constant(node.kernel, f'{out}_scale'), self.constant(node.bias, f'{out}_shift'), *ones]
                self.emit('BatchNormalization', [*inputs, *parameters], out, epsilon=0.0)
            case 'add':
                self.emit('Add', inputs, out)
            case 'multiply':
                if len(graph.shape(node.inputs[1])) == 1:
                    inputs[1] = self.emit('Unsqueeze', [inputs[1], self.constant(np.array([2, 3]), 'places')], f'{out}_gate')
                self.emit('Mul', inputs, out)
            case 'halve':
                # Of an odd side the last place is averaged with itself.
                height, width = (side % 2 for side in graph.shape(node.inputs[0])[:2])
                self.emit('AveragePool', inputs, out, kernel_shape=[2, 2], strides=[2, 2], pads=[0, 0, height, width])
            case 'channels':
                self.slice(inputs[0], out, start=[node.start], stop=[node.start + node.shape[-1]], axes=[1])
            case 'concat':
                self.emit('Concat', inputs, out, axis=1)
            case 'channel_mean' | 'channel_max':
                kind = 'ReduceMean' if node.kind == 'channel_mean' else 'ReduceMax'
                self.emit(kind, [*inputs, self.constant(np.array([1]), 'channels')], out)
            case 'place_mean' | 'place_max':
                kind = 'GlobalAveragePool' if node.kind == 'place_mean' else 'GlobalMaxPool'
                self.emit('Flatten', [self.emit(kind, inputs, f'{out}_pooled')], out)
            case 'dense' | 'project':
                self.matmul(inputs[0], node, out)
            case 'softmax':
                self.emit('Softmax', inputs, out)
        if node.activation is not None:
            self.activated(out, node.activation, self.name(number))

    def slice(self, x: str, out: str, **bounds: list[int]) -> str:
        """`x` from `start` to `stop` along `axes`."""
        return self.emit('Slice', [x, *(self.constant(np.array(value), f'{out}_{what}') for what, value in bounds.items())], out)

    def pixels(self, faces: str, node: Node, out: str) -> None:
        """The crop of the faces as float32, centred at zero, with a dimension for the channel."""
        crop = self.slice(faces, 'crop', start=[node.start] * 2, stop=[node.start + side for side in node.shape[:2]], axes=[1, 2])
        grey = self.emit('Cast', [crop], 'grey', to=TensorProto.FLOAT)
        centred = self.emit('Sub', [grey, self.constant(np.array(MEAN, np.float32), 'middle')], 'centred')
        self.emit('Unsqueeze', [centred, self.constant(np.array([1]), 'channels')], out)

    def conv(self, x: str, node: Node, out: str) -> None:
        """Writes a convolution."""
        kernel = self.constant(node.kernel.transpose(3, 2, 0, 1), f'{out}_kernel')
        size = node.kernel.shape[0]
        group = node.shape[-1] if node.kind == 'depthwise' else 1
        options = {'kernel_shape': [size] * 2, 'pads': [size // 2] * 4, 'strides': [node.stride] * 2, 'group': group}
        bias = [self.constant(node.bias, f'{out}_bias')] if node.bias.any() else []
        self.emit('Conv', [x, kernel, *bias], out, **options)

    def matmul(self, x: str, node: Node, out: str) -> None:
        """Writes a linear layer."""
        kernel = node.kernel
        if node.kind == 'project':
            x = self.emit('Flatten', [x], f'{out}_flat')
            kernel = kernel.transpose(2, 0, 1, 3).reshape(-1, kernel.shape[3])
        bias = [self.constant(node.bias, f'{out}_bias')] if node.bias.any() else []
        self.emit('Gemm', [x, self.constant(kernel, f'{out}_kernel'), *bias], out)


def onnx_bytes(graph: Graph, metadata: dict[str, str]) -> bytes:
    """A whole ONNX file of `graph`: faces (uint8 [n, 48, 48]) → logits, probabilities ([n, classes]), n open.

    Args:
      graph: of folded.fold, best with `align` of ALIGN.
      metadata: written as the file's metadata_props.
    """
    last = len(graph.nodes) - 1
    writer = Writer({0: 'faces', last - 1: 'logits', last: 'probabilities'})
    for number, node in enumerate(graph.nodes):
        writer.write(number, node, graph)
    side, classes = graph.shape(0)[0], graph.shape(last)[0]
    inputs = [helper.make_tensor_value_info('faces', TensorProto.UINT8, ['n', side, side])]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ['n', classes]) for name in ('logits', 'probabilities')]
    body = helper.make_graph(writer.nodes, 'fer_jax', inputs, outputs, list(writer.constants.values()))
    model = helper.make_model(body, opset_imports=[helper.make_opsetid('', OPSET)], ir_version=IR_VERSION, producer_name='fer_jax')
    helper.set_model_props(model, metadata)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def load_onnx(content: bytes) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """A file's predictions by ONNX Runtime, on a GPU where it has one: faces, uint8 [n, 48, 48] → logits, probabilities."""
    import onnxruntime  # here: writing a file needs none

    providers = [name for name in ('CUDAExecutionProvider', 'CPUExecutionProvider') if name in onnxruntime.get_available_providers()]
    session = onnxruntime.InferenceSession(content, providers=providers)
    return lambda faces: tuple(session.run(['logits', 'probabilities'], {'faces': faces}))
