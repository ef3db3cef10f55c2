"""The batches of a run: the same whether the images are resident or read ahead, however many devices and hosts there are."""

import functools
import pathlib
import signal
import threading
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

from fer_jax.core import rng
from fer_jax.core.errors import InputError
from fer_jax.core.fields import default_config
from fer_jax.core.mesh import DATA, replicate
from fer_jax.data.schema import Dataset, Faces
from fer_jax.model.fernet import make_network
from fer_jax.runs.state import create_state
from fer_jax.training import batches as module
from fer_jax.training.batches import (
    STREAMED,
    WHOLE,
    batch_rows,
    class_weights,
    order_keys,
    own_shares,
    share_positions,
    step_rows,
    stream,
    training_targets,
)
from fer_jax.training.optimizer import make_optimizer
from fer_jax.training.run import Run
from fer_jax.training.step import make_batch, make_train_chunk
from tests import reference
from tests.tiny import overrides, run
from tests.training.test_train import assert_same_run, kill_at

IMAGES, BATCH, CLASSES = 26, 8, 7  # three batches an epoch, and two images left over


def on_host():
    draws = np.random.default_rng(1)
    images = draws.integers(0, 256, (IMAGES, 48, 48), np.uint8)
    return images, draws.random((IMAGES, CLASSES), np.float32), draws.random(IMAGES, np.float32)


def mesh_of(devices):
    return jax.sharding.Mesh(np.array(jax.devices()[:devices]), (DATA,))


class batches:  # noqa: N801, a context manager
    """The stream of a seed-5 run on four devices, closed at the end."""

    def __init__(self, *arrays, mesh=None, first=0, last=9, steps_per_call=1, neighbours=False):
        calls = module.call_bounds(first, last, steps_per_call)
        self.iterator = stream(mesh or mesh_of(4), *(arrays or on_host()), calls, seed=5, batch_size=BATCH, neighbours=neighbours)

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
    assert module.call_bounds(first, last, length) == bounds


def test_calls_end_where_something_is_switched():
    assert module.call_bounds(0, 9, 4, [6, 7]) == [(0, 4), (4, 6), (6, 7), (7, 8), (8, 9)]
    assert module.call_bounds(6, 9, 4, [6]) == [(6, 8), (8, 9)]


def test_threads_read_ahead_as_cores_and_memory_allow():
    assert module.reading_threads(300_000, 16) == 8
    assert module.reading_threads(2**28, 16) == 4
    assert module.reading_threads(2**32, 16) == 2
    assert module.reading_threads(300_000, 1) == 2


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


def test_what_reading_raises_comes_out_of_the_stream():
    class Damaged:
        shape, dtype = (IMAGES, 48, 48), np.dtype(np.uint8)

        def __len__(self):
            return IMAGES

        def __getitem__(self, index):
            raise InputError('a shard is damaged')

    with batches(Damaged(), *on_host()[1:]) as found, pytest.raises(InputError, match='a shard is damaged'):
        next(found)


# --- Targets and weights

VOTES = np.array([[0.5, 0.5, 0, 0], [0, 0, 0, 1], [0.2, 0.3, 0.5, 0], [1, 0, 0, 0], [0, 0, 1, 0]], np.float32)


def test_class_weights_by_hand():
    """Of six images in three classes, 3, 2 and 1: 6 / (3 · 3), 6 / (3 · 2), 6 / (3 · 1); their mean over the set is 1."""
    labels = np.array([0, 0, 0, 1, 1, 2])
    weights = class_weights(labels, 3)
    np.testing.assert_allclose(weights, [2 / 3, 1, 2], rtol=1e-6)
    assert weights.dtype == np.float32 and weights[labels].mean() == pytest.approx(1)


@pytest.mark.parametrize('votes', [None, VOTES], ids=['labels', 'votes'])
def test_targets_are_smoothed_and_weighed(votes):
    """0.2 over four classes is 0.05 each, and a target keeps 0.8 besides; of five images two are of class 1: 5 / (4 · 2) and 5 / 4."""
    faces = Faces(np.zeros((5, 48, 48), np.uint8), np.array([1, 3, 1, 0, 2], np.int32), votes=votes)
    config = default_config()
    config.optimizer.label_smoothing, config.data.class_weights = 0.2, True
    dataset = Dataset('drawn', tuple('abcd'), {'train': faces}, {'train': 'train'}, {})
    network = make_network(config.network, 4, None)
    targets, weights = training_targets(Run(config, dataset, mesh_of(1), network, optax.identity(), lambda step: 0.1, 1, 1))
    shares = np.eye(4)[[1, 3, 1, 0, 2]] if votes is None else votes
    np.testing.assert_allclose(targets, 0.8 * shares + 0.05, rtol=1e-6)
    np.testing.assert_allclose(weights, [5 / 8, 5 / 4, 5 / 8, 5 / 4, 5 / 4], rtol=1e-6)
    assert isinstance(targets, np.ndarray) and targets.dtype == weights.dtype == np.float32
    if votes is not None:  # with a second head the labels are the first's, and the votes as they are the second's
        config.data.votes_head = 0.5
        both, _ = training_targets(Run(config, dataset, mesh_of(1), network, optax.identity(), lambda step: 0.1, 1, 1))
        np.testing.assert_allclose(both, np.hstack([0.8 * np.eye(4)[[1, 3, 1, 0, 2]] + 0.05, votes]), rtol=1e-6)


