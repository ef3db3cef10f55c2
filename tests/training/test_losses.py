"""Targets, class weights and the loss, by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fer_jax.training import losses


def test_smoothing_by_hand():
    """0.1 over four classes is 0.025 each, and the label keeps 0.9 besides."""
    np.testing.assert_allclose(losses.smooth(np.eye(4, dtype=np.float32)[[2]], 0.1), [[0.025, 0.025, 0.925, 0.025]], rtol=1e-6)
    votes = np.array([[0.5, 0.3, 0.2, 0.0]], np.float32)
    smoothed = losses.smooth(votes, 0.2)
    np.testing.assert_allclose(smoothed, [[0.45, 0.29, 0.21, 0.05]], rtol=1e-6)
    assert smoothed.dtype == np.float32
    np.testing.assert_array_equal(losses.smooth(votes, 0.0), votes)


def test_class_weights_by_hand():
    """Of six images in three classes, 3, 2 and 1: 6 / (3 · 3), 6 / (3 · 2), 6 / (3 · 1); their mean over the set is 1."""
    labels = np.array([0, 0, 0, 1, 1, 2])
    weights = losses.class_weights(labels, 3)
    np.testing.assert_allclose(weights, [2 / 3, 1, 2], rtol=1e-6)
    assert weights.dtype == np.float32 and weights[labels].mean() == pytest.approx(1)


def test_cross_entropy_by_hand():
    """Logits log 1, log 2, log 5 are probabilities 1/8, 2/8, 5/8."""
    logits = jnp.log(jnp.array([[1.0, 2.0, 5.0]] * 2))
    targets = jnp.array([[0.0, 1.0, 0.0], [0.5, 0.0, 0.5]])
    expected = [math.log(4), 0.5 * math.log(8) + 0.5 * math.log(8 / 5)]
    np.testing.assert_allclose(losses.cross_entropy(logits, targets), expected, rtol=1e-6)


def test_cross_entropy_of_equal_logits_is_log_classes():
    np.testing.assert_allclose(losses.cross_entropy(jnp.full((1, 7), 3.0), jnp.full((1, 7), 1 / 7)), [math.log(7)], rtol=1e-6)


def test_cross_entropy_of_huge_logits_is_finite():
    logits = jnp.array([[1e4, 0.0, -1e4]])
    targets = jnp.array([[0.0, 1.0, 0.0]])
    np.testing.assert_allclose(losses.cross_entropy(logits, targets), [1e4], rtol=1e-6)
    gradient = jax.grad(lambda x: losses.cross_entropy(x, targets).sum())(logits)
    np.testing.assert_allclose(gradient, [[1, -1, 0]], atol=1e-6)  # softmax - target


def test_cross_entropy_of_bfloat16_logits_is_computed_in_float32():
    logits = jnp.array([[1.0, 2.0, 4.0]], jnp.bfloat16)
    loss = losses.cross_entropy(logits, jnp.array([[0.0, 0.0, 1.0]]))
    assert loss.dtype == jnp.float32
    np.testing.assert_allclose(loss, [math.log(1 + math.exp(-2) + math.exp(-3))], rtol=1e-6)
