"""What runs a network on faces: ONNX Runtime with everything foldable in its weights, where it is installed, else JAX.

ONNX Runtime takes a third of the time that JAX takes for one face, and 0.6 of it for many (results/speed/inference), and compiles nothing.
"""

import contextlib
import importlib.util
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType
from jaxtyping import Float32, UInt8

from fer_jax.core.errors import InputError
from fer_jax.core.mesh import DATA
from fer_jax.data.views import MARGIN, VIEWS, crops
from fer_jax.export.folded import fold
from fer_jax.model.baselines import make_any
from fer_jax.runs.weights import Weights, nested

BATCHES = (1, 8, 64)  # faces in a call; each is a program that JAX compiles, the last faces empty

# Faces, any number → the probability of each class, the mean over the views.
Run = Callable[[UInt8[np.ndarray, 'n 48 48']], Float32[np.ndarray, 'n classes']]


def make_run(weights: Weights, views: str) -> Run:
    """The faster of the runtimes that are installed and know the network; to 1e-5 both say the same."""
    config = weights.config.network
    if config.dtype == 'float32' and all(map(importlib.util.find_spec, ('onnx', 'onnxruntime'))):
        with contextlib.suppress(InputError):  # none of the paper's, or with an attention that the file format has no form for
            return by_onnx(weights, views)
    return by_jax(weights, views)


def by_onnx(weights: Weights, views: str) -> Run:
    """ONNX Runtime on the file that `export` writes, which is kept in memory; InputError of a network that it is not written for."""
    from fer_jax.export.onnx_graph import ALIGN, load_onnx, onnx_bytes  # here: not everybody has ONNX

    predict = load_onnx(onnx_bytes(fold(weights.config.network, weights.variables, len(weights.class_names), ALIGN), {}))

    def run(faces: np.ndarray) -> np.ndarray:
        if views == 'centre':
            return predict(faces)[1]
        seen = np.asarray(crops(jnp.asarray(faces), views))
        return predict(framed(seen.reshape(-1, *seen.shape[2:])))[1].reshape(VIEWS[views], len(faces), -1).mean(0)

    return run


def by_jax(weights: Weights, views: str) -> Run:
    """The one evaluation path, compiled for calls of BATCHES on the first device."""
    from fer_jax.evaluation.evaluate import make_score  # here: ONNX Runtime needs nothing of what comes with it

    network = make_any(weights.config.network, len(weights.class_names))
    mesh = jax.make_mesh((1,), (DATA,), axis_types=(AxisType.Auto,), devices=jax.devices()[:1])
    variables = jax.device_put(nested(weights.variables), mesh.devices.item())
    score = make_score(lambda variables, images: network.apply(variables, images, train=False), mesh, views)

    def probabilities(faces: np.ndarray) -> np.ndarray:
        _, logarithms, _ = score(variables, faces, np.zeros(len(faces), np.int32), np.zeros(len(faces), np.float32))
        return np.exp(np.asarray(logarithms))

    def run(faces: np.ndarray) -> np.ndarray:
        return padded(probabilities, faces)

    return run


def padded(run: Run, faces: UInt8[np.ndarray, 'n 48 48']) -> Float32[np.ndarray, 'n classes']:
    """What `run` says of the faces, asked with so many as the next of BATCHES has."""
    size = next(size for size in BATCHES if size >= len(faces))
    return run(np.pad(faces, ((0, size - len(faces)), (0, 0), (0, 0))))[: len(faces)]


def framed(crops: UInt8[np.ndarray, 'n side side']) -> UInt8[np.ndarray, 'n 48 48']:
    """Faces of which these are the centre crops: what is around them is cropped away again."""
    return np.pad(crops, ((0, 0), (MARGIN, MARGIN), (MARGIN, MARGIN)))
