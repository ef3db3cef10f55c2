"""The training step: its batches, its sharing over devices, several steps a call, and every part of the update by hand."""

import functools
import math
import re
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from fer_jax.core import rng
from fer_jax.core.fields import default_config
from fer_jax.core.mesh import DATA, REPLICA, replicate
from fer_jax.data.views import normalise
from fer_jax.model import convolution, fernet
from fer_jax.model.batch_norm import identity
from fer_jax.model.fernet import make_network
from fer_jax.runs.state import create_state, evaluated_variables
from fer_jax.training.augment import augment_batch
from fer_jax.training.batches import batch_rows
from fer_jax.training.optimizer import make_optimizer
from fer_jax.training.step import average, cross_entropy, make_batch, make_train_chunk, mixing_mask, uphill
from tests import reference

IMAGES, BATCH, CLASSES = 26, 8, 7
RATE, DECAY = 0.05, 0.01


def config_of(**fields):
    config = default_config()
    config.batch_size = BATCH
    config.network.update({'stem': 4, 'blocks': (8,), 'strides': (2,), 'shuffle_groups': 2})
    config.optimizer.update({'name': 'sgd', 'weight_decay': DECAY, 'clip': None, 'ema': 0.0, 'momentum': 0.9})
    for field, value in fields.items():
        group, name = field.split('__')
        config[group][name] = value
    return config


@functools.cache
def data_on_host():
    draws = np.random.default_rng(0)
    return {
        'images': draws.integers(0, 256, (IMAGES, 48, 48)).astype(np.uint8),
        'targets': optax.smooth_labels(np.eye(CLASSES, dtype=np.float32)[draws.integers(0, CLASSES, IMAGES)], 0.1),
        'weights': draws.uniform(0.5, 2.0, IMAGES).astype(np.float32),
    }


def on_host(state):
    """A copy in NumPy's memory, which no later step can overwrite, as JAX arrays again."""
    return jax.tree.map(lambda leaf: jnp.array(np.array(leaf)), state)


def mesh_of(devices):
    return jax.make_mesh((devices,), (DATA,), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices])


def start(fields=()):
    """The configuration, network, optimizer and first state, the latter on the host: the same, however images are augmented."""
    return config_of(**dict(fields)), *_start(tuple(field for field in fields if not field[0].startswith('augment')))


@functools.cache
def _start(fields):
    config = config_of(**dict(fields))
    axis = DATA if config.network.batch_norm == 'global' else None
    network = make_network(config.network, CLASSES, axis)
    optimizer = make_optimizer(config.optimizer, lambda step: RATE)
    state = reference.jit(lambda: create_state(network, optimizer, 3, config.optimizer.ema > 0))()
    return network, optimizer, on_host(state)


@functools.cache
def compiled(devices, length, fields):
    """The mesh, the state and data placed on it, and the compiled call."""
    config, network, optimizer, state = start(fields)
    mesh = mesh_of(devices)
    state, data = replicate(mesh, state), replicate(mesh, data_on_host())
    lowered = make_train_chunk(config, network, optimizer, mesh, length).lower(state, data)
    return mesh, data, lowered.compile(compiler_options=reference.FAST_TO_COMPILE)


def steps(devices, calls, length, **fields):
    """The state on the host and each step's metrics after `calls` calls of `length` steps on `devices` devices."""
    fields = tuple(fields.items())
    mesh, data, chunk = compiled(devices, length, fields)
    state, metrics = replicate(mesh, start(fields)[3]), []
    for _ in range(calls):
        state, found = chunk(state, data)
        metrics.append(jax.device_get(found))
    return on_host(state), {name: np.concatenate([each[name] for each in metrics]) for name in metrics[0]}


train = functools.cache(steps)


