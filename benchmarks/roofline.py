"""How close the training step is to what the device could do: its bytes and FLOPs against ceilings measured just before.

    python -m benchmarks.roofline [--out results/speed/roofline] [--quick] [--config.FIELD=VALUE …]

The roofline of Williams et al. (2009): no program is faster than its FLOPs at the device's best matrix product, or its
bytes at the device's best triad over arrays larger than any cache, whichever takes longer. FLOPs and bytes are the
compiled program's own. The ten largest operations are timed in a profile of a few steps.
"""

import math
import pathlib
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from benchmarks.side_by_side import record
from benchmarks.training_step import TrainingStep, make_parser, make_training_step, parse, random_run, repeated
from fer_jax.core.mesh import DATA
from fer_jax.model.summary import table_rows
from launch.hlo import BACKWARD, Instruction, instructions

TRACED_STEPS = 5
MIB = 2**20
CONTROL_FLOW = {'', 'cond', 'branch_0_fun', 'branch_1_fun', 'while', 'body', 'closed_call'}  # among the parts of JAX's names
NOTES = """What the numbers are:
- Cost analysis reads the optimised program of one device; both numbers are multiplied by the devices. A fusion counts what it
  reads and writes, not what stays inside it. A loop's body counts once, however often it runs. The line of the operations
  that ran has the profile's calls in it: each one's operands and result, whole (of an array that is gathered or sliced from,
  what is taken; of one that is changed in place, what is put in).
- Bytes are of every array that an operation reads or writes. One that still lies in a cache need not come from memory, so on
  a CPU the memory limit is no hard one: an operation, and the step, may pass it.
- FLOPs that a library computes are counted where the program keeps the operation (CPU: Eigen, YNNPACK) and not where it is a
  custom call (GPU: cuDNN, cuBLAS). The limit takes the larger of cost analysis and the analytic count, which is 2 a
  multiply-add of convolutions and dense layers, times 3 for training: forward, gradient to the input, gradient to the weights.
- An operation's time runs from its start to its end, averaged over the devices; that of an all-reduce has waiting for the
  others in it, and operations of one device may overlap."""


def best_seconds(call: Callable[[Array], Array], argument: Array, repeats: int = 5) -> float:
    """The shortest of some calls, each on the result of the one before."""
    seconds = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        argument = jax.block_until_ready(call(argument))
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:])


def filled(mesh: Mesh, shape: tuple[int, ...], dtype: str) -> Array:
    """An array of ones, its first axis shared among the devices."""
    return jax.jit(lambda: jnp.full(shape, 1, dtype), out_shardings=NamedSharding(mesh, P(DATA)))()


def matmul_rate(mesh: Mesh, size: int, dtype: str) -> float:
    """FLOP/s of all devices together, each multiplying its own size×size matrices."""
    matrices = filled(mesh, (mesh.size, size, size), dtype)
    multiply = jax.jit(jax.shard_map(lambda x, y: (x[0] @ y[0])[None] / size, mesh=mesh, in_specs=P(DATA), out_specs=P(DATA)))
    return 2 * size**3 * mesh.size / best_seconds(lambda x: multiply(x, matrices), matrices)


