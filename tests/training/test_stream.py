"""fer_jax/data/shards.py and training/stream.py: the batches that a resident set gives, read from shards that are checked."""

import functools
import os
import pathlib
import shutil
import signal
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from fer_jax.core import rng
from fer_jax.core.errors import InputError
from fer_jax.core.fields import default_config
from fer_jax.core.mesh import DATA, replicate
from fer_jax.data.load import load, pipeline
from fer_jax.data.prepare import prepare, prepared_folder
from fer_jax.data.shards import INDEX, ShardImages
from fer_jax.evaluation.neighbour import one_nearest_neighbour
from fer_jax.model.fernet import make_network
from fer_jax.runs.state import create_state
from fer_jax.training import stream as streaming
from fer_jax.training.optimizer import make_optimizer
from fer_jax.training.step import STREAMED, WHOLE, batch_rows, from_resident, from_stream, make_batch, make_train_chunk
from fer_jax.training.stream import order_keys, own_shares, share_positions, step_rows, stream
from tests import reference
from tests.tiny import overrides, run
from tests.training.test_train import assert_same_run, kill_at

pytestmark = pytest.mark.filterwarnings('ignore::fer_jax.core.errors.DataWarning')  # small sets are never the official ones
IMAGES, BATCH, CLASSES = 26, 8, 7  # three batches an epoch, and two images left over


# --- Shards


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
    """The folder and configuration of a prepared set: 26, 7 and 7 random faces."""
    folder = tmp_path_factory.mktemp('stream')
    draws, lines = np.random.default_rng(0), ['emotion,pixels,Usage']
    for usage, count in (('Training', IMAGES), ('PublicTest', 7), ('PrivateTest', 7)):
        faces = draws.integers(0, 256, (count, 2304))
        lines += [f'{number % CLASSES},{" ".join(map(str, face))},{usage}' for number, face in enumerate(faces)]
    (folder / 'fer.csv').write_text('\n'.join(lines) + '\n')
    data = default_config().data
    data.dataset, data.path, data.prepared = 'fer2013', str(folder / 'fer.csv'), str(folder / 'prepared')
    prepare(data)
    return folder, data


@pytest.fixture
def data(prepared, tmp_path):
    """A copy of it that a test may spoil, to be streamed."""
    folder, data = prepared
    shutil.copytree(folder / 'prepared', tmp_path / 'prepared')
    data = data.copy_and_resolve_references()
    data.prepared, data.pipeline = str(tmp_path / 'prepared'), 'stream'
    return data


def shard_of(data):
    (path,) = prepared_folder(data, prepare(data)).glob('*-train.array_record*')
    return path


def spoil(path, keep_time=False):
    """Turns over some bytes in the middle of a file."""
    state, content = path.stat(), bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 64] = bytes(255 - value for value in content[middle : middle + 64])
    path.write_bytes(content)
    if keep_time:
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def test_streamed_images_are_read_as_an_array_would_give_them(prepared, data):
    whole, streamed = (load(each).splits['train'] for each in (prepared[1], data))
    assert whole.in_memory and not streamed.in_memory
    for field in ('labels', 'rows'):
        expected = getattr(whole, field)
        np.testing.assert_array_equal(getattr(streamed, field), expected)
        assert getattr(streamed, field).dtype == expected.dtype
    assert streamed.subjects is None and streamed.images.shape == (IMAGES, 48, 48) and len(streamed) == IMAGES
    places = np.array([[3, 25], [3, 0], [7, 11]])
    for index in (slice(None), slice(5, 9), 4, -1, np.array([9, 2, 9]), places, whole.labels == 2):
        found = streamed.images[index]
        np.testing.assert_array_equal(found, whole.images[index])
        assert found.dtype == np.uint8 and found.shape == whole.images[index].shape


def test_only_the_training_images_stay_in_their_shards(data):
    splits = load(data).splits
    assert [splits[split].in_memory for split in ('train', 'validation', 'test')] == [False, True, True]