def test_the_mean_of_several_teachers(tmp_path):
    """Of 3/4 and 1/4: 1/2, by a temperature of 2 still; of twice 0.9, whose odds are 9 to 1: 3 to 1. Labels have 0.4 beside."""
    header = 'index,label,prediction,probability_a,probability_b'
    for name, first in (('one', '0.75,0.25'), ('two', '0.25,0.75')):
        (tmp_path / name).write_text('\n'.join([header, f'0,b,a,{first}', '1,a,a,0.9,0.1']))
    config = default_config()
    config.optimizer.label_smoothing, config.data.teacher_share, config.data.teacher_temperature = 0.0, 0.6, 2.0
    config.data.teacher = f'{tmp_path / "one"},{tmp_path / "two"}'
    faces = Faces(np.zeros((2, 48, 48), np.uint8), np.array([1, 0], np.int32))
    taught = mock.Mock(
        config=config, dataset=Dataset('drawn', ('a', 'b'), {'train': faces}, {'train': 'train'}, {'content_sha256': '0a'}), spec=Run
    )
    targets, _ = training_targets(taught)
    np.testing.assert_allclose(targets, [[0.3, 0.7], [0.4 + 0.6 * 0.75, 0.6 * 0.25]], rtol=1e-6)


# --- Training


@pytest.mark.slow
def test_a_streamed_batch_is_the_resident_one_bit_for_bit():
    """By mixup, so that every device's neighbouring image counts; and mirrored by where the images stand in the split."""
    options, mesh, (images, targets, weights) = default_config().augment, mesh_of(4), on_host()
    options.mixup, options.alternate = 0.4, True
    resident = replicate(mesh, {'images': images, 'targets': targets, 'weights': weights})

    def made(streamed, data, step):
        def of_device(data):
            positions = jax.lax.axis_index(DATA) * 2 + jnp.arange(2)
            data = jax.tree.map(lambda values: values[0], data) if streamed else data
            return make_batch(jnp.uint32(5), jnp.int32(step), data, positions, BATCH, options, IMAGES * streamed)

        sharded = jax.shard_map(
            of_device, mesh=mesh, in_specs=STREAMED if streamed else WHOLE, out_specs=PartitionSpec(DATA), check_vma=False
        )
        return jax.device_get(reference.jit(sharded)(data))

    with batches(first=4, last=5, neighbours=True) as found:
        streamed = made(True, next(found), 4)
    assert_same_bits(streamed, made(False, resident, 4))
    assert streamed[0].shape == (BATCH, 40, 40, 1) and streamed[0].std() > 0.1


def config_of(**augment):
    config = default_config()
    config.batch_size = BATCH
    config.network.update({'stem': 4, 'blocks': (8,), 'strides': (2,), 'shuffle_groups': 2})
    config.augment.update(augment)
    return config


@functools.cache
def start():
    """The network, the optimizer, and the first state on the host."""
    config = config_of()
    network, optimizer = make_network(config.network, CLASSES, DATA), make_optimizer(config.optimizer, lambda step: 0.05)
    return network, optimizer, jax.device_get(reference.jit(lambda: create_state(network, optimizer, 5, True))())


def trained(streamed, steps_per_call, devices=4, **augment):
    """The state and the metrics after seven steps on the host."""
    config, mesh, (images, targets, weights) = config_of(**augment), mesh_of(devices), on_host()
    network, optimizer, first_state = start()
    state = replicate(mesh, first_state)
    resident = replicate(mesh, {'images': images, 'targets': targets, 'weights': weights})
    chunks, metrics = {}, []
    with batches(mesh=mesh, last=7, steps_per_call=steps_per_call, neighbours=bool(augment)) as found:
        for first, last in module.call_bounds(0, 7, steps_per_call):
            data = next(found) if streamed else resident
            if last - first not in chunks:
                chunk = make_train_chunk(config, network, optimizer, mesh, last - first, IMAGES * streamed)
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
    [(1, 2, {}), (1, 1, {'cutmix': 1.0}), (3, 4, {'mixup': 0.4})],
    ids=str,
)
def test_streamed_training_is_resident_training_bit_for_bit(length, devices, augment):
    assert_same_bits(trained(True, length, devices, **augment), trained(False, length, devices, **augment))


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp('runs')


@pytest.mark.slow
def test_a_streamed_run_killed_in_an_epoch_is_the_resident_one(folder):
    """Seven steps an epoch, and a checkpoint in the middle of each."""
    fields = {'train__checkpoint_every_epochs': '0.5', 'epochs': '3', 'train__log_every': '1', 'augment__mixup': '0.2'}
    common = overrides(folder, **fields, evaluation__test='false')
    resident, streamed = folder / 'resident', folder / 'streamed'
    code, _, err = run('train', '--workdir', str(resident), *common, '--config.data.pipeline=resident')
    assert code == 0 and 'streamed' not in err, err
    code, err = kill_at(13, signal.SIGKILL, streamed, *common, '--config.data.pipeline=stream')
    assert code == -signal.SIGKILL and 'streamed' in err and not (streamed / 'result.json').exists()
    code, _, err = run('train', '--workdir', str(streamed), *common, '--config.data.pipeline=stream')
    assert code == 0 and 'streamed' in err and 'resuming at step' in err, err
    assert_same_run(resident, streamed)
