"""The commands `train`, `evaluate`, `weights` and `sweep`. JAX is imported when they run, so that --help does not wait for it."""

import pathlib
from argparse import Namespace

from fer_jax.core.command_line import CONFIG, OVERRIDES, Parser, add_config, add_skip_bad, add_split, add_views, refuse_overrides
from fer_jax.core.config import load_config
from fer_jax.core.errors import InputError


def train(parser: Parser) -> None:
    """Train a network, or go on with an unfinished run, and evaluate it."""
    add_config(parser)
    add_skip_bad(parser)
    parser.add_argument('--workdir', type=pathlib.Path, help='folder of the run; default: runs/NAME-HASH, found again by the same command')
    how = 'off, auto (TPU pod, SLURM, Open MPI, Kubernetes), or HOST:PORT of process 0; default: %(default)s'
    parser.add_argument('--distributed', default='off', metavar='HOW', help=f'one run by several processes: {how}')
    parser.add_argument('--processes', type=int, metavar='N', help='how many there must be')
    parser.add_argument('--process-id', type=int, metavar='K', help='number of this one from 0, where HOW is HOST:PORT')
    parser.add_argument('--join-timeout', type=int, default=300, metavar='SECONDS', help='to wait for the others; default: %(default)s')

    def run(options: Namespace) -> None:
        config = load_config(options.config, options.overrides)
        from fer_jax.core import processes
        from fer_jax.training.train import train

        together = (options.distributed, options.processes, options.process_id, options.join_timeout)
        train(config, options.workdir, lambda: processes.connect(*together))

    parser.set_defaults(run=run)


def evaluate(parser: Parser) -> None:
    """Evaluate a checkpoint of a run, or weights."""
    parser.epilog = OVERRIDES
    parser.add_argument('--workdir', type=pathlib.Path, help='folder of the run; not for weights')
    which = (
        'best, latest or a step of a run, or else the name or file of weights, or several with commas: an ensemble; default: %(default)s'
    )
    parser.add_argument('--checkpoint', default='best', help=which)
    parser.add_argument('--config', metavar=CONFIG, help='data to evaluate weights on; default: those they were trained on')
    where = 'folder for what weights score; default: runs/evaluations/NAME-SPLIT-VIEWS'
    parser.add_argument('--out', type=pathlib.Path, help=where)
    add_split(parser)
    add_views(parser, 'image')

    def run(options: Namespace) -> None:
        of_run = options.workdir is not None
        if not of_run and (options.checkpoint in ('best', 'latest') or options.checkpoint.isdecimal()):
            raise InputError(f'--checkpoint {options.checkpoint} of which run? Give its --workdir, or weights as --checkpoint')
        for name in ('config', 'out'):
            if of_run and getattr(options, name) is not None:
                raise InputError(f'--{name} goes with weights; a run (--workdir) has its own')
        from fer_jax.training.score import evaluate_run, evaluate_weights

        how = (options.split, options.views, options.overrides)
        if of_run:
            evaluate_run(options.workdir, options.checkpoint, *how)
        else:
            evaluate_weights(options.checkpoint, options.config, *how, options.out)

    parser.set_defaults(run=run)


def weights(parser: Parser) -> None:
    """Write the best checkpoint of a finished run as one safetensors file."""
    parser.add_argument('--workdir', type=pathlib.Path, required=True, help='folder of the run')
    parser.add_argument('--out', type=pathlib.Path, required=True, help='the file, such as NAME.safetensors')

    def run(options: Namespace) -> None:
        refuse_overrides(options, 'weights are written as the run made them')
        from fer_jax.runs.weights import export_weights

        export_weights(options.workdir, options.out)

    parser.set_defaults(run=run)


def sweep(parser: Parser) -> None:
    """Train every configuration of a file with every seed, or go on with those that are unfinished."""
    add_config(parser)
    add_skip_bad(parser)
    parser.add_argument('--seeds', required=True, help='such as 0-4 or 0,3,7-9')
    parser.add_argument('--only', default='', metavar='NAME,NAME', help='these configurations of the file; default: all')
    where = 'folder of the runs, which several processes and hosts may share; default: runs/FILE-HASH, found again by the same command'
    parser.add_argument('--workdir', type=pathlib.Path, help=where)
    at_once = 'seeds of a configuration in one program: fills an accelerator that one leaves idle; default: %(default)s'
    parser.add_argument('--together', type=int, default=1, metavar='N', help=at_once)
    parser.add_argument('--dry-run', action='store_true', help='only list the runs and how far each is')

    def run(options: Namespace) -> int:
        from fer_jax.training.sweep import sweep

        chosen = (options.seeds, options.only, options.workdir, options.dry_run, options.together)
        return sweep(options.config, options.overrides, *chosen)

    parser.set_defaults(run=run)
