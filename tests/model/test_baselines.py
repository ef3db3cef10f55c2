"""The comparison networks: published parameter counts, PyTorch's logits, training in the project's own step."""

import functools
import itertools
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from fer_jax.core.config import differences, load_config, load_variants
from fer_jax.core.errors import InputError
from fer_jax.core.fields import CHOICES, default_config
from fer_jax.core.mesh import DATA, replicate
from fer_jax.model.baselines import ARCHITECTURES, Baseline, make_any, max_pool
from fer_jax.model.fernet import FERNet, make_network
from fer_jax.model.summary import parameter_table, summary
from fer_jax.runs.state import create_state
from fer_jax.training.optimizer import is_kernel, make_optimizer
from fer_jax.training.step import make_train_chunk
from tests import reference

CONFIGS = str(pathlib.Path(__file__).parent.parent.parent / 'configs/baselines.py')
NAMES = tuple(ARCHITECTURES)
QUICK = 'mini_xception'
BATCH = 8


def of_all(*quick):
    """Every architecture; those that are not `quick` in the long tests only."""
    return pytest.mark.parametrize('name', [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in NAMES])


def config_of(name, **network):
    config = default_config()
    config.network.update({'name': name, **network})
    return config


@functools.cache
def shapes_of(name, classes=7):
    images = jax.ShapeDtypeStruct((1, 40, 40, 1), jnp.float32)
    return jax.eval_shape(lambda x: Baseline(name, classes).init(jax.random.key(0), x, train=False), images)


def drawn(name, classes=7):
    """Variables like those of a trained network: no scale is 1, no mean or bias 0, and every variance is positive."""
    generator = np.random.default_rng(0)

    def draw(path, leaf):
        if path[-1].key == 'kernel':
            return generator.normal(0, (2 / np.prod(leaf.shape[:-1])) ** 0.5, leaf.shape).astype(np.float32)
        low, high = (0.5, 1.5) if path[-1].key in ('scale', 'var') else (-0.2, 0.2)
        return generator.uniform(low, high, leaf.shape).astype(np.float32)

    return jax.tree.map_with_path(draw, shapes_of(name, classes))


def faces(count, side=40):
    return np.random.default_rng(1).normal(size=(count, side, side, 1)).astype(np.float32)


# --- Parameters


def mini_xception_count(classes):
    """By hand: two 3×3 stems; a module's 1×1 shortcut and its two separable convolutions, each with 2 of batch norm; the 3×3 head."""
    total = 9 * 8 + 9 * 8 * 8 + 2 * 2 * 8
    for inputs, outputs in ((8, 16), (16, 32), (32, 64), (64, 128)):
        total += inputs * outputs + 9 * inputs + inputs * outputs + 9 * outputs + outputs * outputs + 3 * 2 * outputs
    return total + 9 * 128 * classes + classes


# From the counts that torchvision publishes for 1,000 classes and three colours: another last layer, one colour in the stem's
# 3×3 (ResNet's is 7×7 there), and of VGG neither the biases before batch norm nor the two hidden layers of 4,096.
COUNTS = {
    'mini_xception': mini_xception_count,
    'shufflenet_v2': lambda classes: 2_278_604 - 1025 * 1000 - 2 * 9 * 24 + 1025 * classes,
    'mobilenet_v2': lambda classes: 3_504_872 - 1281 * 1000 - 2 * 9 * 32 + 1281 * classes,
    'resnet18': lambda classes: 11_689_512 - 513 * 1000 - (3 * 49 - 9) * 64 + 513 * classes,
    # Nine 3×3 convolutions, two numbers of batch norm a feature, and the last layer.
    'vgg10': lambda classes: (
        9 * sum(a * b for a, b in itertools.pairwise((1, 32, 32, 64, 64, 128, 128, 256, 256, 256)))
        + 2 * 2 * (32 + 64 + 128 + 256)
        + 2 * 256
        + 257 * classes
    ),
    'vgg13': lambda classes: (
        133_053_736 - 4097 * 1000 - 4097 * 4096 - (49 * 512 + 1) * 4096 - 2 * (64 + 128 + 256 + 512 + 512) - 2 * 9 * 64 + 513 * classes
    ),
}