def test_the_nearest_neighbour_may_lie_in_shards(prepared, data):
    whole, streamed = (load(each).splits for each in (prepared[1], data))
    assert one_nearest_neighbour(streamed['train'], streamed['test']) == one_nearest_neighbour(whole['train'], whole['test'])


def never(*arguments):
    raise AssertionError('the records are read once more')


def test_what_was_read_and_checked_is_kept_beside_the_shards(data, monkeypatch):
    first = load(data)
    monkeypatch.setattr(ShardImages, 'columns', never)
    second = load(data)
    np.testing.assert_array_equal(first.splits['train'].labels, second.splits['train'].labels)
    np.testing.assert_array_equal(first.splits['train'].rows, second.splits['train'].rows)


@pytest.mark.parametrize('change', ['shard touched', 'shard longer', 'index damaged', 'index of another set'])
def test_the_index_is_refused_when_it_may_not_be_of_these_shards(data, monkeypatch, change):
    load(data)
    shard = shard_of(data)
    index = shard.parent / INDEX.format(split='train')
    if change == 'shard touched':
        os.utime(shard)
    elif change == 'shard longer':
        state = shard.stat()
        shard.write_bytes(shard.read_bytes() + bytes(65536))
        os.utime(shard, ns=(state.st_atime_ns, state.st_mtime_ns))
    elif change == 'index damaged':
        spoil(index)
    else:
        with np.load(index) as stored:
            np.savez(index, **{name: values if name == 'shards' else values[1:] for name, values in stored.items()})
    monkeypatch.setattr(ShardImages, 'columns', never)
    with pytest.raises((AssertionError, InputError)):
        load(data)


def test_a_folder_that_cannot_be_written_is_read_all_the_same(data, monkeypatch):
    def refuse(*arguments):
        raise OSError(30, 'Read-only file system')

    monkeypatch.setattr('fer_jax.data.shards.write_atomic', refuse)
    assert len(load(data).splits['train']) == IMAGES


def assert_told_in_one_line(found):
    assert '\n' not in str(found.value) and 'damaged' in str(found.value)
    assert str(found.value).endswith('delete the folder and prepare again')


def test_a_damaged_shard_is_told_before_training(data):
    spoil(shard_of(data))
    with pytest.raises(InputError) as found:
        load(data)
    assert_told_in_one_line(found)


def test_a_damaged_shard_is_told_while_training(data):
    """The bytes changed behind the file system's back, after the shards were checked."""
    load(data)
    spoil(shard_of(data), keep_time=True)
    images = load(data).splits['train'].images
    targets, weights = np.zeros((IMAGES, CLASSES), np.float32), np.ones(IMAGES, np.float32)
    with batches(images, targets, weights, last=3) as found, pytest.raises(InputError) as told:
        list(found)
    assert_told_in_one_line(told)


def test_shards_of_other_images_are_not_taken_for_these(prepared, data, tmp_path):
    other = data.copy_and_resolve_references()
    lines = pathlib.Path(data.path).read_text().splitlines()
    lines[1], lines[8] = lines[8], lines[1]  # two faces of one class change places
    (tmp_path / 'other.csv').write_text('\n'.join(lines) + '\n')
    other.path = str(tmp_path / 'other.csv')
    load(data)
    shutil.copyfile(shard_of(other), shard_of(data))
    with pytest.raises(InputError, match=r'its records are not those of its manifest\.json'):
        load(data)


# --- The choice


def test_auto_chooses_by_the_size_of_the_images_and_the_devices_memory():
    """1,000 images of 2,304 bytes are a quarter of 9,216,000."""
    assert pipeline('auto', 1000, 9_216_000) == 'resident'
    assert pipeline('auto', 1000, 9_215_999) == 'stream'
    assert pipeline('auto', 28_709, 16 * 2**30) == 'resident' and pipeline('auto', 2_000_000, 16 * 2**30) == 'stream'
    assert pipeline('auto', 10**9, None) == 'resident'
    for chosen in ('resident', 'stream'):
        assert pipeline(chosen, 1000, None) == pipeline(chosen, 1000, 1) == pipeline(chosen, 1000, 2**60) == chosen


