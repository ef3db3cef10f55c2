"""The batches of a run: which training images each step takes, and how they come to the devices – resident, or read ahead."""

import itertools
import os
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Float, Float32, Int, Int64, Shaped, UInt8, UInt32

from fer_jax.core import rng
from fer_jax.core.mesh import DATA, replicate
from fer_jax.data.predictions import read_teacher
from fer_jax.training.run import Run

Data = dict[str, Array]  # images u8, targets f32, weights f32: the training split, or of each step in a call what its batch is made of
FIELDS = ('images', 'targets', 'weights')
WHOLE, STREAMED = P(), P(None, DATA)  # how the data lie: the training split on each device; or [steps, images], in shares
WORKERS = 8  # threads that read, at most: reading and unpacking lets go of Python's lock, the fifth of the work that does not is its bound
AHEAD = 2**30  # bytes of images that they read ahead of the step, at most
ON_DEVICE = 2  # calls whose images wait on the device


def training_batches(run: Run, calls: Sequence[tuple[int, int]]) -> Iterator[Data]:
    """What each of `calls` (as of call_bounds) of the step takes: always the resident split, or what is read ahead; to be closed."""
    images, config = run.dataset.splits['train'].images, run.config
    if run.dataset.splits['train'].in_memory:
        data = training_data(run)
        return (data for _ in itertools.count())
    return stream(
        run.mesh,
        images,
        *training_targets(run),
        calls,
        seed=config.seed,
        batch_size=config.batch_size,
        neighbours=config.augment.mixup > 0 or config.augment.cutmix > 0,
    )


def training_data(run: Run) -> Data:
    """The training split as the step takes it, whole on every device."""
    targets, weights = training_targets(run)
    return replicate(run.mesh, {'images': run.dataset.splits['train'].images, 'targets': targets, 'weights': weights})


def training_targets(run: Run) -> tuple[Float32[np.ndarray, 'n outputs'], Float32[np.ndarray, 'n']]:
    """What each training image is to be taken for, by each head, and how much it weighs in the loss.

    Raises:
      InputError: a teacher's predictions that cannot be read or are not of these images.
    """
    faces, classes = run.dataset.splits['train'], len(run.dataset.class_names)
    second = run.config.data.votes_head > 0
    targets = np.eye(classes, dtype=np.float32)[faces.labels] if faces.votes is None or second else faces.votes
    if run.config.data.teacher is not None:
        data, share = run.config.data, np.float32(run.config.data.teacher_share)
        content = run.dataset.manifest['content_sha256']
        teachers = [read_teacher(path, faces, run.dataset.class_names, content) for path in data.teacher.split(',')]
        targets = (1 - share) * targets + share * softened(np.mean(teachers, axis=0), data.teacher_temperature)
    weights = np.ones(len(faces), np.float32)
    if run.config.data.class_weights:
        weights = class_weights(faces.labels, classes)[faces.labels]
    targets = optax.smooth_labels(targets, run.config.optimizer.label_smoothing)
    return np.concatenate([targets, faces.votes], axis=1) if second else targets, weights


def softened(probabilities: Float32[np.ndarray, 'n classes'], temperature: float) -> Float32[np.ndarray, 'n classes']:
    """The probabilities of the same logits divided by `temperature`."""
    powers = probabilities ** np.float32(1 / temperature)
    return powers / powers.sum(1, keepdims=True)


def class_weights(labels: Int[np.ndarray, ' n'], classes: int) -> Float[np.ndarray, ' classes']:
    """n / (classes · n_class): each class weighs alike in the sum, and the mean weight over the set is 1."""
    return (len(labels) / (classes * np.bincount(labels, minlength=classes))).astype(np.float32)


def call_bounds(first: int, last: int, steps_per_call: int, boundaries: Sequence[int] = ()) -> list[tuple[int, int]]:
    """(its first step, the one behind its last) of each compiled call from step `first` up to `last`.

    A call ends where the step is a multiple of `steps_per_call`, or one of `boundaries`, or `last`.
    """
    inner = {*range((first // steps_per_call + 1) * steps_per_call, last, steps_per_call)}
    inner |= {boundary for boundary in boundaries if first < boundary < last}
    return list(itertools.pairwise([first, *sorted(inner), last])) if first < last else []


def batch_rows(seed: Array, step: Array, images: int, batch_size: int) -> Int[Array, ' batch']:
    """The rows of the training split that make up the batch of `step`: a pure function of (seed, step).

    Each epoch has images // batch_size whole batches of one permutation; which images are left over differs by epoch.
    """
    epoch, batch = jnp.divmod(step, images // batch_size)
    return rng.permuted(rng.key(seed, 'order', epoch), batch * batch_size + jnp.arange(batch_size), images)


def stream(
    mesh: Mesh,
    images: UInt8[Any, 'n 48 48'],
    targets: Float32[np.ndarray, 'n classes'],
    weights: Float32[np.ndarray, 'n'],
    calls: Sequence[tuple[int, int]],
    *,
    seed: int,
    batch_size: int,
    neighbours: bool,
) -> Iterator[Data]:
    """What step.make_train_chunk takes as data with `streamed`, for each of `calls` (as of call_bounds), read ahead.

    Every process reads what its own devices need, and there is no state: a stream that begins at a step gives what one that
    began before would. To be closed at the end.

    Args:
      images: read by index, from several threads.
      neighbours: each device is given the image behind its last one too, for mixup and CutMix.

    Returns:
      An iterator with a `close`, whose next raises what reading `images` raises: InputError where a shard is damaged.
    """
    import grain  # slow to import, and not needed where the images are resident

    shares = own_shares(mesh)
    positions = share_positions(shares, batch_size // mesh.size, batch_size, neighbours)
    keys = order_keys(seed, -(-(calls[-1][1] if calls else 1) // (len(images) // batch_size)))

    def read(call: int) -> dict[str, np.ndarray]:
        rows = np.stack([step_rows(keys, step, positions, len(images), batch_size) for step in range(*calls[call])])
        return {'images': images[rows], 'targets': targets[rows], 'weights': weights[rows]}

    longest = max((last - first for first, last in calls), default=1)
    workers = reading_threads(longest * len(positions) * int(np.prod(images.shape[1:])), os.cpu_count() or 1)
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
    """The rows of the training split at `positions` of the batch of `step`, as `batch_rows` has them."""
    epoch, batch = divmod(step, images // batch_size)
    return rng.permuted_on_host(keys[epoch], batch * batch_size + positions, images)


def reading_threads(call_bytes: int, cores: int) -> int:
    """Threads that read one call each: as many as there are cores, as `WORKERS` and `AHEAD` allow, but no less than two."""
    return max(2, min(WORKERS, cores, AHEAD // call_bytes))


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