@pytest.mark.parametrize('classes', [7, 8])
@pytest.mark.parametrize('name', NAMES)
def test_parameters_are_those_published(name, classes):
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes_of(name, classes)['params'])) == COUNTS[name](classes)


def test_the_counts_in_digits():
    """Of mini-Xception as its authors' summary prints it: 56,951 that train and 1,472 that do not, batch norm's statistics."""
    digits = {'mini_xception': 56_951, 'shufflenet_v2': 1_260_347, 'mobilenet_v2': 2_232_263, 'resnet18': 11_171_271}
    digits |= {'vgg10': 1_764_775, 'vgg13': 9_410_375}
    assert {name: COUNTS[name](7) for name in NAMES} == digits
    assert all(f'{digits[name]:,} parameters' in body.__doc__ for name, (body, _) in ARCHITECTURES.items())
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes_of('mini_xception')['batch_stats'])) == 1_472


@pytest.mark.parametrize('name', NAMES)
def test_decay_falls_on_the_convolutions_and_nothing_else(name):
    params = shapes_of(name)['params']
    decayed = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(is_kernel(params))}
    for path, leaf in jax.tree.leaves_with_path(params):
        assert decayed[jax.tree_util.keystr(path)] == (leaf.ndim == 4)
        assert path[-1].key in ('kernel', 'scale', 'bias')


# --- Which network


def test_the_name_decides():
    assert CHOICES['network.name'] == ('fernet', *NAMES)
    made = make_any(config_of('resnet18', dtype='bfloat16', batch_norm_momentum=0.8).network, 8, 'data')
    assert made == Baseline('resnet18', 8, jnp.dtype('bfloat16'), 0.8, 'data')
    assert make_any(default_config().network, 7) == make_network(default_config().network, 7)
    assert isinstance(make_any(default_config().network, 7), FERNet)


def test_what_is_for_the_papers_network_only_says_so():
    with pytest.raises(InputError, match="network.name=vgg13: this is for the paper's network only"):
        make_network(config_of('vgg13').network, 7)


def test_the_configurations_differ_in_the_network_only():
    found = load_variants(CONFIGS, {'data.path': 'faces.csv'})
    assert {name: config.network.name for name, config in found.items()} == {'sa-base-g4-ca': 'fernet'} | {name: name for name in NAMES}
    plain = load_config('configs/fer2013.py', {'data.path': 'faces.csv'})
    for config in found.values():
        assert {line.partition(':')[0] for line in differences(plain, config)} <= {'name', 'network.name'}


@pytest.mark.parametrize('name', ['mini_xception', 'resnet18'])
def test_the_printed_table(name):
    lines = [line.split() for line in summary(config_of(name)).splitlines()]
    assert lines[0][:3] == ['output', '(C,H,W)', 'layer']
    total = next(line for line in lines if line and line[0] == 'total')
    assert total[1] == f'{COUNTS[name](7):,}'
    assert f'{COUNTS[name](7):,}' in parameter_table(config_of(name))


def test_the_multiply_adds_by_hand():
    """mini-Xception: valid stems on 38² and 36² places; modules on 36, 18, 9 and 5, their shortcuts on half; the head on 3²."""
    work = 9 * 8 * 38**2 + 9 * 64 * 36**2 + 9 * 128 * 7 * 3**2
    for inputs, outputs, side, out_side in ((8, 16, 36, 18), (16, 32, 18, 9), (32, 64, 9, 5), (64, 128, 5, 3)):
        work += (9 * inputs + inputs * outputs + 9 * outputs + outputs**2) * side**2 + inputs * outputs * out_side**2
    total = next(line for line in summary(config_of('mini_xception')).splitlines() if line.startswith('total'))
    assert float(total.split()[2]) == pytest.approx(2 * work / 1e6, abs=6e-4)


# --- Values


def logits_of(name, variables, images, **fields):
    return reference.jit(lambda variables, images: Baseline(name, 7, **fields).apply(variables, images, train=False))(variables, images)


