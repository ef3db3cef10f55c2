"""The devices: the mesh over them, how arrays lie on it, their memory, and the first sum over all of them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from fer_jax.core.errors import InputError
from fer_jax.core.memory import Room, check_room, host_room, size

DATA = 'data'  # the mesh axis that shares a batch
REPLICA = 'replica'  # the mesh axis that shares out runs which differ in their seed only


def make_mesh(batch_size: int) -> Mesh:
    """A mesh of one axis, 'data', over as many devices as divide `batch_size`, which is all of them where possible.

    Raises:
      InputError: on GPU and TPU, where leaving devices idle would be a waste that nobody sees; and with several processes, none of
        which may be left out.
    """
    devices = jax.devices()
    used = max(n for n in range(1, len(devices) + 1) if batch_size % n == 0)
    if used < len(devices) and (devices[0].platform != 'cpu' or jax.process_count() > 1):
        raise InputError(f'batch_size {batch_size} does not divide over {len(devices)} devices; a multiple of {len(devices)} would')
    # linen modules fail under Explicit axes, the default.
    return jax.make_mesh((used,), (DATA,), axis_types=(AxisType.Auto,), devices=devices[:used])


def make_replica_mesh(batch_size: int, replicas: int) -> Mesh:
    """A mesh of ('replica', 'data'): the devices are shared out over the replicas first, which need no word from each other.

    Devices left over after that share each replica's batch, where they divide it.
    """
    devices = jax.devices()
    apart = max(n for n in range(1, len(devices) + 1) if replicas % n == 0)
    together = max(n for n in range(1, len(devices) // apart + 1) if batch_size % n == 0)
    shape = (apart, together)
    return jax.make_mesh(shape, (REPLICA, DATA), axis_types=(AxisType.Auto,) * 2, devices=devices[: apart * together])


def meet_on_all_devices() -> None:
    """One sum over all devices of all processes, which makes the connections between them while all are here.

    Left to the first step they would have 30 s on CPU, and one process may compile that much longer than another.
    """
    everywhere = jax.make_mesh((jax.device_count(),), (DATA,))
    ones = jax.make_array_from_callback((jax.device_count(),), NamedSharding(everywhere, PartitionSpec(DATA)), lambda _: np.ones(1))
    jax.block_until_ready(jax.jit(jnp.sum, out_shardings=NamedSharding(everywhere, PartitionSpec()))(ones))


def whole(mesh: Mesh) -> NamedSharding:
    """The sharding of an array that every device of the mesh holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def replicate(mesh: Mesh, tree: Any) -> Any:
    """The tree of host arrays as global arrays, whole on every device of the mesh."""
    return jax.tree.map(lambda x: jax.make_array_from_callback(np.shape(x), whole(mesh), lambda index: np.asarray(x)[index]), tree)


def settle(tree: Any) -> None:
    """On CPU waits for the arrays of `tree`; elsewhere returns at once, so that calls queue up on the device.

    Virtual CPU devices share one pool of as many threads as cores. With two programs in flight, one device of each may hold
    a thread while it waits in a collective for its partner, which finds none left; XLA ends the process after 40 s.
    """
    if jax.default_backend() == 'cpu':
        jax.block_until_ready(tree)


def device_memory() -> int:
    """Bytes of memory of one device, of the smallest in any process (all must call this); of a CPU device, its part of the host's."""
    room, sharing = device_room()
    memory = room.most // sharing
    return memory if jax.process_count() == 1 else int(multihost_utils.process_allgather(np.float32(memory)).min())


def device_room() -> tuple[Room, int]:
    """The memory of one device of this process, and how many of its devices share that: all on CPU, elsewhere none."""
    devices = jax.local_devices()
    known = devices[0].memory_stats() or {}
    if most := known.get('bytes_limit'):
        return Room(most, most - known.get('bytes_in_use', 0), f'a device has {size(most)}'), 1
    return host_room(), len(devices)


def check_program(program: jax.stages.Compiled, what: str, cure: str, place: tuple[Room, int] | None = None) -> None:
    """Returns if the memory that a compiled program takes beside its arguments is left.

    Args:
      place: the memory and how many devices share it; None is `device_room`'s.

    Raises:
      InputError: it is not. Run all the same, one of several virtual CPU devices might find no more, and the others wait for it for ever.
    """
    if taken := program.memory_analysis():
        room, sharing = place or device_room()
        own = taken.temp_size_in_bytes + max(0, taken.output_size_in_bytes - taken.alias_size_in_bytes)
        check_room({what: sharing * own}, room, f'{sharing} {jax.default_backend()} device(s)', cure)
