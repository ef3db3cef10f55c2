"""Schedules at steps worked out by hand; updates of each optimizer by hand, in NumPy."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fer_jax.core.errors import InputError
from fer_jax.core.fields import CHOICES, default_config
from fer_jax.training.optimizer import is_kernel, make_optimizer, make_schedule
from tests.tiny import fernet


def options(**fields):
    config = default_config().optimizer
    config.update({'name': 'sgd', 'learning_rate': 0.5, 'momentum': 0.9, 'weight_decay': 0.0, 'clip': None} | fields)
    return config


# --- Schedules


def test_cosine_by_hand():
    """100 steps of 10 an epoch, 2 epochs of warm-up: up to step 20 linearly, then 0.5 · (1 + cos(π · (s - 20) / 80)) / 2."""
    schedule = make_schedule(options(schedule='cosine', warmup_epochs=2.0), 100, 10)
    expected = {0: 0.0, 5: 0.125, 10: 0.25, 20: 0.5, 40: 0.25 * (1 + math.cos(math.pi / 4)), 60: 0.25, 100: 0.0}
    for step, rate in expected.items():
        assert float(schedule(step)) == pytest.approx(rate, abs=1e-7), step
    assert 0 < float(schedule(99)) < 2e-4


def test_onecycle_by_hand():
    """100 steps: from 0.5 / 25 by a half cosine to 0.5 at 30, then by another to 0.02 / 10,000 at 100."""
    schedule = make_schedule(options(schedule='onecycle'), 100, 10)
    last = 0.02 / 10_000
    for step, rate in {0: 0.02, 15: 0.26, 30: 0.5, 65: (0.5 + last) / 2, 100: last, 200: last}.items():
        assert float(schedule(step)) == pytest.approx(rate, rel=1e-4), step


@pytest.mark.parametrize('name', CHOICES['optimizer.schedule'])
@pytest.mark.parametrize('steps', [1, 2, 3, 7])
@pytest.mark.parametrize('warmup_epochs', [0.0, 1.0, 50.0])
def test_the_shortest_runs_have_a_learning_rate(name, steps, warmup_epochs):
    """Finite, never above the peak, and not zero at every step; also where the warm-up is longer than the run."""
    schedule = make_schedule(options(schedule=name, warmup_epochs=warmup_epochs), steps, 5)
    rates = [float(schedule(step)) for step in range(steps)]
    assert all(math.isfinite(rate) and 0 <= rate <= 0.5 + 1e-7 for rate in rates), rates
    assert max(rates) > 0, rates


def test_without_warm_up_the_first_step_has_the_peak():
    assert float(make_schedule(options(schedule='cosine', warmup_epochs=0.0), 10, 5)(0)) == pytest.approx(0.5)


def test_a_misspelt_name_is_told_with_the_nearest():
    config = options().unlock()
    config.name, config.schedule = 'sdg', 'cosin'
    with pytest.raises(InputError, match="did you mean 'sgd'"):
        make_optimizer(config, lambda step: 0.1)
    with pytest.raises(InputError, match="did you mean 'cosine'"):
        make_schedule(config, 10, 1)


# --- Updates

PARAMS = {'layer': {'kernel': jnp.array([[1.0, -2.0]]), 'bias': jnp.array([3.0, 4.0])}, 'norm': {'scale': jnp.array([5.0, 6.0])}}
GRADIENTS = {'layer': {'kernel': jnp.array([[0.3, 0.4]]), 'bias': jnp.array([0.1, -0.2])}, 'norm': {'scale': jnp.array([0.0, 0.5])}}


def walk(config, schedule, gradients, params=PARAMS):
    """The parameters after each of a list of gradients."""
    optimizer = make_optimizer(config, schedule)
    state, path = optimizer.init(params), []
    for each in gradients:
        updates, state = optimizer.update(each, state, params)
        params = optax.apply_updates(params, updates)
        path.append(params)
    return path


def test_kernels():
    assert is_kernel(PARAMS) == {'layer': {'kernel': True, 'bias': False}, 'norm': {'scale': False}}


def test_every_parameter_of_the_network_is_a_kernel_a_bias_or_a_scale():
    network = fernet(attention='cbam')
    params = jax.eval_shape(lambda: network.init(jax.random.key(0), jnp.zeros((1, 40, 40, 1)), train=False))['params']
    names = {path[-1].key for path, _ in jax.tree.leaves_with_path(params)}
    assert names == {'kernel', 'bias', 'scale'}


def test_nesterov_two_steps_by_hand():
    """m = g + 0.9 · m; p -= rate · (g + 0.9 · m), with rates 0.5 and 0.1."""
    one, two = walk(options(), lambda step: jnp.where(step == 0, 0.5, 0.1), [GRADIENTS, jax.tree.map(lambda x: 2 * x, GRADIENTS)])
    g = 0.3
    m = g
    p = 1.0 - 0.5 * (g + 0.9 * m)
    assert float(one['layer']['kernel'][0, 0]) == pytest.approx(p)
    g, m = 0.6, 0.6 + 0.9 * m
    assert float(two['layer']['kernel'][0, 0]) == pytest.approx(p - 0.1 * (g + 0.9 * m))
    assert float(two['norm']['scale'][0]) == 5.0


def test_weight_decay_is_coupled_in_sgd_and_on_kernels_only():
    """The decay 0.1 · p joins the gradient: 1 - 0.5 · 1.9 · (0.3 + 0.1 · 1); biases and scales get none."""
    (after,) = walk(options(weight_decay=0.1), lambda step: 0.5, [GRADIENTS])
    np.testing.assert_allclose(after['layer']['kernel'], [[1 - 0.95 * (0.3 + 0.1), -2 - 0.95 * (0.4 - 0.2)]], rtol=1e-6)
    np.testing.assert_allclose(after['layer']['bias'], [3 - 0.95 * 0.1, 4 + 0.95 * 0.2], rtol=1e-6)
    np.testing.assert_allclose(after['norm']['scale'], [5, 6 - 0.95 * 0.5], rtol=1e-6)


def test_clipping_is_by_the_global_norm_and_before_the_decay():
    """|g| = √(0.09 + 0.16 + 0.01 + 0.04 + 0.25) = √0.55; clipped to 0.1, then the decay is added unclipped."""
    (after,) = walk(options(clip=0.1, weight_decay=0.1), lambda step: 0.5, [GRADIENTS])
    factor = 0.1 / math.sqrt(0.55)
    np.testing.assert_allclose(after['layer']['kernel'], [[1 - 0.95 * (0.3 * factor + 0.1), -2 - 0.95 * (0.4 * factor - 0.2)]], rtol=1e-6)
    (below,) = walk(options(clip=10.0), lambda step: 0.5, [GRADIENTS])
    np.testing.assert_allclose(below['layer']['bias'], [3 - 0.95 * 0.1, 4 + 0.95 * 0.2], rtol=1e-6)


def test_adamw_by_hand():
    """The first step of Adam is g / |g| whatever the size; the decay, 0.5 · 0.1 · p, stands beside it and falls on kernels only."""
    (after,) = walk(options(name='adamw', weight_decay=0.1), lambda step: 0.5, [GRADIENTS])
    np.testing.assert_allclose(after['layer']['kernel'], [[1 - 0.5 - 0.05, -2 - 0.5 + 0.1]], rtol=1e-5)
    np.testing.assert_allclose(after['layer']['bias'], [3 - 0.5, 4 + 0.5], rtol=1e-5)
    np.testing.assert_allclose(after['norm']['scale'], [5, 6 - 0.5], rtol=1e-5)


def network_like():
    """A dense 3×3 kernel 4 → 5, a wide 1×1 one, a depthwise one, the stem's and a bias, with gradients."""
    rng = np.random.default_rng(0)
    shapes = {'dense': (3, 3, 4, 5), 'point': (1, 1, 4, 16), 'depth': (3, 3, 1, 4)}
    params = {name: {'kernel': jnp.asarray(rng.normal(size=shape), jnp.float32)} for name, shape in shapes.items()}
    params['head'] = {'bias': jnp.ones(3)}
    return params, jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), params)