def from_torch(peer, names):
    """Our variables with PyTorch's weights; `names` are ours in the order in which it lists its convolutions, the head apart."""
    import torch

    modules = list(peer.modules())
    convolutions = [module for module in modules if isinstance(module, torch.nn.Conv2d)]
    norms = [module for module in modules if isinstance(module, torch.nn.BatchNorm2d)]
    (head,) = (module for module in modules if isinstance(module, torch.nn.Linear))
    params, statistics = {'head': {'kernel': head.weight.T[None, None], 'bias': head.bias}}, {}
    for name, convolution, norm in zip(names, convolutions, norms, strict=True):
        params[name] = {'kernel': convolution.weight.permute(2, 3, 1, 0)}
        params[f'{name}_bn'] = {'scale': norm.weight, 'bias': norm.bias}
        statistics[f'{name}_bn'] = {'mean': norm.running_mean, 'var': norm.running_var}
    return jax.tree.map(lambda leaf: leaf.detach().numpy(), {'params': params, 'batch_stats': statistics})


def check_against_torch(name, peer, names):
    """Logits by moved weights and running statistics; every variable of ours must have come from a layer of PyTorch's."""
    import torch

    generator = torch.Generator().manual_seed(0)
    for module in peer.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for values, low in ((module.weight, 0.5), (module.running_var, 0.5), (module.bias, -0.5), (module.running_mean, -0.5)):
                values.data.uniform_(low, low + 1, generator=generator)
    variables = from_torch(peer, names)
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(lambda leaf: leaf.shape, shapes_of(name))
    images = faces(2)
    expected = peer.eval()(torch.tensor(images).permute(0, 3, 1, 2)).detach().numpy()
    scale = np.abs(expected).max()
    np.testing.assert_allclose(np.asarray(logits_of(name, variables, images)) / scale, expected / scale, atol=2e-5)


def test_resnet18_is_that_of_the_benchmarks():
    pytest.importorskip('torch')
    from benchmarks.torch_zoo import resnet18

    names = ['stem']
    for stage in (1, 2, 3, 4):
        names += [f'stage{stage}_block1_first', f'stage{stage}_block1_second']
        names += [f'stage{stage}_block1_shortcut'] if stage > 1 else []
        names += [f'stage{stage}_block2_first', f'stage{stage}_block2_second']
    check_against_torch('resnet18', resnet18(7), names)


def test_vgg13_is_that_of_the_benchmarks():
    pytest.importorskip('torch')
    from benchmarks.torch_zoo import vgg13

    check_against_torch('vgg13', vgg13(7), [f'stage{stage}_{part}' for stage in range(1, 6) for part in ('first', 'second')])


def test_shufflenet_v2_is_torchvisions():
    layers = pytest.importorskip('torch').nn
    peer = pytest.importorskip('torchvision').models.shufflenet_v2_x1_0(num_classes=7)
    peer.conv1[0], peer.maxpool = layers.Conv2d(1, 24, 3, 1, 1, bias=False), layers.Identity()
    names = ['stem']
    for stage, units in ((1, 4), (2, 8), (3, 4)):
        names += [f'stage{stage}_unit1_other_{part}' for part in ('depth', 'point')]
        names += [f'stage{stage}_unit{unit}_{part}' for unit in range(1, units + 1) for part in ('reduce', 'depth', 'point')]
    check_against_torch('shufflenet_v2', peer, [*names, 'last'])


def test_mobilenet_v2_is_torchvisions():
    layers = pytest.importorskip('torch').nn
    peer = pytest.importorskip('torchvision').models.mobilenet_v2(num_classes=7)
    peer.features[0][0] = layers.Conv2d(1, 32, 3, 1, 1, bias=False)
    peer.features[2].conv[1][0].stride = (1, 1)  # the second stage's first depthwise convolution
    names = ['stem', 'stage1_unit1_depth', 'stage1_unit1_project']
    for stage, units in ((2, 2), (3, 3), (4, 4), (5, 3), (6, 3), (7, 1)):
        names += [f'stage{stage}_unit{unit}_{part}' for unit in range(1, units + 1) for part in ('expand', 'depth', 'project')]
    check_against_torch('mobilenet_v2', peer, [*names, 'last'])


