"""Checkpoints: the latest few and the best one, saved asynchronously, restored onto any mesh. The one file that calls Orbax."""

import pathlib
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import Mesh

from fer_jax.errors import InputError
from fer_jax.parallel import whole
from fer_jax.state import TrainState


class Checkpoints:
    """The checkpoints of one run, in `folder`/latest and `folder`/best.

    Orbax's own `best_fn` with `max_to_keep` would drop the latest step, so the best one has a manager of its own.
    A step's folder appears by a rename when it is complete. Beside the state lies `record`: JSON that says what run
    this is and how far its log and its best score had come.
    """

    def __init__(self, folder: pathlib.Path, keep: int):
        def manager(name: str, keep: int) -> ocp.CheckpointManager:
            options = ocp.CheckpointManagerOptions(max_to_keep=keep, cleanup_tmp_directories=True)
            return ocp.CheckpointManager((folder / name).absolute(), options=options)

        self.folder = folder
        self.managers = {'latest': manager('latest', keep), 'best': manager('best', 1)}

    def steps(self, kind: str) -> list[int]:
        """The steps that 'latest' or 'best' holds, ascending."""
        return sorted(self.managers[kind].all_steps())

    def save(self, kind: str, state: TrainState, record: dict[str, Any]) -> None:
        """Starts to save; training may go on and donate `state`, whose values are copied first."""
        items = ocp.args.Composite(state=ocp.args.StandardSave(state), record=ocp.args.JsonSave(record))
        self.managers[kind].save(int(state.step), args=items)

    def wait(self) -> None:
        """Returns when all saves are complete; raises what failed in them."""
        for manager in self.managers.values():
            manager.wait_until_finished()

    def restore(self, kind: str, step: int, abstract: TrainState, mesh: Mesh) -> tuple[TrainState, dict[str, Any]]:
        """The state at `step`, whole on every device of `mesh`, and its record; shapes and types are `abstract`'s."""
        target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole(mesh)), abstract)
        items = ocp.args.Composite(state=ocp.args.StandardRestore(target), record=ocp.args.JsonRestore())
        restored = self.managers[kind].restore(step, args=items)
        return restored.state, restored.record

    def find(self, which: str) -> tuple[str, int]:
        """(kind, step) of 'best', 'latest' or a step's number.

        Raises:
          InputError: there is none such; the message lists those there are.
        """
        held = {kind: self.steps(kind) for kind in self.managers}
        if which in held and held[which]:
            return which, held[which][-1]
        for kind, steps in held.items():
            if which.isdecimal() and int(which) in steps:
                return kind, int(which)
        there = [f'{kind} {step}' for kind, steps in held.items() for step in steps]
        raise InputError(f'{self.folder}: no checkpoint {which!r}; there are {", ".join(there) or "none"}')

    def close(self) -> None:
        """Waits for saves and lets go of the folders."""
        for manager in self.managers.values():
            manager.close()


def read_best(folder: pathlib.Path) -> tuple[int, dict[str, Any], dict[str, Any]]:
    """(step, the variables that are evaluated as NumPy arrays, record) of the best checkpoint in `folder`, a run's checkpoints/.

    Shapes and types are those it was saved with. The folder is only read: a run that is training there is not disturbed.

    Raises:
      InputError: there is no best checkpoint, or it is damaged.
    """
    steps = [int(path.name) for path in folder.glob('best/*') if path.name.isdecimal()]
    if not steps:
        raise InputError(f'{folder}: no best checkpoint; there is one after the first evaluation of a run')
    path = (folder / 'best' / str(max(steps))).absolute()
    try:
        with ocp.PyTreeCheckpointer() as reader:
            saved = reader.metadata(path / 'state').item_metadata.tree
            kinds = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), saved)
            tree = reader.restore(path / 'state', restore_args=kinds)
        with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as reader:
            record = reader.restore(path / 'record')
    # Orbax and what it stands on raise errors of many kinds; whatever they say, these files are not what was saved.
    except Exception as error:
        raise InputError(f'{path}: damaged ({" ".join(str(error).split())[:200]})') from None
    return max(steps), tree.get('average') or tree['variables'], record
