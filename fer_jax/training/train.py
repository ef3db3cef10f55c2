"""A training run: start or go on, the loop, and the one scoring of the test split at its end."""

import contextlib
import json
import pathlib
from collections.abc import Callable
from typing import Any

import jax
from ml_collections import ConfigDict

from fer_jax.core import processes
from fer_jax.core.errors import InputError
from fer_jax.core.files import write_atomic, write_json
from fer_jax.data.manifest import understood
from fer_jax.evaluation.figures import curves_png
from fer_jax.evaluation.neighbour import MOST_TRAIN_IMAGES, one_nearest_neighbour
from fer_jax.runs.checkpoint import Checkpoints
from fer_jax.runs.process_log import process_log
from fer_jax.runs.weights import parameters
from fer_jax.runs.workdir import check_workdir, claim_workdir, default_workdir
from fer_jax.training.history import History
from fer_jax.training.identity import check_finished
from fer_jax.training.loop import Loop
from fer_jax.training.memory import check_memory
from fer_jax.training.rollback import run_to_end
from fer_jax.training.run import Run, build
from fer_jax.training.score import score


def train(config: ConfigDict, workdir: pathlib.Path | None = None, connect: Callable[[], None] | None = None) -> dict[str, Any] | None:
    """Trains `config` in `workdir` (default: workdir.default_workdir) from the start, or from its latest checkpoint, and scores it.

    Of several processes the lead prints and writes; `workdir` is a folder that all of them share.

    Args:
      connect: makes this process one of several, such as by processes.connect.

    Returns:
      What it wrote to result.json; None when the run was finished before.

    Raises:
      InputError: bad data, more than the memory holds, or a workdir that holds something else, such as a run on other data, or in which
        another process is at work.
      Diverged: a loss that is not finite, or exploded; the checkpoints before it stand.
      NotSaved: what could not be written; what was saved before stands.
      Interrupted: after SIGTERM or SIGINT, with a checkpoint saved.
    """
    workdir = workdir or default_workdir(config)

    def is_unfinished() -> bool:
        if connect:
            connect()
        processes.agreed(lambda: check_workdir(workdir, config))
        finished = processes.as_lead_sees((workdir / 'result.json').exists())
        if finished:
            processes.agreed(lambda: check_finished(workdir, config) if processes.is_lead() else None)
        return not finished

    run, lead = build(config, is_unfinished), processes.is_lead()
    if lead:
        print(f'run: {workdir}' if run else f'{workdir}: this run is finished; its result is in {workdir / "result.json"}')
    if run is None:
        return None
    if lead:
        print('\n'.join(understood(run.dataset.manifest)))
    processes.agreed(lambda: check_memory(run))
    with contextlib.ExitStack() as stack:
        processes.agreed(lambda: stack.enter_context(claim_workdir(workdir, config)) if lead else None)
        processes.agreed(lambda: check_shared(workdir))
        stack.enter_context(process_log([workdir], jax.process_index()))
        checkpoints = stack.enter_context(contextlib.closing(Checkpoints(workdir / 'checkpoints', config.train.keep_checkpoints)))
        stopped = stack.enter_context(processes.stop_signals())
        stack.enter_context(processes.ending_together())
        loop = processes.agreed(lambda: Loop(run, workdir, checkpoints, stopped))
        run_to_end(loop)
        return finish(run, workdir, checkpoints, loop.history)


def check_shared(workdir: pathlib.Path) -> None:
    """Returns if this process sees what the lead has written.

    Raises:
      InputError: it does not.
    """
    if not (workdir / 'config.json').exists():
        raise InputError(f'--workdir {workdir} is not the folder that process 0 has made: it must be one that all processes share')


def finish(run: Run, workdir: pathlib.Path, checkpoints: Checkpoints, history: History) -> dict[str, Any]:
    """Scores the best checkpoint: validation, and once the test split, by a centre crop and by ten; writes result.json last.

    Returns:
      What result.json holds.
    """
    kind, step = checkpoints.find('best')
    state, _ = checkpoints.restore(kind, step, run.abstract_state(), run.mesh)
    result = {
        'name': run.config.name,
        'seed': run.config.seed,
        'parameters': parameters(run.config.network, len(run.dataset.class_names)),
        'steps': run.steps,
        'best_step': step,
        'training_seconds': history.seconds,
        'runs_at_once': history.runs_at_once,
        'starts': history.starts,
        'rollbacks': history.rollbacks,
        'failed_saves': history.failed_saves,
        'init_from': history.init_from,
        'skipped': len(run.dataset.manifest['skipped']),  # files and rows of the data that could not be read
    }
    chosen_by_ten = run.validation(run.steps)[1] == 'ten'
    scorings = [('validation', 'centre'), *([('validation', 'ten')] if chosen_by_ten else [])]
    scorings += [('test', 'centre'), ('test', 'ten')] if run.config.evaluation.test else []
    for split, views in scorings:
        folder = workdir / 'evaluations' / f'best-{run.dataset.split_titles[split]}-{views}'
        result[f'{split}_{views}'] = score(run, state, split, views, folder)
    if run.config.evaluation.test and len(run.dataset.splits['train']) < MOST_TRAIN_IMAGES:
        result['one_nearest_neighbour'] = one_nearest_neighbour(run.dataset.splits['train'], run.dataset.splits['test'])
    if processes.is_lead():
        lines = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
        if run.config.evaluation.figures:
            write_atomic(workdir / 'curves.png', curves_png([lines], run.config.name))
        write_json(workdir / 'result.json', result | run.record())
        print(f'finished: {workdir}/ (result.json, {"curves.png, " * run.config.evaluation.figures}checkpoints/best/{step})')
    return result
