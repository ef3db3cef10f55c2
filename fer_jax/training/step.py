"""The training step: a batch's views, forward, backward, update, average; one sharded, jitted function."""

import functools
import operator
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Bool, Float, Int, PyTree
from ml_collections import ConfigDict

from fer_jax.core import rng
from fer_jax.core.mesh import DATA, REPLICA
from fer_jax.data.views import CROP_SIDE, normalise
from fer_jax.runs.state import TrainState
from fer_jax.training.augment import augment_batch
from fer_jax.training.batches import FIELDS, STREAMED, WHOLE, Data, batch_rows

Metrics = dict[str, Float[Array, '*replicas steps']]
TrainChunk = Callable[[TrainState, Data], tuple[TrainState, Metrics]]
# Left on, XLA orders the step so that much may run at once, which virtual CPU devices, a core each, only pay for: 6 % of a step.
CPU_OPTIONS = {'xla_cpu_enable_concurrency_optimized_scheduler': False}


def make_batch(
    seed: Array,
    step: Array,
    data: Data,
    positions: Int[Array, ' share'],
    batch_size: int,
    options: ConfigDict,
    streamed: int = 0,
    side: int = CROP_SIDE,
    drawn: bool = False,
) -> tuple[Float[Array, 'share side side 1'], Float[Array, 'share classes'], Float[Array, ' share']]:
    """Images, targets and weights at `positions` of the global batch of `step`.

    Mixup and CutMix mix position i with i + 1 of the same batch, which may lie on another device; as every device holds the
    data set, or was given that image too, it makes that neighbour's view itself instead of asking for it.

    Args:
      data: the whole training split, or, where they are `streamed`, what batches.stream has read for this device: the images at
        `positions` and, for mixing, the one after them.
      streamed: how many training images there are, where they are; 0 where `data` is all of them.
      side: of the views.
      drawn: a class is drawn from each image's targets, and is its target in this step (Barsoum et al., 2016, call it PLD).
    """
    count = streamed or len(data['images'])
    rows = batch_rows(seed, step, count, batch_size)
    key = rng.key(seed, 'augment', step)

    def views(places: Int[Array, ' share']) -> tuple[Array, Array, Array]:
        held = (places - positions[0]) % batch_size if streamed else rows[places]
        images, targets, weights = (data[name][held] for name in FIELDS)
        if drawn:
            keys = jax.vmap(jax.random.fold_in, (None, 0))(rng.key(seed, 'label', step), places)
            targets = jax.nn.one_hot(jax.vmap(jax.random.categorical)(keys, jnp.log(targets)), targets.shape[1])
        mirrored = alternating(seed, step // (count // batch_size), rows[places]) if options.alternate else None
        return augment_batch(images, key, places, options, side, mirrored), targets, weights

    images, targets, weights = views(positions)
    if options.mixup or options.cutmix:
        other_images, other_targets, other_weights = views((positions + 1) % batch_size)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(rng.key(seed, 'mixup', step), positions)
        masks = jax.vmap(functools.partial(mixing_mask, options=options, side=side))(keys)
        images = masks * images + (1 - masks) * other_images
        part = masks.mean((1, 2))[:, None]
        # Each image's loss keeps its own weight, so the weights go into the mixed targets.
        targets = part * weights[:, None] * targets + (1 - part) * other_weights[:, None] * other_targets
        weights = jnp.ones_like(weights)
    return normalise(images), targets, weights


def alternating(seed: Array, epoch: Array, rows: Int[Array, ' batch']) -> Bool[Array, ' batch']:
    """Which of the images at `rows` of the training split are mirrored in `epoch`: by a hash half of them, in the next the others.

    So two epochs show both sides of every image, where chance would show one of them twice in half of the cases (Jordan, 2024).
    """
    first = rng.scramble(rows.astype(jnp.uint32) ^ rng.scramble(seed)) & 1
    return (first ^ epoch.astype(jnp.uint32) & 1) == 1


def mixing_mask(key: Array, options: ConfigDict, side: int = CROP_SIDE) -> Float[Array, 'rows columns']:
    """Which share of each pixel an image keeps: all the same by mixup (Zhang et al., 2018), [1, 1]; by CutMix (Yun et al., 2019)
    none inside a rectangle of the other's share of the area, which the image's edge may cut, and all outside.
    """
    strength, where = jax.random.split(key)
    alpha = options.mixup or options.cutmix
    share = jax.random.beta(strength, alpha, alpha)
    if options.mixup:
        return share[None, None]
    centre = jax.random.uniform(where, (2,), maxval=side)
    far = jnp.abs(jnp.arange(side) + 0.5 - centre[:, None]) >= side * jnp.sqrt(1 - share) / 2
    return (far[0][:, None] | far[1][None]).astype(jnp.float32)


def steps_per_call(config: ConfigDict) -> int:
    """Training steps in one compiled call: on CPU a convolution's gradient inside a loop misses XLA's fast path."""
    return config.train.steps_per_call or (1 if jax.default_backend() == 'cpu' else 50)


def make_train_chunk(
    config: ConfigDict,
    network: nn.Module,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    steps: int,
    streamed: int = 0,
    side: int = CROP_SIDE,
    vectorised: bool | None = None,
    mean_from: int | None = None,
) -> TrainChunk:
    """A compiled function of (state, data) that takes `steps` steps and returns the state and each step's metrics.

    The state passed in is donated. `network.statistics_axis` decides whether batch norm sees the global batch. With
    `streamed`, the number of training images, the data are not all of them but what training/batches.py reads for each call; the
    results are the same.

    On `make_replica_mesh` it is of several runs that differ in their seed only: each leaf of the state and of the metrics has a
    leading axis, the replicas. Those of one device are `vectorised`, which fills an accelerator that one of them would leave idle;
    on CPU, where convolutions with a kernel for each replica are slow, they follow each other.
    """
    chunk, spec = train_chunk(config, network, optimizer, mesh.shape[DATA], steps, streamed, side, mean_from), P()
    on_cpu = mesh.devices.flat[0].platform == 'cpu'
    if REPLICA in mesh.shape:
        vectorised = not on_cpu if vectorised is None else vectorised
        chunk, spec = jax.vmap(chunk, in_axes=(0, None)) if vectorised else in_turn(chunk), P(REPLICA)
    # Sums over devices are all written out below, so the automatic ones of check_vma would count gradients twice.
    in_specs = (spec, STREAMED if streamed else WHOLE)
    sharded = jax.shard_map(chunk, mesh=mesh, in_specs=in_specs, out_specs=(spec, spec), check_vma=False)
    return jax.jit(sharded, donate_argnums=0, compiler_options=CPU_OPTIONS if on_cpu else None)


def in_turn(chunk: TrainChunk) -> TrainChunk:
    """`chunk` for each of the replicas along the leading axis of the state, one after the other."""

    def each(states: TrainState, data: Data) -> tuple[TrainState, Metrics]:
        singles = (jax.tree.map(operator.itemgetter(place), states) for place in range(len(states.seed)))
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *(chunk(state, data) for state in singles))

    return each


