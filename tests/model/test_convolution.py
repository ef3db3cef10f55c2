"""The convolutions against NumPy loops, and their gradients against JAX's own convolution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from fer_jax.model.convolution import convolve, convolve_depthwise, convolve_many, filters_by_image, filters_by_place, sum_of_shifts
from tests import reference

RNG = np.random.default_rng(0)
# (height, width, kernel, stride); those of the network's maps and what is odd in other ways.
CASES = [(5, 5, 3, 1), (4, 5, 3, 2), (3, 2, 3, 2), (1, 1, 3, 2), (7, 4, 5, 2), (6, 5, 1, 1), (5, 6, 1, 2)]


def lax_convolution(images, kernel, stride, groups):
    padding = kernel.shape[0] // 2
    return lax.conv_general_dilated(
        images,
        kernel,
        (stride, stride),
        [(padding, padding)] * 2,
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
        feature_group_count=groups,
    )


def random(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


@pytest.mark.parametrize('depthwise', [False, True])
@pytest.mark.parametrize(('height', 'width', 'size', 'stride'), CASES)
def test_values_and_gradients(height, width, size, stride, depthwise):
    images = random(2, height, width, 4)
    kernel = random(size, size, 1 if depthwise else 4, 4)
    cotangent = random(2, -(-height // stride), -(-width // stride), 4)
    ours = convolve_depthwise if depthwise else convolve

    @jax.jit
    def both(images, kernel, cotangent):
        pairs = []
        for function in (lambda x, k: ours(x, k, stride), lambda x, k: lax_convolution(x, k, stride, 4 if depthwise else 1)):
            value, pullback = jax.vjp(function, images, kernel)
            pairs.append((value, *pullback(cotangent)))
        return pairs

    got, expected = both(images, kernel, cotangent)
    np.testing.assert_allclose(got[0], reference.convolution(np.asarray(images), np.asarray(kernel), stride), rtol=1e-5, atol=1e-5)
    for ours_, theirs in zip(got[1:], expected[1:], strict=True):
        assert ours_.dtype == theirs.dtype and ours_.shape == theirs.shape
        np.testing.assert_allclose(ours_, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('depthwise', [False, True])
def test_bfloat16_stays_bfloat16_and_near(depthwise):
    """A bfloat16 has 8 bits of mantissa: inputs are off by 2⁻⁹ relative, and so is each of the sum's terms and the result.

    k²·c = 9 (depthwise) or 36 terms of size 1 whose errors are at most 3 · 2⁻⁹ each, or worst case 10 · 2⁻⁹ when the
    sum itself is kept in bfloat16: below 0.02 per unit of the sum of magnitudes.
    """
    images, kernel = random(2, 5, 5, 4), random(3, 3, 1 if depthwise else 4, 4)
    function = convolve_depthwise if depthwise else convolve
    value, pullback = jax.vjp(jax.jit(lambda x, k: function(x, k, 2)), images.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16))
    assert value.dtype == jnp.bfloat16
    magnitude = reference.convolution(np.abs(images), np.abs(kernel), 2)
    error = np.abs(np.asarray(value, np.float64) - reference.convolution(np.asarray(images), np.asarray(kernel), 2))
    assert (error <= 0.02 * magnitude).all()
    assert [gradient.dtype for gradient in pullback(jnp.ones_like(value))] == [jnp.bfloat16, jnp.bfloat16]


def test_depthwise_in_jit_vmap_and_scan():
    """The hand-written gradient holds under the transformations that a training step uses."""
    images, kernel = random(3, 2, 5, 5, 2), random(3, 3, 1, 2)

    def loss(kernel, function):
        return jax.vmap(lambda x: (function(x, kernel, 2) ** 2).sum())(images).sum()

    ours = jax.jit(jax.grad(lambda kernel: loss(kernel, convolve_depthwise)))(kernel)
    theirs = jax.jit(jax.grad(lambda kernel: loss(kernel, lambda x, k, s: lax_convolution(x, k, s, 2))))(kernel)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)

    def one(total, x):
        return total + jax.grad(lambda k: (convolve_depthwise(x, k, 2) ** 2).sum())(kernel), None

    scanned = jax.lax.scan(one, 0 * kernel, images)
    np.testing.assert_allclose(scanned[0], theirs, rtol=1e-4)


@pytest.mark.parametrize(('inputs', 'features', 'size'), [(1, 8, 3), (2, 1, 7), (4, 4, 3)])
def test_few_channels_in_both_forms(inputs, features, size):
    """The stem, spatial attention and block 1's dense path: the form for the CPU, the form for other backends, and the gradients."""
    images, kernel, cotangent = random(2, 5, 6, inputs), random(size, size, inputs, features), random(2, 5, 6, features)

    @jax.jit
    def both(images, kernel, cotangent):
        found = []
        for function in (convolve, convolve_many):
            value, pullback = jax.vjp(function, images, kernel)
            found.append((value, *pullback(cotangent)))
        return sum_of_shifts(images, kernel), found

    summed, (ours, theirs) = both(images, kernel, cotangent)
    np.testing.assert_allclose(summed, reference.convolution(np.asarray(images), np.asarray(kernel)), rtol=1e-5, atol=1e-5)
    for got, expected in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(('height', 'width', 'size', 'stride'), CASES)
def test_both_forms_of_the_filters_gradient(height, width, size, stride):
    """Image by image (CPU) and place by place (elsewhere) against sums in NumPy."""
    images, gradient = random(3, height, width, 4), random(3, -(-height // stride), -(-width // stride), 4)
    rows, columns = gradient.shape[1:3]
    padded = np.pad(np.asarray(images, np.float64), ((0, 0), (size // 2,) * 2, (size // 2,) * 2, (0, 0)))
    expected = np.zeros((size, size, 1, 4))
    for down in range(size):
        for right in range(size):
            window = padded[:, down : down + (rows - 1) * stride + 1 : stride, right : right + (columns - 1) * stride + 1 : stride]
            expected[down, right, 0] = (window * np.asarray(gradient)).sum((0, 1, 2))
    for form in (filters_by_image, filters_by_place):
        got = jax.jit(form, static_argnums=(2, 3))(images, gradient, size, stride)
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
