"""Compiles what results/pod has no record of yet, and makes the tables of its README from the records.

    python -m launch.pod_table [--only-table]

Each compilation takes some minutes of one core; one that is stopped is begun again by the same command, what is recorded is kept.
"""

import argparse
import pathlib
import shlex
import subprocess
import sys
from typing import Any

from fer_jax.core.files import read_json, write_atomic
from launch.chips import BOOK, CHIPS, all_reduce_seconds, parse_topology

ROOT = pathlib.Path(__file__).parent.parent
FOLDER = ROOT / 'results' / 'pod'
TRAINING_IMAGES = 28_709  # FER2013's
EPOCHS = 36  # of configs/fer2013.py
# 256 chips and one of each generation, the largest pods, and on one of them what is not weak scaling.
GRID = (
    '--topology v5e:16x16',
    '--topology v5e:1x1',
    '--topology v5e:16x16 --replicas 256',
    '--topology v5p:4x8x8',
    '--topology v6e:16x16',
    '--topology v4:4x8x8',
    '--topology v5e:16x16 --config.batch_size=1024',
    '--topology v5p:1x1x1',
    '--topology v6e:1x1',
    '--topology v4:1x1x1',
    '--topology v5p:16x20x28',
    '--topology v4:16x16x16',
    '--topology v5e:16x16 --config.network.batch_norm=global',
    '--topology v5e:2x2 --config.train.steps_per_call=1',
)
BETWEEN = {2: ('2x2', '2x4', '4x4', '8x8', '16x16'), 3: ('2x2x1', '2x2x2', '2x2x4', '4x4x4', '4x8x8')}  # chips' grids by their axes
BEGIN, END = '<!-- written by launch/pod_table.py -->', '<!-- end of tables -->'


def command(arguments: str) -> str:
    """What a record of the grid has as its command."""
    return f'python launch/compile_pod.py {arguments} --out results/pod'


def missing(records: list[dict[str, Any]]) -> list[str]:
    """The arguments of the grid that have no record."""
    done = {record['command'] for record in records}
    return [arguments for arguments in GRID if command(arguments) not in done]


def read_records() -> list[dict[str, Any]]:
    """All records, by generation, the fewest chips first."""
    records = [read_json(path) for path in FOLDER.glob('*.json')]
    return sorted(records, key=lambda record: (record['chip']['name'], record['chips'], record['command']))


def is_weak(record: dict[str, Any]) -> bool:
    """Whether it is of one run with 128 images a chip, statistics of its own on each, and a call as `train` makes it."""
    plain = not record['replicas'] and record['batch_norm'] == 'device'
    return plain and record['images_a_chip'] == 128 and record['steps_per_call'] == 50


def table(header: list[str], rows: list[list[str]]) -> list[str]:
    """A table of Markdown, its first column to the left and the others to the right."""
    return ['| ' + ' | '.join(cells) + ' |' for cells in (header, ['---', *['---:'] * (len(header) - 1)], *rows)]


def milliseconds(seconds: float) -> str:
    return f'{1e3 * seconds:.3f}'


def messages(record: dict[str, Any]) -> str:
    """How many collectives of each kind a step has, and their bytes."""
    found = []
    for kind in sorted({each['kind'] for each in record['collectives']}):
        those = [each for each in record['collectives'] if each['kind'] == kind]
        total = sum(each['times'] * each['bytes'] for each in those)
        found.append(f'{sum(each["times"] for each in those)} {kind}, {total / 1e6:.2f} MB')
    return '; '.join(found) or 'none'


def memory(record: dict[str, Any]) -> str:
    used, limit = record['memory_bytes']['all'], record['chip']['hbm_bytes']
    return f'{used / 1e9:.2f} ({100 * used / limit:.1f} %)'


def alone(records: list[dict[str, Any]], chip: str) -> dict[str, Any] | None:
    """The record of one chip of this generation, where there is one."""
    return next((record for record in records if is_weak(record) and record['chips'] == 1 and record['chip']['name'] == chip), None)


def weak_rows(records: list[dict[str, Any]]) -> list[list[str]]:
    """One run on more and more chips, each with 128 images."""
    rows = []
    for record in filter(is_weak, records):
        guess, one = record['estimate'], alone(records, record['chip']['name'])
        ratio = f'{100 * one["estimate"]["step_seconds"] / guess["step_seconds"]:.1f}' if one else 'no record'
        rows.append(
            [
                record['topology'],
                str(record['chips']),
                f'{record["batch_size"]:,}',
                memory(record),
                f'{record["flops"] / 1e9:.1f}',
                f'{record["memory_traffic_bytes"] / 1e9:.2f}',
                messages(record),
                milliseconds(guess['work_seconds']),
                milliseconds(guess['all_reduce_seconds']),
                f'{guess["images_per_second"]:,.0f}',
                f'{100 * guess["share_of_work"]:.1f}',
                ratio,
                milliseconds(guess['floor_seconds']),
                f'{100 * guess["share_of_work_at_the_floor"]:.1f}',
            ]
        )
    return rows


def basis(records: list[dict[str, Any]], chip: str) -> dict[str, Any] | None:
    """The record of one run with 128 images a chip that the model goes on from: of most chips, and of a call as `train` makes it."""
    fitting = [record for record in records if record['chip']['name'] == chip and record['images_a_chip'] == 128]
    fitting = [record for record in fitting if record['collectives'] and record['batch_norm'] == 'device']
    return max(fitting, key=lambda record: (is_weak(record), record['chips']), default=None)


