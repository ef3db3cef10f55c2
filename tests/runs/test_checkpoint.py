"""fer_jax/runs/checkpoint.py: what was saved comes back, or is noticed not to be that; a failed save leaves what stood."""

import contextlib
import errno
import hashlib
import json
import os
import pathlib
import resource
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fer_jax.core.errors import InputError, NotSaved
from fer_jax.core.memory import Room
from fer_jax.core.mesh import make_mesh
from fer_jax.runs.checkpoint import Checkpoints, checksum, read_best, reason, sealed, unsealed
from fer_jax.runs.state import TrainState

# tensorstore's other threads, after an error of one: `__main__` keeps them quiet.
pytestmark = pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')
RECORD = {'best': {'step': 10, 'accuracy': 0.625}, 'config': {'blocks': (16, 24)}, 'pending': {}}


def state(step: int) -> TrainState:
    """A state whose numbers say which step it is of."""
    variables = {'params': {'kernel': jnp.arange(6.0).reshape(2, 3) + step}, 'batch_stats': {'mean': jnp.full(3, 0.5 * step)}}
    average = jax.tree.map(lambda leaf: leaf / 2, variables)
    return TrainState(jnp.int32(step), jnp.uint32(7), variables, {'moment': jnp.full(3, -1.0 * step)}, average)


@pytest.fixture
def checkpoints(tmp_path: pathlib.Path) -> Iterator[Checkpoints]:
    """Steps 10 and 20 as the latest, step 10 as the best."""
    with contextlib.closing(Checkpoints(tmp_path / 'checkpoints', 2)) as held:
        held.save('latest', state(10), RECORD)
        held.save('best', state(10), RECORD)
        held.save('latest', state(20), RECORD)
        held.wait()
        yield held


def newest(checkpoints: Checkpoints) -> tuple[TrainState, list[str]]:
    restored, record, damaged = checkpoints.restore_newest(jax.eval_shape(lambda: state(0)), make_mesh(4))
    assert record['best'] == RECORD['best']
    return restored, damaged


def arrays(folder: pathlib.Path) -> list[pathlib.Path]:
    """The files in which the arrays are; Orbax's merging leaves some that nothing points to."""
    return [path for path in (folder / 'state').rglob('d/*') if path.is_file()]


def test_who_only_reads_leaves_alone_what_is_under_way(checkpoints: Checkpoints) -> None:
    """What another process is saving has a name of its own until it is complete."""
    under_way = checkpoints.folder / 'latest' / '30.orbax-checkpoint-tmp'
    under_way.mkdir()
    with contextlib.closing(Checkpoints(checkpoints.folder, 2, read_only=True)) as reader:
        assert reader.find('latest') == ('latest', 20)
        restored, _ = reader.restore('latest', 20, jax.eval_shape(lambda: state(0)), make_mesh(4))
    assert int(restored.step) == 20 and under_way.exists()
    with contextlib.closing(Checkpoints(checkpoints.folder, 2)):
        assert not under_way.exists()


