"""`python -m fer_jax <command>`: reads the arguments and calls the library; JAX is imported only by what needs it."""

import argparse
import logging
import pathlib
import sys
import warnings
from typing import Any

from fer_jax.config import load_config
from fer_jax.data.schema import DataWarning
from fer_jax.errors import Diverged, InputError, Interrupted, unknown

DESCRIPTION = 'Facial-expression recognition with embedded attention and channel shuffle.'
OVERRIDES = 'Any field of fer_jax/fields.py is set by --config.GROUP.FIELD=VALUE.'


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> None:
        raise InputError(f'{message} ({self.prog} --help lists what there is)')


def make_parser() -> argparse.ArgumentParser:
    """The commands and their arguments."""
    parser = Parser(prog='python -m fer_jax', description=DESCRIPTION, allow_abbrev=False)
    commands = parser.add_subparsers(dest='command', required=True, metavar='COMMAND', parser_class=Parser)

    def command(name: str, text: str, config: bool) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text, epilog=OVERRIDES, allow_abbrev=False)
        if config:
            sub.add_argument('--config', default='configs/toyfaces.py', metavar='FILE[:NAME=VALUE,…]', help='default: %(default)s')
        return sub

    train = command('train', 'Train a network, or go on with an unfinished run, and evaluate it.', config=True)
    train.add_argument('--workdir', type=pathlib.Path, help='folder of the run; default: runs/NAME-HASH, found again by the same command')
    evaluate = command('evaluate', 'Evaluate a checkpoint of a run.', config=False)
    evaluate.add_argument('--workdir', type=pathlib.Path, required=True, help='folder of the run')
    evaluate.add_argument('--checkpoint', default='best', help='best, latest or a step; default: %(default)s')
    evaluate.add_argument('--split', default='test', help="train, validation, test, or the data set's own name; default: %(default)s")
    evaluate.add_argument('--views', default='centre', choices=('centre', 'ten'), help='crops of each image; default: %(default)s')
    prepare = command('prepare', 'Prepare a data set and print its manifest.', config=True)
    for sub in (train, prepare):
        sub.add_argument('--skip-bad', action='store_true', help='leave out files that are no images instead of refusing the set')
    summary = command('summary', "Print the network as the paper's Table 1 does.", config=True)
    summary.add_argument('--parameters', action='store_true', help='list every parameter too')
    return parser


def split_overrides(arguments: list[str]) -> tuple[list[str], dict[str, str]]:
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


def parse(arguments: list[str]) -> tuple[argparse.Namespace, dict[str, str]]:
    """The parsed arguments and the overrides.

    Raises:
      InputError: an argument that no command knows; the nearest known one is named.
    """
    parser = make_parser()
    rest, overrides = split_overrides(arguments)
    commands = parser._subparsers._group_actions[0].choices
    if rest and not rest[0].startswith('-') and rest[0] not in commands:
        raise unknown('command', rest[0], commands)
    options, extra = parser.parse_known_args(rest)
    if extra:
        known = [name for action in commands[options.command]._actions for name in action.option_strings]
        raise unknown('argument', extra[0], [*known, '--config.FIELD=VALUE'])
    return options, overrides


def run(options: argparse.Namespace, overrides: dict[str, str]) -> int:
    """Runs one command; returns the exit code."""
    if options.command == 'evaluate':
        from fer_jax.score import evaluate_run

        evaluate_run(options.workdir, options.checkpoint, options.split, options.views, overrides)
        return 0
    skip_bad = {'data.skip_bad': 'true'} if getattr(options, 'skip_bad', False) else {}
    config = load_config(options.config, overrides | skip_bad)
    match options.command:
        case 'train':
            from fer_jax.train import train

            train(config, options.workdir)
        case 'prepare':
            from fer_jax.data.manifest import describe
            from fer_jax.data.prepare import prepare

            print(describe(prepare(config.data)))
        case 'summary':
            from fer_jax.summary import parameter_table, summary

            print(summary(config))
            if options.parameters:
                print('\n' + parameter_table(config))
    return 0


def tell_warnings(command: str) -> None:
    """Warnings about the user's data are one line each; those that libraries give one another are not the user's."""
    logging.getLogger('absl').setLevel(logging.ERROR)  # Orbax's and TFDS's words among them
    if not sys.warnoptions:
        warnings.simplefilter('ignore')
    # `prepare` prints them with its manifest.
    warnings.simplefilter('ignore' if command == 'prepare' else 'always', DataWarning)
    show = warnings.showwarning

    def tell(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if issubclass(category, DataWarning):
            print(f'warning: {message}', file=sys.stderr)
        else:
            show(message, category, *where, **more)

    warnings.showwarning = tell


def main(arguments: list[str] | None = None) -> int:
    """Exit code: 0 done, 1 the run failed, 2 the input is wrong, 75 stopped by a signal and to be resumed."""
    try:
        options, overrides = parse(sys.argv[1:] if arguments is None else arguments)
        tell_warnings(options.command)
        return run(options, overrides)
    except InputError as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    except Diverged as error:
        print(f'diverged: {error}', file=sys.stderr)
        return 1
    except Interrupted as error:
        print(error, file=sys.stderr)
        return 75
    except OSError as error:  # a disk that fills or a folder that goes away while a run writes
        print(f'error: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('stopped', file=sys.stderr)
        return 130


if __name__ == '__main__':
    sys.exit(main())