def triad_rate(mesh: Mesh, array_bytes: int) -> float:
    """Bytes/s of all devices together for a = a + b·c over float32 arrays of `array_bytes` in all, read twice and written once."""
    numbers = array_bytes // 4 // mesh.size * mesh.size
    repeats = max(1, 2**28 // array_bytes)  # small arrays in a loop, so that a call's own time does not count

    def triad(a: Array, b: Array) -> Array:
        return lax.fori_loop(0, repeats, lambda _, a: a + 0.5 * b, a)

    sharded = jax.shard_map(triad, mesh=mesh, in_specs=P(DATA), out_specs=P(DATA))
    other = filled(mesh, (numbers,), 'float32')
    in_place = jax.jit(sharded, donate_argnums=0)
    return 3 * 4 * numbers * repeats / best_seconds(lambda a: in_place(a, other), filled(mesh, (numbers,), 'float32'))


def ceilings(mesh: Mesh, dtype: str, quick: bool) -> dict[str, Any]:
    """What the devices of `mesh` do at best: FLOP/s, bytes/s, and bytes/s by the arrays' size in MiB."""
    small = quick or jax.default_backend() == 'cpu'
    bandwidth = {size: triad_rate(mesh, size * MIB) for size in ((1, 32) if quick else (1, 4, 16, 64, 256, 1024))}
    return {
        'flops_per_second': matmul_rate(mesh, 2048 if small else 8192, dtype),
        'bytes_per_second': bandwidth[max(bandwidth)],
        'bytes_per_second_by_mib': bandwidth,
    }


def limit(flops: float, moved: float, best: dict[str, Any]) -> tuple[float, str]:
    """The least seconds that work takes under the ceilings, and which of the two it is."""
    arithmetic, memory = flops / best['flops_per_second'], moved / best['bytes_per_second']
    return max((arithmetic, 'arithmetic'), (memory, 'memory'))


def step_work(single: TrainingStep) -> dict[str, float]:
    """FLOPs and bytes of one training step over all devices: by cost analysis, and FLOPs by counting multiply-adds."""
    cost, run = single.chunk.cost_analysis(), single.run
    forward = 2 * sum(row.multiply_adds for row in table_rows(run.network.clone(statistics_axis=None)))
    return {
        'flops': cost['flops'] * run.mesh.size,
        'bytes': cost['bytes accessed'] * run.mesh.size,
        'analytic_flops': 3.0 * forward * run.config.batch_size,
        'analytic_forward_flops_per_image': forward,
    }


def traced(single: TrainingStep) -> dict[str, tuple[float, float]]:
    """Operation → seconds and calls in one step, both averaged over the devices."""
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, profiler_options=options):
            for _ in range(TRACED_STEPS):
                metrics = single()
            jax.block_until_ready(metrics)
        (profile,) = pathlib.Path(folder).rglob('*.xplane.pb')
        times = operation_times(jax.profiler.ProfileData.from_file(str(profile)))
    runs = TRACED_STEPS * single.run.mesh.size
    return {name: (seconds / runs, calls / runs) for name, (seconds, calls) in times.items()}


def operation_rows(times: dict[str, tuple[float, float]], program: dict[str, Instruction], devices: int) -> list[dict[str, Any]]:
    """A row for each timed operation, the longest first; control flow, whose operations have rows of their own, is left out."""
    rows = []
    for name, (seconds, calls) in sorted(times.items(), key=lambda item: -item[1][0]):
        instruction = program.get(name)
        if instruction is None or instruction.opcode in ('while', 'call', 'conditional'):
            continue
        row = {'operation': name, 'layer': layer(instruction.op_name), 'result': instruction.result}
        rows.append(row | {'seconds': seconds, 'calls': calls, 'bytes': instruction.bytes * calls * devices})
    return rows


def layer(op_name: str) -> str:
    """`block2/dense_conv2/conv_general_dilated backward` for JAX's path of names to an operation of the network.

    Outside the network only augmentation is mapped over images; the rest is order, loss, optimizer and average.
    """
    parts = [part for part in op_name.split('/') if part not in CONTROL_FLOW and not part.endswith('.unit')]
    module = next((index for index, part in enumerate(parts) if 'FERNet' in part), None)
    if module is not None:
        return f'{"/".join(parts[module + 1 :])} {"backward" if BACKWARD in parts[module] else "forward"}'
    where = 'augmentation' if 'vmap(' in op_name else 'rest of the step' if op_name else 'without a name'
    return '/'.join([where, *parts[-1:]])


def operation_times(profile: Any) -> dict[str, tuple[float, int]]:
    """Operation → its seconds and calls in a `jax.profiler.ProfileData`, over its runs and devices.

    On CPU an operation that other threads finish has an event that lasts until it is handed over, and a second one,
    `end: …`, when it is done; the first's `_p` is the second's `_c`.
    """
    planes = list(profile.planes)
    planes = [plane for plane in planes if plane.name.startswith('/device:')] or planes
    begun, ended = [], {}
    for plane in planes:
        for line in plane.lines:
            for event in line.events:
                stats = dict(event.stats)
                if 'hlo_op' in stats:
                    begun.append((stats['hlo_op'], stats.get('_p'), event.start_ns, event.end_ns))
                elif event.name.startswith('end: '):
                    ended[stats.get('_c')] = event.start_ns
    times: dict[str, tuple[float, int]] = {}
    for name, mark, start, end in begun:
        seconds, calls = times.get(name, (0.0, 0))
        times[name] = seconds + (max(end, ended.get(mark, end)) - start) / 1e9, calls + 1
    return times


