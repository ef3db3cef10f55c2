"""What the commands' arguments have in common: errors of one line, overrides of the configuration, and arguments that several take."""

import argparse
import pathlib
from collections.abc import Iterable

from fer_jax.core.errors import InputError
from fer_jax.core.fields import SHIPPED

OVERRIDES = 'Any field of fer_jax/core/fields.py is set by --config.GROUP.FIELD=VALUE.'  # the end of the help of what takes them
CONFIG = 'NAME|FILE[:NAME=VALUE,…]'  # how --config is written


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> None:
        """Raises argparse's message as an InputError, with where the arguments are listed."""
        raise InputError(f'{message} ({self.prog} --help lists what there is)')


def split_overrides(arguments: Iterable[str]) -> tuple[list[str], dict[str, str]]:
    """The arguments without `--config.FIELD=VALUE` (or `--config.FIELD VALUE`), and those as field → text."""
    rest, overrides, queue = [], {}, list(arguments)
    while queue:
        argument = queue.pop(0)
        if not argument.startswith('--config.'):
            rest.append(argument)
            continue
        field, equals, text = argument.removeprefix('--config.').partition('=')
        if not equals:
            if not queue or queue[0].startswith('--'):
                raise InputError(f'--config.{field} has no value; write --config.{field}=…')
            text = queue.pop(0)
        overrides[field] = text
    return rest, overrides


def refuse_overrides(options: argparse.Namespace, why: str) -> None:
    """Raises InputError where a field of the configuration is set for a command that has none."""
    for field in options.overrides:
        raise InputError(f'--config.{field}: {why}')


def add_config(parser: Parser, default: str = 'toyfaces') -> None:
    """`--config`: the configuration of what a command does."""
    parser.epilog = OVERRIDES
    parser.add_argument('--config', default=default, metavar=CONFIG, help='of the package, or your own; default: %(default)s')


def add_skip_bad(parser: Parser) -> None:
    """`--skip-bad`, short for an override."""
    text = 'leave out files that are no images instead of refusing the set'
    parser.add_argument('--skip-bad', dest='overrides', action='store_const', const={'data.skip_bad': 'true'}, help=text)


def add_split(parser: Parser) -> None:
    """`--split`: the part of a data set that is looked at."""
    parser.add_argument('--split', default='test', help="train, validation, test, or the data set's own name; default: %(default)s")


def add_views(parser: Parser, of_what: str) -> None:
    """`--views`: the crops whose probabilities are averaged."""
    parser.add_argument('--views', default='centre', choices=('centre', 'ten'), help=f'crops of each {of_what}; default: %(default)s')


def add_weights(parser: Parser) -> None:
    """`--checkpoint` and `--workdir`: the weights that `chosen_weights` then names."""
    parser.add_argument(
        '--checkpoint', metavar='WEIGHTS', help=f"name or file of weights, a hub's folder or hf://OWNER/NAME, or a run; default: {SHIPPED}"
    )
    parser.add_argument('--workdir', type=pathlib.Path, help='folder of a run, whose best checkpoint it is, in place of --checkpoint')


def chosen_weights(options: argparse.Namespace) -> str:
    """A name or file of weights, or a run's folder.

    Raises:
      InputError: two are named.
    """
    if options.workdir and options.checkpoint:
        raise InputError('--workdir and --checkpoint both name weights: give one of them')
    return str(options.workdir or options.checkpoint or SHIPPED)
