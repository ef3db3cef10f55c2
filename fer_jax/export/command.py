"""A trained network as a file for other runtimes: ONNX, StableHLO or LiteRT, written only where it does what JAX does.

Whatever the format, the file takes grey faces, uint8 [n, 48, 48] with n open, crops and normalises them itself, and gives logits
and probabilities, float32 [n, classes].
"""

import importlib.metadata
import json
import pathlib
from collections.abc import Callable

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Float32, UInt8

from fer_jax import __version__
from fer_jax.core.config import check_config, set_field
from fer_jax.core.errors import InputError
from fer_jax.core.files import write_atomic, write_json
from fer_jax.data.load import load
from fer_jax.data.schema import IMAGE_SIDE
from fer_jax.data.toyfaces import draw
from fer_jax.data.views import CROP_SIDE, MARGIN, MEAN, SCALE, crops, normalise
from fer_jax.export.folded import fold
from fer_jax.model.baselines import make_any
from fer_jax.runs.weights import Weights, nested, read_weights

TOLERANCE = 1e-4  # of a probability: float32 through some fifty layers makes 1e-6
CHECKED = 256  # faces
LICENCE = 'Apache-2.0, as fer_jax and the weights it comes with; the images that weights were trained on have terms of their own'
EXTRAS = {'onnx': 'export', 'litert': 'litert'}  # format → what pip installs for it
PLATFORMS = ('cpu', 'cuda', 'tpu')  # that a StableHLO file runs on

Faces = UInt8[np.ndarray, 'n 48 48']
Outputs = tuple[Float32[np.ndarray, 'n classes'], Float32[np.ndarray, 'n classes']]
Predict = Callable[[np.ndarray], Outputs]  # faces → logits, probabilities


def export(form: str, source: str, out: pathlib.Path, overrides: dict[str, str]) -> None:
    """`python -m fer_jax export`: writes `out` and prints how far it is from JAX, on the data's validation split where there are data.

    Args:
      form: onnx, stablehlo or litert.
      source: as of weights.find_weights; of a run the best checkpoint is taken.
      overrides: fields of config.data → text: the data to check on.

    Raises:
      InputError: no such weights or data, a network that the format has no way for, a package that is not installed, a file that
        differs from JAX by more than TOLERANCE (nothing is written), or an `out` that cannot be written.
    """
    weights = read_weights(source)
    faces, told = find_faces(weights, overrides)
    metadata = describe(weights)
    content, predict = make(form, weights, metadata)
    difference = float(np.abs(predict(faces)[1] - np.asarray(jax.jit(function_of(weights))(faces)[1])).max())
    if not difference <= TOLERANCE:
        raise InputError(
            f'{out}: not written: a probability on {told} differs from that of JAX by {difference:.1e}, more than {TOLERANCE:g}'
        )
    print(f'largest difference from JAX in a probability: {difference:.1e} on {told}')
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(out, content)
        if form == 'stablehlo':
            write_json(out.with_name(f'{out.name}.json'), metadata)
    except OSError as error:
        raise InputError(f'{out}: cannot be written ({error.strerror})') from None
    print(f'→ {out}: {len(content) / 1e6:.2f} MB; faces, uint8 [n, {IMAGE_SIDE}, {IMAGE_SIDE}] → logits, probabilities')


def find_faces(weights: Weights, overrides: dict[str, str]) -> tuple[Faces, str]:
    """CHECKED faces or fewer to check the file on, and what they are.

    They are spread over the validation split of the data that `overrides` name on top of the weights' own, or of those that the
    weights name where they are here; else they are drawn.
    """
    config = weights.config.copy_and_resolve_references()
    for field, text in overrides.items():
        if not field.startswith('data.'):
            raise InputError(
                f'--config.{field}: an export takes the network as it was trained; only data.* may be set, to check on other data'
            )
        set_field(config, field, text)
    if config.data.dataset != 'ferplus':  # whose labels are the votes; elsewhere labels are enough
        config.data.votes, config.data.votes_head = None, 0.0
    check_config(config)
    if not overrides and not all(each is None or pathlib.Path(each).exists() for each in (config.data.path, config.data.votes)):
        return draw(CHECKED, 0)[0], f'{CHECKED} drawn faces (ToyFaces; --config.data.path=… takes photographs)'
    dataset = load(config.data)
    weights.check_classes(dataset)
    faces = dataset.splits['validation']
    index = np.linspace(0, len(faces) - 1, min(CHECKED, len(faces))).astype(int)
    return np.asarray(faces.take(index).images), f'{len(index)} faces of {dataset.name} {dataset.split_titles["validation"]}'