def train_chunk(
    config: ConfigDict,
    network: nn.Module,
    optimizer: optax.GradientTransformation,
    devices: int,
    steps: int,
    streamed: int = 0,
    side: int = CROP_SIDE,
    mean_from: int | None = None,
) -> TrainChunk:
    """What one of `devices` devices does in `steps` steps of a run whose batches they share."""
    share = config.batch_size // devices
    drawn = config.data.dataset == 'ferplus' and config.data.targets == 'distribution'
    if devices == 1:  # XLA on CPU leaves sums over a single device standing
        network = network.clone(statistics_axis=None)

    def train_step(state: TrainState, data: Data) -> tuple[TrainState, dict[str, Array]]:
        positions = jax.lax.axis_index(DATA) * share + jnp.arange(share)
        chosen = (positions, config.batch_size, config.augment, streamed, side, drawn)
        images, targets, weights = make_batch(state.seed, state.step, data, *chosen)

        def loss(params: dict) -> tuple[Array, tuple[Array, dict]]:
            variables = state.variables | {'params': params}
            streams = {'depth': rng.key(state.seed, 'depth', state.step)}
            logits, updated = network.apply(variables, images, train=True, mutable=['batch_stats'], rngs=streams)
            losses = cross_entropy(logits.astype(jnp.float32), targets, config.data.votes_head)
            return (weights * losses).sum() / config.batch_size, (logits, updated['batch_stats'])

        def differentiate(params: dict) -> tuple[Array, Array, dict, dict]:
            """Loss, accuracy, gradients and batch statistics, of the whole batch."""
            (value, (logits, batch_stats)), gradients = jax.value_and_grad(loss, has_aux=True)(params)
            kept = slice(logits.shape[1] // (2 if config.data.votes_head else 1))
            correct = (logits[:, kept].argmax(-1) == targets[:, kept].argmax(-1)).mean(dtype=jnp.float32) / devices
            batch_stats = jax.tree.map(lambda x: x / devices, batch_stats)
            return sum_over_devices((value, correct, gradients, batch_stats), devices)

        value, correct, gradients, batch_stats = differentiate(state.variables['params'])
        if config.optimizer.sam:
            gradients = differentiate(uphill(state.variables['params'], gradients, config.optimizer.sam))[2]
        updates, optimizer_state = optimizer.update(gradients, state.optimizer, state.variables['params'])
        variables = {'params': optax.apply_updates(state.variables['params'], updates), 'batch_stats': batch_stats}
        metrics = {'loss': value, 'accuracy': correct, 'gradient_norm': optax.tree.norm(gradients)}
        state = state.replace(
            step=state.step + 1,
            variables=variables,
            optimizer=optimizer_state,
            average=average(state.average, variables, state.step, config.optimizer.ema, mean_from),
        )
        return state, metrics

    def chunk(state: TrainState, data: Data) -> tuple[TrainState, Metrics]:
        if steps == 1:  # without a loop, see steps_per_call
            state, metrics = train_step(state, jax.tree.map(operator.itemgetter(0), data) if streamed else data)
            return state, jax.tree.map(lambda x: x[None], metrics)
        if streamed:
            return jax.lax.scan(train_step, state, data, length=steps)
        return jax.lax.scan(lambda state, _: train_step(state, data), state, length=steps)

    return chunk


def cross_entropy(
    logits: Float[Array, 'share outputs'], targets: Float[Array, 'share outputs'], second: float = 0.0
) -> Float[Array, ' share']:
    """Each image's cross entropy; with a `second` head, whose outputs are the second half, that of the first and so much of that one's."""
    if not second:
        return optax.softmax_cross_entropy(logits, targets)
    first, other = (optax.softmax_cross_entropy(*each) for each in zip(jnp.split(logits, 2, 1), jnp.split(targets, 2, 1), strict=True))
    return first + second * other


def uphill(params: dict, gradients: dict, distance: float) -> dict:
    """The parameters `distance` further along the gradient: where sharpness-aware minimisation (Foret et al., 2021) takes its own."""
    factor = distance / (optax.tree.norm(gradients) + 1e-12)
    return jax.tree.map(lambda value, gradient: value + factor * gradient, params, gradients)


def sum_over_devices(tree: PyTree[Float[Array, '...']], devices: int) -> PyTree[Float[Array, '...']]:
    """The tree's sum over the mesh's devices, asked for as one vector: one message instead of two hundred small ones."""
    if devices == 1:
        return tree
    vector, unravel = ravel_pytree(tree)
    return unravel(jax.lax.psum(vector, DATA))


def average(averaged: dict, variables: dict, step: Array, decay: float, mean_from: int | None = None) -> dict:
    """The moving average after one more step, its decay rising as (1 + n) / (10 + n) so that the initial weights do not linger.

    Of the steps from `mean_from` on it is the plain mean: each new value moves it by 1 / n.
    """
    if not averaged:
        return averaged
    decay = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    if mean_from is not None:
        before = jnp.maximum(step - mean_from, 0)
        decay = jnp.where(step < mean_from, decay, before / (before + 1.0))
    # From the new values towards the average: decay · average + (1 - decay) · new, without rounding 1 - decay first.
    return optax.incremental_update(averaged, variables, decay)
