"""Several seeds in one program beside one run after another: images a second of all runs together.

    python -m benchmarks.replicas [--out results/speed/replicas] [--replicas 4,8] [--quick] [--config.FIELD=VALUE …]

`1` is the training step of one run, its batch shared by all devices, as `python -m fer_jax train` takes it. The others are
`fer_jax.training.step.make_train_chunk` with so many runs that differ in their seed: each has a batch of the same size, the runs
are shared out over the devices first, and on an accelerator those of one device are vectorised.
"""

import statistics
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from benchmarks.side_by_side import Contender, Round, race, ratio, record, serve
from benchmarks.training_step import environment, make_parser, make_training_step, parse, random_run, repeated
from fer_jax.core.mesh import REPLICA, make_replica_mesh, settle, whole
from fer_jax.runs.state import create_state
from fer_jax.training.batches import training_data
from fer_jax.training.step import make_train_chunk, steps_per_call

ONE = '1'


def make_replicas(replicas: int, overrides: dict[str, str], seconds: float) -> tuple[Round, dict[str, Any]]:
    """A round of so many runs' training steps, whose work is the images of all of them, and what it says of itself."""
    run = random_run(overrides)
    config, mesh = run.config, make_replica_mesh(run.config.batch_size, replicas)
    steps = steps_per_call(config)

    def create(seed: jax.Array) -> Any:
        return create_state(run.network, run.optimizer, seed, config.optimizer.ema > 0)

    seeds = np.arange(replicas, dtype=np.uint32)
    states = jax.jit(jax.vmap(create), out_shardings=NamedSharding(mesh, P(REPLICA)))(seeds)
    data = jax.device_put(training_data(run), whole(mesh))
    chunk = make_train_chunk(config, run.network, run.optimizer, mesh, steps).lower(states, data).compile()

    def call() -> dict[str, jax.Array]:
        nonlocal states
        states, metrics = chunk(states, data)
        settle(metrics)
        return metrics

    facts = {'mesh': dict(mesh.shape), 'temporary_bytes': chunk.memory_analysis().temp_size_in_bytes, 'environment': environment()}
    return repeated(call, config.batch_size * steps * replicas, seconds), facts


def make(name: str, options: dict[str, Any]) -> tuple[Round, dict[str, Any]]:
    """A contender's round and what it says of itself."""
    overrides, seconds = options['overrides'], options['seconds']
    if name != ONE:
        return make_replicas(int(name), overrides, seconds)
    step = make_training_step(overrides)
    return repeated(step, step.images_per_call, seconds), step.about()


def report(measured: dict[str, Any]) -> str:
    """The table that is printed."""
    lines = [f'{"runs at once":<14} {"images/s":>10}   times as fast as one run (quartiles)']
    for name, rates in measured['images_per_second'].items():
        times = measured['times_as_fast_as_one'].get(name)
        spread = '{median:.2f} ({low:.2f} to {high:.2f})'.format(**times) if times else ''
        lines.append(f'{name:<14} {statistics.median(rates):>10.0f}   {spread}'.rstrip())
    return '\n'.join(lines)


def main() -> None:
    if serve(make):
        return
    parser = make_parser(__doc__, 'replicas', rounds=7)
    parser.add_argument('--replicas', help='counts with commas between; default: as many as there are CPU devices, or 4,16 on others')
    options, overrides = parse(parser)
    run = random_run(overrides)
    counts = options.replicas or (str(run.mesh.size) if jax.default_backend() == 'cpu' else '4,16')
    chosen = {'overrides': overrides, 'seconds': options.seconds}
    contenders = [Contender('benchmarks.replicas', name, chosen) for name in (ONE, *counts.split(','))]
    abouts = {contender.name: contender.about for contender in contenders}
    rates = race(contenders, options.rounds)
    for about in abouts.values():
        about.pop('environment')
    measured = {'batch_size_of_a_run': run.config.batch_size, 'images_per_second': rates, 'contenders': abouts}
    measured |= {'times_as_fast_as_one': {name: ratio(rates, name, ONE) for name in rates if name != ONE}}
    record(options.out, measured, environment())
    print(report(measured))


if __name__ == '__main__':
    main()
