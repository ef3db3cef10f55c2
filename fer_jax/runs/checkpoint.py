"""Checkpoints: the latest few and the best one, saved asynchronously, restored onto any mesh. The one file that calls Orbax."""

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import re
import shutil
import time
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import Mesh

from fer_jax.core.errors import InputError, NotSaved, out_of_memory
from fer_jax.core.memory import RESERVE, host_room
from fer_jax.core.mesh import whole
from fer_jax.core.processes import agreed, is_lead
from fer_jax.runs.state import TrainState, tree_bytes

KEPT_BEST = 2  # a best checkpoint that is damaged leaves the one that was best before


class Checkpoints:
    """The checkpoints of one run, in `folder`/latest and `folder`/best.

    A step's folder appears by a rename when it is complete. Beside the state lies what `sealed` makes of `record`: JSON that says
    what run this is and how far its log and its best score had come, and the checksums of all.
    """

    def __init__(self, folder: pathlib.Path, keep: int, read_only: bool = False):
        """Args: read_only: what a run that saves there has under way is left alone, not cleared away as what a kill left."""

        def manager(name: str, keep: int) -> ocp.CheckpointManager:
            options = ocp.CheckpointManagerOptions(max_to_keep=keep, cleanup_tmp_directories=not read_only, read_only=read_only)
            return ocp.CheckpointManager((folder / name).absolute(), options=options)

        self.folder = folder
        # One manager that preserves LatestN and BestN was tried, with Orbax 0.12.8. It ranks by a file `metrics` of each step, without a
        # checksum: one file that is empty, and the manager cannot be made (JSONDecodeError), so that nothing can be put aside; one with
        # another digit, or gone, and the next save deletes the best step. A best state that is saved late, after newer ones, counts as
        # the latest and has one of those deleted. (`best_fn` with `max_to_keep` drops the latest step itself.)
        self.managers = {'latest': manager('latest', keep), 'best': manager('best', KEPT_BEST)}
        self.under_way: dict[str, int] = {}

    def steps(self, kind: str) -> list[int]:
        """The steps that 'latest' or 'best' holds, ascending."""
        return sorted(self.managers[kind].all_steps())

    def save(self, kind: str, state: TrainState, record: dict[str, Any]) -> None:
        """Starts to save; training may go on and donate `state`, whose values are copied first.

        Raises:
          NotSaved: this save, or the one before it, failed.
        """
        self.wait()
        # As NumPy's arrays: of JAX's Orbax would cut a part for each device to write, a call each, which takes longer than the writing.
        held = jax.tree.map(np.array, jax.device_get(state))
        items = ocp.args.Composite(state=ocp.args.StandardSave(held), record=ocp.args.JsonSave(sealed(held, record)))
        self.under_way[kind] = int(state.step)
        try:
            self.managers[kind].save(int(state.step), args=items)
        except Exception as error:  # Orbax and what it stands on raise errors of many kinds
            self.fail(kind, error)

    def wait(self) -> None:
        """Returns when all saves are complete.

        Raises:
          NotSaved: one of them failed.
        """
        for kind, manager in self.managers.items():
            try:
                manager.wait_until_finished()
            except Exception as error:
                self.fail(kind, error)
            self.under_way.pop(kind, None)

    def fail(self, kind: str, error: Exception) -> None:
        """Clears away what the failed save has left, which may be all that fills the disk.

        Raises:
          NotSaved: always, unless it is
          JaxRuntimeError: of several processes another is gone, and nothing can be said of the disk.
        """
        if another_is_gone(error):
            raise error
        step = self.under_way.pop(kind, None)
        if is_lead():
            clear_away(self.folder / kind)
        standing = [other for other in self.steps(kind) if other != step]
        stands = f'that of step {standing[-1]} stands' if standing else 'there is none before it'
        raise NotSaved(f'{self.folder / kind}: the checkpoint of step {step} could not be saved ({reason(error)}); {stands}') from None

    def restore(self, kind: str, step: int, abstract: TrainState, mesh: Mesh) -> tuple[TrainState, dict[str, Any]]:
        """The state at `step`, whole on every device of `mesh`, and its record; shapes and types are `abstract`'s.

        Raises:
          InputError: it is not what was saved.
          JaxRuntimeError: of several processes another is gone; or, as MemoryError, the memory ran out.
        """
        target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole(mesh)), abstract)
        items = ocp.args.Composite(state=ocp.args.StandardRestore(target), record=ocp.args.JsonRestore())
        path = self.folder / kind / str(step)
        try:
            restored = self.managers[kind].restore(step, args=items)
        except Exception as error:  # of many kinds; whatever else they say, these files are not what was saved
            if another_is_gone(error) or starved(error, abstract):
                raise
            raise InputError(f'{path}: damaged ({reason(error)})') from None
        return restored.state, unsealed(restored.record, parts(restored.state), path)

    def restore_newest(self, abstract: TrainState, mesh: Mesh) -> tuple[TrainState, dict[str, Any], list[str]]:
        """As `restore`, of the newest checkpoint of either kind that is what was saved; and what was found of newer ones.

        Those are put aside, into `folder`/aside.

        Raises:
          InputError: none is.
        """
        held = [(step, kind) for kind in ('best', 'latest') for step in self.steps(kind)]
        damaged: dict[tuple[str, int], str] = {}
        for step, kind in sorted(held, reverse=True):  # of one step the latest is tried first
            try:
                # Together: where one process alone cannot read it, none may go on with it.
                state, record = agreed(lambda kind=kind, step=step: self.restore(kind, step, abstract, mesh))
            except InputError as error:
                damaged[kind, step] = str(error)
                continue
            for bad in damaged:
                self.put_aside(*bad)
            return state, record, list(damaged.values())
        raise InputError(f'{self.folder}: no checkpoint is what was saved ({"; ".join(damaged.values())}); train anew in another --workdir')

    def put_aside(self, kind: str, step: int) -> None:
        """Moves a checkpoint into `folder`/aside, where nothing reads it and somebody may look at it."""

        def move() -> None:
            aside = self.folder / 'aside'
            aside.mkdir(exist_ok=True)
            number = sum(1 for _ in aside.glob(f'{kind}-{step}-*'))
            os.rename(self.folder / kind / str(step), aside / f'{kind}-{step}-{number}')

        agreed(lambda: move() if is_lead() else None)
        self.managers[kind].reload()

    def find(self, which: str) -> tuple[str, int]:
        """(kind, step) of 'best', 'latest' or a step's number.

        Raises:
          InputError: there is none such; the message lists those there are.
        """
        held = {kind: self.steps(kind) for kind in self.managers}
        if held.get(which):
            return which, held[which][-1]
        for kind, steps in held.items():
            if which.isdecimal() and int(which) in steps:
                return kind, int(which)
        there = [f'{kind} {step}' for kind, steps in held.items() for step in steps]
        raise InputError(f'{self.folder}: no checkpoint {which!r}; there are {", ".join(there) or "none"}')

    def close(self) -> None:
        """Waits for saves and lets go of the folders.

        Raises:
          NotSaved: one of them failed.
        """
        try:
            self.wait()
        finally:
            for manager in self.managers.values():
                with contextlib.suppress(Exception):  # Orbax raises once more what `wait` has told
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
    except Exception as error:  # as in `restore`
        raise InputError(f'{path}: damaged ({reason(error)})') from None
    part = 'average' if tree.get('average') else 'variables'
    return max(steps), tree[part], unsealed(record, {part: checksum(tree[part])}, path)