def test_muon_makes_matrices_of_kernels_and_leaves_the_rest_to_adam():
    """The update of [k²·inputs, features] has singular values near √max(1, outputs / inputs): Newton and Schulz's five steps
    bring each to between 0.7 and 1.2 of that, where those of the gradient differ by more than that."""
    params, gradients = network_like()
    (after,) = walk(options(name='muon', learning_rate=1.0, adam_ratio=0.25), lambda step: 0.5, [gradients], params)
    for name, rows, scale in (('dense', 36, 1.0), ('point', 4, 2.0)):
        update = np.asarray((params[name]['kernel'] - after[name]['kernel']) / 0.5).reshape(rows, -1)
        singular = np.linalg.svd(update, compute_uv=False) / scale
        assert (0.6 < singular).all() and (singular < 1.25).all(), (name, singular)
        # Same singular vectors: the product with the gradient is symmetric and positive.
        left, _, right = np.linalg.svd(np.asarray(gradients[name]['kernel']).reshape(rows, -1), full_matrices=False)
        assert (np.diag(left.T @ (update / scale) @ right.T) > 0.6).all()
    # Adam's first step (with Nesterov's look ahead) is as large for every element: adam_ratio · 0.5 times some constant.
    for leaf, before, gradient in (
        (after['depth']['kernel'], params['depth']['kernel'], gradients['depth']['kernel']),
        (after['head']['bias'], params['head']['bias'], gradients['head']['bias']),
    ):
        moved = np.asarray(before - leaf)
        assert (np.sign(moved) == np.sign(gradient)).all()
        np.testing.assert_allclose(np.abs(moved), np.abs(moved).mean(), rtol=1e-3)
        assert 0.1 < np.abs(moved).mean() < 0.3


def test_muons_weight_decay_falls_on_matrices_only():
    params, gradients = network_like()
    (without,), (with_decay,) = (
        walk(options(name='muon', weight_decay=decay, adam_ratio=0.5), lambda step: 0.5, [gradients], params) for decay in (0.0, 0.1)
    )
    decayed = jax.tree.map(lambda a, b: np.abs(np.asarray(a - b)).max() > 1e-4, without, with_decay)
    assert decayed == {'dense': {'kernel': True}, 'point': {'kernel': True}, 'depth': {'kernel': False}, 'head': {'bias': False}}
    np.testing.assert_allclose(without['dense']['kernel'] - with_decay['dense']['kernel'], 0.05 * params['dense']['kernel'], atol=1e-5)
