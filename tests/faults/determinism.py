"""The same seed twice, compiled anew the second time: the same bits on CPU, for each of several recipes; another seed gives others."""

import pathlib

from tests.faults.findings import Findings
from tests.faults.runs import arrays, differences, different_arrays
from tests.tiny import ROOT, overrides, run

# Two devices on any machine: how many share a batch is one of the things that bits depend on.
FIELDS = {'epochs': '3', 'train__log_every': '1', 'parallel__cpu_devices': '2', 'evaluation__test': 'false'}
SMALL = {'epochs': '1'}
RECIPES = {
    'as the paper has it': {'network__attention': 'both', 'evaluation__test': 'true'},
    'mixup, erasing and stochastic depth': {'augment__mixup': '0.2', 'augment__erase': '0.5', 'network__stochastic_depth': '0.3'},
    'SAM': {'optimizer__sam': '0.05'},
    'streamed': {'data__pipeline': 'stream'},
    'CBAM, cutmix, Muon and bfloat16, several steps in one program': {
        'network__attention': 'cbam',
        'network__dtype': 'bfloat16',
        'augment__cutmix': '1.0',
        'optimizer__name': 'muon',
        'train__steps_per_call': '5',
    },
}
REPLICAS = 'two seeds in one program'


def campaign(folder: pathlib.Path, seed: int, small: bool) -> Findings:
    """Every recipe twice, in processes of their own, the second time without the programs that the first one compiled."""
    findings = Findings()
    recipes = dict(list(RECIPES.items())[:1]) if small else RECIPES
    for number, (name, fields) in enumerate(recipes.items()):
        fields = FIELDS | fields | (SMALL if small else {})
        first, again = (folder / f'{number}-{which}' for which in ('first', 'again'))
        train(first, seed, fields, {})
        train(again, seed, fields, {} if small else anew(folder, number))
        same(findings, name, again, first)
        if number == 0:
            another = folder / 'another'
            train(another, seed + 1, fields, {})
            others(findings, 'another seed', another, first)
    if not small:
        replicas(findings, folder, seed)
    return findings


def anew(folder: pathlib.Path, number: int) -> dict[str, str]:
    """The environment in which everything is compiled anew."""
    return {'JAX_COMPILATION_CACHE_DIR': str(folder / f'compiled-{number}')}


def train(workdir: pathlib.Path, seed: int, fields: dict[str, str], environment: dict[str, str]) -> None:
    """A run to its end."""
    finish('train', '--workdir', str(workdir), *overrides(workdir.parent, seed=str(seed), **fields), environment=environment)


def finish(*arguments: str, environment: dict[str, str]) -> None:
    """A command that nothing is to happen to."""
    code, _, err = run(*arguments, environment=environment, cwd=ROOT)
    if code:
        raise RuntimeError(f'{arguments[:3]} ended with {code}: {err}')


def same(findings: Findings, name: str, workdir: pathlib.Path, reference: pathlib.Path) -> None:
    """Notes what is not to the last bit the same."""
    findings.count(name)
    findings.wrong += [f'{name}: {each}' for each in differences(workdir, reference)]


def others(findings: Findings, name: str, workdir: pathlib.Path, reference: pathlib.Path) -> None:
    """Notes what is the same and should not be: kernels, which are drawn, and every line of the log."""
    findings.count(name)
    left, right = arrays(workdir), arrays(reference)
    kernels = {key for key in left if 'kernel' in key}
    findings.check(bool(kernels) and kernels <= set(different_arrays(left, right)), f'{name}: a kernel is the same')
    lines, theirs = ((each / 'metrics.jsonl').read_text().splitlines() for each in (workdir, reference))
    findings.check(not set(lines) & set(theirs), f'{name}: a line of the log is the same')


def replicas(findings: Findings, folder: pathlib.Path, seed: int) -> None:
    """The same of two seeds that are trained together."""
    sweeps = [folder / f'replicas-{which}' for which in ('first', 'again')]
    for number, workdir in enumerate(sweeps):
        chosen = ['--config', str(ROOT / 'configs' / 'toyfaces.py'), '--seeds', f'{seed}-{seed + 1}', '--together', '2']
        arguments = ['sweep', *chosen, '--workdir', str(workdir), *overrides(folder, **FIELDS)]
        finish(*arguments, environment=anew(folder, 100) if number else {})
    runs = [sorted(path.parent for path in workdir.glob('*/seed*/result.json')) for workdir in sweeps]
    findings.check(len(runs[0]) == len(runs[1]) == 2, f'{REPLICAS}: not every run was finished')
    for first, again in zip(*runs, strict=True):
        same(findings, REPLICAS, again, first)
    others(findings, f'{REPLICAS}, beside one another', runs[0][0], runs[0][1])
