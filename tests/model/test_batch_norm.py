"""Batch norm with its activation against flax's, and its own gradient against JAX's, on one device and on two."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from fer_jax.model.batch_norm import EPSILON, BatchNorm, identity, normalise_batch

RNG = np.random.default_rng(0)


def random(*shape, shift=0.0):
    return jnp.asarray(RNG.normal(shift, 2.0, size=shape), jnp.float32)


def variables(channels):
    params = {'scale': random(channels), 'bias': random(channels)}
    return {'params': params, 'batch_stats': {'mean': random(channels), 'var': jnp.abs(random(channels)) + 0.1}}


@pytest.mark.parametrize('activation', [identity, nn.relu, nn.silu])
def test_values_statistics_and_gradients_are_those_of_flax(activation):
    """In training: outputs, running statistics, gradients to images, scale and bias; maps whose mean is far from zero, too."""
    x, cotangent, state = random(4, 5, 6, 3, shift=3.0), random(4, 5, 6, 3), variables(3)
    plain = nn.BatchNorm(use_running_average=False, momentum=0.75)
    ours = BatchNorm(train=True, momentum=0.75, activation=activation)

    def outcome(module, after):
        def apply(x, params):
            y, updated = module.apply(state | {'params': params}, x, mutable=['batch_stats'])
            return after(y), updated['batch_stats']

        value, pullback, statistics = jax.vjp(apply, x, state['params'], has_aux=True)
        return value, statistics, pullback(cotangent)

    got, expected = jax.jit(lambda: (outcome(ours, identity), outcome(plain, activation)))()
    for left, right in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(left, right, rtol=2e-4, atol=2e-5)


def test_values_by_hand():
    """Channel values 1, 3, 5, 7 have mean 4 and variance 5; relu cuts off what lies below."""
    x = jnp.array([1.0, 3.0, 5.0, 7.0]).reshape(2, 2, 1, 1)
    y, mean, variance = normalise_batch(x, jnp.array([2.0]), jnp.array([-1.0]), nn.relu, None)
    assert float(mean[0]) == 4 and float(variance[0]) == pytest.approx(5)
    expected = np.maximum(0, np.array([-3, -1, 1, 3]) / np.sqrt(5 + EPSILON) * 2 - 1)
    np.testing.assert_allclose(y.ravel(), expected, rtol=1e-5)


def test_running_statistics_where_it_does_not_train():
    x, state = random(2, 3, 3, 4), variables(4)
    y = BatchNorm(train=False, activation=nn.relu).apply(state, x)
    plain = nn.relu(nn.BatchNorm(use_running_average=True).apply(state, x))
    np.testing.assert_allclose(y, plain, rtol=1e-5, atol=1e-5)


def test_over_two_devices_it_is_the_whole_batch_and_asks_twice():
    """Values and gradients as on one device; one sum over the devices forward, one backward (two more, ours, for the parameters)."""
    x, cotangent, params = random(4, 3, 3, 2, shift=1.0), random(4, 3, 3, 2), variables(2)['params']
    mesh = jax.make_mesh((2,), ('data',), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])

    def outcome(x, cotangent, axis):
        value, pullback = jax.vjp(lambda *inputs: normalise_batch(*inputs, nn.relu, axis)[0], x, params['scale'], params['bias'])
        to_x, *to_params = pullback(cotangent)
        return (value, to_x), to_params if axis is None else jax.lax.psum(to_params, axis)

    shared = jax.shard_map(
        lambda x, g: outcome(x, g, 'data'), mesh=mesh, in_specs=(P('data'), P('data')), out_specs=(P('data'), P()), check_vma=False
    )
    lowered = jax.jit(shared).lower(x, cotangent)
    assert lowered.as_text().count('stablehlo.all_reduce') == 2 + 2
    got, expected = lowered.compile()(x, cotangent), jax.jit(lambda x, g: outcome(x, g, None))(x, cotangent)
    for left, right in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-5)


def test_bfloat16_is_computed_in_float32():
    x = random(4, 5, 5, 3, shift=5.0).astype(jnp.bfloat16)
    y, _ = BatchNorm(train=True, dtype=jnp.bfloat16).apply(variables(3), x, mutable=['batch_stats'])
    assert y.dtype == jnp.bfloat16
    half, mean, variance = normalise_batch(x, jnp.ones(3), jnp.zeros(3), identity, None)
    wide = np.asarray(x, np.float64)
    np.testing.assert_allclose(mean, wide.mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(variance, wide.var((0, 1, 2)), rtol=1e-3)
    assert half.dtype == jnp.float32
