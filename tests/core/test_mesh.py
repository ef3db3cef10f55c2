"""The mesh over four virtual CPU devices, and arrays whole on each of them."""

import pathlib
import types

import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils
from jax.sharding import AxisType, PartitionSpec

from fer_jax.core.errors import InputError
from fer_jax.core.mesh import DATA, REPLICA, device_memory, make_mesh, make_replica_mesh, replicate, whole


@pytest.mark.parametrize(('batch_size', 'used'), [(128, 4), (6, 3), (7, 1), (1, 1), (2, 2), (4, 4), (3, 3)])
def test_the_mesh_has_as_many_devices_as_divide_the_batch(batch_size, used):
    assert len(jax.devices()) == 4
    mesh = make_mesh(batch_size)
    assert mesh.size == used and mesh.axis_names == (DATA,) and mesh.axis_types == (AxisType.Auto,)
    assert list(mesh.devices.flat) == jax.devices()[:used]


def test_idle_accelerators_are_refused(monkeypatch):
    monkeypatch.setattr(jax, 'devices', lambda: [types.SimpleNamespace(platform='gpu')] * 8)
    with pytest.raises(InputError) as error:
        make_mesh(100)
    assert 'batch_size 100 does not divide over 8 devices' in str(error.value) and 'multiple of 8' in str(error.value)


def test_replicate():
    mesh = make_mesh(4)
    tree = {'images': np.arange(24, dtype=np.uint8).reshape(2, 3, 4), 'step': 3, 'empty': np.zeros((0, 2), np.float32)}
    placed = replicate(mesh, tree)
    for name, value in tree.items():
        array = placed[name]
        np.testing.assert_array_equal(array, value)
        assert array.sharding.is_fully_replicated and len(array.addressable_shards) == 4
        assert all(shard.data.shape == np.shape(value) for shard in array.addressable_shards)
    assert placed['images'].dtype == np.uint8
    assert whole(mesh).spec == PartitionSpec()


@pytest.mark.parametrize(
    ('batch_size', 'replicas', 'shape'), [(8, 4, (4, 1)), (8, 2, (2, 2)), (8, 6, (3, 1)), (7, 2, (2, 1)), (8, 1, (1, 4))]
)
def test_replicas_get_devices_of_their_own_first(batch_size, replicas, shape):
    """On four devices: as many apart as divide the replicas, and what is left shares each replica's batch where it divides that."""
    mesh = make_replica_mesh(batch_size, replicas)
    assert mesh.devices.shape == shape and mesh.axis_names == (REPLICA, DATA)


def test_the_memory_of_a_cpu_device_is_its_part_of_the_hosts():
    total = int(next(line for line in pathlib.Path('/proc/meminfo').read_text().splitlines() if line.startswith('MemTotal')).split()[1])
    assert device_memory() == pytest.approx(total * 1024 / 4, rel=1e-3)


def test_processes_choose_by_the_smallest_device_of_all(monkeypatch):
    monkeypatch.setattr(jax, 'process_count', lambda: 3)
    monkeypatch.setattr(multihost_utils, 'process_allgather', lambda own: np.array([own, 2.0**30, 2.0**50], np.float32))
    assert device_memory() == 2**30