def test_mini_xception_is_its_layer_list():
    """Line by line as the authors' code has it: valid stems, separable convolutions, 'same' pooling beside strided shortcuts."""
    variables, images = drawn('mini_xception'), faces(2)
    params, statistics = variables['params'], variables['batch_stats']

    def norm(x, name):
        return reference.batch_norm(x, params[f'{name}_bn'], statistics[f'{name}_bn'])

    def conv(x, name, stride=1):
        return reference.convolution(x, params[name]['kernel'], stride)

    x = images
    for name in ('stem1', 'stem2'):
        x = reference.relu(norm(conv(x, name)[:, 1:-1, 1:-1], name))
    for name in ('module1', 'module2', 'module3', 'module4'):
        shortcut = norm(conv(x, f'{name}_shortcut', 2), f'{name}_shortcut')
        x = reference.relu(norm(conv(conv(x, f'{name}_first_depth'), f'{name}_first_point'), f'{name}_first_point'))
        x = norm(conv(conv(x, f'{name}_second_depth'), f'{name}_second_point'), f'{name}_second_point')
        # Keras pads an odd side by one on both ends and an even one by one at its end.
        before, side = x.shape[1] % 2, -(-x.shape[1] // 2)
        x = np.pad(x, ((0, 0), (before, 2), (before, 2), (0, 0)), constant_values=-np.inf)
        windows = [x[:, row : row + 2 * side : 2, column : column + 2 * side : 2] for row in range(3) for column in range(3)]
        x = np.max([window[:, :side, :side] for window in windows], axis=0) + shortcut
    assert x.shape == (2, 3, 3, 128)
    expected = (conv(x, 'head') + params['head']['bias']).mean((1, 2))
    np.testing.assert_allclose(logits_of('mini_xception', variables, images), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(('side', 'size', 'padded'), [(6, 2, False), (5, 2, False), (6, 3, True), (5, 3, True)])
def test_pooling_and_its_gradient_are_xlas(side, size, padded):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, side, side, 3)), jnp.float32).at[0, :3, :3].set(1.0)  # equals, too
    plain = functools.partial(nn.max_pool, window_shape=(size, size), strides=(2, 2), padding='SAME' if padded else 'VALID')
    expected, pullback = jax.vjp(plain, x)
    got, ours = jax.vjp(lambda x: max_pool(x, size, padded), x)
    np.testing.assert_array_equal(got, expected)
    np.testing.assert_allclose(ours(expected)[0], pullback(expected)[0], rtol=1e-6)


@of_all(QUICK)
def test_bfloat16_is_near_float32(name):
    variables, images = drawn(name), faces(2)
    wide, narrow = logits_of(name, variables, images), logits_of(name, variables, images, dtype=jnp.bfloat16)
    assert narrow.dtype == wide.dtype == jnp.float32
    assert 0 < np.sqrt(((wide - narrow) ** 2).mean()) < 0.15 * np.sqrt((wide**2).mean())  # of MobileNetV2 0.09, as with PyTorch


# --- Training


@functools.cache
def data():
    draws = np.random.default_rng(0)
    return {
        'images': draws.integers(0, 256, (BATCH, 48, 48)).astype(np.uint8),
        'targets': np.eye(7, dtype=np.float32)[draws.integers(0, 7, BATCH)],
        'weights': np.ones(BATCH, np.float32),
    }


def mesh_of(devices):
    return jax.make_mesh((devices,), (DATA,), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices])


def still_config(name):
    """Every step sees the same views of the same images."""
    config = config_of(name)
    config.batch_size = BATCH
    config.augment.update({'crop': False, 'flip': False, 'rotate': 0.0, 'scale': 0.0, 'brightness': 0.0, 'contrast': 0.0})
    return config