def test_what_was_saved_comes_back_to_the_bit(checkpoints: Checkpoints) -> None:
    restored, damaged = newest(checkpoints)
    assert not damaged and int(restored.step) == 20
    for ours, theirs in zip(jax.tree.leaves(restored), jax.tree.leaves(state(20)), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize('how', ('flipped', 'truncated', 'deleted', 'record'))
def test_a_damaged_checkpoint_is_noticed_and_the_one_before_taken(checkpoints: Checkpoints, how: str) -> None:
    folder = checkpoints.folder / 'latest' / '20'
    for victim in [folder / 'record' / 'metadata'] if how == 'record' else arrays(folder):
        content = bytearray(victim.read_bytes())
        if how == 'deleted':
            victim.unlink()
        elif how == 'record':
            assert b'0.625' in content
            victim.write_bytes(content.replace(b'0.625', b'0.875'))  # another score, in good JSON
        else:
            content[len(content) // 2] ^= 1
            victim.write_bytes(content if how == 'flipped' else content[: len(content) // 2])
    restored, (found,) = newest(checkpoints)
    assert int(restored.step) == 10
    assert found.startswith(f'{folder}: damaged (')
    assert checkpoints.steps('latest') == [10]
    assert [path.name for path in (checkpoints.folder / 'aside').iterdir()] == ['latest-20-0']
    checkpoints.save('latest', state(20), RECORD)  # which the run comes to again
    checkpoints.wait()
    assert int(newest(checkpoints)[0].step) == 20


def test_a_best_one_that_is_newer_is_taken(checkpoints: Checkpoints) -> None:
    checkpoints.save('best', state(30), RECORD)
    checkpoints.wait()
    assert int(newest(checkpoints)[0].step) == 30


def test_without_a_whole_one_nothing_is_taken_and_nothing_moved(checkpoints: Checkpoints) -> None:
    for path in ('latest/10', 'latest/20', 'best/10'):
        for victim in arrays(checkpoints.folder / path):
            victim.write_bytes(b'')
    with pytest.raises(InputError, match='no checkpoint is what was saved .*latest/20: damaged.*latest/10: damaged.*best/10: damaged'):
        newest(checkpoints)
    assert checkpoints.steps('latest') == [10, 20]


def test_the_best_is_read_alone_and_checked(checkpoints: Checkpoints) -> None:
    step, variables, record = read_best(checkpoints.folder)
    assert step == 10 and record['best'] == RECORD['best']
    np.testing.assert_array_equal(variables['params']['kernel'], (np.arange(6.0).reshape(2, 3) + 10) / 2)
    victim = checkpoints.folder / 'best' / '10' / 'record' / 'metadata'
    saved = json.loads(victim.read_text())
    saved['sha256']['average'] = 64 * '0'
    victim.write_text(json.dumps(saved))
    with pytest.raises(InputError, match=r'best/10: damaged \(the sha256 of average is not what was saved\)'):
        read_best(checkpoints.folder)


def test_the_checksum_by_hand_and_what_it_tells_apart() -> None:
    by_hand = hashlib.sha256(b'float32 (2,) ' + np.array([1, 2], np.float32).tobytes()).hexdigest()
    assert checksum({'a': np.array([1, 2], np.float32)}) == by_hand
    others = (np.array([2, 1], np.float32), np.array([1, 2], np.int32), np.array([[1, 2]], np.float32), np.array([1, -2], np.float32))
    assert by_hand not in {checksum({'a': other}) for other in others}
    assert checksum(np.float32(0.0)) != checksum(np.float32(-0.0))


def test_a_record_without_checksums_is_damaged(tmp_path: pathlib.Path) -> None:
    saved = sealed(state(1), RECORD)
    assert unsealed(json.loads(json.dumps(saved)), {}, tmp_path)['best'] == RECORD['best']
    for bad in (RECORD, [], None, {'run': {}, 'sha256': {}}, {'run': {}, 'sha256': 3}):
        with pytest.raises(InputError, match='damaged'):
            unsealed(bad, {}, tmp_path)


@contextlib.contextmanager
def small_files(size: int) -> Iterator[None]:
    """No file may become larger meanwhile: for who writes one that is much as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_failed_save_says_why_and_what_stands_and_clears_up(checkpoints: Checkpoints) -> None:
    large = state(30).replace(optimizer={'moment': np.random.default_rng(0).standard_normal(1 << 18)})
    with small_files(1 << 18), pytest.raises(NotSaved, match=r'step 30 could not be saved \(File too large\); that of step 20 stands'):
        checkpoints.save('latest', large, RECORD)
        checkpoints.wait()
    assert sorted(path.name for path in (checkpoints.folder / 'latest').iterdir()) == ['10', '20']
    checkpoints.save('latest', state(40), RECORD)
    checkpoints.wait()
    assert int(newest(checkpoints)[0].step) == 40


def test_closing_does_not_tell_of_a_failed_save_again(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> None:  # as Orbax does, when the disk was full as it wrote the record
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    checkpoints = Checkpoints(tmp_path / 'checkpoints', 2)
    for manager in checkpoints.managers.values():
        monkeypatch.setattr(manager, 'close', full)
    with pytest.raises(NotSaved, match='step 30'), contextlib.closing(checkpoints):
        raise NotSaved('the checkpoint of step 30 could not be saved')


def test_the_reason_in_the_systems_words_where_there_are_such() -> None:
    assert reason(OSError(errno.EROFS, 'Read-only file system', '/x')) == 'Read-only file system'
    assert reason(ValueError("NOT_FOUND: x [os_error_code='2']")) == 'No such file or directory'
    assert reason(ValueError('a\n  b')) == 'a b'
    assert reason(KeyError()) == 'KeyError'


def test_a_save_that_another_process_ended_is_no_fault_of_the_disk(checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found by the campaign of kills: the other process ended with 1 and blamed the disk, where 75 starts both again."""

    def finish() -> None:
        raise jax.errors.JaxRuntimeError('UNKNOWN: Gloo AllGather failed: Connection closed by peer')

    monkeypatch.setattr(checkpoints.managers['latest'], 'wait_until_finished', finish)
    with pytest.raises(NotSaved, match='Connection closed by peer'):  # alone there is nobody else whose end it could be
        checkpoints.wait()
    monkeypatch.setattr(jax, 'process_count', lambda: 2)
    with pytest.raises(jax.errors.JaxRuntimeError):
        checkpoints.wait()
    monkeypatch.undo()


def test_a_checkpoint_is_not_damaged_where_there_is_no_memory_to_read_it(checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch) -> None:
    def restore(*arguments: object, **options: object) -> None:
        raise MemoryError

    monkeypatch.setattr(checkpoints.managers['latest'], 'restore', restore)
    asked = ('latest', 20, jax.eval_shape(lambda: state(0)), make_mesh(4))
    with pytest.raises(InputError, match='latest/20: damaged'):  # there is enough, so that it was the files that asked for more
        checkpoints.restore(*asked)
    monkeypatch.setattr('fer_jax.runs.checkpoint.host_room', lambda: Room(10**9, 10**8, 'this machine has 1.0 GB'))
    with pytest.raises(MemoryError):
        checkpoints.restore(*asked)
    monkeypatch.undo()


def test_nor_is_a_restore_that_it_ended_one_of_the_checkpoint(checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch) -> None:
    def restore(*arguments: object, **options: object) -> None:
        raise jax.errors.JaxRuntimeError('UNKNOWN: Gloo AllGather failed: Connection closed by peer')

    monkeypatch.setattr(checkpoints.managers['latest'], 'restore', restore)
    asked = ('latest', 20, jax.eval_shape(lambda: state(0)), make_mesh(4))
    with pytest.raises(InputError, match='latest/20: damaged'):
        checkpoints.restore(*asked)
    monkeypatch.setattr(jax, 'process_count', lambda: 2)
    with pytest.raises(jax.errors.JaxRuntimeError):
        checkpoints.restore(*asked)
    monkeypatch.undo()
