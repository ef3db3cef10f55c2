"""What runs leave behind, read without JAX: folders → runs, finished or not → the groups that they form."""

import json
import os
import pathlib
import re
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from fer_jax.core.config import decisive_values
from fer_jax.core.errors import InputError
from fer_jax.core.files import NUMBER, check_fields, read_json, read_text
from fer_jax.core.statistics import calibration_error, coverage_summary
from fer_jax.data.predictions import Predictions, read_predictions
from fer_jax.data.schema import SPLITS
from fer_jax.evaluation.scores import summarise_confusion
from fer_jax.runs.claims import is_live, latest
from fer_jax.runs.workdir import stored_config

ENVIRONMENT_FIELDS = {
    'python': str, 'cpu': str, 'device': {'platform': str, 'kind': str, 'count': int}, 'packages': dict,
    'code': {'revision': str, 'dirty': bool},
}  # fmt: skip
RESULT_FIELDS = {
    'parameters': int, 'seed': int, 'steps': int, 'best_step': int, 'training_seconds': NUMBER, 'starts': int, 'content_sha256': str,
    'environment': ENVIRONMENT_FIELDS, 'split_titles': dict.fromkeys(SPLITS, str), 'class_names': list,
}  # fmt: skip
PROTOCOL_FIELDS = {
    'data': str, 'trained_on': str, 'train_images': (int, type(None)), 'dedup': (bool, str), 'chosen_on': str, 'split': str, 'views': str,
    'weights': str, 'epoch': NUMBER,
}  # fmt: skip
SHARE_FIELDS = {'count': int, 'correct': int, 'accuracy': NUMBER}
EVALUATION_FIELDS = SHARE_FIELDS | {
    'balanced_accuracy': NUMBER, 'macro_f1': NUMBER, 'nll': NUMBER, 'calibration_error': NUMBER, 'per_class': dict,
    'confusion_matrix': list, 'protocol': PROTOCOL_FIELDS,
}  # fmt: skip
SCORINGS = ('validation_centre', 'validation_ten', 'test_centre', 'test_ten')  # of the best checkpoint, that result.json repeats
CLASS_FIELDS = {'precision': NUMBER, 'recall': NUMBER, 'f1': NUMBER}
VARIANT_NAME = r'\w[\w.+=-]*'  # of a sweep's network, which is a folder's too
SKIPPED_FOLDERS = ('checkpoints', 'tensorboard', 'claims')


class Evaluation(NamedTuple):
    """One scoring of one checkpoint."""

    summary: dict[str, Any]  # what result.json says
    predictions: Predictions | None  # None where the file was taken away
    folder: pathlib.Path


class Run(NamedTuple):
    """One run, as its folder says."""

    folder: pathlib.Path
    config: ConfigDict
    result: dict[str, Any] | None  # None while it is not finished
    evaluations: dict[tuple[str, str], Evaluation]  # of the best checkpoint, by the split's title and the views
    state: str  # finished, or how far it came and why not further


class Group(NamedTuple):
    """Finished runs that differ by nothing but their draws."""

    title: str
    name: str  # what the configurations are called
    kind: str  # what differs: seeds | draws | folds
    units: list[list[Run]]  # what is scored as one: a run, or the runs of all folds


def find_runs(folders: Sequence[pathlib.Path]) -> tuple[list[Run], list[str]]:
    """The runs (folders with a config.json) in and below `folders`, and a line for each that a sweep has planned but not begun.

    Raises:
      InputError: a folder is not there, no run is, or a file of a run is not what it should be (the file and the field are named).
    """
    runs, waiting = {}, []
    for top in folders:
        if not top.is_dir():
            raise InputError(f'--workdir {top}: no such folder')
        sweeps = {}
        for place, below, files in os.walk(top):
            folder = pathlib.Path(place)
            if 'config.json' in files:
                runs[folder.resolve()] = folder
            if 'sweep.json' in files:
                sweeps[folder] = read_json(folder / 'sweep.json')
                check_plan(sweeps[folder], folder / 'sweep.json')
            order = sweeps[folder]['variants'] if folder in sweeps else []
            # A run's own folders hold no run, checkpoints of many files least of all.
            below[:] = [] if 'config.json' in files else set(below) - set(SKIPPED_FOLDERS)
            below.sort(key=lambda name, order=order: (order.index(name) if name in order else len(order), name))
        for sweep, planned in sweeps.items():
            waiting += not_begun(sweep, planned, set(runs))
    if not runs:
        told = ', '.join(str(top / 'README.md') for top in folders if (top / 'README.md').exists())
        told = f'; what is there instead says {told}' if told else ''
        raise InputError(f'--workdir {", ".join(map(str, folders))}: no run there, nor below (a run is a folder with a config.json){told}')
    return [read_run(folder) for folder in runs.values()], waiting