@functools.cache
def compiled(name, devices):
    """The first state on the host, how a tree gets onto the mesh, and the compiled step."""
    config = still_config(name)
    mesh = mesh_of(devices)
    network = make_any(config.network, 7, DATA)
    optimizer = make_optimizer(config.optimizer, lambda step: 1e-3)
    state = reference.jit(lambda: create_state(network, optimizer, 3, True))()
    spread = functools.partial(replicate, mesh)
    lowered = make_train_chunk(config, network, optimizer, mesh, 1).lower(spread(state), spread(data()))
    return jax.tree.map(np.array, state), spread, lowered.compile(compiler_options=reference.FAST_TO_COMPILE)


def train(name, devices, steps):
    """The first state and the last on the host, and each step's metrics."""
    first, spread, chunk = compiled(name, devices)
    state, arrays, found = spread(first), spread(data()), []
    for _ in range(steps):
        state, metrics = chunk(state, arrays)
        found.append(jax.device_get(metrics))
    return first, jax.tree.map(np.array, state), {key: np.concatenate([each[key] for each in found]) for key in found[0]}


@of_all()
def test_training_starts(name):
    """In the project's step with its default optimizer: every kernel moves, nothing is infinite, the loss of a fixed batch falls."""
    before, after, metrics = train(name, 1, 8)
    assert np.isfinite(metrics['loss']).all() and (metrics['gradient_norm'] > 0).all() and np.isfinite(metrics['gradient_norm']).all()
    assert metrics['loss'][-1] < 0.7 * metrics['loss'][0], metrics['loss']
    for path, leaf in jax.tree.leaves_with_path(after.variables):
        assert np.isfinite(leaf).all(), jax.tree_util.keystr(path)
    for name, values in after.variables['batch_stats'].items():
        assert (values['mean'] != before.variables['batch_stats'][name]['mean']).any(), name


@of_all()
def test_gradients_reach_every_kernel(name):
    """AdamW moves a kernel however small its gradient is; here the gradients themselves, against the size of the kernel.

    After one step its first moment is a tenth of the gradient, which was clipped.
    """
    before, after, metrics = train(name, 1, 1)
    clipped = max(1.0, metrics['gradient_norm'][0] / still_config(name).optimizer.clip)
    gradients = jax.tree.map(lambda moment: 10 * clipped * moment, optax.tree.get(after.optimizer, 'mu'))
    assert optax.tree.norm(gradients) == pytest.approx(metrics['gradient_norm'][0], rel=1e-3)
    for (path, gradient), value in zip(jax.tree.leaves_with_path(gradients), jax.tree.leaves(before.variables['params']), strict=True):
        assert np.isfinite(gradient).all()
        if path[-1].key == 'kernel':
            assert np.linalg.norm(gradient) > 1e-4 * np.linalg.norm(value), jax.tree_util.keystr(path)


def test_global_batch_norm_on_four_devices_is_that_of_one():
    """Forward in training: logits and running statistics of eight images, two on a device, are those of the eight together."""
    variables, images = drawn(QUICK), jnp.asarray(faces(BATCH))
    mesh = mesh_of(4)

    def forward(network, variables, images):
        return network.apply(variables, images, train=True, mutable=['batch_stats'])

    shared = jax.shard_map(
        functools.partial(forward, Baseline(QUICK, 7, statistics_axis=DATA)),
        mesh=mesh,
        in_specs=(P(), P(DATA)),
        out_specs=(P(DATA), P()),
        check_vma=False,
    )
    alone = functools.partial(forward, Baseline(QUICK, 7))
    got, expected = reference.jit(shared)(variables, images), reference.jit(alone)(variables, images)
    for left, right in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_a_step_on_four_devices_is_that_of_one():
    """The loss, the gradients' norm, and the running statistics, which hold the mean and variance of the whole batch."""
    (_, one, alone), (_, four, shared) = train(QUICK, 1, 1), train(QUICK, 4, 1)
    for key in ('loss', 'gradient_norm'):
        np.testing.assert_allclose(shared[key], alone[key], rtol=1e-4)
    for left, right in zip(*(jax.tree.leaves(state.variables['batch_stats']) for state in (one, four)), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-5)