def assert_close(a, b, rtol=2e-4, atol=2e-5):
    for (path, left), right in zip(jax.tree.leaves_with_path(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(left, right, rtol=rtol, atol=atol, err_msg=jax.tree_util.keystr(path))


def assert_equal(a, b):
    assert_close(a, b, rtol=0, atol=0)


def largest_difference(a, b):
    return max(np.abs(np.asarray(x, np.float64) - y).max() for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


# --- Batches


def rows_of(seed, step, images=IMAGES, batch=BATCH):
    return np.asarray(batch_rows(jnp.uint32(seed), jnp.int32(step), images, batch))


def test_each_epoch_visits_each_image_at_most_once():
    """26 images in batches of 8: three whole batches an epoch, 24 distinct rows."""
    epochs = [np.concatenate([rows_of(0, 3 * epoch + step) for step in range(3)]) for epoch in range(4)]
    for rows in epochs:
        assert len(set(rows.tolist())) == 24 and rows.min() >= 0 and rows.max() < 26
    assert len({tuple(rows) for rows in epochs}) == 4, 'each epoch has an order of its own'
    assert len({tuple(sorted(rows)) for rows in epochs}) > 1, 'the two that are left out are not always the same'


def test_a_batch_is_a_pure_function_of_seed_and_step():
    np.testing.assert_array_equal(rows_of(5, 7), rows_of(5, 7))
    assert (rows_of(5, 7) != rows_of(6, 7)).any() and (rows_of(5, 7) != rows_of(5, 8)).any()
    whole = rng.permuted(rng.key(5, 'order', 2), jnp.arange(IMAGES), IMAGES)
    np.testing.assert_array_equal(rows_of(5, 7), whole[8:16])  # step 7 is epoch 2's second batch


def test_an_epoch_of_one_batch_takes_every_image():
    assert sorted(rows_of(0, 4, images=8, batch=8)) == list(range(8))
    assert rows_of(0, 3, images=1, batch=1).tolist() == [0]


@functools.cache
def batches_of(fields):
    """The compiled (seed, step, positions) → images, targets and weights."""
    config = config_of(**dict(fields))
    data = jax.tree.map(jnp.asarray, data_on_host())
    return reference.jit(lambda seed, step, positions: make_batch(seed, step, data, positions, BATCH, config.augment))


def batch_of(positions, **fields):
    made = batches_of(tuple(fields.items()))(jnp.uint32(3), jnp.int32(4), jnp.asarray(positions))
    return [np.asarray(part) for part in made]


def test_a_batch_by_hand():
    """Images, targets and weights belong together; positions on another device are a part of the same batch."""
    plain = dict(crop=False, flip=False, rotate=0.0, scale=0.0, brightness=0.0, contrast=0.0)
    images, targets, weights = batch_of(range(BATCH), **{f'augment__{name}': value for name, value in plain.items()})
    rows, host = rows_of(3, 4), data_on_host()
    np.testing.assert_allclose(images[..., 0], (host['images'][rows][:, 4:44, 4:44] - 127.5) / 63.75, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(targets, host['targets'][rows])
    np.testing.assert_array_equal(weights, host['weights'][rows])


def test_labels_are_drawn_by_the_targets():
    """Over 600 steps of 8 images with the same target the drawn labels have its shares, and each is one whole class."""
    config = config_of(augment__crop=False, augment__flip=False, augment__rotate=0.0, augment__scale=0.0)
    share = np.array([0.5, 0.3, 0.2], np.float32)
    data = {'images': np.zeros((8, 48, 48), np.uint8), 'targets': np.tile(share, (8, 1)), 'weights': np.ones(8, np.float32)}
    data = jax.tree.map(jnp.asarray, data)

    def labels(step):
        return make_batch(jnp.uint32(0), step, data, jnp.arange(8), 8, config.augment, drawn=True)[1]

    drawn = np.asarray(reference.jit(jax.vmap(labels))(jnp.arange(600))).reshape(-1, 3)
    assert set(np.unique(drawn)) == {0.0, 1.0} and (drawn.sum(1) == 1).all()
    np.testing.assert_allclose(drawn.mean(0), share, atol=4 * 0.5 / np.sqrt(4800))


def test_alternating_flips():
    """Of two epochs each image that is in both is as it is in one and mirrored in the other; about half of them in either."""
    plain = dict(crop=False, rotate=0.0, scale=0.0, brightness=0.0, contrast=0.0, alternate=True)
    options = config_of(**{f'augment__{name}': value for name, value in plain.items()}).augment
    data, positions = jax.tree.map(jnp.asarray, data_on_host()), jnp.arange(BATCH)
    batch = reference.jit(lambda step: make_batch(jnp.uint32(3), step, data, positions, BATCH, options)[0])
    crops = (data_on_host()['images'][:, 4:44, 4:44].astype(np.float32) - 127.5) / 63.75
    seen = {}
    for step in range(6):  # three an epoch
        for row, view in zip(rows_of(3, step), np.asarray(batch(jnp.int32(step)))[..., 0], strict=True):
            same, mirrored = (np.allclose(view, each, atol=1e-5) for each in (crops[row], crops[row][:, ::-1]))
            assert same != mirrored
            seen.setdefault(row, []).append(mirrored)
    both = [turns for turns in seen.values() if len(turns) == 2]
    assert len(both) >= 22 and all(turns[0] != turns[1] for turns in both)
    assert 5 < sum(turns[0] for turns in both) < len(both) - 5


@pytest.mark.parametrize('mixing', [{}, {'augment__mixup': 0.8}, {'augment__cutmix': 0.8}], ids=str)
def test_shares_make_up_the_batch(mixing):
    """Also mixed, where the neighbour at the end of a share lies on another device, and at the end of the batch at its start."""
    whole = batch_of(range(BATCH), **mixing)
    shares = [batch_of(range(i, i + 4), **mixing) for i in (0, 4)]
    for index, part in enumerate(whole):
        np.testing.assert_allclose(np.concatenate([share[index] for share in shares]), part, rtol=1e-5, atol=1e-5)


def test_mixup_by_hand():
    """λ · this + (1 - λ) · the next, images and targets by one λ in (0, 1); each image's weight goes with its own target."""
    images, targets, weights = batch_of(range(BATCH))
    mixed, mixed_targets, mixed_weights = batch_of(range(BATCH), augment__mixup=0.8)
    targets = targets * weights[:, None]
    np.testing.assert_array_equal(mixed_weights, 1)
    after, after_targets = np.roll(images, -1, 0), np.roll(targets, -1, 0)
    shares = []
    for i in range(BATCH):
        step = (images[i] - after[i]).ravel()
        share = float((mixed[i] - after[i]).ravel() @ step / (step @ step))
        shares.append(share)
        np.testing.assert_allclose(mixed[i], share * images[i] + (1 - share) * after[i], atol=1e-4)
        np.testing.assert_allclose(mixed_targets[i], share * targets[i] + (1 - share) * after_targets[i], atol=1e-4)
    assert all(-1e-4 <= share <= 1 + 1e-4 for share in shares) and np.ptp(shares) > 0.1


def test_cutmix_by_hand():
    """Each pixel is this image's or the next one's, the latter's form a rectangle, and the targets are mixed by its share of the area."""
    images, targets, weights = batch_of(range(BATCH))
    mixed, mixed_targets, _ = batch_of(range(BATCH), augment__cutmix=1.0)
    targets = targets * weights[:, None]
    after, after_targets = np.roll(images, -1, 0), np.roll(targets, -1, 0)
    shares = []
    for i in range(BATCH):
        differ = np.abs(images[i, ..., 0] - after[i, ..., 0]) > 1e-3
        other = (np.abs(mixed[i, ..., 0] - after[i, ..., 0]) < 1e-5) & differ
        np.testing.assert_allclose(mixed[i], np.where(other[..., None], after[i], images[i]), atol=1e-3)
        rows, columns = (np.flatnonzero(other.any(axis)) for axis in (1, 0))
        box = np.zeros_like(other)
        if len(rows):
            box[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
        np.testing.assert_array_equal(other, box & differ)
        shares.append(1 - box.mean())
        # Where the two images agree on an edge of the rectangle it cannot be seen: a row or two of 40.
        np.testing.assert_allclose(mixed_targets[i], shares[-1] * targets[i] + (1 - shares[-1]) * after_targets[i], atol=0.06)
    assert min(shares) < 0.7 and np.ptp(shares) > 0.2


def test_cutmix_areas_follow_their_beta():
    """With α = 1 and no edge in the way the kept share is uniform; the edge only adds to it: the mean is above 1/2, below 0.75."""
    options = config_of(augment__cutmix=1.0).augment
    masks = reference.jit(jax.vmap(lambda key: mixing_mask(key, options)))(jax.random.split(jax.random.key(0), 2000))
    kept = np.asarray(masks).mean((1, 2))
    assert 0.5 < kept.mean() < 0.75 and kept.min() < 0.05 and kept.max() > 0.99
    # In the middle of the image a pixel is taken most often: the chance falls towards the corner.
    assert masks.mean(0)[20, 20] < masks.mean(0)[20, 0] < masks.mean(0)[0, 0]


# --- The step


def test_the_loss_of_two_heads_by_hand():
    """Even logits of two classes cost ln 2 whatever the target; logits ln 3 and 0 are 3/4 and 1/4."""
    logits = jnp.log(jnp.array([[1.0, 1.0, 3.0, 1.0]]))
    targets = jnp.array([[0.3, 0.7, 1.0, 0.0]])
    expected = np.log(2) + 0.5 * np.log(4 / 3)
    assert float(cross_entropy(logits, targets, 0.5)[0]) == pytest.approx(expected, rel=1e-6)
    assert float(cross_entropy(logits[:, 2:], targets[:, 2:])[0]) == pytest.approx(np.log(4 / 3), rel=1e-6)


def test_uphill_by_hand():
    """The gradient (3, 4) has norm 5: a distance of 0.5 is 0.1 of it."""
    moved = uphill({'a': jnp.array([1.0]), 'b': jnp.array([2.0])}, {'a': jnp.array([3.0]), 'b': jnp.array([4.0])}, 0.5)
    np.testing.assert_allclose([moved['a'][0], moved['b'][0]], [1.3, 2.4], rtol=1e-6)


@functools.cache
def gradient_by_hand():
    """The compiled (variables, step) → loss, statistics and accuracy of the plain network, and the loss's gradient."""
    config, _, _, _ = start()
    network = make_network(config.network, CLASSES)
    data = jax.tree.map(jnp.asarray, data_on_host())

    @reference.jit
    def gradient(variables, step):
        rows = batch_rows(jnp.uint32(3), step, IMAGES, BATCH)
        images = augment_batch(data['images'][rows], rng.key(3, 'augment', step), jnp.arange(BATCH), config.augment)

        def loss(params):
            logits, updated = network.apply(variables | {'params': params}, normalise(images), train=True, mutable=['batch_stats'])
            each = -(data['targets'][rows] * jax.nn.log_softmax(logits)).sum(-1)
            right = (logits.argmax(-1) == data['targets'][rows].argmax(-1)).mean()
            return (data['weights'][rows] * each).mean(), (updated['batch_stats'], right)

        return jax.value_and_grad(loss, has_aux=True)(variables['params'])

    return gradient


def by_hand(state, batches, sam=0.0):
    """Losses, gradient norms and parameters of a few steps on one device: the plain network, NumPy for the update.

    With `sam` the gradient of the update is that at the parameters so far uphill; loss and statistics are those before.
    """
    gradient = gradient_by_hand()
    variables, losses, norms, rights = jax.device_get(state.variables), [], [], []
    momentum = jax.tree.map(np.zeros_like, variables['params'])
    for step in range(batches):
        (loss, (statistics, right)), gradients = jax.device_get(gradient(variables, jnp.int32(step)))
        losses.append(loss)
        rights.append(right)
        if sam:
            norm = np.sqrt(sum((leaf.astype(np.float64) ** 2).sum() for leaf in jax.tree.leaves(gradients)))
            above = jax.tree.map(lambda p, g, norm=norm: (p + sam * g / norm).astype(np.float32), variables['params'], gradients)
            gradients = jax.device_get(gradient(variables | {'params': above}, jnp.int32(step)))[1]
        norms.append(np.sqrt(sum((leaf.astype(np.float64) ** 2).sum() for leaf in jax.tree.leaves(gradients))))
        gradients = jax.tree.map_with_path(lambda path, g, p: g + DECAY * p * (path[-1].key == 'kernel'), gradients, variables['params'])
        momentum = jax.tree.map(lambda m, g: 0.9 * m + g, momentum, gradients)
        params = jax.tree.map(lambda p, g, m: p - RATE * (g + 0.9 * m), variables['params'], gradients, momentum)
        variables = {'params': params, 'batch_stats': statistics}
    return variables, {'loss': losses, 'gradient_norm': norms, 'accuracy': rights}


def test_three_steps_by_hand():
    """Loss = Σ weight · cross entropy / batch; Nesterov's update in NumPy; batch statistics as the plain network's."""
    variables, metrics = by_hand(start()[3], 3)
    state, found = train(1, 3, 1)
    for name in ('loss', 'gradient_norm', 'accuracy'):
        np.testing.assert_allclose(found[name], metrics[name], rtol=1e-4, err_msg=name)
    assert_close(state.variables, variables)
    assert state.step == 3 and state.step.dtype == np.int32 and state.seed == 3 and state.average == {}


@pytest.mark.parametrize('devices', [1, pytest.param(4, marks=pytest.mark.slow)])
def test_sharpness_aware_steps_by_hand(devices):
    """On four devices too the way uphill is that of the whole batch's gradient."""
    variables, metrics = by_hand(start()[3], 2, sam=0.5)
    state, found = train(devices, 2, 1, optimizer__sam=0.5)
    for name in ('loss', 'gradient_norm', 'accuracy'):
        np.testing.assert_allclose(found[name], metrics[name], rtol=1e-4, err_msg=name)
    assert_close(state.variables, variables)
    assert abs(found['loss'][1] - train(1, 3, 1)[1]['loss'][1]) > 1e-4


@pytest.mark.slow
def test_a_block_is_left_out_on_all_devices_or_on_none():
    """Its depth's draw belongs to the step, not to the device: else the losses of one and of four would differ."""
    one, one_metrics = train(1, 3, 1, network__stochastic_depth=0.5)
    _, metrics = train(4, 3, 1, network__stochastic_depth=0.5)
    np.testing.assert_allclose(metrics['loss'], one_metrics['loss'], rtol=1e-4)
    assert np.abs(one_metrics['loss'] - train(1, 3, 1)[1]['loss']).max() > 1e-3


@pytest.mark.parametrize('devices', [2, pytest.param(4, marks=pytest.mark.slow)])
def test_any_number_of_devices_takes_the_same_steps(devices):
    one, one_metrics = train(1, 3, 1)
    several, metrics = train(devices, 3, 1)
    for name in one_metrics:
        np.testing.assert_allclose(metrics[name], one_metrics[name], rtol=1e-4, err_msg=name)
    assert_close(several.variables, one.variables)
    assert_close(several.optimizer, one.optimizer)


def test_many_steps_in_one_call_are_the_same_steps():
    calls, metrics = train(2, 3, 1)
    scanned, scanned_metrics = train(2, 1, 3)
    for name in metrics:
        assert scanned_metrics[name].shape == (3,)
        np.testing.assert_allclose(scanned_metrics[name], metrics[name], rtol=1e-4, err_msg=name)
    assert_close(scanned.variables, calls.variables)
    assert scanned.step == calls.step == 3


def test_the_same_steps_again_are_bitwise_the_same():
    one, metrics = steps(2, 3, 1)
    again, same = train(2, 3, 1)
    assert_equal((one, metrics), (again, same))


@pytest.mark.slow
def test_batch_norm_over_each_device():
    """Loss and running statistics of the first step are the means of what the plain network has on the two shares."""
    two, metrics = train(2, 3, 1, network__batch_norm='device')
    assert np.isfinite(metrics['loss']).all() and abs(metrics['loss'][0] - train(2, 3, 1)[1]['loss'][0]) > 1e-5
    config, network, _, state = start((('network__batch_norm', 'device'),))
    images, targets, weights = (np.asarray(x) for x in first_batch(config))
    losses, means = [], []
    for share in (slice(0, 4), slice(4, 8)):
        apply = reference.jit(lambda v, x: network.apply(v, x, train=True, mutable=['batch_stats']))
        logits, updated = apply(state.variables, images[share])
        losses.append(float(-(weights[share, None] * targets[share] * jax.nn.log_softmax(logits)).sum() / 4))
        means.append(np.asarray(updated['batch_stats']['stem_bn']['mean']))
    assert metrics['loss'][0] == pytest.approx(np.mean(losses), rel=1e-4)
    first, _ = train(2, 1, 1, network__batch_norm='device')
    np.testing.assert_allclose(first.variables['batch_stats']['stem_bn']['mean'], np.mean(means, 0), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(('kind', 'expected'), [('device', 1), ('global', 1 + 2 * (1 + 10))])
def test_messages_between_devices_in_the_compiled_step(kind, expected):
    """With statistics of each device one sum is left, of gradients, metrics and statistics together; the global kind asks
    for two more for each of the stem's and the block's ten batch norms, unless the compiler puts some of them together."""
    chunk = compiled(2, 1, (('network__batch_norm', kind),))[2]
    found = len(re.findall(r' all-reduce(-start)?\(', chunk.as_text()))
    assert found == expected if kind == 'device' else 1 < found <= expected


class PlainBatchNorm(nn.Module):
    """flax's own, with the arguments of ours."""

    train: bool
    momentum: float
    dtype: Any
    statistics_axis: str | None
    activation: Any = identity
    scale_init: Any = nn.initializers.ones

    def setup(self):
        self.norm = nn.BatchNorm(not self.train, momentum=self.momentum, dtype=self.dtype, scale_init=self.scale_init)
        nn.share_scope(self, self.norm)

    def __call__(self, x):
        return self.activation(self.norm(x))


@pytest.mark.slow
def test_the_forms_chosen_for_speed_change_no_loss(monkeypatch):
    """Four steps' losses against the same steps with XLA's plain convolutions and flax's batch norm."""
    _, metrics = train(1, 4, 1)

    def plain(images, kernel, stride=1, groups=1):
        padding = ((kernel.shape[0] // 2,) * 2,) * 2
        return jax.lax.conv_general_dilated(
            images, kernel, (stride, stride), padding, dimension_numbers=('NHWC', 'HWIO', 'NHWC'), feature_group_count=groups
        )

    monkeypatch.setattr(convolution, 'convolve', plain)
    monkeypatch.setattr(convolution, 'convolve_depthwise', lambda x, kernel, stride: plain(x, kernel, stride, x.shape[-1]))
    monkeypatch.setattr(fernet, 'BatchNorm', PlainBatchNorm)
    config, network, optimizer, state = start()
    mesh = mesh_of(1)
    chunk = make_train_chunk(config, network, optimizer, mesh, 1)
    state, data, losses = replicate(mesh, state), replicate(mesh, data_on_host()), []
    for _ in range(4):
        state, found = chunk(state, data)
        losses.append(float(found['loss'][0]))
    np.testing.assert_allclose(metrics['loss'], losses, rtol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize(('shape', 'vectorised'), [((2, 1), None), ((1, 1), True), ((1, 2), False)])
def test_replicas_are_the_runs_of_their_seeds(shape, vectorised):
    """Two seeds, each on a device of its own, or both on one, or one after the other on two: the losses of the single runs."""
    config, network, optimizer, _ = start()
    mesh = jax.make_mesh(shape, (REPLICA, DATA), axis_types=(AxisType.Auto,) * 2, devices=jax.devices()[: math.prod(shape)])
    data = replicate(mesh, data_on_host())
    seeds = jnp.array([3, 4], jnp.uint32)
    states = reference.jit(jax.vmap(lambda seed: create_state(network, optimizer, seed, False)))(seeds)
    chunk = make_train_chunk(config, network, optimizer, mesh, 1, vectorised=vectorised)
    states = jax.device_put(states, NamedSharding(mesh, PartitionSpec(REPLICA)))
    compiled_chunk = chunk.lower(states, data).compile(compiler_options=reference.FAST_TO_COMPILE)
    assert shape[1] > 1 or ' all-reduce' not in compiled_chunk.as_text()
    losses = []
    for _ in range(3):
        states, metrics = compiled_chunk(states, data)
        losses.append(np.asarray(metrics['loss'])[:, 0])
    np.testing.assert_allclose(np.stack(losses)[:, 0], train(1, 4, 1)[1]['loss'][:3], rtol=1e-4)
    assert abs(losses[0][0] - losses[0][1]) > 1e-3 and int(states.step[1]) == 3
    assert_close(jax.tree.map(lambda leaf: leaf[0], on_host(states)).variables, train(1, 3, 1)[0].variables)


def first_batch(config):
    data = jax.tree.map(jnp.asarray, data_on_host())
    return reference.jit(lambda: make_batch(jnp.uint32(3), jnp.int32(0), data, jnp.arange(BATCH), BATCH, config.augment))()


@pytest.mark.slow
def test_mixup_erasing_and_clipping_train_on_any_number_of_devices():
    fields = dict(augment__mixup=0.4, augment__erase=0.5, optimizer__clip=0.1, optimizer__ema=0.9)
    one, metrics = train(1, 2, 1, **fields)
    four, four_metrics = train(4, 2, 1, **fields)
    np.testing.assert_allclose(four_metrics['loss'], metrics['loss'], rtol=1e-4)
    assert_close(four.average, one.average)
    plain, plain_metrics = train(1, 3, 1)
    assert abs(plain_metrics['loss'][0] - metrics['loss'][0]) > 1e-4


@pytest.mark.slow
def test_the_gradient_norm_is_logged_before_clipping():
    _, metrics = train(1, 2, 1, augment__mixup=0.4, augment__erase=0.5, optimizer__clip=0.1, optimizer__ema=0.9)
    assert (metrics['gradient_norm'] > 0.1).all()


def test_the_moving_average_by_hand():
    """Decay min(0.99, (1 + n) / (10 + n)): 0.1, 2/11 and 3/12 at first, and 0.99 in the long run."""
    averaged = {'x': jnp.array(1.0)}
    for step, value, expected in ((0, 3.0, 0.1 + 0.9 * 3.0), (1, 5.0, 2 / 11 * 2.8 + 9 / 11 * 5.0), (10_000, 0.0, None)):
        before = float(averaged['x'])
        averaged = average(averaged, {'x': jnp.array(value)}, jnp.int32(step), 0.99)
        assert float(averaged['x']) == pytest.approx(0.99 * before if expected is None else expected, rel=1e-6)
    assert average({}, {'x': jnp.array(1.0)}, jnp.int32(0), 0.99) == {}


def test_the_plain_mean_of_the_last_steps_by_hand():
    """From step 2 on of 3, 5 and 10: 3, 4 and 6. Before it the moving average, which without a decay is the value itself."""
    averaged, found = {'x': jnp.array(1.0)}, []
    for step, value in enumerate((7.0, 9.0, 3.0, 5.0, 10.0)):
        averaged = average(averaged, {'x': jnp.array(value)}, jnp.int32(step), 0.0, mean_from=2)
        found.append(float(averaged['x']))
    assert found == pytest.approx([7.0, 9.0, 3.0, 4.0, 6.0], rel=1e-6)
    moving = average({'x': jnp.array(1.0)}, {'x': jnp.array(3.0)}, jnp.int32(0), 0.99, mean_from=2)
    assert float(moving['x']) == pytest.approx(0.1 + 0.9 * 3.0, rel=1e-6)


@pytest.mark.slow
def test_the_state_holds_the_average_that_is_evaluated():
    fields = dict(augment__mixup=0.4, augment__erase=0.5, optimizer__clip=0.1, optimizer__ema=0.9)
    initial = start(tuple(fields.items()))[3]
    assert_equal(initial.average, initial.variables)
    one, _ = train(1, 1, 1, **fields)
    expected = jax.tree.map(lambda old, new: 0.1 * old + 0.9 * new, initial.variables, one.variables)
    assert_close(one.average, expected, rtol=1e-5, atol=1e-6)
    assert evaluated_variables(one) is one.average and evaluated_variables(train(1, 3, 1)[0]) is train(1, 3, 1)[0].variables


def test_the_state_passed_in_is_donated():
    mesh, data, chunk = compiled(1, 1, ())
    placed = replicate(mesh, start()[3])
    chunk(placed, data)
    assert placed.step.is_deleted() and placed.variables['params']['head']['kernel'].is_deleted()
    assert not data['images'].is_deleted()


def test_the_first_state_is_a_function_of_the_seed():
    _, network, optimizer, state = start()
    create = reference.jit(lambda seed: create_state(network, optimizer, seed, False))
    again, other = (create(jnp.uint32(seed)) for seed in (3, 2**32 - 1))
    assert_equal(again, state)
    assert largest_difference(again.variables, other.variables) > 0.01
    assert int(other.seed) == 2**32 - 1 and other.seed.dtype == np.uint32 and state.step == 0


@pytest.mark.slow
def test_bfloat16_keeps_the_state_in_float32():
    state, metrics = train(2, 2, 1, network__dtype='bfloat16')
    floats = {leaf.dtype for leaf in jax.tree.leaves((state.variables, state.optimizer)) if leaf.dtype.kind != 'i'}
    assert floats == {np.dtype('float32')} and metrics['loss'].dtype == np.float32
    np.testing.assert_allclose(metrics['loss'], train(2, 3, 1)[1]['loss'][:2], rtol=0.03)