def by_layer(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Seconds and bytes of the network's top modules, forward and backward apart, the longest first."""
    sums: dict[str, dict[str, float]] = {}
    for row in rows:
        module, _, inner = row['layer'].partition('/')
        direction = next((word for word in ('forward', 'backward') if inner.endswith(f' {word}')), '')
        entry = sums.setdefault(f'{module} {direction}'.strip(), {'seconds': 0.0, 'bytes': 0.0})
        entry['seconds'] += row['seconds']
        entry['bytes'] += row['bytes']
    return dict(sorted(sums.items(), key=lambda item: -item[1]['seconds']))


def report(measured: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """What is printed."""
    best, work, total = measured['ceilings'], measured['work'], measured['seconds_by_operation']
    sizes = ', '.join(f'{size} MiB {rate / 1e9:.0f}' for size, rate in best['bytes_per_second_by_mib'].items())
    lines = [
        f'batch {measured["batch_size"]}, {measured["devices"]} device(s), {measured["dtype"]}',
        f'ceilings: {best["flops_per_second"] / 1e9:.0f} GFLOP/s (matrix product), {best["bytes_per_second"] / 1e9:.1f} GB/s (triad)',
        f'triad by array size, GB/s: {sizes}',
        f'one step by cost analysis: {work["flops"] / 1e9:.2f} GFLOP, {work["bytes"] / 1e9:.2f} GB',
        f'one step by counting multiply-adds: {work["analytic_flops"] / 1e9:.2f} GFLOP'
        f' ({work["analytic_forward_flops_per_image"] / 1e6:.1f} MFLOP forward an image, × 3)',
        f'one step by the operations that ran: {measured["bytes_of_operations"] / 1e9:.2f} GB, {1e3 * total:.2f} ms together',
        f'limit: {1e3 * measured["limit_seconds"]:.2f} ms a step, set by {measured["bound"]};'
        f' measured {1e3 * measured["step_seconds"]:.2f} ms: {measured["per_cent_of_limit"]:.1f} % of the limit',
        '',
        f'{"ms":>8} {"% of ops":>8} {"MB":>8} {"GB/s":>7}  operation',
    ]
    for row in rows[:10]:
        numbers = f'{1e3 * row["seconds"]:>8.3f} {100 * row["seconds"] / total:>8.1f} {row["bytes"] / 1e6:>8.1f}'
        lines.append(f'{numbers} {row["bytes"] / row["seconds"] / 1e9:>7.1f}  {row["layer"]}: {row["operation"]} → {row["result"][:40]}')
    lines += ['', f'{"ms":>8} {"% of ops":>8} {"MB":>8} {"GB/s":>7}  part of the step']
    for name, entry in measured['by_layer'].items():
        numbers = f'{1e3 * entry["seconds"]:>8.3f} {100 * entry["seconds"] / total:>8.1f} {entry["bytes"] / 1e6:>8.1f}'
        lines.append(f'{numbers} {entry["bytes"] / entry["seconds"] / 1e9:>7.1f}  {name}')
    return '\n'.join([*lines, '', NOTES])


def main() -> None:
    options, overrides = parse(make_parser(__doc__, 'roofline', rounds=5))
    run = random_run(overrides)
    best = ceilings(run.mesh, run.config.network.dtype, options.quick)
    # A kernel that is replayed from a command buffer (CUDA graph) has no name in a profile.
    single = make_training_step(overrides | {'train.steps_per_call': '1'}, xla_gpu_enable_command_buffer='')
    whole = single if jax.default_backend() == 'cpu' else make_training_step(overrides)
    do_round = repeated(whole, whole.steps_per_call, options.seconds)
    do_round()
    rounds = [seconds / steps for steps, seconds in (do_round() for _ in range(options.rounds))]
    work = step_work(single)
    shortest, bound = limit(max(work['flops'], work['analytic_flops']), work['bytes'], best)
    rows = operation_rows(traced(single), instructions(single.chunk.as_text()), run.mesh.size)
    step_seconds = float(np.median(rounds))
    about = whole.about()
    where = about.pop('environment')
    measured = about | {
        'ceilings': best,
        'work': work,
        'limit_seconds': shortest,
        'bound': bound,
        'step_seconds': step_seconds,
        'step_seconds_of_rounds': rounds,
        'per_cent_of_limit': 100 * shortest / step_seconds,
        'seconds_by_operation': math.fsum(row['seconds'] for row in rows),
        'bytes_of_operations': math.fsum(row['bytes'] for row in rows),
        'by_layer': by_layer(rows),
        'operations': rows[:100],
    }
    record(options.out, measured, where)
    print(report(measured, rows))


if __name__ == '__main__':
    main()
