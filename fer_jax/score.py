"""A checkpoint of a run × a split → table, result.json, predictions, confusion matrix, by the one evaluation path."""

import contextlib
import pathlib
from typing import Any

from fer_jax.checkpoint import Checkpoints
from fer_jax.config import set_field
from fer_jax.data.schema import SPLITS, Dataset
from fer_jax.errors import InputError, unknown
from fer_jax.evaluate import make_evaluator, write_evaluation
from fer_jax.metrics import table
from fer_jax.run import MOVABLE, Run, build, check_content, stored_config
from fer_jax.state import TrainState, evaluated_variables
from fer_jax.writers import environment


def score(run: Run, state: TrainState, split: str, views: str, folder: pathlib.Path) -> dict[str, Any]:
    """Evaluates `state` on a canonical split, writes the files into `folder` and prints the table.

    Returns:
      The summary of metrics.summarise.
    """
    dataset, faces = run.dataset, run.dataset.splits[split]
    evaluator = make_evaluator(run.logits, run.mesh, views, dataset.class_names, run.config.evaluation.batch_size)
    evaluation = evaluator(evaluated_variables(state), faces)
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
        'environment': environment(),
    }
    heading = f'{dataset.name} {title}, {"one centre crop" if views == "centre" else "ten crops"}, step {step}'
    write_evaluation(folder, evaluation, faces, record, heading)
    print(table(evaluation.summary, heading))
    print(f'→ {folder}/ (result.json, predictions.csv, confusion_matrix.png)\n')
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
    run = build(config)
    canonical = canonical_split(run.dataset, split)
    with contextlib.closing(Checkpoints(workdir / 'checkpoints', config.train.keep_checkpoints)) as checkpoints:
        kind, step = checkpoints.find(checkpoint)
        state, record = checkpoints.restore(kind, step, run.abstract_state(), run.mesh)
    check_content(run.dataset, record)
    name = f'{kind if checkpoint == kind else f"step{step}"}-{run.dataset.split_titles[canonical]}-{views}'
    return score(run, state, canonical, views, workdir / 'evaluations' / name)


def canonical_split(dataset: Dataset, name: str) -> str:
    """train, validation or test for its name or its title in this data set, in any case."""
    known = {split.lower(): split for split in SPLITS} | {title.lower(): split for split, title in dataset.split_titles.items()}
    if name.lower() not in known:
        raise unknown('split', name, [*SPLITS, *dataset.split_titles.values()])
    return known[name.lower()]
