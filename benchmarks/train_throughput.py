"""Images a second of the whole training step, beside the same network in PyTorch.

    python -m benchmarks.train_throughput [--out results/speed/train_throughput] [--quick] [--scale] [--config.FIELD=VALUE …]

A step is gather from the data on the device, augmentation, forward, backward, clipping, AdamW and the average of the
weights; fer_jax also counts the batch's correct answers. Before the race fer_jax and each PyTorch contender start from
the same weights and take eight steps on the same batches; where their losses, weights or averages part by more than
rounding explains (what it does to fer_jax itself is measured beside them), nothing is timed. All contenders have the same
environment, with the allocator that `train` chooses (GLIBC_TUNABLES= in front of the command leaves it out).
"""

import dataclasses
import os
import statistics
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from ml_collections import ConfigDict

from benchmarks.side_by_side import Contender, Round, race, ratio, record, same_environment, serve
from benchmarks.torch_peer import Network, Trainer, load_variables, uncovered
from benchmarks.torch_zoo import resnet18, vgg13
from benchmarks.training_step import (
    CLASSES,
    CONFIG,
    IMAGES,
    environment,
    make_parser,
    make_training_step,
    parse,
    random_dataset,
    repeated,
)
from fer_jax.core.allocator import CHOSEN_BY
from fer_jax.core.config import load_config
from fer_jax.core.mesh import replicate
from fer_jax.training.step import make_batch

MODULE = 'benchmarks.train_throughput'
# What torch.compile is given; None is eager mode.
PEERS: dict[str, dict[str, Any] | None] = {
    'torch eager': None,
    'torch compile': {},
    'torch compile graphs': {'mode': 'reduce-overhead'},  # with CUDA graphs
}
SCALE = {'ResNet-18 (torch)': resnet18, 'VGG-13 (torch)': vgg13}
GPU = torch.cuda.is_available()
DEVICE = 'cuda' if GPU else 'cpu'
CHECK_STEPS = 8
# How much the order of a sum over 200,000 numbers (a channel's statistics) moves it, as a share of it.
ROUNDING = {'float32': 1e-5, 'bfloat16': 4e-3}
ROUNDED = 'fer_jax, rounded'  # fer_jax from weights that are moved so much
# AdamW makes a whole step of a gradient that is only rounding, so that what rounding does grows fast and has to be measured:
# a peer may part from fer_jax this many times as far as fer_jax from weights that differ by rounding.
APART = 4


def check(peers: list[str], overrides: dict[str, str], steps: int = CHECK_STEPS) -> dict[str, Any]:
    """Takes `steps` steps with fer_jax and with each peer, from the same weights on the same batches.

    Returns:
      Each one's losses, and for each peer how far its weights and their average end from fer_jax's, as a share of how far
      those went.
    """
    # GPUs multiply float32 with short mantissas unless told not to.
    jax.config.update('jax_default_matmul_precision', 'highest')
    torch.backends.cudnn.allow_tf32 = False
    config = load_config(CONFIG, {'data.path': 'random'} | overrides)
    # Half of the steps on the way to the full learning rate, half beyond.
    warmup = steps / 2 / (IMAGES // config.batch_size)
    step = make_training_step(overrides | {'train.steps_per_call': '1', 'optimizer.warmup_epochs': str(warmup)})
    config, initial = step.run.config, jax.device_get(step.state.variables)
    positions = jnp.arange(config.batch_size)
    made = jax.jit(lambda number, data: make_batch(jnp.uint32(config.seed), number, data, positions, config.batch_size, config.augment))
    batches = [jax.device_get(made(jnp.int32(number), step.data)) for number in range(steps)]
    start = weights(loaded(config, initial))
    moved = rounded(initial, ROUNDING[config.network.dtype])
    other = dataclasses.replace(step, state=step.run.initial_state().replace(variables=replicate(step.run.mesh, moved)))
    losses = {name: [float(each()['loss'][0]) for _ in batches] for name, each in {'fer_jax': step, ROUNDED: other}.items()}
    ends, rounded_ends = (
        {
            'weights': weights(loaded(config, jax.device_get(each.state.variables))),
            'average': weights(loaded(config, jax.device_get(each.state.average))),
        }
        for each in (step, other)
    )

    def distances(reached: dict[str, np.ndarray]) -> dict[str, float]:
        return {what: float(np.linalg.norm(reached[what] - end) / np.linalg.norm(end - start)) for what, end in ends.items()}

    apart, faces = {ROUNDED: distances(rounded_ends)}, random_dataset().splits['train']
    for name in peers:
        trainer = Trainer(loaded(config, initial), config, faces.images, faces.labels, DEVICE, PEERS[name])
        losses[name] = []
        for images, targets, _ in batches:
            images, labels = torch.tensor(images).permute(0, 3, 1, 2), torch.tensor(targets.argmax(-1))
            losses[name].append(float(trainer.update(images.to(DEVICE), labels.to(DEVICE))))
        apart[name] = distances({'weights': weights(trainer.network), 'average': weights(trainer.network, trainer.average)})
    facts = {'parameters': {'fer_jax': sum(leaf.size for leaf in jax.tree.leaves(initial['params'])), 'torch': len(start)}}
    return facts | {'dtype': config.network.dtype, 'losses': losses, 'distances': apart, 'environment': environment()}


def rounded(variables: dict[str, Any], size: float) -> dict[str, Any]:
    """The variables, each moved by about `size` of itself."""
    generator = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: (leaf * (1 + size * generator.standard_normal(leaf.shape))).astype(leaf.dtype), variables)


