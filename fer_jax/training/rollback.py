"""A run to its end; after a divergence it goes back, with a smaller learning rate, as often as its configuration allows."""

import itertools

from fer_jax.core.errors import Diverged
from fer_jax.training.loop import Loop


def run_to_end(loop: Loop) -> None:
    """Takes the steps that are left, and returns when all is saved.

    Raises:
      InputError: training data that cannot be read.
      Diverged: a loss that is not finite, or exploded, once more than train.rollbacks allows.
      Interrupted: a signal came; a checkpoint is saved.
      NotSaved: what could not be written.
    """
    went_back_to = None
    with loop.writer:
        loop.say_where()
        while loop.step < loop.run.steps:
            try:
                loop.advance()
            except Diverged as error:
                went_back_to = roll_back(loop, error, went_back_to)
        loop.saver.finish()


def roll_back(loop: Loop, error: Diverged, went_back_to: int | None) -> int:
    """Goes back to the newest checkpoint, or to the start, with a smaller learning rate; returns the step of it.

    Args:
      went_back_to: the step of the last rollback. A checkpoint that the run went back to before, without coming to a newer one,
        may hold the beginning of what went wrong: it is put aside.

    Raises:
      Diverged: `error`, when that has been done often enough.
    """
    train, before = loop.run.config.train, loop.history
    times = before.rollbacks + 1
    if times > train.rollbacks:
        raise error
    with loop.saver.may_fail(before):
        loop.checkpoints.wait()
    held = {kind: loop.checkpoints.steps(kind) for kind in ('latest', 'best')}
    newest = max(itertools.chain(*held.values()), default=None)
    if newest is not None and newest == went_back_to:
        for kind in (kind for kind, steps in held.items() if newest in steps):
            loop.checkpoints.put_aside(kind, newest)
    loop.saver.owed = None
    loop.restore(starts=before.starts, rollbacks=times)
    loop.writer.rewind(loop.step or None)
    rate = f'{train.rollback_factor**times:.3g} of the learning rate'
    loop.writer.message(f'{error}; going back to step {loop.step} with {rate} (rollback {times} of {train.rollbacks})')
    return loop.step
