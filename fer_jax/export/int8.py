"""An ONNX file whose weights, and where faces show their ranges also whose maps, have eight bits."""

import dataclasses
import pathlib
import tempfile

import numpy as np
import onnx
from jaxtyping import UInt8
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.quant_utils import add_pre_process_metadata

from fer_jax.export.folded import Graph
from fer_jax.export.onnx_graph import onnx_bytes

BATCH = 64  # faces in a call of the calibration
# Sums too, so that maps stay in eight bits from one convolution to the next.
OPERATIONS = ['Conv', 'Gemm', 'Add']
# A convolution of so few input channels, the stem or a spatial attention, costs little and keeps float32.
FEW_CHANNELS = 2


class Reader(CalibrationDataReader):
    """Hands faces over in batches."""

    def __init__(self, faces: np.ndarray) -> None:
        self.batches = iter([{'faces': faces[start : start + BATCH]} for start in range(0, len(faces), BATCH)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.batches, None)


def quantise(graph: Graph, metadata: dict[str, str], faces: UInt8[np.ndarray, 'n 48 48'] | None) -> bytes:
    """A whole ONNX file of `graph` in eight bits, by ONNX Runtime's own quantiser.

    Args:
      graph: of folded.fold, not aligned: integer kernels work on the channels that there are.
      metadata: as of onnx_bytes.
      faces: of the training images; the largest and smallest values of each map on them are its range. None leaves that to each
        call, and takes only weights.
    """
    whole, few = Graph(), set()
    for number, node in enumerate(graph.nodes):
        if node.kind == 'affine':
            # As a convolution of one weight a channel, what is left of batch norm has eight bits too.
            node = dataclasses.replace(node, kind='depthwise', kernel=node.kernel[None, None, None])
        elif node.kind == 'conv' and node.kernel.shape[2] <= FEW_CHANNELS:
            few |= {f't{number}', f't{number}_linear'}  # the names that onnx_graph gives it, without or with an activation
        whole.nodes.append(node)
    model = onnx.load_from_string(onnx_bytes(whole, metadata))
    add_pre_process_metadata(model)  # that nothing is to be folded any more
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / 'int8.onnx'
        if faces is None:
            quantize_dynamic(model, path, weight_type=QuantType.QInt8)
        else:
            quantize_static(
                model,
                path,
                Reader(faces),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=OPERATIONS,
                nodes_to_exclude=[node.name for node in model.graph.node if node.op_type == 'Conv' and node.name in few],
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
        return path.read_bytes()
