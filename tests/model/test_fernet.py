"""The network: Table 1 and every variant's parameters, each part against plain NumPy, gradients, precision.

tests/golden/parameter_shapes.json holds the names and shapes of the parameters: all of Base ('none'), and what each
attention adds to it. Checkpoints are read by these names, so a change there breaks every checkpoint that is about; it was
written once from the network after its counts had been checked against the paper's formula, which the tests here still do.
"""

import functools
import json
import math
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fer_jax.core.fields import CHOICES, default_config
from fer_jax.model.attention import (
    ATTENTIONS,
    ChannelAttention,
    EfficientChannelAttention,
    SpatialAttention,
    SqueezeExcitation,
    maximum,
)
from fer_jax.model.batch_norm import BatchNorm
from fer_jax.model.convolution import channel_shuffle
from fer_jax.model.fernet import CSPBlock, FERNet, make_network, widen
from tests import reference, tiny

GOLDEN = json.loads((pathlib.Path(__file__).parent.parent / 'golden' / 'parameter_shapes.json').read_text())
# Table 1 of the paper: the parameters of each row, and their total.
TABLE_1 = {
    'stem': 88,
    'spatial_attention': 19,
    'block1': 1_260,
    'block2': 5_204,
    'block3': 12_864,
    'block4': 85_068,
    'block5': 430_884,
    'block6': 1_076_588,
    'channel_attention': 262_144,
    'head': 32_263,
}
BASE = 1_906_382 - 19 - 262_144  # Table 1 without SA and CA: 1,644,219
# By hand, over blocks of 24, 32, 72, 216, 360, 512 channels c:
# se: 2·c·r + r + c with r = c // 16 = 1, 2, 4, 13, 22, 32: 73 + 162 + 652 + 5,845 + 16,222 + 33,312 = 56,266
# eca: widths 3, 3, 3, 5, 5, 5 of |log2(c) / 2 + 1 / 2| = 2.8, 3, 3.6, 4.4, 4.7, 5: 24
# cbam: 2·c·r = 48 + 128 + 576 + 5,616 + 15,840 + 32,768 = 54,976, and six 7×7 maps of 2·49 + 1 = 99 each: 55,570
VARIANTS = {
    'Base': (dict(attention='none', shuffle_groups=None), BASE),
    'Base (g=1)': (dict(attention='none', shuffle_groups=1), BASE),
    'Base (g=2)': (dict(attention='none', shuffle_groups=2), BASE),
    'Base (g=4)': (dict(attention='none', shuffle_groups=4), BASE),
    'Base (g=8)': (dict(attention='none', shuffle_groups=8), BASE),
    'SA + Base': (dict(attention='spatial', shuffle_groups=None), BASE + 19),
    'Base + CA': (dict(attention='channel', shuffle_groups=None), BASE + 262_144),
    'SA + Base + CA': (dict(attention='both', shuffle_groups=None), 1_906_382),
    'SA + Base (g=4) + CA': (dict(attention='both', shuffle_groups=4), 1_906_382),
    'SE': (dict(attention='se', shuffle_groups=4), BASE + 56_266),
    'ECA': (dict(attention='eca', shuffle_groups=4), BASE + 24),
    'CBAM': (dict(attention='cbam', shuffle_groups=4), BASE + 55_570),
}
TINY = dict(blocks=(24, 32), strides=(2, 2))


def fernet(**fields) -> FERNet:
    """The network of 7 classes without the identity sums, which the configuration has by default, unless they are asked for."""
    return tiny.fernet(7, **{'residual': False, 'shortcut': False} | fields)


def block(features, stride, **fields):
    """One block, likewise; batch norm uses the running statistics."""
    return CSPBlock(features, stride, fernet(**fields).options, functools.partial(BatchNorm, train=False))


@functools.cache
def shapes(**options):
    """Variables of a network as shapes; nothing is computed."""
    network = fernet(**options)
    return jax.eval_shape(lambda: network.init(jax.random.key(0), jnp.zeros((1, 40, 40, 1)), train=False))


