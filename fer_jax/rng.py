"""Named random streams: every draw of a run is a pure function of (seed, stream, step)."""

import zlib

import jax
from jax import Array


def key(seed: int | Array, stream: str, step: int | Array = 0) -> Array:
    """The random key of one `stream` ('order', 'augment', 'init', …) at one `step`.

    Streams are told apart by the CRC of their name, so that adding one leaves the others' draws as they were,
    and no key depends on how many devices or hosts there are.
    """
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), zlib.crc32(stream.encode())), step)