def check_plan(planned: Any, path: pathlib.Path) -> None:
    """Returns if that is what a sweep.json may say; InputError names the field that is not."""
    check_fields(planned, {'variants': list, 'seeds': list}, path)
    if not all(isinstance(name, str) and re.fullmatch(VARIANT_NAME, name) for name in planned['variants']):
        raise InputError(f'{path}: field variants is not a list of names')
    if not all(type(seed) is int for seed in planned['seeds']):
        raise InputError(f'{path}: field seeds is not a list of whole numbers')


def not_begun(sweep: pathlib.Path, planned: dict[str, Any], found: set[pathlib.Path]) -> list[str]:
    """A line for each run that the sweep's sweep.json has planned and that has no folder yet."""
    missing = [(name, seed) for name in planned['variants'] for seed in planned['seeds']]
    missing = [(name, seed) for name, seed in missing if (sweep / name / f'seed{seed}').resolve() not in found]
    return [f'{sweep / name / f"seed{seed}"}: {claim_text(sweep, f"{name}-seed{seed}") or "not begun"}' for name, seed in missing]


def claim_text(sweep: pathlib.Path, key: str) -> str:
    """What the last claim on a run of a sweep says: who runs it, or why it failed; '' where it says nothing."""
    claim = latest(sweep / 'claims', key)
    if is_live(claim, time.time()):
        return f'running on {claim.record.get("host", "a host")}'
    return f'failed: {claim.record["reason"]}' if claim.record.get('reason') else ''


def read_run(folder: pathlib.Path) -> Run:
    """The run in `folder`.

    Raises:
      InputError: as of `find_runs`.
    """
    config = stored_config(folder)
    path = folder / 'result.json'
    if not path.exists():
        epochs = [line['epoch'] for line in read_metrics(folder)]
        progress = f'unfinished, at epoch {epochs[-1]:.1f} of {config.epochs:g}' if epochs else 'unfinished, nothing logged'
        claim = claim_text(folder.parent.parent, f'{config.name}-seed{config.seed}')
        return Run(folder, config, None, {}, f'{progress}, {claim}' if claim else progress)
    result = read_json(path)
    check_fields(result, RESULT_FIELDS | ({'one_nearest_neighbour': SHARE_FIELDS} if 'one_nearest_neighbour' in result else {}), path)
    found = [read_evaluation(scoring) for scoring in sorted((folder / 'evaluations').glob('best-*/result.json'))]
    # Of folds the test has one title, by which the parts that each has scored are put together.
    own, common = f'(fold {config.data.fold} of {config.data.folds})', f'({config.data.folds} folds)'
    for titles in (result['split_titles'], *(each.summary['protocol'] for each in found)):
        titles |= {name: title.replace(own, common) for name, title in titles.items() if name in ('test', 'split')}
    evaluations = {(each.summary['protocol']['split'], each.summary['protocol']['views']): each for each in found}
    evaluations = repeated(result, config, path) | evaluations
    for evaluation in evaluations.values():
        if list(evaluation.summary['per_class']) != result['class_names']:
            raise InputError(f'{evaluation.folder}: field per_class has other classes than class_names in {path}')
    if not evaluations:
        raise InputError(f'{folder}: finished, but without evaluations/best-*/result.json; `evaluate --workdir {folder}` writes one')
    return Run(folder, config, result, evaluations, 'finished')


