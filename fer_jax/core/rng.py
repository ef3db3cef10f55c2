"""Named random streams: every draw of a run is a pure function of (seed, stream, step)."""

import zlib

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Int, Int64, UInt32

Bits = UInt32[Array, '...'] | UInt32[np.ndarray, '...']
FEISTEL_ROUNDS = 8  # four already pass for random; each is a few integer operations


def key(seed: int | Array, stream: str, step: int | Array = 0) -> Array:
    """The random key of one `stream` ('order', 'augment', 'init', …) at one `step`.

    Streams are told apart by the CRC of their name, so that adding one leaves the others' draws as they were,
    and no key depends on how many devices or hosts there are.
    """
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), zlib.crc32(stream.encode())), step)


def permuted(key: Array, positions: Int[Array, ' batch'], n: int) -> Int[Array, ' batch']:
    """Where a random permutation of 0..n-1, picked by `key`, sends `positions`; no table of n is made.

    A Feistel network permutes the smallest range 4^k ≥ n, and what it sends outside 0..n-1 is sent on until it falls
    inside (cycle walking; Black & Rogaway, 2002).
    """
    keys = round_keys(key)

    def walk(x: Array) -> Array:
        return jnp.where(x < n, x, encrypt(x, keys, n))

    first = encrypt(positions.astype(jnp.uint32), keys, n)
    return jax.lax.while_loop(lambda x: (x >= n).any(), walk, first).astype(jnp.int32)


def permuted_on_host(keys: UInt32[np.ndarray, 'rounds'], positions: Int64[np.ndarray, 'batch'], n: int) -> Int64[np.ndarray, 'batch']:
    """`permuted` in NumPy, by the permutation's round keys: for threads that read data while the devices compute."""
    x = encrypt(positions.astype(np.uint32), keys, n)
    while (outside := x >= n).any():
        x[outside] = encrypt(x[outside], keys, n)
    return x.astype(np.int64)


def round_keys(key: Array) -> UInt32[Array, 'rounds']:
    """What a permutation's `key` is in each round of the Feistel network."""
    return jax.random.bits(key, (FEISTEL_ROUNDS,))


def encrypt(x: Bits, keys: Bits, n: int) -> Bits:
    """The Feistel network over the smallest range 4^k ≥ n, which `x` and the result lie in; arrays of JAX or of NumPy."""
    bits = max(1, ((n - 1).bit_length() + 1) // 2)
    mask = np.uint32((1 << bits) - 1)
    left, right = x >> bits, x & mask
    for round_key in keys:
        left, right = right, left ^ (scramble(right ^ round_key) & mask)
    return left << bits | right


def scramble(x: Bits) -> Bits:
    """MurmurHash3's finaliser: every bit of the result hangs on every bit of `x`."""
    x = (x ^ x >> 16) * np.uint32(0x85EBCA6B)
    x = (x ^ x >> 13) * np.uint32(0xC2B2AE35)
    return x ^ x >> 16
