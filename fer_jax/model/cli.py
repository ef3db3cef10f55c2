"""The command `summary`. JAX is imported when it runs, so that --help does not wait for it."""

from argparse import Namespace

from fer_jax.core.command_line import Parser, add_config
from fer_jax.core.config import load_config


def summary(parser: Parser) -> None:
    """Print the network as the paper's Table 1 does."""
    add_config(parser, default='fer2013')
    parser.add_argument('--parameters', action='store_true', help='list every parameter too')

    def run(options: Namespace) -> None:
        from fer_jax.model.summary import parameter_table, summary

        config = load_config(options.config, {'data.path': 'not read'} | options.overrides)
        print(summary(config))
        if options.parameters:
            print('\n' + parameter_table(config))

    parser.set_defaults(run=run)
