"""How the training step's speed and memory grow: with the batch, the width of the network, and the devices.

    python -m benchmarks.growth [--out results/speed/growth] [--parts batch,width,devices] [--quick] [--config.FIELD=VALUE …]

Within a part the sizes take turns. Batches and widths are compiled programs of this process; each count of devices is a
process of its own, all with the same global batch. On CPU the devices are virtual and share the same cores. Memory is
what the compiler plans for one device: arguments (state and the whole data set) and temporaries.
"""

import dataclasses
import math
import statistics
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure

from benchmarks.side_by_side import Contender, Round, race, record, serve
from benchmarks.training_step import TrainingStep, environment, make_parser, make_training_step, parse, random_run, repeated
from fer_jax.figures import to_png
from fer_jax.files import write_atomic
from fer_jax.summary import table_rows

PARTS = ('batch', 'width', 'devices')
WIDTHS = (0.5, 1.0, 2.0)
MIB = 2**20


@dataclasses.dataclass
class Here:
    """A contender of a race within this process."""

    name: str
    round: Round

    def close(self) -> None:
        pass


def make(name: str, options: dict[str, Any]) -> tuple[Round, dict[str, Any]]:
    """The round of a process with a count of devices, whose work is images, and what it says of itself."""
    step = make_training_step(options['overrides'], options['devices'])
    return repeated(step, step.images_per_call, options['seconds']), step.about()


def race_here(steps: dict[str, TrainingStep], rounds: int, seconds: float) -> dict[str, list[float]]:
    """Images per second of each step in each round, in turns."""
    contenders = [Here(name, repeated(step, step.images_per_call, seconds)) for name, step in steps.items()]
    for contender in contenders:
        contender.round()
    return race(contenders, rounds)


def planned_memory(step: TrainingStep) -> dict[str, int]:
    """Bytes on one device: what a call is given, and what it needs besides."""
    plan = step.chunk.memory_analysis()
    return {'argument_bytes': plan.argument_size_in_bytes, 'temporary_bytes': plan.temp_size_in_bytes}


def over_batch(overrides: dict[str, str], batches: Sequence[int], rounds: int, seconds: float) -> dict[str, Any]:
    """Speed and memory at each batch size, and the slope of memory: bytes for each image that a device holds."""
    steps = {str(size): make_training_step(overrides | {'batch_size': str(size)}) for size in batches}
    memory = {name: planned_memory(step) for name, step in steps.items()}
    shares = [int(name) / step.run.mesh.size for name, step in steps.items()]
    slope, rest = np.polyfit(shares, [sum(each.values()) for each in memory.values()], 1)
    return {
        'images_per_second': race_here(steps, rounds, seconds),
        'memory': memory,
        'images_per_device': shares,
        'bytes_per_image': float(slope),
        'bytes_without_images': float(rest),
    }


def scaled_widths(overrides: dict[str, str], factor: float) -> dict[str, str]:
    """The overrides of a network whose stem and blocks are `factor` as wide, rounded to what halves and shuffles."""
    network = random_run(overrides).config.network
    multiple = math.lcm(2, network.shuffle_groups or 1)

    def scale(width: int) -> int:
        return max(multiple, round(width * factor / multiple) * multiple)

    return {'network.stem': str(scale(network.stem)), 'network.blocks': ','.join(str(scale(width)) for width in network.blocks)}


def over_width(overrides: dict[str, str], rounds: int, seconds: float) -> dict[str, Any]:
    """Speed at each width, with the network's multiply-adds of one forward pass."""
    steps = {f'{factor:g}': make_training_step(overrides | scaled_widths(overrides, factor)) for factor in WIDTHS}
    networks = {name: step.run.network.clone(statistics_axis=None) for name, step in steps.items()}
    return {
        'widths': {name: [network.stem, *network.blocks] for name, network in networks.items()},
        'multiply_adds': {name: sum(row.multiply_adds for row in table_rows(network)) for name, network in networks.items()},
        'memory': {name: planned_memory(step) for name, step in steps.items()},
        'images_per_second': race_here(steps, rounds, seconds),
    }


def over_devices(overrides: dict[str, str], counts: Sequence[int], rounds: int, seconds: float) -> dict[str, Any]:
    """Speed on each count of devices, the global batch the same."""
    chosen = {'overrides': overrides, 'seconds': seconds}
    contenders = [Contender('benchmarks.growth', str(count), chosen | {'devices': count}) for count in counts]
    return {'batch_size': contenders[0].about['batch_size'], 'images_per_second': race(contenders, rounds)}


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
    timing = options.rounds, options.seconds
    measured: dict[str, Any] = {'dtype': run.config.network.dtype, 'devices_of_a_run': run.mesh.size}
    for part in parts:
        print(f'--- {part}', flush=True)
        match part:
            case 'batch':
                measured[part] = over_batch(overrides, batches, *timing)
            case 'width':
                measured[part] = over_width(overrides, *timing)
            case 'devices':
                measured[part] = over_devices(overrides, counts, *timing)
    record(options.out, measured, environment())
    for name, png in pictures(measured, run.mesh.devices.flat[0].device_kind).items():
        write_atomic(options.out / name, png)
    print(report(measured))


if __name__ == '__main__':
    main()
