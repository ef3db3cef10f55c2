"""A checkpoint of a run × a split → table, result.json, predictions, confusion matrix, by the one evaluation path."""

import contextlib
import dataclasses
import pathlib
from typing import Any

import jax

from fer_jax.core import processes
from fer_jax.core.config import check_config, from_record, load_config, set_field
from fer_jax.core.errors import InputError, unknown
from fer_jax.core.fields import MOVABLE
from fer_jax.core.files import check_fields, read_json
from fer_jax.core.mesh import replicate
from fer_jax.data.schema import SPLITS, Dataset
from fer_jax.evaluation.evaluate import make_evaluator, write_evaluation
from fer_jax.evaluation.pictures import draw_pictures, write_pictures
from fer_jax.evaluation.scores import table
from fer_jax.model.baselines import make_any
from fer_jax.model.ensemble import Ensemble
from fer_jax.runs.checkpoint import Checkpoints
from fer_jax.runs.environment import environment
from fer_jax.runs.state import TrainState, evaluated_variables
from fer_jax.runs.weights import Weights, find_weights, is_run, load_weights, nested
from fer_jax.runs.workdir import stored_config
from fer_jax.training.identity import check_content
from fer_jax.training.run import Run, build


def score(
    run: Run, state: TrainState, split: str, views: str, folder: pathlib.Path, origin: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Evaluates `state` on a canonical split, writes the files into `folder` and prints the table.

    Args:
      origin: what result.json is to say of variables that are not of `run`, in place of what it would: protocol, seed, …

    Returns:
      The summary of metrics.summarise.
    """
    dataset, faces = run.dataset, run.dataset.splits[split]
    evaluator = make_evaluator(run.logits, run.mesh, views, dataset.class_names, run.config.evaluation.batch_size)
    variables = evaluated_variables(state)
    evaluation = evaluator(variables, faces)
    step, title = int(state.step), dataset.split_titles[split]
    record = {
        'protocol': {
            'data': dataset.name,
            'trained_on': dataset.split_titles['train'],
            'train_images': len(dataset.splits['train']),
            'dedup': run.config.data.dedup,
            'chosen_on': dataset.split_titles['validation'],
            'split': title,
            'views': views,
            'weights': 'average' if state.average else 'last',
            'epoch': step / run.steps_per_epoch,
        },
        'step': step,
        'seed': run.config.seed,
        'config': run.config.to_dict(),
        'content_sha256': dataset.manifest['content_sha256'],
        'skipped': len(dataset.manifest['skipped']),
        'environment': environment(),
    }
    if origin:
        here = {key: record['protocol'][key] for key in ('data', 'split', 'views')}
        record |= origin | {'protocol': origin['protocol'] | here}
    heading = f'{dataset.name} {title}, {"one centre crop" if views == "centre" else "ten crops"}, step {step}'
    if not processes.is_lead():
        return evaluation.summary
    pictures = {}
    if run.config.evaluation.figures:
        pictures = draw_pictures(run.network, jax.device_get(variables), evaluation, faces, dataset.class_names, views, heading)
    # Before result.json, whose presence says that all are there.
    drawn = write_pictures(folder, pictures)
    write_evaluation(folder, evaluation, faces, record)
    print(table(evaluation.summary, heading))
    print(f'→ {folder}/ ({", ".join(["result.json", "predictions.csv", *drawn])})\n')
    return evaluation.summary


def evaluate_run(workdir: pathlib.Path, checkpoint: str, split: str, views: str, overrides: dict[str, str]) -> dict[str, Any]:
    """`python -m fer_jax evaluate`: scores one checkpoint of the run in `workdir`, here or where it was copied to.

    Args:
      checkpoint: best, latest, or a step.
      split: train, validation, test, or the data set's own title, such as PrivateTest.
      views: centre or ten.
      overrides: fields of MOVABLE → text, where the data now lie elsewhere.

    Raises:
      InputError: no run, checkpoint or split of that name; data that are not the run's.
    """
    config = stored_config(workdir)
    for field, text in overrides.items():
        if field not in MOVABLE:
            raise InputError(f"--config.{field}: an evaluation takes the run's own configuration; only {', '.join(MOVABLE)} may differ")
        set_field(config, field, text)
    run = build(config, training=False)
    canonical = canonical_split(run.dataset, split)
    with contextlib.closing(Checkpoints(workdir / 'checkpoints', config.train.keep_checkpoints, read_only=True)) as checkpoints:
        kind, step = checkpoints.find(checkpoint)
        state, record = checkpoints.restore(kind, step, run.abstract_state(), run.mesh)
    check_content(run.dataset.manifest, record)
    name = f'{kind if checkpoint == kind else f"step{step}"}-{run.dataset.split_titles[canonical]}-{views}'
    return score(run, state, canonical, views, workdir / 'evaluations' / name)


def evaluate_weights(
    source: str, reference: str | None, split: str, views: str, overrides: dict[str, str], out: pathlib.Path | None = None
) -> dict[str, Any]:
    """`python -m fer_jax evaluate` without a run: scores weights, known by name or by file, on a split of a data set.

    Args:
      source: as of weights.find_weights; or several with commas between, whose probabilities are averaged.
      reference: the configuration whose data are scored, `FILE[:NAME=VALUE,…]`; None takes the one in the weights.
        The networks are always those of the weights.
      split, views: as of `evaluate_run`.
      overrides: fields of the configuration → text.
      out: folder of the files; default runs/evaluations/<name>-<split>-<views>.

    Raises:
      InputError: weights, data or a split that are not there, data of other classes than the weights', or other scores in the default
        folder.
    """
    members = [named_weights(each) for each in source.split(',')]
    weights = members[0]
    config = load_config(reference, overrides) if reference else weights.config
    for field, text in {} if reference else overrides.items():
        set_field(config, field, text)
    for field, value in from_record(weights.metadata['config'], source).network.items():
        config.network[field] = value
    config.data.votes_head = 0.0  # weights have the head that was kept
    check_config(config)
    run = build(config, training=False)
    for each in members:
        each.check_classes(run.dataset)
    canonical = canonical_split(run.dataset, split)
    told = weights.metadata
    variables, name = nested(weights.variables), weights.name
    if len(members) > 1:
        run = dataclasses.replace(run, network=Ensemble(tuple(make_any(each.config.network, len(each.class_names)) for each in members)))
        own = [nested(each.variables) for each in members]
        variables = {kind: {f'members_{place}': each[kind] for place, each in enumerate(own)} for kind in variables}
        name = f'{weights.name}-and-{len(members) - 1}-more'
    state = TrainState(told['step'], told['seed'], replicate(run.mesh, variables), {}, {})
    content = [{'name': each.name, 'sha256': each.sha256, 'trained_on_content_sha256': each.metadata['content_sha256']} for each in members]
    origin = {
        'protocol': told['protocol'],
        'seed': told['seed'],
        'weights': content[0] if len(content) == 1 else content,
    }
    folder = pathlib.Path('runs') / 'evaluations' / f'{name}-{run.dataset.split_titles[canonical]}-{views}'
    if out is None:
        check_replaced(folder, run.dataset.manifest['content_sha256'], origin['weights'])
    return score(run, state, canonical, views, out or folder, origin)


def check_replaced(folder: pathlib.Path, content_sha256: str, weights: Any) -> None:
    """Returns if `folder` has no scores, or those of the same weights on the same data; InputError where it has others.

    Its name says of data no more than the split's title, and of an ensemble only the first.
    """
    path = folder / 'result.json'
    if path.exists():
        there = read_json(path)
        check_fields(there, {'content_sha256': str, 'weights': (dict, list)}, path)
        if (there['content_sha256'], there['weights']) != (content_sha256, weights):
            raise InputError(f'{folder} has the scores of other weights or data: give --out')


def named_weights(source: str) -> Weights:
    """The weights of that name or file (as of weights.find_weights); InputError where it is a run, which has a command of its own."""
    path = find_weights(source)
    if is_run(path):
        raise InputError(f'{source} is a run: evaluate it with --workdir {source}')
    return load_weights(path)


def canonical_split(dataset: Dataset, name: str) -> str:
    """train, validation or test for its name or its title in this data set, in any case."""
    known = {split.lower(): split for split in SPLITS} | {title.lower(): split for split, title in dataset.split_titles.items()}
    if name.lower() not in known:
        raise unknown('split', name, [*SPLITS, *dataset.split_titles.values()])
    return known[name.lower()]