def another_is_gone(error: Exception) -> bool:
    """Whether it was another process that ended what the processes did together, of which files can tell nothing."""
    return jax.process_count() > 1 and isinstance(error, jax.errors.JaxRuntimeError) and not out_of_memory(error)


def starved(error: Exception, state: TrainState) -> bool:
    """Whether an allocation failed because there is no memory for such a state, rather than of what damaged files asked for."""
    return out_of_memory(error) and host_room().left < 2 * tree_bytes(state) + RESERVE


def clear_away(folder: pathlib.Path, seconds: float = 2.0) -> None:
    """Deletes what saves that failed have left in `folder`: again and again, while threads of theirs still write there."""
    deadline = time.monotonic() + seconds
    while (left := list(folder.glob('*.orbax-checkpoint-tmp*'))) and time.monotonic() < deadline:
        for path in left:
            shutil.rmtree(path, ignore_errors=True)
        time.sleep(0.05)


def checksum(tree: Any) -> str:
    """The sha256 of all arrays of `tree`, in its order: their types, shapes and bytes."""
    total = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        array = np.asarray(leaf)
        total.update(f'{array.dtype} {array.shape} '.encode())
        total.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
    return total.hexdigest()


def parts(state: TrainState) -> dict[str, str]:
    """The checksum of each field of a state."""
    return {field.name: checksum(getattr(state, field.name)) for field in dataclasses.fields(state)}


def sealed(state: TrainState, record: dict[str, Any]) -> dict[str, Any]:
    """`record` with checksums of itself and of each part of `state`."""
    return {'run': record, 'sha256': parts(state) | {'run': json_checksum(record)}}


def unsealed(saved: Any, found: dict[str, str], path: pathlib.Path) -> dict[str, Any]:
    """The record out of `sealed`, when the checksums that were `found` of parts of the state, and its own, are those saved.

    Raises:
      InputError: they are not, and the checkpoint at `path` is damaged.
    """
    try:
        record, sums = saved['run'], saved['sha256']
        wrong = [name for name, sum in (found | {'run': json_checksum(record)}).items() if sums[name] != sum]
    except (KeyError, TypeError, ValueError):
        raise InputError(f'{path}: damaged (its record has no checksums)') from None
    if wrong:
        raise InputError(f'{path}: damaged (the sha256 of {", ".join(wrong)} is not what was saved)')
    return record


def json_checksum(value: Any) -> str:
    """The sha256 of a value as JSON; a float is written so that reading gives the same one."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def reason(error: Exception) -> str:
    """Why, in a few words: the system's, where an error of a library holds the system's number, else the error's first words."""
    number = re.search(r"os_error_code='(\d+)'", str(error))
    if number:
        return os.strerror(int(number[1]))
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return ' '.join(str(error).split())[:200] or type(error).__name__
