"""How the training step's speed and memory grow: with the batch, the width of the network, and the devices.

    python -m benchmarks.growth [--out results/speed/growth] [--parts batch,width,devices] [--quick] [--config.FIELD=VALUE …]

Each size is a process of its own, and they follow one another: a large batch keeps gigabytes. On CPU the devices are
virtual and share the same cores, and all have the same global batch. Memory is what the compiler plans for one device:
arguments (state and the whole data set) and temporaries.
"""

import math
import statistics
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure

from benchmarks.side_by_side import Contender, Round, race, record, serve
from benchmarks.training_step import environment, make_parser, make_training_step, parse, random_run, repeated
from fer_jax.core.files import write_atomic
from fer_jax.evaluation.figures import to_png
from fer_jax.model.summary import table_rows

PARTS = ('batch', 'width', 'devices')
WIDTHS = (0.5, 1.0, 2.0)
MIB = 2**20
WARM_ROUNDS = 3  # a process takes new memory through its first dozen steps, which on a virtual machine is slow to come


def make(name: str, options: dict[str, Any]) -> tuple[Round, dict[str, Any]]:
    """The round of one size, whose work is images, and what it says of itself."""
    step = make_training_step(options['overrides'], options['devices'])
    plan = step.chunk.memory_analysis()
    memory = {'argument_bytes': plan.argument_size_in_bytes, 'temporary_bytes': plan.temp_size_in_bytes}
    return repeated(step, step.images_per_call, options['seconds']), step.about() | {'memory': memory}


def measure(sizes: dict[str, dict[str, Any]], rounds: int) -> dict[str, Any]:
    """Images per second of each size in each round, and the memory planned on one device. One process at a time: each keeps its own."""
    rates, memory, devices = {}, {}, {}
    for name, options in sizes.items():
        contender = Contender('benchmarks.growth', name, options)
        for _ in range(WARM_ROUNDS):
            contender.round()
        rates |= race([contender], rounds)
        memory[name], devices[name] = contender.about['memory'], contender.about['devices']
    return {'images_per_second': rates, 'memory': memory, 'devices': devices}


def over_batch(chosen: dict[str, Any], batches: Sequence[int], rounds: int) -> dict[str, Any]:
    """Speed and memory at each batch size, and the slope of memory: bytes for each image that a device holds."""
    sizes = {str(size): chosen | {'overrides': chosen['overrides'] | {'batch_size': str(size)}} for size in batches}
    found = measure(sizes, rounds)
    shares = [int(name) / devices for name, devices in found['devices'].items()]
    slope, rest = np.polyfit(shares, [sum(each.values()) for each in found['memory'].values()], 1)
    return found | {'images_per_device': shares, 'bytes_per_image': float(slope), 'bytes_without_images': float(rest)}


def scaled_widths(overrides: dict[str, str], factor: float) -> dict[str, str]:
    """The overrides of a network whose stem and blocks are `factor` as wide, rounded to what halves and shuffles."""
    network = random_run(overrides).config.network
    multiple = math.lcm(2, network.shuffle_groups or 1)

    def scale(width: int) -> int:
        return max(multiple, round(width * factor / multiple) * multiple)

    return {'network.stem': str(scale(network.stem)), 'network.blocks': ','.join(str(scale(width)) for width in network.blocks)}


def over_width(chosen: dict[str, Any], rounds: int) -> dict[str, Any]:
    """Speed at each width, with the network's multiply-adds of one forward pass."""
    scaled = {f'{factor:g}': chosen['overrides'] | scaled_widths(chosen['overrides'], factor) for factor in WIDTHS}
    networks = {name: random_run(overrides).network.clone(statistics_axis=None) for name, overrides in scaled.items()}
    return measure({name: chosen | {'overrides': overrides} for name, overrides in scaled.items()}, rounds) | {
        'widths': {name: [network.stem, *network.blocks] for name, network in networks.items()},
        'multiply_adds': {name: sum(row.multiply_adds for row in table_rows(network)) for name, network in networks.items()},
    }


def over_devices(chosen: dict[str, Any], counts: Sequence[int], rounds: int) -> dict[str, Any]:
    """Speed on each count of devices, the global batch the same."""
    return measure({str(count): chosen | {'devices': count} for count in counts}, rounds)


