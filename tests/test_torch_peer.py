"""The PyTorch peer that speed is measured against does the project's work: same logits, augmentations, update and losses."""

import numpy as np
import pytest

torch = pytest.importorskip('torch')

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import optax  # noqa: E402

from benchmarks.torch_peer import Network, Trainer, augment, cosine, load_variables, uncovered  # noqa: E402
from benchmarks.train_throughput import ROUNDED, check, complaints  # noqa: E402
from fer_jax.core.config import load_config  # noqa: E402
from fer_jax.data.views import normalise  # noqa: E402
from fer_jax.model.fernet import make_network  # noqa: E402
from fer_jax.training.augment import augment_batch  # noqa: E402
from fer_jax.training.optimizer import make_optimizer, make_schedule  # noqa: E402
from fer_jax.training.step import average  # noqa: E402

FIELDS = {'data.path': 'random', 'batch_size': '8', 'network.blocks': '12,16', 'network.strides': '2,2'}
CLASSES, SIDE = 5, 10  # 10 → 5 → 3: an odd map is averaged over its stride, too


@pytest.fixture(scope='module')
def config():
    return load_config('configs/fer2013.py', FIELDS)


@pytest.fixture(scope='module')
def network(config):
    return make_network(config.network, CLASSES)


@pytest.fixture(scope='module')
def variables(network):
    """The initial variables, moved so that no scale is 1 and no mean 0."""
    made = jax.jit(lambda key: network.init(key, jnp.zeros((1, SIDE, SIDE, 1)), train=False))(jax.random.key(0))
    generator = np.random.default_rng(0)
    return jax.tree.map(lambda x: x + generator.uniform(0.0, 0.1, x.shape).astype(np.float32), jax.device_get(made))


def load(config, variables):
    peer = Network(config.network, CLASSES)
    load_variables(peer, variables)
    return peer


@pytest.mark.parametrize('train', [False, True])
def test_logits(config, network, variables, train):
    images = np.random.default_rng(1).normal(size=(8, SIDE, SIDE, 1)).astype(np.float32)
    forward = jax.jit(lambda variables, images: network.apply(variables, images, train=train, mutable=['batch_stats']))
    logits, updated = forward(variables, images)
    peer = load(config, variables).train(train)
    ours = peer(torch.tensor(images).permute(0, 3, 1, 2)).detach()
    np.testing.assert_allclose(ours, logits, rtol=1e-4, atol=1e-5)
    moved = load(config, {'params': variables['params'], 'batch_stats': jax.device_get(updated['batch_stats'])}).state_dict()
    for name, value in peer.state_dict().items():
        # Of the batch's variance PyTorch takes n / (n - 1) times as much; n is 8·3·3 in the last maps, more before.
        tolerance = 1 / (8 * 3 * 3 - 1) if name.endswith('running_var') else 1e-4
        if value.is_floating_point():
            np.testing.assert_allclose(value, moved[name], rtol=tolerance, atol=1e-5, err_msg=name)


def test_the_counts_are_of_the_whole_network():
    config = load_config('configs/fer2013.py', {'data.path': 'random'})
    assert sum(p.numel() for p in Network(config.network, 7).parameters()) == 1_906_382


def still(**fields):
    none = {f'augment.{name}': 'false' for name in ('crop', 'flip')}
    none |= {f'augment.{name}': '0' for name in ('rotate', 'scale', 'brightness', 'contrast')}
    return load_config('configs/fer2013.py', FIELDS | none | {f'augment.{name}': text for name, text in fields.items()}).augment


def views(options):
    """Random images' views by the peer and by the project."""
    images = np.random.default_rng(2).integers(0, 256, (3, 48, 48), np.uint8)
    return augment(torch.tensor(images).float(), options), augment_batch(jnp.asarray(images), jax.random.key(0), jnp.arange(3), options)


def test_augmentation_without_randomness_is_the_centre_crop():
    ours, crop = views(still())
    np.testing.assert_allclose(ours[:, 0], crop, atol=1e-2)


@pytest.mark.parametrize('fields', [{'rotate': '10'}, {'scale': '0.1'}, {'brightness': '0.1'}, {'contrast': '0.1'}], ids=str)
def test_augmentation_at_its_greatest_draw(fields, monkeypatch):
    monkeypatch.setattr(torch, 'rand', lambda *shape, device: torch.ones(shape, device=device))
    monkeypatch.setattr(jax.random, 'uniform', lambda key, shape, minval: jnp.ones(shape))
    ours, view = views(still(**fields))
    np.testing.assert_allclose(ours[:, 0], view, atol=1e-2)


