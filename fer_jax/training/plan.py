"""Which runs a sweep is made of, and how each of them stands."""

import copy
import hashlib
import os
import pathlib
import re
import time
from typing import NamedTuple

from ml_collections import ConfigDict

from fer_jax.core.config import load_variants
from fer_jax.core.errors import InputError, unknown
from fer_jax.core.fields import BOUNDS
from fer_jax.core.files import read_json, write_json
from fer_jax.runs.claims import Claim, is_live, latest
from fer_jax.runs.records import VARIANT_NAME
from fer_jax.runs.workdir import check_workdir, default_workdir
from fer_jax.training.identity import check_finished

MOST_SEEDS = 10_000


class SweepRun(NamedTuple):
    """One run of a sweep."""

    title: str  # such as '[3/35] base-g4 seed 2'
    key: str  # of its claims: base-g4-seed2
    config: ConfigDict
    folder: pathlib.Path
    cpu_devices: int  # that the sweep's process has; it cannot have another number for another run


class Failure(NamedTuple):
    """Why a run has no result."""

    reason: str
    is_input: bool  # the user's input is wrong, not the run


def name_variants(reference: str, overrides: dict[str, str]) -> dict[str, ConfigDict]:
    """Name → configuration of the file's, with names that can be those of folders.

    Raises:
      InputError: as of load_variants; a seed or name is set for all of them; or a name is none for a folder.
    """
    arguments = {argument.partition('=')[0] for argument in reference.partition(':')[2].split(',')}
    if 'seed' in arguments | overrides.keys():
        raise InputError('a sweep sets the seed of each run: give --seeds, such as --seeds 0-4, and no other')
    found = load_variants(reference, overrides)
    variants = {config.name: config for config in found.values()}
    if len(variants) < len(found):
        raise InputError(f'--config.name gives the {len(found)} configurations of {reference} one name')
    for name in variants:
        if not re.fullmatch(VARIANT_NAME, name) or name in ('claims', 'sweep.json'):
            raise InputError(f'the configuration {name!r} would be a folder of the sweep: a name of letters, digits, - and _ would do')
    return variants


def default_sweep_workdir(reference: str, variants: dict[str, ConfigDict]) -> pathlib.Path:
    """runs/<config file>-<hash of what decides the results of all variants>: the same command finds its own unfinished sweep again."""
    each = ' '.join(default_workdir(config).name for config in variants.values())
    return pathlib.Path('runs') / f'{pathlib.Path(reference.partition(":")[0]).stem}-{hashlib.sha256(each.encode()).hexdigest()[:8]}'


def parse_seeds(text: str) -> list[int]:
    """The seeds that `0-4` or `0,3,7-9` names, each once and in that order.

    Raises:
      InputError: it is nothing like these, names too many, or one that is too large.
    """
    seeds = {}
    for part in text.split(','):
        match = re.fullmatch(r'\s*(\d{1,10})(?:-(\d{1,10}))?\s*', part, re.ASCII)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if last < first:
            raise InputError(f'--seeds {text}: {part!r} is no seed, nor two with - between, smaller first; write --seeds 0-4 or 0,3,7-9')
        if last > BOUNDS['seed'][1] or len(seeds) + last - first >= MOST_SEEDS:
            raise InputError(f'--seeds {text}: seeds go up to {BOUNDS["seed"][1]}, and at most {MOST_SEEDS:,} at a time')
        seeds |= dict.fromkeys(range(first, last + 1))
    return list(seeds)


