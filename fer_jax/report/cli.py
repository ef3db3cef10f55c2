"""The command `report`. Matplotlib is imported when it runs, so that --help does not wait for it."""

import pathlib
from argparse import Namespace

from fer_jax.core.command_line import Parser, refuse_overrides


def report(parser: Parser) -> None:
    """Make tables, figures and one page of the runs in folders, with intervals and tests."""
    parser.add_argument('--workdir', type=pathlib.Path, nargs='+', required=True, help='runs, sweeps, or folders with such below')
    parser.add_argument('--out', type=pathlib.Path, help='folder of the files; default: report in the first --workdir')

    def run(options: Namespace) -> None:
        refuse_overrides(options, 'a report takes the runs as they are')
        from fer_jax.report.command import report

        report(options.workdir, options.out)

    parser.set_defaults(run=run)