def test_random_crops_and_flips_are_parts_of_the_image():
    image = np.random.default_rng(3).integers(0, 256, (48, 48), np.uint8)
    drawn = augment(torch.tensor(image).float().repeat(16, 1, 1), still(crop='true', flip='true'))[:, 0]
    windows = np.lib.stride_tricks.sliding_window_view(image, (40, 40)).reshape(-1, 40, 40)
    found = [np.abs(np.stack([windows, windows[:, :, ::-1]]) - view.numpy()).max((2, 3)).argmin() for view in drawn]
    places = [np.stack([windows, windows[:, :, ::-1]]).reshape(-1, 40, 40)[index] for index in found]
    np.testing.assert_allclose(drawn, places, atol=1e-2)
    assert len(set(found)) > 8 and {index // 81 for index in found} == {0, 1}


def test_the_schedule():
    options = load_config('configs/fer2013.py', FIELDS).optimizer
    wanted, share = make_schedule(options, 50, 10), cosine(options, 50, 10)
    np.testing.assert_allclose([options.learning_rate * share(step) for step in range(60)], [wanted(step) for step in range(60)], atol=1e-9)


def test_update_and_average_on_given_gradients(variables):
    """Clipped and unclipped gradients, a learning rate and a decay that are large, from the first step on."""
    fields = FIELDS | {'optimizer.weight_decay': '0.5', 'optimizer.learning_rate': '0.1', 'optimizer.warmup_epochs': '0', 'epochs': '1'}
    config = load_config('configs/fer2013.py', fields)
    images = np.zeros((40, 48, 48), np.uint8)  # five steps
    trainer = Trainer(load(config, variables), config, images, np.zeros(40, np.int32), 'cpu')
    optimizer = make_optimizer(config.optimizer, make_schedule(config.optimizer, 5, 5))
    params = averaged = variables['params']
    state, generator = optimizer.init(params), np.random.default_rng(4)
    for step, size in enumerate((1.0, 1e-3, 1e-2, 3.0)):
        gradients = jax.tree.map(lambda x, size=size: (size * generator.normal(size=x.shape)).astype(np.float32), params)
        updates, state = jax.jit(optimizer.update)(gradients, state, params)
        params = optax.apply_updates(params, updates)
        averaged = average(averaged, params, jnp.int32(step), config.optimizer.ema)
        given = load(config, variables | {'params': gradients})
        for parameter, gradient in zip(trainer.parameters, given.parameters(), strict=True):
            # The fused update goes through memory: a gradient lies as its parameter does, which autograd sees to.
            parameter.grad = torch.empty_like(parameter).copy_(gradient.detach())
        trainer.apply_gradients()
    for tree, reached in ((params, trainer.tracked), (averaged, trainer.average)):
        for name, wanted in load(config, variables | {'params': jax.device_get(tree)}).named_parameters():
            np.testing.assert_allclose(reached[name], wanted.detach(), rtol=1e-4, atol=1e-5, err_msg=name)  # steps are 0.1


def test_losses_beside_one_another():
    checked = check(['torch eager'], FIELDS | {'parallel.cpu_devices': '4'}, steps=3)
    assert not complaints(checked)
    assert len(checked['losses']['torch eager']) == 3


def test_other_work_is_complained_of():
    """Rounding moves the second loss by 0.01 and the weights by 0.1 of their way; four times as much passes."""
    peers = {'close': [2.0, 1.93], 'far': [2.0, 1.8], 'broken': [float('nan'), 1.9]}
    ends = {'close': 0.3, 'far': 0.9, 'broken': float('nan')}
    checked = {
        'dtype': 'float32',
        'parameters': {'fer_jax': 10, 'torch': 11},
        'losses': {'fer_jax': [2.0, 1.9], ROUNDED: [2.0, 1.91], **peers},
        'distances': {name: {'weights': distance} for name, distance in ({ROUNDED: 0.1} | ends).items()},
    }
    assert [line.partition(':')[0] for line in complaints(checked)] == ['parameters'] + ['far'] * 2 + ['broken'] * 2


def test_uncovered_fields_are_named(config):
    assert not uncovered(config)
    other = load_config('configs/fer2013.py', FIELDS | {'network.activation': 'gelu', 'augment.erase': '0.5'})
    assert uncovered(other) == ['augment.erase', 'network.activation']


def test_normalisation_is_the_project_s(config):
    images = np.random.default_rng(5).integers(0, 256, (8, 48, 48), np.uint8)
    trainer = Trainer(torch.nn.Linear(1, 1), config, images, np.zeros(8, np.int32), 'cpu')
    trainer.config = load_config('configs/fer2013.py', FIELDS)
    trainer.config.augment = still()
    wanted = normalise(jnp.asarray(images[:, 4:44, 4:44]))[..., 0]
    np.testing.assert_allclose(trainer.make_views(torch.arange(8))[:, 0], wanted, atol=1e-3)