def plan_runs(variants: dict[str, ConfigDict], seeds: list[int], only: str, workdir: pathlib.Path) -> list[SweepRun]:
    """The runs, in the order in which a process takes them: every variant with the first seed, then with the next.

    Raises:
      InputError: `only` names a variant that is not there.
    """
    wanted = [name.strip() for name in only.split(',')] if only else list(variants)
    for name in wanted:
        if name not in variants:
            raise unknown('configuration', name, variants)
    pairs = [(name, seed) for seed in seeds for name in variants if name in wanted]
    cpu_devices = variants[pairs[0][0]].parallel.cpu_devices
    runs = []
    for number, (name, seed) in enumerate(pairs, start=1):
        config = copy.deepcopy(variants[name])
        config.seed = seed
        title = f'[{number}/{len(pairs)}] {name} seed {seed}'
        runs.append(SweepRun(title, f'{name}-seed{seed}', config, workdir / name / f'seed{seed}', cpu_devices))
    return runs


def groups(runs: list[SweepRun], together: int) -> list[list[SweepRun]]:
    """The runs in lists of up to `together` that differ in their seed only, in the order in which the first of each comes."""
    own: dict[str, list[SweepRun]] = {}
    for run in runs:
        own.setdefault(run.config.name, []).append(run)
    found = [each[start : start + together] for each in own.values() for start in range(0, len(each), together)]
    return sorted(found, key=lambda group: runs.index(group[0]))


def make_folder(workdir: pathlib.Path, order: dict) -> None:
    """Makes the sweep's folder, with sweep.json, which says what was ordered last.

    Raises:
      InputError: it cannot be written, or is the folder of a run.
    """
    if (workdir / 'config.json').exists():
        raise InputError(f'{workdir} is the folder of a run; choose another --workdir')
    try:
        (workdir / 'claims').mkdir(parents=True, exist_ok=True)
        write_json(workdir / 'sweep.json', order)
    except OSError as error:
        raise InputError(f'--workdir {workdir}: {error.strerror}') from None


def is_finished(run: SweepRun) -> bool:
    """Whether result.json, which is written last, is there; asked of the folder's list, which network file systems keep fresher."""
    return run.folder.is_dir() and 'result.json' in os.listdir(run.folder)


def result(run: SweepRun) -> float | Failure:
    """Accuracy of a finished run, or what is wrong with it: that of the split of `scored_split`, by one centre crop, in 0..1."""
    path = run.folder / 'result.json'
    try:
        check_workdir(run.folder, run.config)
        check_finished(run.folder, run.config)
        return float(read_json(path)[f'{scored_split(run.config)}_centre']['accuracy'])
    except InputError as error:
        return Failure(str(error), is_input=True)
    except (KeyError, TypeError, ValueError):
        return Failure(f'{path}: has no accuracy of {scored_split(run.config)}', is_input=True)


def scored_split(config: ConfigDict) -> str:
    """The split that tells how good a run is."""
    return 'test' if config.evaluation.test else 'validation'


def progress(run: SweepRun) -> str:
    """How far a run that is not finished has come."""
    folder = run.folder / 'checkpoints' / 'latest'
    steps = [int(path.name) for path in folder.iterdir() if path.name.isdecimal()] if folder.is_dir() else []
    return f'unfinished, at step {max(steps)}' if steps else 'unfinished, no checkpoint' if run.folder.exists() else 'not begun'


def standing(run: SweepRun, claims: pathlib.Path) -> str:
    """How a run stands, in words."""
    if is_finished(run):
        return outcome_text(run, result(run))
    claim = latest(claims, run.key)
    if is_live(claim, time.time()):
        return f'{progress(run)}, running on {holder(claim)}'
    try:
        check_workdir(run.folder, run.config)
    except InputError as error:
        return outcome_text(run, Failure(str(error), is_input=True))
    reason = claim.record.get('reason')
    return f'{progress(run)}, failed: {reason}' if reason else progress(run)


def outcome_text(run: SweepRun, outcome: float | Failure) -> str:
    """`finished, test accuracy 70.12 %`, or why not."""
    if isinstance(outcome, Failure):
        return f'failed: {outcome.reason}'
    return f'finished, {scored_split(run.config)} accuracy {100 * outcome:.2f} %'


def holder(claim: Claim) -> str:
    """Whose claim it is, in words."""
    return f'{claim.record.get("host", "a host")}, process {claim.record.get("process", "unknown")}'