def growth_png(points: dict[str, list[float]], x_label: str, y_label: str, title: str, line: tuple[float, float] | None = None) -> bytes:
    """A PNG of the values at each size, on a logarithmic axis to base 2: their median, and their quartiles as a bar.

    Args:
      line: slope and value at 0 of a straight line to draw beside the points.
    """
    sizes = [float(name) for name in points]
    quartiles = [np.quantile(values, [0.25, 0.5, 0.75]) for values in points.values()]
    low, middle, high = np.array(quartiles).T
    figure = Figure(figsize=(6, 4), dpi=120, layout='constrained')
    axes = figure.add_subplot()
    axes.errorbar(sizes, middle, [middle - low, high - middle], fmt='o' if line else 'o-', capsize=3)
    if line:
        places = np.geomspace(min(sizes), max(sizes), 100)
        axes.plot(places, line[0] * places + line[1], color='grey', linewidth=1, label=f'{line[0]:.3g} MiB × images + {line[1]:.0f} MiB')
        axes.legend()
    axes.set_xscale('log', base=2)
    axes.set_xticks(sizes, [f'{size:g}' for size in sizes])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.set_title(title)
    return to_png(figure)


def pictures(measured: dict[str, Any], device: str) -> dict[str, bytes]:
    """File name → PNG of each part that was measured."""
    drawn = {}
    labels = {'batch': 'images a step', 'width': 'width of the network, 1: as configured', 'devices': 'devices, the global batch the same'}
    titles = dict.fromkeys(PARTS, f'{measured["dtype"]}, {measured["devices_of_a_run"]} × {device}')
    titles['devices'] = f'{measured["dtype"]}, {device}'
    for part in (part for part in PARTS if part in measured):
        drawn[f'{part}.png'] = growth_png(measured[part]['images_per_second'], labels[part], 'images per second', titles[part])
    if 'batch' in measured:
        batch = measured['batch']
        shares = zip(batch['images_per_device'], batch['memory'].values(), strict=True)
        points = {str(share): [sum(plan.values()) / MIB] for share, plan in shares}
        line = batch['bytes_per_image'] / MIB, batch['bytes_without_images'] / MIB
        y_label = 'arguments and temporaries, MiB a device'
        drawn['memory.png'] = growth_png(points, 'images a step on one device', y_label, titles['batch'], line)
    return drawn


def report(measured: dict[str, Any]) -> str:
    """The tables that are printed."""
    lines = []
    for part in (part for part in PARTS if part in measured):
        plans, work = (measured[part].get(key, {}) for key in ('memory', 'multiply_adds'))
        columns = (f' {"MiB a device":>13}' if plans else '') + (f' {"M multiply-adds":>16}' if work else '')
        lines.append(f'{part:>8} {"images/s":>10} {"quartiles":>17}{columns}')
        for name, rates in measured[part]['images_per_second'].items():
            low, high = np.quantile(rates, [0.25, 0.75])
            line = f'{name:>8} {statistics.median(rates):>10.0f} {low:>8.0f} {high:>8.0f}'
            line += f' {sum(plans[name].values()) / MIB:>13.0f}' if plans else ''
            lines.append(line + (f' {work[name] / 1e6:>16.1f}' if work else ''))
    if 'batch' in measured:
        batch = measured['batch']
        fixed = batch['bytes_without_images'] / MIB
        lines.append(f'memory: {batch["bytes_per_image"] / MIB:.2f} MiB an image on a device, and {fixed:.0f} MiB whatever the batch')
    return '\n'.join(lines)


def main() -> None:
    if serve(make):
        return
    parser = make_parser(__doc__, 'growth', rounds=5)
    parser.add_argument('--parts', default=','.join(PARTS), help='default: %(default)s')
    parser.add_argument('--batches', help='sizes with commas between; default: 32 to 512 on CPU, to 4096 elsewhere')
    options, overrides = parse(parser)
    parts = options.parts.split(',')
    if unknown := set(parts) - set(PARTS):
        parser.error(f'--parts {", ".join(unknown)}: there are {", ".join(PARTS)}')
    run = random_run(overrides)
    on_cpu = jax.default_backend() == 'cpu'
    sizes = (32, 64) if options.quick else tuple(2**power for power in range(5, 10 if on_cpu else 13))
    batches = tuple(map(int, options.batches.split(','))) if options.batches else sizes
    counts = [count for count in ((1, 2) if options.quick else (1, 2, 4, 8)) if on_cpu or count <= len(jax.devices())]
    chosen = {'overrides': overrides, 'seconds': options.seconds, 'devices': 0}
    measured: dict[str, Any] = {'dtype': run.config.network.dtype, 'devices_of_a_run': run.mesh.size}
    for part in parts:
        print(f'--- {part}', flush=True)
        match part:
            case 'batch':
                measured[part] = over_batch(chosen, batches, options.rounds)
            case 'width':
                measured[part] = over_width(chosen, options.rounds)
            case 'devices':
                measured[part] = over_devices(chosen, counts, options.rounds)
    record(options.out, measured, environment())
    for name, png in pictures(measured, run.mesh.devices.flat[0].device_kind).items():
        write_atomic(options.out / name, png)
    print(report(measured))


if __name__ == '__main__':
    main()
