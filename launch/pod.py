"""The training step compiled ahead of time for TPUs that are not there: its memory, work and messages, and an estimate of its speed.

`launch/compile_pod.py` is the command. What the compiler says is exact; the seconds are those of `launch/chips.py`'s model.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.stages import Compiled
from ml_collections import ConfigDict

from fer_jax.core.errors import InputError
from fer_jax.core.mesh import DATA, REPLICA
from fer_jax.data.schema import IMAGE_SIDE
from fer_jax.model.baselines import make_any
from fer_jax.runs.environment import environment, package_version
from fer_jax.runs.state import TrainState, create_state
from fer_jax.training.optimizer import make_optimizer, make_schedule
from fer_jax.training.step import Data, make_train_chunk
from launch.chips import Topology, all_reduce_seconds, floor_seconds
from launch.hlo import Collective, collectives, estimated_cycles, memory_traffic


@dataclasses.dataclass(frozen=True)
class Job:
    """What is compiled: a configuration, its replicas (0: one run whose batch all chips share), and the size of the training split."""

    config: ConfigDict
    replicas: int
    images: int
    classes: int
    steps: int  # in one call


def chips_of(topology: Topology) -> list[Any]:
    """The topology's devices, which only a compiler can use; a chip with two cores is one device.

    Raises:
      InputError: libtpu is not installed, or knows no such topology.
    """
    # Hosts hold four chips, two by two, unless there are fewer.
    host = tuple(min(2, size) for size in topology.shape[:2]) + (1,)
    options = {'chips_per_host_bounds': host} | ({'chip_config_name': 'megacore'} if topology.chip.name == 'v4' else {})
    try:
        return topologies.get_topology_desc(topology.name, 'tpu', **options).devices
    except jax.errors.JaxRuntimeError as error:
        raise InputError(f'--topology {topology.name}: {str(error).splitlines()[0]}') from None
    except RuntimeError:
        raise InputError("libtpu, which compiles for TPUs, is not installed: pip install '.[tpu]', or requirements/tpu.txt") from None


def make_mesh(devices: list[Any], replicas: int) -> Mesh:
    """All devices along the data axis, or, with replicas, along the replica axis."""
    shape, names = ((len(devices), 1), (REPLICA, DATA)) if replicas else ((len(devices),), (DATA,))
    return Mesh(np.array(devices).reshape(shape), names, axis_types=(AxisType.Auto,) * len(names))


def check(job: Job, chips: int) -> None:
    """Returns if the job can be shared out over so many chips.

    Raises:
      InputError: the batch, or the replicas, do not divide.
    """
    if job.replicas % chips:
        raise InputError(f'--replicas {job.replicas} do not divide over {chips} chips; a multiple of {chips} would')
    if not job.replicas and job.config.batch_size % chips:
        raise InputError(f'batch_size {job.config.batch_size} does not divide over {chips} chips; a multiple of {chips} would')


def compile_job(job: Job, mesh: Mesh) -> Compiled:
    """The program that one call of `fer_jax.training.train`, or of several seeds at once, runs on the mesh's devices; nothing is computed.

    Raises:
      InputError: it does not fit the memory, or the compiler refuses it for another reason.
    """
    config = job.config
    network = make_any(config.network, job.classes, DATA if config.network.batch_norm == 'global' else None)
    epoch = job.images // config.batch_size
    optimizer = make_optimizer(config.optimizer, make_schedule(config.optimizer, max(1, round(config.epochs * epoch)), epoch))

    def create(seed: Array) -> TrainState:
        return create_state(network, optimizer, seed, config.optimizer.ema > 0)

    def placed(tree: Any, spec: P) -> Any:
        sharding = NamedSharding(mesh, spec)
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)

    seeds, spec = jax.ShapeDtypeStruct((), jnp.uint32), P()
    if job.replicas:
        create, spec = jax.vmap(create), P(REPLICA)
        seeds = jax.ShapeDtypeStruct((job.replicas,), jnp.uint32)
    state = placed(jax.eval_shape(create, seeds), spec)
    try:
        return make_train_chunk(config, network, optimizer, mesh, job.steps).lower(state, placed(shapes(job), P())).compile()
    except jax.errors.JaxRuntimeError as error:
        raise InputError(f'the compiler refuses this program: {str(error).strip().splitlines()[0]}') from None


def shapes(job: Job) -> Data:
    """The shapes and types of a training split."""
    images = jax.ShapeDtypeStruct((job.images, IMAGE_SIDE, IMAGE_SIDE), jnp.uint8)
    targets = jax.ShapeDtypeStruct((job.images, job.classes), jnp.float32)
    return {'images': images, 'targets': targets, 'weights': jax.ShapeDtypeStruct((job.images,), jnp.float32)}


def memory(compiled: Compiled) -> dict[str, int]:
    """Bytes on one device while the program runs: what it is given and returns, its temporaries, its code, and all together."""
    plan = compiled.memory_analysis()
    parts = {
        'arguments': plan.argument_size_in_bytes,
        'results_not_in_place': plan.output_size_in_bytes - plan.alias_size_in_bytes,
        'temporaries': plan.temp_size_in_bytes,
        'program': plan.generated_code_size_in_bytes,
    }
    return parts | {'all': sum(parts.values())}


def estimate(topology: Topology, images: int, flops: float, moved: float, cycles: float, messages: list[Collective]) -> dict[str, Any]:
    """The model's seconds of a step of `images` images: FLOPs, bytes and cycles of one chip, and what all of them exchange.

    Raises:
      ValueError: a collective that the model does not know.
    """
    if other := {each.kind for each in messages} - {'all-reduce'}:
        raise ValueError(f'the model has no time for {", ".join(sorted(other))}')
    floor, bound = floor_seconds(topology.chip, flops, moved)
    work = max(floor, cycles / topology.chip.clock)
    exchange = sum(each.times * all_reduce_seconds(topology, each.bytes) for each in messages)
    return {
        'floor_seconds': floor,
        'floor_set_by': bound,
        'work_seconds': work,
        'all_reduce_seconds': exchange,
        'step_seconds': work + exchange,
        'images_per_second': images / (work + exchange),
        'share_of_work': work / (work + exchange),
        'share_of_work_at_the_floor': floor / (floor + exchange),
    }


def measure(topology: Topology, job: Job) -> dict[str, Any]:
    """Compiles, and returns what a record holds.

    Raises:
      InputError: as of `check`, `chips_of` and `compile_job`.
    """
    check(job, topology.chips)
    mesh = make_mesh(chips_of(topology), job.replicas)
    compiled = compile_job(job, mesh)
    config, cost, text = job.config, compiled.cost_analysis(), compiled.as_text()
    moved, cycles = memory_traffic(text) / job.steps, estimated_cycles(text) / job.steps
    messages = [dataclasses.replace(each, times=each.times // job.steps) for each in collectives(text)]
    if any(each.times == 0 for each in messages):
        raise ValueError('the program exchanges something that is no part of its steps')
    images = config.batch_size * max(1, job.replicas)
    return {
        'topology': topology.name,
        'chips': topology.chips,
        'chip': dataclasses.asdict(topology.chip),
        'replicas': job.replicas,
        'batch_size': config.batch_size,
        'images_a_chip': images // topology.chips,
        'training_images': job.images,
        'dtype': config.network.dtype,
        'batch_norm': config.network.batch_norm,
        'steps_per_call': job.steps,
        'memory_bytes': memory(compiled),
        'flops': cost['flops'],
        'memory_traffic_bytes': moved,
        'estimated_cycles': cycles,
        'compiler_bytes_accessed': cost['bytes accessed'],
        'collectives': [dataclasses.asdict(each) for each in messages],
        'estimate': estimate(topology, images, cost['flops'], moved, cycles, messages),
        'config': config.to_dict(),
        'libtpu': package_version('libtpu'),
        'environment': environment(),
    }


def record_name(found: dict[str, Any]) -> str:
    """The file of a record: its topology, and what is not as in most: weak scaling with 128 images a chip, bfloat16, 50 steps a call."""
    parts = [found['topology'].replace(':', '-')]
    if found['replicas']:
        parts.append(f'replicas{found["replicas"]}')
    if found['images_a_chip'] != 128:
        parts.append(f'batch{found["batch_size"]}')
    if found['batch_norm'] != 'device' and not found['replicas']:
        parts.append(found['batch_norm'])
    if found['dtype'] != 'bfloat16':
        parts.append(found['dtype'])
    if found['steps_per_call'] != 50:
        parts.append(f'steps{found["steps_per_call"]}')
    return '-'.join(parts) + '.json'


def report(found: dict[str, Any], dataset_images: int) -> str:
    """What is printed."""
    plan, guess, limit = found['memory_bytes'], found['estimate'], found['chip']['hbm_bytes']
    whose = f'{found["replicas"]} runs of batch {found["batch_size"]}' if found['replicas'] else f'one run of batch {found["batch_size"]}'
    exchanged = [
        f'{each["times"]} × {each["kind"]} of {each["bytes"] / 1e6:.2f} MB over {each["chips"]} chips' for each in found['collectives']
    ]
    lines = [
        f'{found["topology"]}: {found["chips"]} chip(s), {whose}, {found["images_a_chip"]} images a chip and step, {found["dtype"]},'
        f' batch norm over {"a chip" if found["batch_norm"] == "device" else "the whole batch"}',
        f"memory       {plan['all'] / 1e9:.2f} GB of a chip's {limit / 1e9:.1f}: arguments {plan['arguments'] / 1e9:.2f},"
        f' temporaries {plan["temporaries"] / 1e9:.2f}, program {plan["program"] / 1e9:.3f}',
        f'work         {found["flops"] / 1e9:.1f} GFLOP and {found["memory_traffic_bytes"] / 1e9:.2f} GB between chip and memory,'
        ' of a chip in a step',
        f'collectives  {sum(each["times"] for each in found["collectives"])} a step{": " if exchanged else ""}{", ".join(exchanged)}',
        f"estimate     {1e3 * guess['step_seconds']:.3f} ms a step: {1e3 * guess['work_seconds']:.3f} of work by the compiler's cycles"
        f' (at least {1e3 * guess["floor_seconds"]:.3f}, by {guess["floor_set_by"]}) and'
        f' {1e3 * guess["all_reduce_seconds"]:.3f} of all-reduce; {guess["images_per_second"]:,.0f} images/s;'
        f' {100 * guess["share_of_work"]:.1f} % of it is work',
    ]
    if found['batch_size'] > dataset_images:
        lines.append(
            f'note         a batch of {found["batch_size"]} is more than the {dataset_images} training images, and `train` would refuse it;'
            f' compiled for {found["training_images"]} images'
        )
    elif not found['replicas']:
        epoch = dataset_images // found['batch_size']
        lines.append(f'epoch        {epoch} steps of {dataset_images} images, {1e3 * epoch * guess["step_seconds"]:.1f} ms')
    return '\n'.join(lines)
