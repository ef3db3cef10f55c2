#!/usr/bin/env python3
"""Compiles the training step for a TPU pod on a machine without one, and says what it takes there and how fast it might be.

    python launch/compile_pod.py --topology v5e:16x16 --config configs/fer2013.py [--replicas 256] [--out results/pod]

Compiled is the program that `python -m fer_jax train` would run, but in bfloat16 and with batch norm over each chip's own
images, unless --config.network.dtype or --config.network.batch_norm say otherwise. No chip is needed, but libtpu is: the
extra `tpu`, or requirements/tpu.txt.
"""

import argparse
import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from fer_jax.core.command_line import Parser, add_config, split_overrides  # noqa: E402
from fer_jax.core.config import load_config  # noqa: E402
from fer_jax.core.errors import InputError  # noqa: E402
from fer_jax.core.files import write_json  # noqa: E402
from launch.chips import parse_topology  # noqa: E402

DEFAULTS = {'network.dtype': 'bfloat16', 'network.batch_norm': 'device'}
# libtpu would look for the chips of a cloud machine, ask its metadata server, and keep others from compiling at the same time.
ENVIRONMENT = {
    'JAX_PLATFORMS': 'cpu',
    'TPU_SKIP_MDS_QUERY': '1',
    'TPU_ACCELERATOR_TYPE': 'v5litepod-4',
    'TPU_WORKER_HOSTNAMES': 'localhost',
    'TPU_WORKER_ID': '0',
    'TPU_STDERR_LOG_LEVEL': '3',
    'TPU_MIN_LOG_LEVEL': '3',
    'TPU_LOG_DIR': 'disabled',
    'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
}


def make_parser() -> argparse.ArgumentParser:
    """The arguments."""
    parser = Parser(prog='compile_pod.py', description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument('--topology', required=True, metavar='CHIP:GRID', help='such as v5e:16x16, v6e:1x1, v4:4x4x4 or v5p:4x8x8')
    add_config(parser, default='fer2013')
    batch = 'images a chip, from which the batch is made unless --config.batch_size sets it; default: %(default)s'
    parser.add_argument('--images-per-chip', type=int, default=128, metavar='N', help=batch)
    seeds = 'as many runs as this, each on a chip with a batch of its own, instead of one run over all chips'
    parser.add_argument('--replicas', type=int, default=0, metavar='N', help=seeds)
    parser.add_argument('--images', type=int, default=28_709, metavar='N', help="of the training split; default: FER2013's %(default)s")
    parser.add_argument('--classes', type=int, default=7, metavar='N', help='default: %(default)s')
    parser.add_argument('--out', type=pathlib.Path, metavar='FOLDER', help='writes a record there')
    return parser


def compile_pod(arguments: list[str]) -> None:
    """Compiles, prints and records what the arguments ask for.

    Raises:
      InputError: they are wrong, or libtpu is not there.
    """
    rest, overrides = split_overrides(arguments)
    options = make_parser().parse_args(rest)
    for name in ('images_per_chip', 'images', 'classes'):
        if getattr(options, name) < 1:
            raise InputError(f'--{name.replace("_", "-")} must be at least 1')
    if options.replicas < 0:
        raise InputError('--replicas must be at least 1')
    topology = parse_topology(options.topology)
    batch = options.images_per_chip * (1 if options.replicas else topology.chips)
    config = load_config(options.config, {'data.path': 'not read'} | DEFAULTS | {'batch_size': str(batch)} | overrides)
    os.environ.update(ENVIRONMENT)

    from launch import pod  # after the environment that libtpu reads

    steps = config.train.steps_per_call or 50
    images = max(options.images, config.batch_size)
    found = pod.measure(topology, pod.Job(config, options.replicas, images, options.classes, steps))
    print(pod.report(found, options.images))
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        write_json(options.out / pod.record_name(found), {'command': ' '.join(['python launch/compile_pod.py', *arguments]), **found})


def main(arguments: list[str]) -> int:
    """Exit code: 0 done, 2 the input is wrong (one line says what)."""
    try:
        compile_pod(arguments)
    except (InputError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
