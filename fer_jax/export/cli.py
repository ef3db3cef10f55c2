"""The command `export`. JAX is imported when it runs, so that --help does not wait for it."""

import pathlib
from argparse import Namespace

from fer_jax.core.command_line import OVERRIDES, Parser, add_weights, chosen_weights, refuse_overrides


def export(parser: Parser) -> None:
    """Write a trained network as a file for another runtime, checked against JAX, or as a folder for a model hub."""
    parser.epilog = OVERRIDES
    add_weights(parser)
    parser.add_argument('--format', required=True, choices=('onnx', 'stablehlo', 'litert', 'hub'), help='of the file')
    parser.add_argument('--out', type=pathlib.Path, required=True, help='the file; of hub the folder')

    def run(options: Namespace) -> None:
        source = chosen_weights(options)
        if options.format == 'hub':
            refuse_overrides(options, 'a hub takes the network as it was trained')
            from fer_jax.export.hub import export_hub

            return export_hub(source, options.out)
        from fer_jax.export.command import export

        export(options.format, source, options.out, options.overrides)

    parser.set_defaults(run=run)
