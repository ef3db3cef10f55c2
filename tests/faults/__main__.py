"""Runs campaigns of faults and records what they found.

    python -m tests.faults                       every campaign, one after the other: about two hours of four cores
    python -m tests.faults kills disk --seed 1   these, with another seed
    python -m tests.faults --small               a few tries of each, as the tests run them
    python -m tests.faults --list                what there is

Each writes OUT/<campaign>.json (default results/faults); the exit code is 1 where something did not hold.
"""

import argparse
import importlib
import pathlib
import pkgutil
import shlex
import sys
import tempfile
import time

from benchmarks.results_table import ROOT
from fer_jax.core.files import write_json
from fer_jax.core.terminal import tell_warnings
from fer_jax.runs.environment import environment
from tests import faults

HELPERS = ('findings', '__main__')


def campaigns() -> list[str]:
    """The campaigns' names: every module beside this one that has a `campaign`."""
    modules = [found.name for found in pkgutil.iter_modules(faults.__path__) if found.name not in HELPERS]
    return [name for name in modules if hasattr(importlib.import_module(f'tests.faults.{name}'), 'campaign')]


def what(name: str) -> str:
    """What a campaign does, in one line: the first of its module's docstring."""
    return importlib.import_module(f'tests.faults.{name}').__doc__.splitlines()[0]


def perform(name: str, seed: int, small: bool, out: pathlib.Path, size: int | None = None) -> bool:
    """Runs one campaign, writes its record and prints what it found; returns whether all held."""
    print(f'--- {name}: {what(name)}', flush=True)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix=f'faults-{name}-') as folder:
        sized = {} if size is None else {'size': size}
        findings = importlib.import_module(f'tests.faults.{name}').campaign(pathlib.Path(folder), seed, small, **sized)
    record = {
        'campaign': name,
        'what': what(name),
        'command': shlex.join(
            ['python', '-m', 'tests.faults', name, '--seed', str(seed), *['--small'] * small, *[f'--size={size}'] * bool(size)]
        ),
        'seed': seed,
        'tried': findings.tried,
        'wrong': findings.wrong,
        'told': findings.told,
        'seconds': round(time.monotonic() - began, 1),
        'environment': environment(),
    }
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / f'{name}.json', record)
    for line in findings.wrong:
        print(f'wrong: {line}')
    print(f'{name}: {findings.tried} tried, {len(findings.wrong)} wrong, {record["seconds"]:.0f} s', flush=True)
    return not findings.wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument('campaigns', nargs='*', metavar='NAME', help='which; all where none is named')
    parser.add_argument('--seed', type=int, default=0, help='of what is drawn (default 0)')
    parser.add_argument('--small', action='store_true', help='a few tries of each')
    parser.add_argument('--size', type=int, help='how many inputs, of a campaign that can have any number (fates)')
    parser.add_argument('--out', type=pathlib.Path, default=ROOT / 'results' / 'faults', help='folder of the records')
    parser.add_argument('--list', action='store_true', help='print the campaigns and end')
    options = parser.parse_args()
    known = campaigns()
    if options.list:
        print('\n'.join(f'{name:12} {what(name)}' for name in known))
        return 0
    if unknown := sorted(set(options.campaigns) - set(known)):
        parser.error(f'no campaign {", ".join(unknown)}; there are {", ".join(known)}')
    tell_warnings('faults')
    return int(not all([perform(name, options.seed, options.small, options.out, options.size) for name in options.campaigns or known]))


if __name__ == '__main__':
    sys.exit(main())
