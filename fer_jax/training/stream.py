"""Training batches read ahead of the step: the same ones as the step picks itself where the training images are resident."""

import itertools
import os
from collections.abc import Sequence
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Float32, Int64, Shaped, UInt8, UInt32

from fer_jax.core import rng
from fer_jax.training.step import FIELDS, STREAMED, Data

WORKERS = 8  # threads that read, at most: reading and unpacking lets go of Python's lock, the fifth of the work that does not is its bound
AHEAD = 2**30  # bytes of images that they read ahead of the step, at most
ON_DEVICE = 2  # calls whose images wait on the device


def stream(
    mesh: Mesh,
    images: UInt8[Any, 'n 48 48'],
    targets: Float32[np.ndarray, 'n classes'],
    weights: Float32[np.ndarray, 'n'],
    *,
    seed: int,
    batch_size: int,
    first: int,
    last: int,
    steps_per_call: int,
    neighbours: bool,
    boundary: int = 0,
) -> grain.DatasetIterator[Data]:
    """What step.make_train_chunk takes as data with `streamed`, for each call from step `first` up to `last`, read ahead.

    A call ends where the step is a multiple of `steps_per_call`, or `boundary`, or `last`. Every process reads what its own
    devices need, and there is no state: a stream that begins at a step gives what one that began before would. To be closed at the end.

    Args:
      images: read by index, from several threads.
      neighbours: each device is given the image behind its last one too, for mixup and CutMix.

    Returns:
      An iterator, whose next raises what reading `images` raises: InputError where a shard is damaged.
    """
    shares = own_shares(mesh)
    positions = share_positions(shares, batch_size // mesh.size, batch_size, neighbours)
    keys = order_keys(seed, -(-last // (len(images) // batch_size)))
    calls = call_bounds(first, last, steps_per_call, boundary)

    def read(call: int) -> dict[str, np.ndarray]:
        rows = np.stack([step_rows(keys, step, positions, len(images), batch_size) for step in range(*calls[call])])
        return {'images': images[rows], 'targets': targets[rows], 'weights': weights[rows]}

    workers = reading_threads(steps_per_call * len(positions) * int(np.prod(images.shape[1:])))
    options = grain.ReadOptions(num_threads=workers, prefetch_buffer_size=workers)
    reading = grain.MapDataset.range(len(calls)).map(read).to_iter_dataset(options)
    placing = reading.map(lambda host: place(mesh, shares, host))
    return iter(grain.experimental.ThreadPrefetchIterDataset(placing, prefetch_buffer_size=ON_DEVICE))


def own_shares(mesh: Mesh) -> list[int]:
    """Which shares of a batch this process's devices hold, in the mesh's order."""
    return [share for share, device in enumerate(mesh.devices.flat) if device.process_index == jax.process_index()]


def share_positions(shares: Sequence[int], share: int, batch_size: int, neighbours: bool) -> Int64[np.ndarray, 'images']:
    """The positions in the global batch that devices with these shares of it need, each `share` long and, with `neighbours`, one more."""
    return (np.asarray(shares, np.int64)[:, None] * share + np.arange(share + neighbours)).ravel() % batch_size


def order_keys(seed: int, epochs: int) -> UInt32[np.ndarray, 'epochs rounds']:
    """What decides the order of each epoch: all that a thread needs of JAX, whose own threads are busy with the step."""
    of_epoch = jax.vmap(lambda epoch: rng.round_keys(rng.key(jnp.uint32(seed), 'order', epoch)))
    return np.asarray(jax.jit(of_epoch)(jnp.arange(epochs)))


def step_rows(
    keys: UInt32[np.ndarray, 'epochs rounds'], step: int, positions: Int64[np.ndarray, 'images'], images: int, batch_size: int
) -> Int64[np.ndarray, 'images']:
    """The rows of the training split at `positions` of the batch of `step`, as step.batch_rows has them."""
    epoch, batch = divmod(step, images // batch_size)
    return rng.permuted_on_host(keys[epoch], batch * batch_size + positions, images)


def call_bounds(first: int, last: int, steps_per_call: int, boundary: int = 0) -> list[tuple[int, int]]:
    """(its first step, the one behind its last) of each call."""
    inner = {*range((first // steps_per_call + 1) * steps_per_call, last, steps_per_call), *([boundary] if first < boundary < last else [])}
    return list(itertools.pairwise([first, *sorted(inner), last])) if first < last else []


def reading_threads(call_bytes: int) -> int:
    """Threads that read one call each: as many as there are cores, as `WORKERS` and `AHEAD` allow, but no less than two."""
    return max(2, min(WORKERS, os.cpu_count() or 1, AHEAD // call_bytes))


def place(mesh: Mesh, shares: Sequence[int], host: dict[str, Shaped[np.ndarray, 'steps images ...']]) -> Data:
    """What this process has read, on its devices, as its part of global arrays that hold all processes' parts."""

    def put(values: np.ndarray) -> jax.Array:
        share = values.shape[1] // len(shares)
        shape = (values.shape[0], share * mesh.size, *values.shape[2:])

        def part(index: tuple[slice, ...]) -> np.ndarray:
            slot = shares.index((index[1].start or 0) // share)
            return values[:, slot * share : (slot + 1) * share]

        return jax.make_array_from_callback(shape, NamedSharding(mesh, STREAMED), part)

    return {name: put(host[name]) for name in FIELDS}


def device_memory() -> int:
    """Bytes of memory of one device, of the smallest in any process (all must call this); of a CPU device, its part of the host's."""
    devices = jax.local_devices()
    known = devices[0].memory_stats() or {}
    memory = known.get('bytes_limit') or os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') // len(devices)
    return memory if jax.process_count() == 1 else int(multihost_utils.process_allgather(np.float32(memory)).min())
