"""Several runs that differ in their seed only, in one program; each keeps a folder, a log and checkpoints of its own."""

import contextlib
import dataclasses
import functools
import pathlib
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from fer_jax.core import processes
from fer_jax.core.errors import Diverged, InputError, Interrupted
from fer_jax.core.mesh import REPLICA, check_program, make_replica_mesh, settle, whole
from fer_jax.runs.checkpoint import Checkpoints
from fer_jax.runs.process_log import process_log
from fer_jax.runs.state import TrainState
from fer_jax.runs.workdir import check_workdir, claim_workdir
from fer_jax.training.batches import call_bounds, training_data
from fer_jax.training.loop import Loop, make_evaluators
from fer_jax.training.memory import CURE, check_memory
from fer_jax.training.run import build
from fer_jax.training.step import make_train_chunk, steps_per_call
from fer_jax.training.tracing import tracing
from fer_jax.training.train import finish


def train_together(configs: Sequence[ConfigDict], workdirs: Sequence[pathlib.Path]) -> list[Diverged | InputError | None]:
    """Trains runs that differ in their seed only, each in its workdir, from where they stand, and scores each as train.train does.

    Those that stand at the same step take their steps in one compiled call. A process that was killed between the saves of two
    of them has left them at different steps: the ones behind then come to their end first.

    Returns:
      For each run None, or why it has no result: the loss of one, or a folder that cannot be gone on from, is no concern of the others.

    Raises:
      InputError: as of train.train; or the training images are not resident.
      Interrupted: after SIGTERM or SIGINT, with a checkpoint of each run saved.
    """
    if configs[0].train.rollbacks:
        raise InputError('train.rollbacks changes the learning rate of one run, which has none of its own in --together: leave one out')
    run = build(configs[0])
    if not run.dataset.splits['train'].in_memory:
        raise InputError('several runs in one program share resident data: set data.pipeline=resident, or leave --together out')
    check_memory(run, len(configs))
    with contextlib.ExitStack() as stack:
        stopped = stack.enter_context(processes.stop_signals())
        ended: dict[int, Diverged | InputError] = {}
        for place, (config, workdir) in enumerate(zip(configs, workdirs, strict=True)):
            try:
                check_workdir(workdir, config)
                stack.enter_context(claim_workdir(workdir, config))
            except InputError as error:
                ended[place] = error
        stack.enter_context(process_log([workdir for place, workdir in enumerate(workdirs) if place not in ended], jax.process_index()))
        loops, evaluators = {}, make_evaluators(run)
        for place in (place for place in range(len(configs)) if place not in ended):
            config, workdir = configs[place], workdirs[place]
            checkpoints = stack.enter_context(contextlib.closing(Checkpoints(workdir / 'checkpoints', config.train.keep_checkpoints)))
            try:
                loop = Loop(dataclasses.replace(run, config=config), workdir, checkpoints, stopped, evaluators, shown=not loops)
            except InputError as error:
                ended[place] = error
                continue
            stack.enter_context(loop.writer)
            loops[place] = loop
        for loop in loops.values():
            loop.history.runs_at_once = len(loops)
        for step in sorted({loop.step for loop in loops.values()}):
            # One that diverged just there is not to go on with those that only come there.
            ended |= advance({place: loop for place, loop in loops.items() if loop.step == step and place not in ended})
        for place in (place for place in loops if place not in ended):
            loop = loops[place]
            loop.saver.finish()
            finish(loop.run, loop.workdir, loop.checkpoints, loop.history)
        return [ended.get(place) for place in range(len(configs))]


def advance(loops: dict[int, Loop]) -> dict[int, Diverged]:
    """Takes all steps that are left of runs that stand at one step, and returns those that diverged on the way.

    Raises:
      Interrupted: after SIGTERM or SIGINT, with a checkpoint of each run saved.
    """
    lead, ended = next(iter(loops.values())), {}
    run, length = lead.run, steps_per_call(lead.run.config)
    mesh = make_replica_mesh(run.config.batch_size, len(loops))
    spread, states = NamedSharding(mesh, PartitionSpec(REPLICA)), (jax.device_get(loop.state) for loop in loops.values())
    held = jax.tree.map(lambda *leaves: jax.device_put(np.stack(leaves), spread), *states)
    data = jax.device_put(training_data(run), whole(mesh))
    split = jax.jit(lambda metrics: [{name: values[row] for name, values in metrics.items()} for row in range(len(loops))])
    pick = jax.jit(lambda states, row: jax.tree.map(lambda leaf: leaf[row], states), out_shardings=whole(mesh))

    def read_state(row: int) -> TrainState:
        return jax.device_put(pick(held, row), whole(run.mesh))

    lead.say_where()
    lead.writer.message(f'{len(loops)} seeds in one program: images/s, losses and accuracies shown are those of seed {run.config.seed}')
    compiled = None
    with tracing(run.config.train.profile, lead.workdir / 'profile') as trace, jax.transfer_guard('disallow'):
        for first, last in call_bounds(lead.step, run.steps, length, run.boundaries):
            if compiled != last - first or first in run.boundaries:
                compiled = last - first
                with lead.aside():
                    which = {'side': run.side(first), 'mean_from': run.mean_from}
                    chunk = make_train_chunk(run.config_at(first), run.network, run.optimizer, mesh, compiled, **which)
                    chunk = chunk.lower(held, data).compile()
                    check_program(chunk, f'a step of {len(loops)} seeds', CURE)
            trace(first, last - first, held)
            held, metrics = chunk(held, data)
            each = split(metrics)
            settle(each)
            trace(last, 0, each)
            stop = None
            for row, ((place, loop), of_run) in enumerate(zip(loops.items(), each, strict=True)):
                try:
                    if place not in ended:
                        loop.take(of_run, last, functools.partial(read_state, row))
                except Diverged as error:
                    ended[place] = error
                except Interrupted as error:  # the others are still to be saved
                    stop = error
            if stop:
                raise stop
            if len(ended) == len(loops):
                break
    return ended
