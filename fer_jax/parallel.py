"""Devices: how many, the mesh over them, and how arrays lie on it."""

import hashlib
import os
import pathlib
import platform
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from fer_jax.errors import InputError

DATA = 'data'  # the mesh axis that shares a batch
REPLICA = 'replica'  # the mesh axis that shares out runs which differ in their seed only


def start(cpu_devices: int) -> None:
    """Splits the CPU into virtual devices; to be called before JAX first looks at its devices.

    XLA runs a convolution's weight gradient on one thread, so sharing the batch over as many devices as there are
    cores is what fills a CPU. Other platforms ignore it. 0 chooses the cores, at most 8.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    jax.config.update('jax_num_cpu_devices', cpu_devices or min(cores, 8))
    keep_compiled_programs()


def keep_compiled_programs() -> None:
    """Compiled programs go to ~/.cache/fer_jax (or below XDG_CACHE_HOME), and a second start takes them from there.

    Where JAX has been told a place, as by JAX_COMPILATION_CACHE_DIR, it stays. Programs for a CPU hold its instructions,
    and a home folder may be shared by machines of several kinds, so each kind has a folder of its own.
    """
    if jax.config.jax_compilation_cache_dir is None:
        cache = pathlib.Path(os.environ.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache')
        kind = hashlib.sha256(instruction_sets().encode()).hexdigest()[:12]
        jax.config.update('jax_compilation_cache_dir', str(cache / 'fer_jax' / f'{platform.machine()}-{kind}'))


def instruction_sets() -> str:
    """What tells this CPU's kind from another's, as far as the system says."""
    try:
        lines = pathlib.Path('/proc/cpuinfo').read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(('flags', 'Features'))), platform.processor())


def make_mesh(batch_size: int) -> Mesh:
    """A mesh of one axis, 'data', over as many devices as divide `batch_size`, which is all of them where possible.

    Raises:
      InputError: on GPU and TPU, where leaving devices idle would be a waste that nobody sees.
    """
    devices = jax.devices()
    used = max(n for n in range(1, len(devices) + 1) if batch_size % n == 0)
    if used < len(devices) and devices[0].platform != 'cpu':
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
