"""A folded network as a LiteRT (TensorFlow Lite) file, its maps in channels-last order.

The format is a flatbuffer, https://ai.google.dev/edge/litert; its schema's Python classes come with the `ai-edge-litert` package.
"""

from collections.abc import Callable, Sequence

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from fer_jax.data.views import MEAN
from fer_jax.export.folded import Graph, Node

VERSION = 3  # of the schema
IDENTIFIER = b'TFL3'
TYPES = {'float32': schema.TensorType.FLOAT32, 'uint8': schema.TensorType.UINT8, 'int32': schema.TensorType.INT32}
FUSED = {'relu': schema.ActivationFunctionType.RELU}


class Writer:
    """Collects tensors, buffers and operators. A vector of c channels is kept as a map of one place, [n, 1, 1, c]."""

    def __init__(self) -> None:
        self.buffers = [schema.BufferT()]  # the first is the empty one, of every tensor that is computed
        self.tensors: list[object] = []
        self.operators: list[object] = []
        self.codes: list[str] = []
        self.known: dict[tuple, int] = {}  # what a constant holds → its tensor

    def tensor(self, shape: Sequence[int], kind: str, name: str, buffer: int = 0) -> int:
        """A tensor; a computed one has an open batch in front of `shape`."""
        batch = {} if buffer else {'shapeSignature': [-1, *shape]}
        whole = list(shape) if buffer else [1, *shape]
        self.tensors.append(schema.TensorT(shape=whole, type=TYPES[kind], buffer=buffer, name=name, hasRank=True, **batch))
        return len(self.tensors) - 1

    def constant(self, array: np.ndarray, name: str) -> int:
        """The tensor of an array, which is written once."""
        key = (array.dtype.name, array.shape, array.tobytes())
        if key not in self.known:
            self.buffers.append(schema.BufferT(data=np.frombuffer(key[2], np.uint8)))
            self.known[key] = self.tensor(array.shape, array.dtype.name, name, len(self.buffers) - 1)
        return self.known[key]

    def whole(self, *numbers: int) -> int:
        """The tensor of some whole numbers."""
        return self.constant(np.array(numbers, np.int32), 'numbers')

    def emit(
        self,
        operation: str,
        inputs: Sequence[int],
        shape: Sequence[int],
        name: str,
        options: str = '',
        kind: str = 'float32',
        **fields: object,
    ) -> int:
        """One operator with one output; `options` is the schema's table of its `fields`."""
        if operation not in self.codes:
            self.codes.append(operation)
        out = self.tensor(shape, kind, name)
        tables = {}
        if options:
            made = getattr(schema, f'{options}T')(**fields)
            tables = {'builtinOptionsType': getattr(schema.BuiltinOptions, options), 'builtinOptions': made}
        code = self.codes.index(operation)
        self.operators.append(schema.OperatorT(opcodeIndex=code, inputs=list(inputs), outputs=[out], **tables))
        return out

    def activated(self, x: int, activation: str | None, shape: Sequence[int], name: str) -> int:
        """x under an activation that no operator has built in."""
        match activation:
            case 'leaky_relu':
                return self.emit('LEAKY_RELU', [x], shape, name, 'LeakyReluOptions', alpha=0.01)
            case 'gelu':
                return self.emit('GELU', [x], shape, name, 'GeluOptions', approximate=True)
            case 'sigmoid':
                return self.emit('LOGISTIC', [x], shape, name)
            case 'silu':
                return self.emit('MUL', [x, self.emit('LOGISTIC', [x], shape, f'{name}_gate')], shape, name, 'MulOptions')
        return x

    def write(self, node: Node, inputs: list[int], shapes: list[tuple[int, ...]], name: str) -> int:
        """One node of the graph, on tensors; returns its output's."""
        shape = node.shape if len(node.shape) == 3 else (1, 1, *node.shape)
        fused = {'fusedActivationFunction': FUSED.get(node.activation, schema.ActivationFunctionType.NONE)}
        match node.kind:
            case 'pixels':
                return self.pixels(inputs[0], node)
            case 'conv' | 'depthwise' | 'dense' | 'project':
                x = self.conv(inputs[0], node, shapes[0], shape, name, fused)
            case 'affine':
                scaled = self.emit('MUL', [inputs[0], self.constant(node.kernel, f'{name}_scale')], shape, f'{name}_scaled', 'MulOptions')
                x = self.emit('ADD', [scaled, self.constant(node.bias, f'{name}_shift')], shape, name, 'AddOptions', **fused)
            case 'add':
                x = self.emit('ADD', inputs, shape, name, 'AddOptions', **fused)
            case 'multiply':
                x = self.emit('MUL', inputs, shape, name, 'MulOptions')
            case 'halve':
                # Of an odd side the last place is averaged with itself: SAME looks at no place outside.
                window = dict.fromkeys(('strideH', 'strideW', 'filterHeight', 'filterWidth'), 2)
                x = self.emit('AVERAGE_POOL_2D', inputs, shape, name, 'Pool2DOptions', padding=schema.Padding.SAME, **window)
            case 'channels':
                bounds = [(0, 0, 0, node.start), (0, 0, 0, node.start + shape[-1]), (1, 1, 1, 1)]
                x = self.slice(inputs[0], bounds, shape, name, 0b0111)
            case 'concat':
                x = self.emit('CONCATENATION', inputs, shape, name, 'ConcatenationOptions', axis=3)
            case 'softmax':
                x = self.emit('SOFTMAX', inputs, shape, name, 'SoftmaxOptions', beta=1.0)
            case kind:
                axes = self.whole(3) if kind.startswith('channel') else self.whole(1, 2)
                operation = 'MEAN' if kind.endswith('mean') else 'REDUCE_MAX'
                x = self.emit(operation, [*inputs, axes], shape, name, 'ReducerOptions', keepDims=True)
        return self.activated(x, node.activation, shape, f'{name}_activated')

    def slice(self, x: int, bounds: list[tuple[int, ...]], shape: Sequence[int], name: str, whole: int, kind: str = 'float32') -> int:
        """x from, to and by `bounds`; along the axes whose bits are set in `whole`, all of it."""
        numbers = [self.whole(*each) for each in bounds]
        return self.emit('STRIDED_SLICE', [x, *numbers], shape, name, 'StridedSliceOptions', kind, beginMask=whole, endMask=whole)

    def pixels(self, faces: int, node: Node) -> int:
        """The crop of the faces as float32, centred at zero."""
        shape = node.shape[:2]
        bounds = [(0, node.start, node.start), (0, *(node.start + side for side in shape)), (1, 1, 1)]
        crop = self.slice(faces, bounds, shape, 'crop', 0b001, 'uint8')
        grey = self.emit('CAST', [crop], shape, 'grey', 'CastOptions', inDataType=TYPES['uint8'], outDataType=TYPES['float32'])
        maps = self.emit('RESHAPE', [grey, self.whole(-1, *shape, 1)], (*shape, 1), 'maps', 'ReshapeOptions', newShape=[-1, *shape, 1])
        return self.emit('SUB', [maps, self.constant(np.float32([MEAN]), 'middle')], (*shape, 1), 'pixels', 'SubOptions')

    def conv(self, x: int, node: Node, before: Sequence[int], shape: Sequence[int], name: str, fused: dict[str, int]) -> int:
        """A convolution of any kind: a dense layer has one place, and the projection a kernel of the maps' size and no padding."""
        kernel = node.kernel if node.kernel.ndim == 4 else node.kernel[None, None]
        size, options = kernel.shape[0], fused | {'strideH': node.stride, 'strideW': node.stride}
        options['padding'] = schema.Padding.SAME if node.kind in ('conv', 'depthwise') else schema.Padding.VALID
        if node.stride > 1 and size > 1:
            # SAME would put all the padding of an even side behind it.
            edge = (size // 2, size // 2)
            padded = (before[0] + size - 1, before[1] + size - 1, before[2])
            x = self.emit('PAD', [x, self.constant(np.array([(0, 0), edge, edge, (0, 0)], np.int32), 'edges')], padded, f'{name}_padded')
            options['padding'] = schema.Padding.VALID
        bias = self.constant(node.bias, f'{name}_bias')
        if node.kind == 'depthwise':
            weights = self.constant(kernel.transpose(2, 0, 1, 3), f'{name}_kernel')
            return self.emit('DEPTHWISE_CONV_2D', [x, weights, bias], shape, name, 'DepthwiseConv2DOptions', depthMultiplier=1, **options)
        weights = self.constant(kernel.transpose(3, 0, 1, 2), f'{name}_kernel')
        return self.emit('CONV_2D', [x, weights, bias], shape, name, 'Conv2DOptions', **options)


def litert_bytes(graph: Graph, metadata: dict[str, str]) -> bytes:
    """A whole LiteRT file of `graph`: faces (uint8 [n, 48, 48]) → logits, probabilities ([n, classes]), n open, by the signature
    `serving_default`.

    Args:
      graph: of folded.fold.
      metadata: written as the file's metadata, a buffer of UTF-8 each; `description` also as the file's own.
    """
    writer, tensors = Writer(), []
    for number, node in enumerate(graph.nodes):
        inputs, shapes = [tensors[i] for i in node.inputs], [graph.shape(i) for i in node.inputs]
        is_input = node.kind == 'faces'
        tensors.append(writer.tensor(node.shape, 'uint8', 'faces') if is_input else writer.write(node, inputs, shapes, f't{number}'))
    classes = graph.shape(-1)[0]
    named = {'faces': tensors[0]}
    for name, x in (('logits', tensors[-2]), ('probabilities', tensors[-1])):
        named[name] = writer.emit('RESHAPE', [x, writer.whole(-1, classes)], (classes,), name, 'ReshapeOptions', newShape=[-1, classes])
    notes = []
    for name, text in metadata.items():
        writer.buffers.append(schema.BufferT(data=np.frombuffer(text.encode(), np.uint8)))
        notes.append(schema.MetadataT(name=name, buffer=len(writer.buffers) - 1))
    outputs = ('logits', 'probabilities')
    maps = {name: schema.TensorMapT(name=name, tensorIndex=index) for name, index in named.items()}
    signature = schema.SignatureDefT(inputs=[maps['faces']], outputs=[maps[name] for name in outputs], signatureKey='serving_default')
    body = schema.SubGraphT(
        tensors=writer.tensors,
        inputs=[named['faces']],
        outputs=[named[name] for name in outputs],
        operators=writer.operators,
        name='fer_jax',
    )
    # All in their first version, which every reader knows; older ones look at the code of a byte.
    operations = [getattr(schema.BuiltinOperator, name) for name in writer.codes]
    codes = [schema.OperatorCodeT(builtinCode=code, deprecatedBuiltinCode=min(code, 127), version=1) for code in operations]
    model = schema.ModelT(
        version=VERSION,
        operatorCodes=codes,
        subgraphs=[body],
        buffers=writer.buffers,
        description=metadata.get('description', ''),
        metadata=notes,
        signatureDefs=[signature],
    )
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), IDENTIFIER)
    return bytes(builder.Output())


def load_litert(content: bytes) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """A file's predictions by LiteRT's own interpreter: faces, uint8 [n, 48, 48] → logits, probabilities."""
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(model_content=content).get_signature_runner('serving_default')

    def predict(faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = runner(faces=faces)
        return found['logits'], found['probabilities']

    return predict
