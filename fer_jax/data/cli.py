"""The command `prepare`. TFDS is imported when it runs, so that --help needs none of it."""

from argparse import Namespace

from fer_jax.core.command_line import Parser, add_config, add_skip_bad
from fer_jax.core.config import load_config


def prepare(parser: Parser) -> None:
    """Prepare a data set and print its manifest."""
    add_config(parser)
    add_skip_bad(parser)

    def run(options: Namespace) -> None:
        from fer_jax.data.manifest import describe
        from fer_jax.data.prepare import prepare

        print(describe(prepare(load_config(options.config, options.overrides).data)))

    parser.set_defaults(run=run)