def flat(tree):
    return {'/'.join(key.key for key in path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def count(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def randomised(variables, seed=0):
    """Variables of the same shapes, none of them at a special value: variances between 0.5 and 2, scales of both signs."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        values = rng.normal(size=leaf.shape)
        if path[-1].key == 'var':
            values = np.exp(0.5 * np.clip(values, -1.4, 1.4))
        if path[-1].key == 'kernel':
            values /= math.sqrt(math.prod(leaf.shape[:-1]))
        return jnp.asarray(values, jnp.float32)

    return jax.tree.map_with_path(draw, {name: variables[name] for name in ('params', 'batch_stats') if name in variables})


def drawn(network, seed=0):
    """Variables drawn like the network's own, by NumPy (whose draws need no compiling), with biases that keep ReLUs awake."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda: network.init(jax.random.key(0), jnp.zeros((1, 40, 40, 1)), train=False))

    def draw(path, leaf):
        if path[-1].key == 'kernel':
            fan = math.prod(leaf.shape[:-2]) * (1 if leaf.shape[-2] == 1 else leaf.shape[-1])
            return jnp.asarray(rng.normal(size=leaf.shape) * math.sqrt(2 / fan), jnp.float32)
        return jnp.full(leaf.shape, {'bias': 0.1, 'scale': 1.0, 'mean': 0.0, 'var': 1.0}[path[-1].key], jnp.float32)

    return jax.tree.map_with_path(draw, {name: shapes[name] for name in ('params', 'batch_stats')})


def as_numpy(tree):
    return jax.tree.map(lambda x: np.asarray(x, np.float64), tree)


def images(n, side=40, channels=1, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(n, side, side, channels)), jnp.float32)


# --- Counts and shapes


@pytest.mark.parametrize('row', TABLE_1)
def test_every_row_of_table_1(row):
    params = shapes()['params']
    own = [name for name in params if name == row or name == f'{row}_bn']
    assert sum(count(params[name]) for name in own) == TABLE_1[row]


def test_the_total_of_table_1():
    assert sum(TABLE_1.values()) == 1_906_382
    assert count(shapes()['params']) == 1_906_382
    network = make_network(default_config().network, 7)
    assert (network.attention, network.options.shuffle_groups, network.options.fusion) == ('both', 4, 'pointwise'), (
        'SA + Base(g=4) + CA is the default'
    )
    assert count(jax.eval_shape(lambda: network.init(jax.random.key(0), jnp.zeros((1, 40, 40, 1)), train=False))['params']) == 1_906_382


def test_every_attention_that_a_configuration_may_name_is_there():
    assert tuple(ATTENTIONS) == CHOICES['network.attention']


def test_the_formula_of_each_block():
    for number, (inputs, outputs) in enumerate([(8, 24), (24, 32), (32, 72), (72, 216), (216, 360), (360, 512)], start=1):
        half = inputs // 2
        formula = outputs**2 + half * outputs + 22 * half**2 + 47 * half + 2 * outputs
        assert formula == TABLE_1[f'block{number}'] == count(shapes()['params'][f'block{number}'])


@pytest.mark.parametrize('variant', VARIANTS)
def test_golden_counts_and_shapes(variant):
    options, parameters = VARIANTS[variant]
    variables = shapes(**options)
    assert count(variables['params']) == parameters
    ours = {name: list(leaf.shape) for name, leaf in flat(variables['params']).items()}
    golden = GOLDEN['none'] | (GOLDEN[options['attention']] if options['attention'] != 'none' else {})
    assert ours == golden
    statistics = {name: list(leaf.shape) for name, leaf in flat(variables['batch_stats']).items()}
    scales = {name.removesuffix('/scale'): shape for name, shape in golden.items() if name.endswith('/scale')}
    assert statistics == {f'{name}/{kind}': shape for name, shape in scales.items() for kind in ('mean', 'var')}
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype('float32')}


@pytest.mark.parametrize(
    'options',
    [
        dict(fusion='attention'),
        dict(preactivation=True),
        dict(residual=True),
        dict(residual=True, zero_last_gamma=True),
        dict(shortcut=True),
        dict(activation='gelu'),
        dict(dtype='bfloat16'),
        dict(fusion='attention', preactivation=True, residual=True, shortcut=True, activation='silu'),
    ],
    ids=str,
)
def test_the_reading_of_the_block_does_not_change_the_count(options):
    variables = shapes(**options)
    for row, parameters in TABLE_1.items():
        assert count([variables['params'][name] for name in (row, f'{row}_bn') if name in variables['params']]) == parameters
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype('float32')}
    changed = flat(variables['params']).keys() ^ GOLDEN['none'].keys() ^ GOLDEN['both'].keys()
    assert {name.partition('/')[2] for name in changed} == (
        {'fusion/kernel', 'fusion/squeeze/kernel', 'fusion/excite/kernel'} if 'fusion' in options else set()
    )