def loaded(config: ConfigDict, variables: dict[str, Any]) -> Network:
    """The peer's network with fer_jax's variables."""
    network = Network(config.network, CLASSES)
    load_variables(network, variables)
    return network


def weights(network: Network, values: dict[str, torch.Tensor] | None = None) -> np.ndarray:
    """The network's parameters in a row, or those of `values`, which has their names."""
    named = dict(network.named_parameters()) if values is None else values
    return np.concatenate([named[name].detach().cpu().double().numpy().ravel() for name, _ in network.named_parameters()])


def complaints(checked: dict[str, Any]) -> list[str]:
    """What is against taking the contenders' work for the same."""
    counts, losses = checked['parameters'], checked['losses']
    wrong = []
    if counts['fer_jax'] != counts['torch']:
        wrong.append(f'parameters: {counts["fer_jax"]:,} in fer_jax, {counts["torch"]:,} in the peer')
    own, dtype = np.array(losses['fer_jax']), checked['dtype']
    # What rounding has done up to each step, and may do to one loss.
    allowed = APART * (np.maximum.accumulate(np.abs(losses[ROUNDED] - own)) + ROUNDING[dtype] * own)
    for name in (name for name in checked['distances'] if name != ROUNDED):
        for number, distance in enumerate(np.abs(losses[name] - own)):
            if not distance <= allowed[number]:
                wrong.append(f'{name}: loss {losses[name][number]:.7g} at step {number}, fer_jax {own[number]:.7g} ± {allowed[number]:.1g}')
        for what, distance in checked['distances'][name].items():
            if not distance <= APART * checked['distances'][ROUNDED][what]:
                wrong.append(f'{name}: {what} end {distance:.2g} of their way from those of fer_jax')
    return wrong


def make_torch(name: str, overrides: dict[str, str], seconds: float) -> tuple[Round, dict[str, Any]]:
    """A round of a PyTorch contender's training steps, and what it says of itself."""
    if GPU:
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision('high')  # TF32 in float32 products, which is JAX's default
    config = load_config(CONFIG, {'data.path': 'random'} | overrides)
    network = SCALE[name](CLASSES) if name in SCALE else Network(config.network, CLASSES)
    faces = random_dataset().splits['train']
    trainer = Trainer(network, config, faces.images, faces.labels, DEVICE, PEERS.get(name))
    steps = 50 if GPU else 1

    def call() -> None:
        for _ in range(steps):
            trainer.step()
        if GPU:
            torch.cuda.synchronize()

    facts = {'torch': torch.__version__, 'device': torch.cuda.get_device_name() if GPU else 'cpu', 'threads': torch.get_num_threads()}
    facts |= {'parameters': sum(p.numel() for p in trainer.parameters), 'compile': PEERS.get(name)}
    return repeated(call, config.batch_size * steps, seconds), facts


def make(name: str, options: dict[str, Any]) -> tuple[Round, dict[str, Any]]:
    """A contender's round, whose work is images, and what it says of itself; of 'check' the latter is what matters."""
    overrides, seconds = options['overrides'], options['seconds']
    if name == 'check':
        return lambda: (0.0, 1.0), check(options['peers'], overrides)
    if name == 'fer_jax':
        step = make_training_step(overrides)
        return repeated(step, step.images_per_call, seconds), step.about() | {'threads': len(os.sched_getaffinity(0))}
    return make_torch(name, overrides, seconds)


