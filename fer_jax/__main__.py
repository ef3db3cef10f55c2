"""`python -m fer_jax COMMAND`, or `fer-jax COMMAND`: gathers the rooms' commands, runs one, and turns errors into exit codes."""

import argparse
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from fer_jax import __version__
from fer_jax.core.allocator import start_again_with_allocator
from fer_jax.core.command_line import Parser, split_overrides
from fer_jax.core.errors import Diverged, InputError, Interrupted, NotSaved, ToldElsewhere, first_line, out_of_memory, unknown
from fer_jax.core.memory import check_limits, limits
from fer_jax.core.terminal import forgive_output, leave, tell_warnings
from fer_jax.data.cli import prepare
from fer_jax.export.cli import export
from fer_jax.inference.cli import demo, explain, predict, serve
from fer_jax.model.cli import summary
from fer_jax.report.cli import report
from fer_jax.training.cli import evaluate, sweep, train, weights

DESCRIPTION = 'Facial-expression recognition with embedded attention and channel shuffle.'
# Each adds to the parser that it is given its arguments and, as the default of `run`, what is called with them; its name and docstring
# are the command's. A new one is a function in its room's cli.py, and its name here.
COMMANDS = (train, evaluate, weights, sweep, predict, explain, demo, serve, export, report, prepare, summary)
STEPPING = {define.__name__ for define in (train, evaluate, sweep)}  # what goes through a set in steps, which an allocator makes faster


class Version(argparse.Action):
    """Prints the version, and what it would run on, and ends; argparse's own would have to know it, and so JAX, beforehand."""

    def __call__(self, parser: argparse.ArgumentParser, *rest: Any) -> NoReturn:
        from fer_jax.runs.environment import environment  # brings JAX

        about = environment()
        code, device = about['code'], about['device']
        revision = f', revision {code["revision"][:12]}{", changed since" if code["dirty"] else ""}' if code['revision'] else ''
        print(f'fer_jax {__version__}{revision}')
        print(f'JAX {about["packages"]["jax"]} on {device["count"]} × {device["kind"]}, Python {about["python"]}')
        parser.exit()


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The parsed arguments, among them `overrides`, the configuration's fields → text, and `run`, which takes them all.

    Raises:
      InputError: an argument that no command knows; the nearest known one is named.
    """
    parser = Parser(prog='python -m fer_jax', description=DESCRIPTION, allow_abbrev=False)
    parser.add_argument('--version', action=Version, nargs=0, help='say version, revision, JAX and devices')
    commands = parser.add_subparsers(dest='command', required=True, metavar='COMMAND', parser_class=Parser)
    for define in COMMANDS:
        name, text = define.__name__, define.__doc__
        sub = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        sub.set_defaults(overrides={})
        define(sub)
    rest, overrides = split_overrides(arguments)
    if rest and not rest[0].startswith('-') and rest[0] not in commands.choices:
        raise unknown('command', rest[0], commands.choices)
    options, extra = parser.parse_known_args(rest)
    if extra:
        known = [name for action in commands.choices[options.command]._actions for name in action.option_strings]
        raise unknown('argument', extra[0], [*known, '--config.FIELD=VALUE'])
    options.overrides = overrides | options.overrides
    return options


def tell(text: str) -> None:
    """Prints how a run ended; where several processes end in the same way, the lead does."""
    from fer_jax.core.processes import is_lead

    if is_lead():
        print(text, file=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 done, 1 the run failed, 2 the input is wrong, 75 stopped by a signal and to be resumed, 130 Ctrl-C elsewhere."""
    try:
        options = parse(sys.argv[1:] if arguments is None else arguments)
        check_limits(limits())
        tell_warnings(options.command)
        return options.run(options) or 0
    except ToldElsewhere:
        return 2
    except InputError as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    except Diverged as error:
        tell(f'diverged: {error}; try a smaller optimizer.learning_rate, or train.rollbacks')
        return 1
    except NotSaved as error:
        tell(f'error: {error}; make it writable and give the same command, which goes on from there')
        return 1
    except Interrupted as error:
        tell(str(error))
        return 75
    except OSError as error:  # a disk that fills or a folder that goes away while a run writes
        print(f'error: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('stopped', file=sys.stderr)
        return 130
    except Exception as error:
        if not out_of_memory(error):
            raise
        cure = 'what was saved stands; a smaller batch_size, evaluation.batch_size or network would take less'
        print(f'error: out of memory ({first_line(error)}): {cure}', file=sys.stderr)
        return 1


def program() -> NoReturn:
    """What `fer-jax` and `python -m fer_jax` run."""
    # Anywhere, for fields may stand before the command; to another command, with a file of such a name, the allocator does no harm.
    if STEPPING.intersection(sys.argv[1:]):
        start_again_with_allocator()
    forgive_output()
    leave(main())


if __name__ == '__main__':
    program()