def test_a_run_is_given_its_pipeline_by_the_manifest_and_the_device(data):
    data.pipeline = 'auto'
    assert load(data).splits['train'].in_memory
    assert load(data, 4 * IMAGES * 2304).splits['train'].in_memory
    assert not load(data, 4 * IMAGES * 2304 - 1).splits['train'].in_memory


def test_the_memory_of_a_cpu_device_is_its_part_of_the_hosts():
    total = int(next(line for line in pathlib.Path('/proc/meminfo').read_text().splitlines() if line.startswith('MemTotal')).split()[1])
    assert streaming.device_memory() == pytest.approx(total * 1024 / 4, rel=1e-3)


def test_processes_choose_by_the_smallest_device_of_all(monkeypatch):
    monkeypatch.setattr(streaming.jax, 'process_count', lambda: 3)
    monkeypatch.setattr(streaming.multihost_utils, 'process_allgather', lambda own: np.array([own, 2.0**30, 2.0**50], np.float32))
    assert streaming.device_memory() == 2**30


def test_dedup_compares_images_that_a_stream_does_not_hold(data):
    data.dedup = 'exact'
    with pytest.raises(InputError, match=r'set data\.pipeline=resident'):
        load(data)


# --- Batches


def on_host():
    draws = np.random.default_rng(1)
    images = draws.integers(0, 256, (IMAGES, 48, 48), np.uint8)
    return images, draws.random((IMAGES, CLASSES), np.float32), draws.random(IMAGES, np.float32)


def mesh_of(devices):
    return jax.sharding.Mesh(np.array(jax.devices()[:devices]), (DATA,))


class batches:  # noqa: N801, a context manager
    """The stream of a seed-5 run on four devices, closed at the end."""

    def __init__(self, *arrays, mesh=None, first=0, last=9, steps_per_call=1, neighbours=False):
        options = {'seed': 5, 'batch_size': BATCH, 'first': first, 'last': last, 'steps_per_call': steps_per_call}
        self.iterator = stream(mesh or mesh_of(4), *(arrays or on_host()), **options, neighbours=neighbours)

    def __enter__(self):
        return self.iterator

    def __exit__(self, *error):
        self.iterator.close()


@functools.cache
def all_rows():
    return np.asarray(reference.jit(jax.vmap(lambda step: batch_rows(jnp.uint32(5), step, IMAGES, BATCH)))(jnp.arange(9)))


def rows_of(step):
    return all_rows()[step]


@pytest.mark.parametrize('hosts', [[[0, 1, 2, 3]], [[0, 1], [2, 3]], [[0, 3], [1, 2]], [[0], [1], [2], [3]]], ids=str)
def test_the_batches_are_the_same_however_many_hosts_read_them(hosts):
    """Each host reads for the shares of a batch that its devices hold: together the batch that the step picks, and for mixing each
    share's next image, the first one's after the last."""
    keys = order_keys(5, 3)
    for step in range(9):
        expected, parts, mixed = rows_of(step), {}, {}
        for shares in hosts:
            rows = step_rows(keys, step, share_positions(shares, 2, BATCH, False), IMAGES, BATCH)
            parts |= dict(zip(shares, rows.reshape(-1, 2).tolist(), strict=True))
            rows = step_rows(keys, step, share_positions(shares, 2, BATCH, True), IMAGES, BATCH)
            mixed |= dict(zip(shares, rows.reshape(-1, 3).tolist(), strict=True))
        assert sum((parts[share] for share in range(4)), []) == expected.tolist()
        round_about = [*expected.tolist(), int(expected[0])]
        assert [mixed[share] for share in range(4)] == [round_about[2 * share : 2 * share + 3] for share in range(4)]