def repeated(result: dict[str, Any], config: ConfigDict, path: pathlib.Path) -> dict[tuple[str, str], Evaluation]:
    """What a run's result.json repeats of its scorings, which stands for them where their folders were not kept.

    Their protocol is that of the run; how many images it was trained on is not known then.
    """
    titles, found = result['split_titles'], {}
    for name in (name for name in SCORINGS if name in result):
        split, _, views = name.partition('_')
        protocol = {
            'data': config.data.dataset,
            'trained_on': titles['train'],
            'train_images': None,
            'dedup': config.data.dedup,
            'chosen_on': titles['validation'],
            'split': titles[split],
            'views': views,
            'weights': 'average' if config.optimizer.ema or config.optimizer.average_from < 1 else 'last',
            'epoch': config.epochs * result['best_step'] / max(result['steps'], 1),
        }
        check_fields(result, {name: dict}, path)
        summary = result[name] | {'protocol': protocol}
        check_summary(summary, path)
        found[titles[split], views] = Evaluation(summary, None, path.parent)
    return found


def read_evaluation(path: pathlib.Path) -> Evaluation:
    """One scoring, by the path of its result.json; InputError where that or predictions.csv is not what it should be."""
    summary = read_json(path)
    check_summary(summary, path)
    table = path.with_name('predictions.csv')
    predictions = read_predictions(table, list(summary['per_class'])) if table.exists() else None
    if predictions and len(predictions.labels) != summary['count']:
        raise InputError(f'{table}: {len(predictions.labels)} images, but count in {path.name} is {summary["count"]}')
    return Evaluation(summary, predictions, path.parent)


def check_summary(summary: Any, path: pathlib.Path) -> None:
    """Returns if that is what a scoring may say; InputError names the field that is not."""
    check_fields(summary, EVALUATION_FIELDS, path)
    names, matrix = list(summary['per_class']), summary['confusion_matrix']
    check_fields(summary['per_class'], dict.fromkeys(names, CLASS_FIELDS), path, 'per_class.')
    if len(matrix) != len(names) or any(
        not isinstance(row, list) or len(row) != len(names) or any(type(cell) is not int or cell < 0 for cell in row) for row in matrix
    ):
        raise InputError(f'{path}: field confusion_matrix is not {len(names)} rows of {len(names)} counts')
    if not 0 < summary['count'] == sum(map(sum, matrix)):
        raise InputError(f'{path}: field count is {summary["count"]}, but confusion_matrix holds {sum(map(sum, matrix))} images')
    parts = summary.get('subsets', {})
    check_fields(parts, dict.fromkeys(parts, SHARE_FIELDS) if isinstance(parts, dict) else {}, path, 'subsets.')
    for name, part in parts.items():
        if not 0 <= part['correct'] <= part['count'] <= summary['count'] or not part['count']:
            raise InputError(f'{path}: field subsets.{name} says {part["correct"]} of {part["count"]} images, of {summary["count"]} in all')


def read_metrics(folder: pathlib.Path) -> list[dict[str, Any]]:
    """The whole lines of a run's metrics.jsonl; what a kill tore is left out."""
    path, lines = folder / 'metrics.jsonl', []
    if not path.exists():
        return []
    for line in read_text(path).splitlines():
        try:
            record = json.loads(line)
            lines.append(record | {'epoch': float(record['epoch'])})
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            continue
    return [line for line in lines if 'kind' in line]


def kind_of(config: ConfigDict) -> tuple[str, str, tuple[str, ...]]:
    """What a configuration's runs are repeated over, the name they share, and the fields that then differ.

    Folds are those of data.folds; draws of a split, those whose names differ in `-draw<k>` alone.
    """
    if config.data.folds:
        return 'folds', re.sub(r'-fold\d+$', '', config.name), ('data.fold',)
    if re.search(r'-draw\d+$', config.name):
        return 'draws', re.sub(r'-draw\d+$', '', config.name), ('data.split_seed',)
    return 'seeds', config.name, ()


