"""Latency of one face and throughput of 256, beside ONNX Runtime and PyTorch with the same weights.

    python -m benchmarks.inference [--out results/speed/inference] [--quick] [--config.FIELD=VALUE …]

Each contender takes normalised float32 faces [B, 40, 40, 1] from the host's memory and gives logits back to it. fer_jax
shares the 256 over the devices as its evaluation does, and takes a single face on one device. `onnxruntime` runs the file
that PyTorch exports of the peer, into which the weights were copied; `fer_jax exported` runs, in ONNX Runtime too, the file
that `python -m fer_jax export --format onnx` writes, which takes whole uint8 faces, crops and normalises them itself and
gives probabilities as well. Logits that part by more than rounding end the benchmark.
"""

import logging
import statistics
import tempfile
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import onnxruntime
import torch
from jax.sharding import PartitionSpec as P

from benchmarks.side_by_side import Contender, Round, race, ratio, record, serve
from benchmarks.torch_peer import Network, load_variables
from benchmarks.train_throughput import DEVICE, GPU, same_environment
from benchmarks.training_step import CLASSES, environment, make_parser, parse, random_run, repeated
from fer_jax.core.mesh import DATA, settle, whole
from fer_jax.data.schema import IMAGE_SIDE
from fer_jax.data.views import crops, normalise
from fer_jax.export.folded import fold
from fer_jax.export.onnx_graph import ALIGN, load_onnx, onnx_bytes
from fer_jax.runs.weights import flat

OWN = ('fer_jax', 'fer_jax exported')
PEERS = ('onnxruntime', 'torch eager', 'torch compile')
BATCHES = (1, 256)
APART = 1e-4  # of the largest logit: float32 through some fifty layers
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


def make(name: str, options: dict[str, Any]) -> tuple[Round, dict[str, Any]]:
    """A contender's round, whose work is images, and its logits of a few faces."""
    run = random_run(options['overrides'])
    variables, batch = variables_of(run), options['batch']
    faces = faces_of(batch)
    images = np.asarray(normalise(crops(faces, 'centre')[0]))
    if name == 'fer_jax exported':
        run_file = load_onnx(onnx_bytes(fold(run.config.network, flat(variables), CLASSES, ALIGN), {}))
        predict, images = lambda faces: run_file(faces)[0], faces
    elif name == 'fer_jax':
        predict = jax_predict(run, variables, batch)
    else:
        network = Network(run.config.network, CLASSES).eval()
        load_variables(network, variables)
        predict = onnx_predict(network) if name == 'onnxruntime' else torch_predict(network, name == 'torch compile')
    logits = predict(images)
    facts = {'torch': torch.__version__, 'onnxruntime': onnxruntime.__version__, 'environment': environment()}
    return repeated(lambda: predict(images), batch, options['seconds']), facts | {'logits': logits[:4].tolist()}


def check(contenders: list[Contender]) -> dict[str, float]:
    """The largest difference of each contender's logits from fer_jax's, as a share of the largest of those.

    Raises:
      SystemExit: it is more than rounding.
    """
    logits = {contender.name: np.array(contender.about.pop('logits')) for contender in contenders}
    own = logits['fer_jax']
    apart = {name: float(np.abs(each - own).max() / np.abs(own).max()) for name, each in logits.items() if name != 'fer_jax'}
    if wrong := {name: distance for name, distance in apart.items() if not distance <= APART}:
        raise SystemExit(f'these contenders do not compute the same, so nothing was timed: {wrong}')
    return apart


def report(measured: dict[str, Any]) -> str:
    """The tables that are printed."""
    lines = []
    for batch, found in measured.items():
        heads = ''.join(f'   {name} is … times as fast'.ljust(40) for name in OWN)
        lines.append(f'batch {batch:<16} {"images/s":>10} {"ms a call":>10}{heads}'.rstrip())
        for name, rates in found['images_per_second'].items():
            rate = statistics.median(rates)
            times = [found[f'{own.replace(" ", "_")}_times_as_fast_as'].get(name) for own in OWN]
            spreads = ('   {median:.2f} ({low:.2f} to {high:.2f})'.format(**each) if each else '' for each in times)
            lines.append(f'{name:<22} {rate:>10.0f} {1e3 * int(batch) / rate:>10.2f}{"".join(text.ljust(40) for text in spreads)}'.rstrip())
    return '\n'.join(lines)


def main() -> None:
    if serve(make):
        return
    parser = make_parser(__doc__, 'inference', rounds=9)
    parser.add_argument('--contenders', nargs='+', choices=PEERS, default=PEERS, metavar='NAME', help='beside fer_jax')
    options, overrides = parse(parser)
    measured, where = {}, {}
    for batch in BATCHES:
        chosen = {'overrides': overrides, 'seconds': options.seconds, 'batch': batch}
        names = (*OWN, *options.contenders)
        contenders = [Contender('benchmarks.inference', name, chosen, same_environment()) for name in names]
        apart = check(contenders)
        print(
            f'batch {batch}: largest difference of logits ' + ', '.join(f'{name} {value:.1e}' for name, value in apart.items()), flush=True
        )
        for contender in contenders:
            where = contender.about.pop('environment')
        rates = race(contenders, options.rounds)
        times = {f'{own.replace(" ", "_")}_times_as_fast_as': {name: ratio(rates, own, name) for name in options.contenders} for own in OWN}
        measured[str(batch)] = {'images_per_second': rates, **times, 'logits_apart': apart}
    record(options.out, {'device': torch.cuda.get_device_name() if GPU else 'cpu', 'batches': measured, **contenders[0].about}, where)
    print(report(measured))


if __name__ == '__main__':
    main()