@pytest.mark.parametrize('n', [1, 2, 5, 257, 28_709])
def test_the_order_is_the_same_in_numpy(n):
    key = rng.key(3, 'order', 2)
    positions = np.arange(0, n, max(1, n // 300))
    found = rng.permuted_on_host(np.asarray(rng.round_keys(key)), positions, n)
    np.testing.assert_array_equal(found, rng.permuted(key, jnp.asarray(positions), n))


@pytest.mark.parametrize('devices', [1, 2, 4])
def test_what_is_read_lies_in_shares_on_the_devices(devices):
    images, targets, weights = on_host()
    with batches(mesh=mesh_of(devices), last=7, steps_per_call=3) as found:
        calls = list(found)
    assert [call['images'].shape for call in calls] == [(3, 8, 48, 48), (3, 8, 48, 48), (1, 8, 48, 48)]
    for first, call in zip((0, 3, 6), calls, strict=True):
        rows = np.stack([rows_of(step) for step in range(first, first + len(call['weights']))])
        for name, values in (('images', images), ('targets', targets), ('weights', weights)):
            np.testing.assert_array_equal(call[name], values[rows])
        for number, part in enumerate(call['images'].addressable_shards):
            share = BATCH // devices
            assert part.device == jax.devices()[number]
            np.testing.assert_array_equal(part.data, images[rows[:, number * share : (number + 1) * share]])


def test_own_shares():
    assert own_shares(mesh_of(4)) == [0, 1, 2, 3]
    assert own_shares(mesh_of(2)) == [0, 1]


def test_a_stream_begins_anywhere():
    """At step 4, in the middle of the second epoch and of a call of three steps."""
    with batches(steps_per_call=3) as whole, batches(first=4, steps_per_call=3) as rest:
        steps = np.concatenate([call['images'] for call in whole])
        calls = [np.asarray(call['images']) for call in rest]
    assert [len(call) for call in calls] == [2, 3]
    np.testing.assert_array_equal(np.concatenate(calls), steps[4:])


def test_a_stream_at_its_end_is_empty():
    with batches(first=9, last=9) as found:
        assert list(found) == []


@pytest.mark.parametrize(
    ('first', 'last', 'length', 'bounds'),
    [
        (0, 7, 3, [(0, 3), (3, 6), (6, 7)]),
        (4, 7, 3, [(4, 6), (6, 7)]),
        (6, 9, 3, [(6, 9)]),
        (0, 2, 1, [(0, 1), (1, 2)]),
        (0, 1, 50, [(0, 1)]),
    ],
)
def test_calls_end_at_multiples_of_their_length(first, last, length, bounds):
    assert streaming.call_bounds(first, last, length) == bounds


def test_calls_end_where_the_views_change_size():
    assert streaming.call_bounds(0, 9, 4, 6) == [(0, 4), (4, 6), (6, 8), (8, 9)]
    assert streaming.call_bounds(6, 9, 4, 6) == [(6, 8), (8, 9)]


def test_threads_read_ahead_as_cores_and_memory_allow(monkeypatch):
    monkeypatch.setattr(streaming.os, 'cpu_count', lambda: 16)
    assert streaming.reading_threads(300_000) == 8
    assert streaming.reading_threads(2**28) == 4
    assert streaming.reading_threads(2**32) == 2
    monkeypatch.setattr(streaming.os, 'cpu_count', lambda: 1)
    assert streaming.reading_threads(300_000) == 2


def test_a_closed_stream_reads_no_more():
    class Counted:
        shape, dtype, asked = (IMAGES, 48, 48), np.dtype(np.uint8), 0

        def __len__(self):
            return IMAGES

        def __getitem__(self, index):
            self.asked += 1
            return np.zeros((*index.shape, 48, 48), np.uint8)

    images = Counted()
    with batches(images, *on_host()[1:], last=10_000) as found:
        next(found)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith('grain-thread-prefetch')]
    assert images.asked < 30, 'no more than is read ahead'


# --- Training


def test_a_streamed_batch_is_the_resident_one_bit_for_bit():
    """By mixup, so that every device's neighbouring image counts."""
    options, mesh, (images, targets, weights) = default_config().augment, mesh_of(4), on_host()
    options.mixup = 0.4
    resident = replicate(mesh, {'images': images, 'targets': targets, 'weights': weights})

    def made(source, spec, data, step):
        def of_device(data):
            positions = jax.lax.axis_index(DATA) * 2 + jnp.arange(2)
            data = jax.tree.map(lambda values: values[0], data) if source is from_stream else data
            return make_batch(jnp.uint32(5), jnp.int32(step), data, positions, BATCH, options, source)

        sharded = jax.shard_map(of_device, mesh=mesh, in_specs=spec, out_specs=PartitionSpec(DATA), check_vma=False)
        return jax.device_get(reference.jit(sharded)(data))

    with batches(first=4, last=5, neighbours=True) as found:
        streamed = made(from_stream, STREAMED, next(found), 4)
    assert_same_bits(streamed, made(from_resident, WHOLE, resident, 4))
    assert streamed[0].shape == (BATCH, 40, 40, 1) and streamed[0].std() > 0.1


def trained(streamed, steps_per_call, devices=4, **augment):
    """The state and the metrics after seven steps on the host."""
    config = default_config()
    config.batch_size = BATCH
    config.network.update({'stem': 4, 'blocks': (8,), 'strides': (2,), 'shuffle_groups': 2})
    config.augment.update(augment)
    mesh, (images, targets, weights) = mesh_of(devices), on_host()
    network, optimizer = make_network(config.network, CLASSES, DATA), make_optimizer(config.optimizer, lambda step: 0.05)
    state = replicate(mesh, reference.jit(lambda: create_state(network, optimizer, 5, True))())
    resident = replicate(mesh, {'images': images, 'targets': targets, 'weights': weights})
    chunks, metrics = {}, []
    with batches(mesh=mesh, last=7, steps_per_call=steps_per_call, neighbours=bool(augment)) as found:
        for first, last in streaming.call_bounds(0, 7, steps_per_call):
            data = next(found) if streamed else resident
            if last - first not in chunks:
                chunk = make_train_chunk(config, network, optimizer, mesh, last - first, streamed)
                chunks[last - first] = chunk.lower(state, data).compile(compiler_options=reference.FAST_TO_COMPILE)
            state, found_metrics = chunks[last - first](state, data)
            metrics.append(jax.device_get(found_metrics))
    return jax.device_get(state), {name: np.concatenate([each[name] for each in metrics]) for name in metrics[0]}


def assert_same_bits(left, right):
    for (path, a), b in zip(jax.tree.leaves_with_path(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_array_equal(a, b, err_msg=jax.tree_util.keystr(path))


@pytest.mark.slow
@pytest.mark.parametrize(
    ('length', 'devices', 'augment'),
    [(1, 2, {}), (1, 4, {'mixup': 0.4}), (1, 1, {'cutmix': 1.0}), (3, 4, {}), (3, 4, {'mixup': 0.4})],
    ids=str,
)
def test_streamed_training_is_resident_training_bit_for_bit(length, devices, augment):
    assert_same_bits(trained(True, length, devices, **augment), trained(False, length, devices, **augment))


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp('runs')


@pytest.mark.slow
@pytest.mark.parametrize('fields', [{'augment__mixup': '0.2'}, {'train__steps_per_call': '4', 'augment__cutmix': '1'}], ids=str)
def test_a_streamed_run_is_the_resident_one_also_when_killed_in_an_epoch(folder, fields):
    """Eight steps an epoch, and a checkpoint in the middle of each."""
    name = '-'.join(fields)
    common = overrides(folder, **{'train__checkpoint_every_epochs': '0.5', 'epochs': '3', 'train__log_every': '1'}, **fields)
    resident, streamed, killed = (folder / f'{kind}-{name}' for kind in ('resident', 'streamed', 'killed'))
    for workdir, chosen in ((resident, 'resident'), (streamed, 'stream')):
        code, _, err = run('train', '--workdir', str(workdir), *common, f'--config.data.pipeline={chosen}')
        assert code == 0 and ('streamed' in err) == (chosen == 'stream'), err
    assert_same_run(resident, streamed)
    code, _ = kill_at(13, signal.SIGKILL, killed, *common, '--config.data.pipeline=stream')
    assert code == -signal.SIGKILL and not (killed / 'result.json').exists()
    code, _, err = run('train', '--workdir', str(killed), *common, '--config.data.pipeline=stream')
    assert code == 0 and 'resuming at step' in err, err
    assert_same_run(resident, killed)