def make_groups(runs: Sequence[Run]) -> tuple[list[Group], list[str]]:
    """The finished runs by name and configuration, in their order, and a line for each that is left out.

    Runs of one name whose configurations differ by more than their draws, or seeds whose data do, are groups apart, whose titles say by
    what.
    """
    named: dict[str, dict[str, dict[tuple[int, int, int], Run]]] = {}
    decisive, notes = {}, []
    for run in runs:
        if run.result is None:
            continue
        kind, name, repeated = kind_of(run.config)
        fields = {field: value for field, value in decisive_values(run.config).items() if field not in (*repeated, 'name', 'seed')}
        fields['classes'] = ', '.join(map(str, run.result['class_names']))
        if kind == 'seeds':  # each draw and each fold has data of its own
            fields['data sha256'] = run.result['content_sha256'][:12]
        key = json.dumps([kind, fields])
        decisive[key] = fields
        draw = (run.config.seed, run.config.data.split_seed, run.config.data.fold)
        other = named.setdefault(name, {}).setdefault(key, {}).setdefault(draw, run)
        if other is not run:
            notes.append(f'{run.folder}: the same run as {other.folder}, counted once')
    groups = []
    for name, by_key in named.items():
        kinds = {json.loads(key)[0] for key in by_key}
        # What differs from draw to draw is no field of draws, and one of seeds.
        values: dict[str, set[str]] = {}
        for key in by_key:
            for field, value in decisive[key].items():
                values.setdefault(field, set()).add(str(value))
        for key, by_draw in by_key.items():
            kind = json.loads(key)[0]
            differing = [f'{field}={value}' for field, value in decisive[key].items() if len(values[field]) > 1]
            told = ', '.join([*[kind] * (len(kinds) > 1), *differing])
            title = f'{name} ({told})' if told else name
            units = [[by_draw[draw]] for draw in sorted(by_draw)] if kind != 'folds' else whole_sets(by_draw, title, notes)
            if units:
                groups.append(Group(title, name, kind, units))
    return groups, notes


def whole_sets(by_draw: dict[tuple[int, int, int], Run], title: str, notes: list[str]) -> list[list[Run]]:
    """The runs of each seed that has all folds, in the folds' order; `notes` gets a line for each that has not."""
    units = []
    for seed in sorted({draw[:2] for draw in by_draw}):
        runs = [by_draw[draw] for draw in sorted(by_draw) if draw[:2] == seed]
        folds = runs[0].config.data.folds
        if len(runs) == folds:
            units.append(runs)
        else:
            notes.append(f'{title}, seed {seed[0]}: {len(runs)} of {folds} folds are finished; left out until all are')
    return units


def pool(evaluations: Sequence[Evaluation]) -> Evaluation:
    """The evaluation of all images of several, such as of the folds; one is returned as it is."""
    if len(evaluations) == 1:
        return evaluations[0]
    summaries = [each.summary for each in evaluations]
    confusion = np.sum([summary['confusion_matrix'] for summary in summaries], axis=0)
    figures = summarise_confusion(confusion, list(summaries[0]['per_class']))
    parts = [each.predictions for each in evaluations]
    predictions = None if None in parts else Predictions(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
    figures['subsets'] = pool_subsets([summary.get('subsets', {}) for summary in summaries])
    figures['nll'] = sum(summary['nll'] * summary['count'] for summary in summaries) / figures['count']
    figures['calibration_error'] = calibration_error(predictions.confidence, predictions.correct) if predictions else None
    figures['coverage'] = coverage_summary(predictions.confidence, predictions.correct) if predictions else []
    return Evaluation(summaries[0] | figures, predictions, evaluations[0].folder)


def pool_subsets(subsets: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The parts that all of several scorings have, over the images of all."""
    names = [name for name in subsets[0] if all(name in each for each in subsets)]
    counts = {name: [sum(each[name][figure] for each in subsets) for figure in ('count', 'correct')] for name in names}
    return {name: {'count': count, 'correct': correct, 'accuracy': correct / count} for name, (count, correct) in counts.items()}