def describe(weights: Weights) -> dict[str, str]:
    """What a file says of itself."""
    told, names = weights.metadata, weights.class_names
    made_by = [f'fer_jax {__version__}', *(f'{name} {importlib.metadata.version(name)}' for name in ('jax', 'flax', 'numpy'))]
    return {
        'description': f'Facial expression recognition by fer_jax {__version__}: {weights.name}',
        'input': f'faces: uint8 [n, {IMAGE_SIDE}, {IMAGE_SIDE}], grey, 0 to 255, the face fills the square',
        'preprocessing': f'done by the file itself: rows and columns {MARGIN} to {MARGIN + CROP_SIDE - 1}, then (pixel - {MEAN}) / {SCALE}',
        'outputs': f'logits, probabilities: float32 [n, {len(names)}], in the order of class_names',
        'class_names': json.dumps(names),
        'weights': weights.name,
        'weights_sha256': weights.sha256,
        'trained_on': json.dumps(told.get('protocol', {}) | {'content_sha256': told['content_sha256'], 'step': told['step']}),
        'accuracy': json.dumps({title: summary['accuracy'] for title, summary in told.get('results', {}).items()}),
        'licence': LICENCE,
        'made_by': ', '.join(made_by),
    }


def make(form: str, weights: Weights, metadata: dict[str, str]) -> tuple[bytes, Predict]:
    """The file's content, and its predictions by the format's own runtime."""
    config, variables, classes = weights.config.network, weights.variables, len(weights.class_names)
    try:
        match form:
            case 'onnx':
                from fer_jax.export.onnx_graph import ALIGN, load_onnx, onnx_bytes

                content = onnx_bytes(fold(config, variables, classes, ALIGN), metadata)
                return content, load_onnx(content)
            case 'litert':
                from fer_jax.export.litert_graph import litert_bytes, load_litert

                content = litert_bytes(fold(config, variables, classes), metadata)
                return content, load_litert(content)
    except ModuleNotFoundError as error:
        raise InputError(f"--format {form} needs {error.name}: pip install 'fer_jax[{EXTRAS[form]}]'") from None
    (n,) = jax.export.symbolic_shape('n')
    faces = jax.ShapeDtypeStruct((n, IMAGE_SIDE, IMAGE_SIDE), jnp.uint8)
    exported = jax.export.export(jax.jit(function_of(weights)), platforms=PLATFORMS)(faces)
    content = bytes(exported.serialize())
    read = jax.export.deserialize(bytearray(content))
    metadata |= {'platforms': ', '.join(PLATFORMS), 'calling_convention_version': str(read.calling_convention_version)}
    return content, lambda faces: tuple(map(np.asarray, read.call(faces)))


def function_of(weights: Weights) -> Callable[[Array], tuple[Float[Array, 'n classes'], Float[Array, 'n classes']]]:
    """What every file does, in JAX and in float32: uint8 faces → logits, probabilities."""
    config = weights.config.network.copy_and_resolve_references()
    config.dtype = 'float32'
    network, variables = make_any(config, len(weights.class_names)), jax.tree.map(jnp.asarray, nested(weights.variables))

    def run(faces: Array) -> tuple[Array, Array]:
        logits = network.apply(variables, normalise(crops(faces, 'centre')[0]), train=False)
        return logits, jax.nn.softmax(logits)

    return run
