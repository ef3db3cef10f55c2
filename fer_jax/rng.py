"""Named random streams: every draw of a run is a pure function of (seed, stream, step)."""

import zlib

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Int

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
    bits = max(1, ((n - 1).bit_length() + 1) // 2)
    mask = jnp.uint32((1 << bits) - 1)
    round_keys = jax.random.bits(key, (FEISTEL_ROUNDS,))

    def encrypt(x: Array) -> Array:
        left, right = x >> bits, x & mask
        for round_key in round_keys:
            left, right = right, left ^ (scramble(right ^ round_key) & mask)
        return left << bits | right

    def walk(x: Array) -> Array:
        return jnp.where(x < n, x, encrypt(x))

    first = encrypt(positions.astype(jnp.uint32))
    return jax.lax.while_loop(lambda x: (x >= n).any(), walk, first).astype(jnp.int32)


def scramble(x: Array) -> Array:
    """MurmurHash3's finaliser: every bit of the result hangs on every bit of `x`."""
    x = (x ^ x >> 16) * jnp.uint32(0x85EBCA6B)
    x = (x ^ x >> 13) * jnp.uint32(0xC2B2AE35)
    return x ^ x >> 16
