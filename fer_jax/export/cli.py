"""The command `export`. JAX is imported when it runs, so that --help does not wait for it."""

import pathlib
from argparse import Namespace

from fer_jax.core.command_line import Parser, add_weights, chosen_weights


def export(parser: Parser) -> None:
    """Write a trained network as a file for another runtime, checked against JAX."""
    add_weights(parser)
    parser.add_argument('--format', required=True, choices=('onnx', 'stablehlo', 'litert'), help='of the file')
    parser.add_argument('--out', type=pathlib.Path, required=True, help='the file')

    def run(options: Namespace) -> None:
        from fer_jax.export.command import export

        export(options.format, chosen_weights(options), options.out, options.overrides)

    parser.set_defaults(run=run)