def between_rows(records: list[dict[str, Any]]) -> list[list[str]]:
    """By the model alone: the work and the message of a program of each generation, on other grids than its own."""
    rows = []
    for chip in CHIPS.values():
        record = basis(records, chip.name)
        if record is None:
            continue
        work, payload, cells = record['estimate']['work_seconds'], sum(each['times'] * each['bytes'] for each in record['collectives']), []
        for grid in BETWEEN[chip.axes]:
            exchange = all_reduce_seconds(parse_topology(f'{chip.name}:{grid}'), payload)
            cells.append(f'{100 * work / (work + exchange):.1f}')
        rows.append([record['topology'], *cells])
    return rows


def other_rows(records: list[dict[str, Any]]) -> list[list[str]]:
    """What is not weak scaling."""
    rows = []
    for record in records:
        if is_weak(record):
            continue
        guess = record['estimate']
        what = f'{record["replicas"]} runs of batch {record["batch_size"]}' if record['replicas'] else f'batch {record["batch_size"]:,}'
        if record['batch_norm'] == 'global':
            what += ', statistics over all of it'
        if record['steps_per_call'] != 50:
            what += f', steps a call: {record["steps_per_call"]}'
        cells = [record['topology'], what, messages(record), memory(record), milliseconds(guess['work_seconds'])]
        cells += [milliseconds(guess['all_reduce_seconds']), f'{guess["images_per_second"]:,.0f}', f'{100 * guess["share_of_work"]:.1f}']
        rows.append(cells)
    return rows


def epoch_rows(records: list[dict[str, Any]]) -> list[list[str]]:
    """FER2013's epochs on more and more chips of the v5e kind: steps, of a whole run too, and seconds by the model."""
    record, rows = basis(records, 'v5e'), []
    for grid in ('1x1', '2x2', '2x4', '4x4', '8x8', '16x16'):
        topology = parse_topology(f'v5e:{grid}')
        steps = TRAINING_IMAGES // (128 * topology.chips)
        seconds = '' if steps else 'none: `train` refuses it'
        if record and steps:
            payload = sum(each['times'] * each['bytes'] for each in record['collectives'])
            seconds = f'{EPOCHS * steps * (record["estimate"]["work_seconds"] + all_reduce_seconds(topology, payload)):.2f}'
        rows.append([topology.name, f'{128 * topology.chips:,}', str(steps), f'{EPOCHS * steps:,}', seconds])
    return rows


def chip_rows() -> list[list[str]]:
    """The figures that the model takes."""
    return [
        [
            f'[{chip.name}]({chip.source})',
            f'{chip.flops_per_second / 1e12:.0f}',
            f'{chip.clock / 1e9:.2f}',
            f'{chip.hbm_bytes / 1e9:.1f}',
            f'{chip.hbm_bytes_per_second / 1e9:,.0f}',
            f'{chip.link_bytes_per_second / 1e9:.0f}',
            str(chip.axes),
            f'{chip.pod:,}',
        ]
        for chip in CHIPS.values()
    ]


def tables(records: list[dict[str, Any]]) -> str:
    """All of them, as the README has them."""
    weak = ['topology', 'chips', 'batch', 'memory, GB a chip', 'GFLOP', 'GB of HBM traffic', 'collectives a step', 'work, ms']
    weak += ['all-reduce, ms', 'images/s', 'share of work, %', 'against 1 chip, %', 'floor of the work, ms', 'share at the floor, %']
    other = ['topology', 'what', 'collectives a step', 'memory, GB a chip', 'work, ms', 'all-reduce, ms', 'images/s', 'share of work, %']
    chips = ['chip', 'TFLOP/s, bfloat16', 'GHz', 'HBM, GB', 'HBM, GB/s', f'[link]({BOOK}), GB/s one way', 'axes', 'largest pod']
    epochs = ['topology', 'batch', 'steps an epoch', f'steps of {EPOCHS} epochs', f'seconds of {EPOCHS} epochs by the model']
    grids = ['program of', '4 chips', '8', '16', '64', '256']
    parts = (
        ('One run on more and more chips, 128 images each', weak, weak_rows(records)),
        ('Share of work, %, on other numbers of chips, by the model alone', grids, between_rows(records)),
        ('Other programs', other, other_rows(records)),
        ('What is left of an epoch of FER2013', epochs, epoch_rows(records)),
        ('Figures of the chips', chips, chip_rows()),
    )
    return '\n\n'.join(f'### {title}\n\n' + '\n'.join(table(header, rows)) for title, header, rows in parts if rows)


def with_tables(readme: str, records: list[dict[str, Any]]) -> str:
    """`readme` with what stands between its marks made anew."""
    before, _, rest = readme.partition(BEGIN)
    return f'{before}{BEGIN}\n\n{tables(records)}\n\n{END}{rest.partition(END)[2]}'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument('--only-table', action='store_true', help='compile nothing')
    if not parser.parse_args().only_table:
        for arguments in missing(read_records()):
            words = shlex.split(command(arguments))
            print('---', *words, flush=True)
            subprocess.run([sys.executable, *words[1:]], cwd=ROOT, check=True)
    readme = FOLDER / 'README.md'
    write_atomic(readme, with_tables(readme.read_text(), read_records()))


if __name__ == '__main__':
    main()