def check_all(names: list[str], dtype: str, overrides: dict[str, str], variables: dict[str, str]) -> list[dict[str, Any]]:
    """The check in float32, and in `dtype` where that is another; a process each.

    Raises:
      SystemExit: the contenders do not do the same work.
    """
    peers, results = [name for name in names if name in PEERS], []
    for chosen in dict.fromkeys(('float32', dtype)):
        options = {'overrides': overrides | {'network.dtype': chosen}, 'seconds': 0.0, 'peers': peers}
        contender = Contender(MODULE, 'check', options, variables)
        contender.close()
        results.append(contender.about)
        print(report_check(contender.about), flush=True)
        if wrong := complaints(contender.about):
            raise SystemExit('\n'.join(['these contenders do not do the same work, so nothing was timed:', *wrong]))
    return results


def report_check(checked: dict[str, Any]) -> str:
    """The losses beside one another, and how far the weights ended apart."""
    lines = [f'same weights, same batches, {checked["dtype"]}, {checked["parameters"]["torch"]:,} parameters; losses:']
    lines += [f'{name:<22} ' + ' '.join(f'{loss:.6f}' for loss in losses) for name, losses in checked['losses'].items()]
    for name, distances in checked['distances'].items():
        lines.append(f'{name:<22} ' + ', '.join(f'{what} {distance:.1e} of their way apart' for what, distance in distances.items()))
    return '\n'.join(lines)


def report(batch_size: int, rates: dict[str, list[float]], ratios: dict[str, dict[str, float]]) -> str:
    """The table that is printed."""
    lines = [f'{"contender":<22} {"images/s":>10} {"ms a step":>10}   fer_jax is … times as fast (quartiles)']
    for name, measured in rates.items():
        rate = statistics.median(measured)
        times = '{median:.2f} ({low:.2f} to {high:.2f})'.format(**ratios[name]) if name in ratios else ''
        lines.append(f'{name:<22} {rate:>10.0f} {1e3 * batch_size / rate:>10.2f}   {times}'.rstrip())
    return '\n'.join(lines)


def main() -> None:
    if serve(make):
        return
    known = ('fer_jax', *PEERS, *SCALE)
    parser = make_parser(__doc__, 'train_throughput', rounds=7)
    parser.add_argument('--batch-size', type=int, default=128, help='default: %(default)s')
    parser.add_argument('--dtype', choices=tuple(ROUNDING), default='float32', help='default: %(default)s; of PyTorch by autocast')
    usual = ('fer_jax', 'torch eager', 'torch compile')
    parser.add_argument('--contenders', nargs='+', choices=known, default=usual, metavar='NAME', help=f'of {", ".join(known)}')
    parser.add_argument('--scale', action='store_true', help=f'{" and ".join(SCALE)} as well')
    options, overrides = parse(parser)
    overrides = {'batch_size': str(options.batch_size), 'network.dtype': options.dtype} | overrides
    config = load_config(CONFIG, {'data.path': 'random'} | overrides)
    if fields := uncovered(config):
        raise SystemExit(f'the PyTorch peer has nothing like this configuration: {", ".join(fields)}')
    names = list(dict.fromkeys([*options.contenders, *(SCALE if options.scale else ())]))
    variables = same_environment()
    checks = check_all(names, config.network.dtype, overrides, variables)
    where = [checked.pop('environment') for checked in checks][0]
    contenders = [Contender(MODULE, name, {'overrides': overrides, 'seconds': options.seconds}, variables) for name in names]
    abouts = {contender.name: contender.about for contender in contenders}
    rates = race(contenders, options.rounds)
    ratios = {name: ratio(rates, 'fer_jax', name) for name in names if name != 'fer_jax'} if 'fer_jax' in names else {}
    for about in abouts.values():
        about.pop('environment', None)
    allocator = {name: variables[name] for name in CHOSEN_BY if name in variables}
    measured = {'batch_size': config.batch_size, 'dtype': config.network.dtype, 'allocator': allocator}
    measured |= {'images_per_second': rates, 'medians': {name: statistics.median(rate) for name, rate in rates.items()}}
    record(options.out, measured | {'fer_jax_times_as_fast_as': ratios, 'contenders': abouts, 'same_work': checks}, where)
    print(report(config.batch_size, rates, ratios))


if __name__ == '__main__':
    main()
