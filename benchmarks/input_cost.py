"""What a step's input costs: the whole training step beside the same step on one fixed batch that lies on the device.

    python -m benchmarks.input_cost [--out results/speed/input_cost] [--quick] [--config.FIELD=VALUE …]

Three contenders take turns. `whole` is the training step as a run takes it: order, gather and augmentation from the
resident data set, then forward, backward and update. `fixed` is compiled from the same code with its `make_batch`
replaced by one that returns a batch made before. `input` is `make_batch` alone, its batch written out; inside the step
part of that work is fused with the network's, so the difference of the first two is what counts.
"""

from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import PartitionSpec as P

from benchmarks.side_by_side import Contender, Round, race, ratio, record, serve
from benchmarks.training_step import environment, make_parser, make_training_step, parse, random_run, repeated
from fer_jax.core.mesh import DATA, replicate, settle
from fer_jax.training.batches import Data, training_data
from fer_jax.training.run import Run
from fer_jax.training.step import make_batch, steps_per_call

CONTENDERS = ('whole', 'fixed', 'input')
GOAL = 3.0  # per cent of the step


def fixed_batch(seed: Array, step: Array, data: Data, positions: Array, batch_size: int, *_: Any) -> tuple[Array, ...]:
    """Stands in for `make_batch`: this device's share of the batch that `data` is."""
    # Tied to the step, or XLA would take what depends on the images alone out of the loop over steps.
    held, _ = lax.optimization_barrier((data, step))
    return tuple(lax.dynamic_slice_in_dim(held[name], positions[0], len(positions)) for name in ('images', 'targets', 'weights'))


def one_batch(run: Run) -> Data:
    """The batch of step 0, whole on every device."""
    config = run.config
    arguments = jnp.arange(config.batch_size), config.batch_size, config.augment
    batch = jax.jit(lambda data: make_batch(jnp.uint32(config.seed), jnp.int32(0), data, *arguments))(training_data(run))
    return replicate(run.mesh, dict(zip(('images', 'targets', 'weights'), map(np.asarray, batch), strict=True)))


def make_input(run: Run, seconds: float) -> Round:
    """A round of making batches and nothing else, as many in one compiled call as the training step takes."""
    config, steps = run.config, steps_per_call(run.config)
    share = config.batch_size // run.mesh.size
    data, first = training_data(run), 0

    def batches(first: Array, data: Data) -> tuple[Array, ...]:
        def batch(step: Array) -> tuple[Array, ...]:
            positions = lax.axis_index(DATA) * share + jnp.arange(share)
            return make_batch(jnp.uint32(config.seed), step, data, positions, config.batch_size, config.augment)

        if steps == 1:
            return batch(first)
        return lax.scan(lambda _, step: (batch(step), None), batch(first), first + jnp.arange(1, steps))[0]

    sharded = jax.shard_map(batches, mesh=run.mesh, in_specs=(P(), P()), out_specs=P(DATA), check_vma=False)
    compiled = jax.jit(sharded).lower(np.int32(0), data).compile()

    def call() -> tuple[Array, ...]:
        nonlocal first
        made = compiled(np.int32(first), data)
        first += steps
        settle(made)
        return made

    return repeated(call, config.batch_size * steps, seconds)


def make(name: str, options: dict[str, Any]) -> tuple[Round, dict[str, Any]]:
    """A contender's round, whose work is images, and what it says of itself."""
    overrides, seconds = options['overrides'], options['seconds']
    if name == 'input':
        return make_input(random_run(overrides), seconds), {'environment': environment()}
    if name == 'whole':
        step = make_training_step(overrides)
    else:
        with mock.patch('fer_jax.training.step.make_batch', fixed_batch):
            step = make_training_step(overrides, data_of=one_batch)
    return repeated(step, step.images_per_call, seconds), step.about()


def report(batch_size: int, rates: dict[str, list[float]], cost: dict[str, float]) -> str:
    """The table that is printed."""
    lines = [f'{"contender":<10} {"images/s":>10} {"ms a step":>10}']
    for name in CONTENDERS:
        rate = float(np.median(rates[name]))
        lines.append(f'{name:<10} {rate:>10.0f} {1e3 * batch_size / rate:>10.3f}')
    verdict = 'met' if cost['high'] < GOAL else 'missed' if cost['low'] >= GOAL else 'these rounds cannot tell'
    spread = f'(quartiles {cost["low"]:.2f} to {cost["high"]:.2f})'
    lines.append(f'Input costs {cost["median"]:.2f} % of the step on a fixed batch {spread}; goal under {GOAL:g} %: {verdict}.')
    return '\n'.join(lines)


def main() -> None:
    if serve(make):
        return
    options, overrides = parse(make_parser(__doc__, 'input_cost', rounds=11))
    chosen = {'overrides': overrides, 'seconds': options.seconds}
    contenders = [Contender('benchmarks.input_cost', name, chosen) for name in CONTENDERS]
    about = contenders[0].about
    rates = race(contenders, options.rounds)
    cost = {key: 100 * (value - 1) for key, value in ratio(rates, 'fixed', 'whole').items()}
    where = about.pop('environment')
    measured = about | {'images_per_second': rates, 'input_cost_per_cent': cost, 'goal_per_cent': GOAL}
    record(options.out, measured, where)
    print(report(about['batch_size'], rates, cost))


if __name__ == '__main__':
    main()
