"""Named random streams: reproducible, apart from one another, whatever the devices; the permutation without a table."""

import itertools
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fer_jax.core import rng


def data(key):
    return tuple(np.asarray(jax.random.key_data(key)).tolist())


def test_a_key_is_a_pure_function_of_its_three_names():
    assert data(rng.key(3, 'augment', 5)) == data(rng.key(3, 'augment', 5))
    by_hand = jax.random.fold_in(jax.random.fold_in(jax.random.key(3), zlib.crc32(b'augment')), 5)
    assert data(rng.key(3, 'augment', 5)) == data(by_hand)


def test_keys_differ_by_seed_stream_and_step():
    names = itertools.product((0, 1, 2**32 - 1), ('order', 'augment', 'init'), (0, 1, 2))
    keys = {data(rng.key(*each)) for each in names}
    assert len(keys) == 27


def test_a_traced_seed_and_step_give_the_same_key():
    """A checkpoint holds the seed as an array; a run starts with a Python number."""
    for seed in (0, 7, 2**32 - 1):
        traced = jax.jit(lambda seed, step: jax.random.key_data(rng.key(seed, 'order', step)))
        assert data(rng.key(seed, 'order', 9)) == tuple(traced(jnp.asarray(seed, jnp.uint32), jnp.int32(9)).tolist())


@pytest.mark.parametrize('n', [1, 2, 3, 4, 5, 16, 17, 100, 257, 1000])
def test_permuted_is_a_permutation(n):
    order = rng.permuted(jax.random.key(n), jnp.arange(n), n)
    assert order.dtype == jnp.int32
    assert sorted(order.tolist()) == list(range(n))


def test_a_part_of_the_permutation_is_the_whole_ones_part():
    key = jax.random.key(1)
    whole = rng.permuted(key, jnp.arange(1000), 1000)
    np.testing.assert_array_equal(rng.permuted(key, jnp.arange(640, 768), 1000), whole[640:768])


def test_the_real_sets_size():
    """All of FER2013's Training, in a range of 4⁸ = 65,536 that is more than twice as large."""
    order = np.asarray(jax.jit(rng.permuted, static_argnums=2)(jax.random.key(0), jnp.arange(28_709), 28_709))
    assert (np.sort(order) == np.arange(28_709)).all()


def test_permutations_look_random():
    """Where each of 10 things goes, over 4,000 keys: a χ² of 81 degrees of freedom, below 160 but for one time in 10⁶; and so
    for the pairs that follow one another (90 ordered pairs), which an order that only rotates or steps would fail."""
    n, keys = 10, 4000
    orders = np.asarray(jax.jit(jax.vmap(lambda key: rng.permuted(key, jnp.arange(n), n)))(jax.random.split(jax.random.key(5), keys)))
    places = np.zeros((n, n))
    for position in range(n):
        places[position] = np.bincount(orders[:, position], minlength=n)
    assert ((places - keys / n) ** 2 / (keys / n)).sum() < 160
    pairs = np.bincount(orders[:, 4] * n + orders[:, 5], minlength=n * n).reshape(n, n)
    assert (np.diag(pairs) == 0).all()
    expected = keys / (n * (n - 1))
    assert ((pairs - expected) ** 2 / expected)[~np.eye(n, dtype=bool)].sum() < 175


def test_permutations_of_many_are_uncorrelated():
    """Two keys' orders, and an order with its positions: the correlation of n = 4,096 pairs has a standard deviation of 1 / 64."""
    a, b = (np.asarray(rng.permuted(jax.random.key(seed), jnp.arange(4096), 4096)) for seed in (0, 1))
    assert abs(np.corrcoef(a, b)[0, 1]) < 4 / 64
    assert abs(np.corrcoef(a, np.arange(4096))[0, 1]) < 4 / 64
    assert abs(np.corrcoef(a[:-1], a[1:])[0, 1]) < 4 / 64


def test_murmur_by_hand():
    """MurmurHash3's finaliser in Python's whole numbers."""

    def finaliser(x):
        x = ((x ^ x >> 16) * 0x85EBCA6B) & 0xFFFFFFFF
        x = ((x ^ x >> 13) * 0xC2B2AE35) & 0xFFFFFFFF
        return x ^ x >> 16

    inputs = [0, 1, 2, 0xDEADBEEF, 0xFFFFFFFF]
    assert rng.scramble(jnp.asarray(inputs, jnp.uint32)).tolist() == [finaliser(x) for x in inputs]
