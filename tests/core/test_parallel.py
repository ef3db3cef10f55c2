"""The mesh over four virtual CPU devices, and arrays whole on each of them."""

import os
import subprocess
import sys
import types

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from fer_jax.core import parallel
from fer_jax.core.errors import InputError


@pytest.mark.parametrize(('batch_size', 'used'), [(128, 4), (6, 3), (7, 1), (1, 1), (2, 2), (4, 4), (3, 3)])
def test_the_mesh_has_as_many_devices_as_divide_the_batch(batch_size, used):
    assert len(jax.devices()) == 4
    mesh = parallel.make_mesh(batch_size)
    assert mesh.size == used and mesh.axis_names == (parallel.DATA,) and mesh.axis_types == (AxisType.Auto,)
    assert list(mesh.devices.flat) == jax.devices()[:used]


def test_idle_accelerators_are_refused(monkeypatch):
    monkeypatch.setattr(jax, 'devices', lambda: [types.SimpleNamespace(platform='gpu')] * 8)
    with pytest.raises(InputError) as error:
        parallel.make_mesh(100)
    assert 'batch_size 100 does not divide over 8 devices' in str(error.value) and 'multiple of 8' in str(error.value)


def test_replicate():
    mesh = parallel.make_mesh(4)
    tree = {'images': np.arange(24, dtype=np.uint8).reshape(2, 3, 4), 'step': 3, 'empty': np.zeros((0, 2), np.float32)}
    placed = parallel.replicate(mesh, tree)
    for name, value in tree.items():
        array = placed[name]
        np.testing.assert_array_equal(array, value)
        assert array.sharding.is_fully_replicated and len(array.addressable_shards) == 4
        assert all(shard.data.shape == np.shape(value) for shard in array.addressable_shards)
    assert placed['images'].dtype == np.uint8
    assert parallel.whole(mesh).spec == PartitionSpec()


@pytest.mark.parametrize(('asked', 'cores', 'devices'), [(0, 2, 2), (0, 64, 8), (3, 64, 3), (16, 2, 16)])
def test_the_cpu_is_split_as_asked_or_by_its_cores(monkeypatch, asked, cores, devices):
    seen = {}
    monkeypatch.setattr(parallel.os, 'sched_getaffinity', lambda process: set(range(cores)), raising=False)
    monkeypatch.setattr(
        parallel.jax, 'config', types.SimpleNamespace(update=seen.__setitem__, jax_num_cpu_devices=-1, jax_compilation_cache_dir='told')
    )
    parallel.start(asked)
    assert seen == {'jax_num_cpu_devices': devices}


def test_a_number_of_devices_that_jax_was_told_stays(monkeypatch):
    seen = {}
    told = types.SimpleNamespace(update=seen.__setitem__, jax_num_cpu_devices=3, jax_compilation_cache_dir='told')
    monkeypatch.setattr(parallel.jax, 'config', told)
    parallel.start(0)
    assert seen == {}
    parallel.start(2)
    assert seen == {'jax_num_cpu_devices': 2}


@pytest.mark.parametrize(
    ('batch_size', 'replicas', 'shape'), [(8, 4, (4, 1)), (8, 2, (2, 2)), (8, 6, (3, 1)), (7, 2, (2, 1)), (8, 1, (1, 4))]
)
def test_replicas_get_devices_of_their_own_first(batch_size, replicas, shape):
    """On four devices: as many apart as divide the replicas, and what is left shares each replica's batch where it divides that."""
    mesh = parallel.make_replica_mesh(batch_size, replicas)
    assert mesh.devices.shape == shape and mesh.axis_names == (parallel.REPLICA, parallel.DATA)


def test_a_second_start_takes_what_the_first_compiled(tmp_path):
    """The first process leaves a program in the user's cache folder, the second adds none; a place that JAX was told stays."""
    code = 'import jax; from fer_jax.core import parallel; parallel.start(1); print(jax.config.jax_compilation_cache_dir);'
    code += 'jax.config.update("jax_persistent_cache_min_compile_time_secs", 0); jax.jit(lambda x: x + 1)(2.0)'
    variables = {name: text for name, text in os.environ.items() if name != 'JAX_COMPILATION_CACHE_DIR'}

    def cached(**more: str) -> tuple[str, set[str]]:
        command = [sys.executable, '-c', code]
        said = subprocess.run(command, env=variables | {'XDG_CACHE_HOME': str(tmp_path)} | more, check=True, capture_output=True, text=True)
        return said.stdout.strip(), {path.name for path in (tmp_path / 'fer_jax').rglob('*-cache')}

    place, first = cached()
    assert place.startswith(str(tmp_path / 'fer_jax')) and first
    assert cached() == (place, first)
    assert cached(JAX_COMPILATION_CACHE_DIR=str(tmp_path / 'told')) == (str(tmp_path / 'told'), first)