def test_the_maps_have_the_sides_of_table_1():
    network = fernet()
    _, taken = jax.eval_shape(
        lambda variables, x: network.apply(variables, x, train=False, capture_intermediates=True, mutable=['intermediates']),
        shapes(),
        jax.ShapeDtypeStruct((2, 40, 40, 1), jnp.float32),
    )
    outputs = {name: tree['__call__'][0].shape for name, tree in taken['intermediates'].items() if isinstance(tree, dict)}
    expected = {'stem': (8, 40), 'spatial_attention': (8, 40)}
    expected |= {f'block{i}': row for i, row in enumerate([(24, 40), (32, 20), (72, 10), (216, 5), (360, 3), (512, 2)], start=1)}
    expected |= {'channel_attention': (512, 2), 'head': (7, 2)}
    for name, (channels, side) in expected.items():
        assert outputs[name] == (2, side, side, channels), name


# --- The parts against NumPy


@pytest.mark.parametrize(('channels', 'groups'), [(8, 1), (8, 2), (24, 4), (24, 8), (6, 3), (4, 4)])
def test_shuffle(channels, groups):
    x = np.random.default_rng(0).normal(size=(2, 3, 3, channels)).astype(np.float32)
    mixed = channel_shuffle(jnp.asarray(x), groups)
    np.testing.assert_array_equal(mixed, reference.shuffle(x, groups))
    np.testing.assert_array_equal(channel_shuffle(mixed, channels // groups), x)
    assert (groups in (1, channels)) == bool((np.asarray(mixed) == x).all())


def test_shuffle_by_hand():
    """Two groups of three, abc and def, are dealt out as adbecf."""
    assert channel_shuffle(jnp.arange(6.0), 2).tolist() == [0, 3, 1, 4, 2, 5]


def dense(x, params):
    return x @ params['kernel'] + params.get('bias', 0)


def apply(module, x):
    """Output, sown gate and the parameters of a module with random parameters, in NumPy."""
    variables = randomised(jax.eval_shape(lambda: module.init(jax.random.key(0), x)))
    y, sown = reference.jit(lambda variables, x: module.apply(variables, x, mutable=['intermediates']))(variables, x)
    (gate,) = next(iter(sown['intermediates'].values()))
    return np.asarray(y), np.asarray(gate), as_numpy(variables['params'])


@pytest.mark.parametrize('size', [3, 7])
def test_spatial_attention(size):
    x = images(2, 5, 8)
    y, gate, params = apply(SpatialAttention(size), x)
    x = np.asarray(x, np.float64)
    pooled = np.stack([x.mean(-1), x.max(-1)], -1)
    expected = reference.sigmoid(reference.convolution(pooled, params['conv']['kernel']) + params['conv']['bias'])
    assert gate.shape == (2, 5, 5, 1)
    np.testing.assert_allclose(gate, expected, rtol=1e-5)
    np.testing.assert_allclose(y, x * expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(('module', 'hidden'), [(ChannelAttention(), 16), (ChannelAttention(16), 2), (SqueezeExcitation(), 2)], ids=repr)
def test_channel_gates(module, hidden):
    x = images(3, 4, 32)
    y, gate, params = apply(module, x)
    x = np.asarray(x, np.float64)
    assert params['squeeze']['kernel'].shape == (32, hidden)
    means, maxima = x.mean((1, 2)), x.max((1, 2))
    total = 0
    for pooled in (means, maxima) if isinstance(module, ChannelAttention) else (means,):
        total = total + dense(reference.relu(dense(pooled, params['squeeze'])), params['excite'])
    np.testing.assert_allclose(gate, reference.sigmoid(total), rtol=1e-4)
    np.testing.assert_allclose(y, x * reference.sigmoid(total)[:, None, None], rtol=1e-4, atol=1e-6)
    assert ((gate > 0) & (gate < 1)).all()


@pytest.mark.parametrize(('channels', 'width'), [(24, 3), (216, 5)])
def test_efficient_channel_attention(channels, width):
    x = images(2, 3, channels)
    y, gate, params = apply(EfficientChannelAttention(), x)
    kernel = params['conv']['kernel']
    assert kernel.shape == (width, 1, 1)
    means = np.asarray(x, np.float64).mean((1, 2))
    padded = np.pad(means, ((0, 0), (width // 2, width // 2)))
    total = sum(kernel[i, 0, 0] * padded[:, i : i + channels] for i in range(width))
    np.testing.assert_allclose(gate, reference.sigmoid(total), rtol=1e-5)
    np.testing.assert_allclose(y, np.asarray(x) * reference.sigmoid(total)[:, None, None], rtol=1e-5, atol=1e-6)


def test_the_gradient_of_the_maximum():
    x = jnp.array([[3.0, 1.0, 3.0], [0.0, 5.0, -1.0]])
    weights = jnp.array([10.0, 20.0])
    np.testing.assert_array_equal(jax.grad(lambda x: (maximum(x, 1) * weights).sum())(x), [[10, 0, 0], [0, 20, 0]])
    np.testing.assert_array_equal(maximum(x, 0), [3, 5, 3])
    batch = images(2, 5, 8)
    for axis in (1, 3):
        ours, theirs = (jax.grad(lambda x, f=f, axis=axis: (f(x, axis) ** 2).sum())(batch) for f in (maximum, jnp.max))
        np.testing.assert_array_equal(ours, theirs)  # no two of the draws are equal


def test_widen_by_hand():
    x = jnp.arange(9.0).reshape(1, 3, 3, 1)
    # Edge columns and rows are repeated: means of 0 1 3 4; 2 2 5 5; 6 7 6 7; 8 8 8 8.
    np.testing.assert_array_equal(widen(x, 2, 2)[0, ..., 0], [[2.0, 3.5], [6.5, 8.0]])
    np.testing.assert_array_equal(widen(x, 2, 2)[0, ..., 1], np.zeros((2, 2)))
    two = jnp.concatenate([x, -x], -1)
    np.testing.assert_array_equal(widen(two, 1, 1), x)
    np.testing.assert_array_equal(widen(x, 1, 1), x)


@pytest.mark.parametrize(
    ('stride', 'groups', 'preactivation', 'residual'),
    [(1, None, False, False), (2, 4, False, False), (2, 2, True, False), (2, 4, False, True), (1, 4, True, True)],
)
def test_the_block(stride, groups, preactivation, residual):
    """Line by line the description of the reconstruction, on a map of odd side."""
    one = block(12, stride, shuffle_groups=groups, preactivation=preactivation, residual=residual)
    x = images(2, 5, 8)
    variables = randomised(jax.eval_shape(lambda: one.init(jax.random.key(0), x)))
    tree = as_numpy(variables)
    expected = reference.csp_block(np.asarray(x, np.float64), tree['params'], tree['batch_stats'], stride, groups, preactivation, residual)
    got = reference.jit(one.apply)(variables, x)
    assert got.shape == expected.shape == (2, -(-5 // stride), -(-5 // stride), 12)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


def test_the_shortcut_is_added_to_the_block():
    x = images(2, 5, 8)
    plain, with_shortcut = (block(12, 2, shortcut=each) for each in (False, True))
    variables = randomised(jax.eval_shape(lambda: plain.init(jax.random.key(0), x)))
    sums = [reference.jit(one.apply)(variables, x) for one in (plain, with_shortcut)]
    np.testing.assert_allclose(sums[1], sums[0] + widen(x, 12, 2), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_stochastic_depth_leaves_blocks_out():
    """The one block of a network is there, doubled, or not there, each about half of the time; evaluation knows nothing of it."""
    network = fernet(attention='none', stem=4, blocks=(8,), strides=(2,), shortcut=True, stochastic_depth=0.5)
    variables = drawn(network)
    x = images(2, side=8)

    @reference.jit
    def logits(variables, key):
        return network.apply(variables, x, train=True, mutable=['batch_stats'], rngs={'depth': key})[0]

    found = np.stack([logits(variables, jax.random.key(seed)) for seed in range(40)])
    kinds = np.unique(found.round(4), axis=0)
    silenced = jax.tree.map(lambda leaf: leaf, variables)
    silenced['params']['block1']['fusion']['kernel'] = 0 * silenced['params']['block1']['fusion']['kernel']
    without = np.asarray(logits(silenced, jax.random.key(0)))
    always = network.clone(stochastic_depth=0.0)
    present = np.asarray(always.apply(variables, x, train=True, mutable=['batch_stats'])[0])
    assert len(kinds) == 2
    left_out = np.abs(found - without).max((1, 2)) < 1e-4
    assert 10 <= left_out.sum() <= 30
    # Behind the block there are only linear layers: twice its part is twice its effect.
    np.testing.assert_allclose(found[~left_out], np.broadcast_to(2 * present - without, found[~left_out].shape), atol=1e-3)
    assert np.array_equal(network.apply(variables, x, train=False), always.apply(variables, x, train=False))


def test_a_silent_residual_path_is_the_identity():
    """With zero_last_gamma the paths of a new block add nothing: what goes into concat_bn is relu of the input."""
    one = block(12, 1, residual=True, zero_last_gamma=True)
    x = images(1, 5, 8)
    variables = reference.jit(lambda: one.init(jax.random.key(0), x))()
    _, taken = reference.jit(lambda v, x: one.apply(v, x, capture_intermediates=True, mutable=['intermediates']))(variables, x)
    np.testing.assert_allclose(taken['intermediates']['concat_bn']['__call__'][0] * math.sqrt(1 + reference.EPSILON), nn.relu(x), rtol=1e-6)


# --- The whole


def small(**options):
    """A tiny network and variables for it that are nowhere special."""
    network = fernet(**TINY | options)
    return network, randomised(jax.eval_shape(lambda: network.init(jax.random.key(0), jnp.zeros((1, 40, 40, 1)), train=False)))


def test_base_is_base_with_one_group():
    networks = [fernet(attention='none', shuffle_groups=groups, blocks=(16,), strides=(2,)) for groups in (None, 1, 2)]
    initial = [reference.jit(lambda network=network: network.init(jax.random.key(5), images(1), train=False))() for network in networks]
    jax.tree.map(np.testing.assert_array_equal, initial[0], initial[1])
    base, one, two = (
        reference.jit(lambda v, x, network=network: network.apply(v, x, train=True, mutable=['batch_stats']))(variables, images(4))
        for network, variables in zip(networks, initial, strict=True)
    )
    jax.tree.map(np.testing.assert_array_equal, base, one)
    assert not np.allclose(base[0], two[0])


def test_each_variant_is_another_function():
    """No option is without effect (equal outputs would mean that a field goes nowhere)."""
    one = dict(blocks=(24,), strides=(2,))
    plain, variables = small(**one)
    expected = np.asarray(reference.jit(lambda v, x: plain.apply(v, x, train=False))(variables, images(2)))
    for options in (dict(preactivation=True), dict(residual=True), dict(shortcut=True), dict(activation='gelu'), dict(shuffle_groups=2)):
        network = fernet(**TINY | one | options)
        logits = reference.jit(lambda v, x, network=network: network.apply(v, x, train=False))(variables, images(2))
        assert not np.allclose(logits, expected), options


def test_evaluation_does_not_depend_on_the_companions():
    network, variables = small()
    logits = reference.jit(lambda x: network.apply(variables, x, train=False))
    x = images(8)
    together = np.asarray(logits(x))
    np.testing.assert_array_equal(logits(x[::-1]), together[::-1])
    np.testing.assert_array_equal(logits(x.at[1:].set(100.0))[0], together[0])
    np.testing.assert_allclose(logits(x[3:4])[0], together[3], rtol=1e-5, atol=1e-5)  # another shape may sum in another order


def test_the_head_is_the_mean_over_its_map():
    network, variables = small(attention='none')
    logits, taken = reference.jit(lambda v, x: network.apply(v, x, train=False, capture_intermediates=True, mutable=['intermediates']))(
        variables, images(2)
    )
    last, head = taken['intermediates']['block2']['__call__'][0], as_numpy(variables['params']['head'])
    expected = (reference.convolution(np.asarray(last), head['kernel']) + head['bias']).mean((1, 2))
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('attention', ['both', 'se', 'eca', 'cbam'])
def test_gates_are_sown_and_lie_between_0_and_1(attention):
    network, variables = small(attention=attention)
    _, sown = reference.jit(lambda v, x: network.apply(v, x, train=False, mutable=['intermediates']))(variables, images(3))
    gates = {name: tree for name, (tree,) in ((k, v) for k, v in flat_sown(sown['intermediates']))}
    blocks = ('block1', 'block2')
    expected = {
        'both': {'spatial_attention/map': (3, 40, 40, 1), 'channel_attention/gate': (3, 32)},
        'se': {f'{block}_se/gate': (3, width) for block, width in zip(blocks, (24, 32), strict=True)},
        'eca': {f'{block}_eca/gate': (3, width) for block, width in zip(blocks, (24, 32), strict=True)},
        'cbam': {f'{block}_cbam_channel/gate': (3, width) for block, width in zip(blocks, (24, 32), strict=True)}
        | {f'{block}_cbam_spatial/map': (3, side, side, 1) for block, side in zip(blocks, (20, 10), strict=True)},
    }[attention]
    assert {name: gate.shape for name, gate in gates.items()} == expected
    for gate in gates.values():
        assert ((np.asarray(gate) > 0) & (np.asarray(gate) < 1)).all()


def flat_sown(tree, prefix=''):
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from flat_sown(value, f'{prefix}{name}/')
        else:
            yield prefix + name, value


# --- Gradients and precision

# A constant added before a 1×1 convolution and the batch norm behind it is taken out again by that norm's mean: while
# the batch's own statistics are used, these biases of the reconstruction have no effect and so no gradient but rounding.
WITHOUT_EFFECT = ('depthwise1_depth_bn/bias', 'depthwise2_depth_bn/bias', 'spatial_bn/bias')


def gradients(network, variables, x, train):
    targets = jax.nn.one_hot(jnp.arange(len(x)) % 7, 7)

    @reference.jit
    def gradient(variables, x):
        def loss(params):
            logits, _ = network.apply(variables | {'params': params}, x, train=train, mutable=['batch_stats'])
            return -(targets * jax.nn.log_softmax(logits)).sum(-1).mean()

        return jax.grad(loss)(variables['params'])

    return {name: np.asarray(leaf) for name, leaf in flat(gradient(variables, x)).items()}


def assert_all_flow(found, without_effect=()):
    total = math.sqrt(sum((leaf.astype(np.float64) ** 2).sum() for leaf in found.values()))
    assert math.isfinite(total) and total > 0
    for name, leaf in found.items():
        assert np.isfinite(leaf).all(), name
        share = np.linalg.norm(leaf) / total
        assert share < 1e-5 if name.endswith(without_effect) and without_effect else share > 1e-6, (name, share)


def test_gradients_of_the_whole_network():
    """With batch statistics, as in training: finite for all parameters, and none of them stands still."""
    network = fernet()
    assert_all_flow(gradients(network, drawn(network), images(14), train=True), WITHOUT_EFFECT)


@pytest.mark.parametrize(
    'options',
    [
        dict(attention='se'),
        dict(attention='eca', activation='leaky_relu'),
        dict(attention='cbam', residual=True, shortcut=True),
        dict(fusion='attention', preactivation=True, residual=True),
        dict(dtype='bfloat16'),
    ],
    ids=str,
)
@pytest.mark.slow
def test_gradients_of_the_variants(options):
    """With running statistics, where every parameter has an effect."""
    network = fernet(**TINY | options)
    found = gradients(network, drawn(network), images(14), train=False)
    assert {leaf.dtype for leaf in found.values()} == {np.dtype('float32')}
    assert_all_flow(found)


@pytest.mark.parametrize(
    'options', [{}, pytest.param(dict(attention='cbam', shortcut=True, residual=True), marks=pytest.mark.slow)], ids=str
)
def test_bfloat16_against_float32(options):
    """Every layer rounds to 8 bits, 2⁻⁹ relative, independently: after the ~25 roundings on the way through two blocks that
    is √25 · 2⁻⁹ ≈ 1 % of the size of the logits; 5 % allows for what the gates and norms make of it."""
    network, variables = small(**options)
    half = fernet(**TINY | options | {'dtype': 'bfloat16'})
    x = images(16)
    exact, exact_statistics = reference.jit(lambda v, x: network.apply(v, x, train=True, mutable=['batch_stats']))(variables, x)
    near, statistics = reference.jit(lambda v, x: half.apply(v, x, train=True, mutable=['batch_stats']))(variables, x)
    assert near.dtype == jnp.float32 and {leaf.dtype for leaf in jax.tree.leaves(statistics)} == {np.dtype('float32')}
    error = np.sqrt(np.mean((np.asarray(near) - np.asarray(exact)) ** 2)) / np.std(np.asarray(exact))
    assert 1e-6 < error < 0.05
    for name, leaf in flat(exact_statistics).items():
        scale = np.abs(np.asarray(leaf)).max()
        np.testing.assert_allclose(flat(statistics)[name], leaf, atol=0.03 * scale, err_msg=name)


def test_bfloat16_is_used_in_every_layer():
    network = fernet(attention='cbam', shortcut=True, residual=True, fusion='attention', dtype='bfloat16')
    variables = shapes(attention='cbam', fusion='attention')
    _, taken = jax.eval_shape(
        lambda v, x: network.apply(v, x, train=True, capture_intermediates=True, mutable=['intermediates', 'batch_stats']),
        variables,
        jax.ShapeDtypeStruct((2, 40, 40, 1), jnp.float32),
    )
    wide = [name for name, (leaf, *_) in flat_sown(taken['intermediates']) if leaf.dtype != jnp.bfloat16]
    assert wide == ['__call__'], 'only the logits are float32'


def test_running_statistics_move_by_the_momentum():
    """new = 0.75 · old + 0.25 · batch, where the stem's batch statistics come from NumPy."""
    network, variables = small(attention='none', batch_norm_momentum=0.75)
    x = images(4)
    _, updated = reference.jit(lambda v, x: network.apply(v, x, train=True, mutable=['batch_stats']))(variables, x)
    y = reference.convolution(np.asarray(x), np.asarray(variables['params']['stem']['kernel']))
    for name, batch in (('mean', y.mean((0, 1, 2))), ('var', y.var((0, 1, 2)))):
        old, new = (np.asarray(tree['batch_stats']['stem_bn'][name]) for tree in (variables, updated))
        np.testing.assert_allclose(new, 0.75 * old + 0.25 * batch, rtol=1e-4, atol=1e-5)


def test_initial_sizes():
    """Standard deviations by hand: dense √(2 / (k²·features)), depthwise √(2 / k²), head √(1 / (k²·inputs)); biases 0, scales 1."""
    network = fernet(shuffle_groups=None, stem=2, blocks=(256,), strides=(2,))
    params = flat(reference.jit(lambda: network.init(jax.random.key(0), images(1), train=False))()['params'])
    wide = block(4, 1)
    inner = flat(reference.jit(lambda: wide.init(jax.random.key(0), jnp.zeros((1, 3, 3, 128))))()['params'])
    for leaf, std in (
        (inner['dense_conv1/kernel'], math.sqrt(2 / (9 * 64))),
        (inner['spatial/kernel'], math.sqrt(2 / 9)),
        (inner['reduce/kernel'], math.sqrt(2 / 64)),
        (params['block1/fusion/kernel'], math.sqrt(2 / 256)),
        (params['head/kernel'], math.sqrt(1 / (9 * 256))),
        (params['channel_attention/squeeze/kernel'], math.sqrt(2 / 128)),
    ):
        # The standard error of a standard deviation from n draws of a normal is 1 / √(2n); that of a cut-off one is less.
        assert np.std(leaf) == pytest.approx(std, rel=4 / math.sqrt(2 * leaf.size)), leaf.shape
    assert all((np.asarray(leaf) == 0).all() for name, leaf in params.items() if name.endswith('bias'))
    assert all((np.asarray(leaf) == 1).all() for name, leaf in params.items() if name.endswith('scale'))
