"""How much memory there is by each of its bounds, and what is told where it is too little."""

import pathlib
import subprocess
import sys

import pytest

from fer_jax.core import memory
from fer_jax.core.errors import InputError, out_of_memory
from fer_jax.core.memory import RESERVE, Room, cgroup_bytes, check_limits, check_room, host_room, least_room

GB = 10**9
OWN = {'-v': 3 * GB, '-d': 3 * GB}


def write(path: pathlib.Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ('own', 'bounds', 'expected'),
    [
        ('0::/user/job\n', {'user/job/memory.max': 'max', 'user/memory.max': '3000000', 'memory.max': '5000000'}, 3_000_000),
        ('0::/user/job\n', {'memory.max': '5000000'}, 5_000_000),  # as seen from inside a container
        (
            '4:memory:/job\n0::/\n',
            {'memory/job/memory.limit_in_bytes': '7000000', 'memory/memory.limit_in_bytes': str(2**63 - 4096)},
            7_000_000,
        ),
        ('5:cpu,cpuacct:/job\n', {'memory.max': '1'}, None),
        ('0::/job\n', {'job/memory.max': 'max'}, None),
    ],
)
def test_the_least_bound_of_the_cgroups_around_a_process(own, bounds, expected, tmp_path):
    write(tmp_path / 'own', own)
    for name, text in bounds.items():
        write(tmp_path / 'mount' / name, text + '\n')
    assert cgroup_bytes(tmp_path / 'mount', tmp_path / 'own') == expected


def test_a_system_without_cgroups(tmp_path):
    assert cgroup_bytes(tmp_path, tmp_path / 'none') is None


@pytest.mark.parametrize(
    ('bounds', 'most', 'left', 'said'),
    [
        ({'machine': 8 * GB}, 8, 7, 'this machine has 8.0 GB'),
        ({'machine': 8 * GB, 'cgroup': 3 * GB}, 3, 2, 'the cgroup of this process may take 3.0 GB'),
        ({'machine': 8 * GB, '-v': 10 * GB}, 10, 6, 'ulimit -v allows 10.0 GB'),
        ({'machine': 8 * GB, '-d': 5 * GB}, 5, 2, 'ulimit -d allows 5.0 GB'),  # JAX's own 3 GB, though 2 are held so far
    ],
)
def test_what_leaves_least_is_the_bound(bounds, most, left, said):
    held = {'VmRSS': GB, 'VmSize': 4 * GB, 'VmData': 2 * GB}
    limits = {flag: bounds.get(flag) for flag in OWN}
    assert least_room(bounds['machine'], bounds.get('cgroup'), limits, held, OWN) == Room(most * GB, left * GB, said)


def test_the_bounds_of_this_process():
    code = (
        'import resource; from fer_jax.core.memory import host_room, limits\n'
        'hard = resource.getrlimit(resource.RLIMIT_DATA)[1]; resource.setrlimit(resource.RLIMIT_DATA, (1 << 30, hard))\n'
        "print(limits()['-d'], host_room().bound)"
    )
    told = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=60)
    assert told.stdout == f'{1 << 30} ulimit -d allows 1.1 GB\n', told.stderr
    assert host_room().left <= memory.machine_bytes()


def test_what_does_not_fit_is_told_part_by_part_the_largest_first():
    parts, room = (
        {'images': 200_000_000, 'activations': 3 * GB, 'nothing': 0, 'little': 400_000},
        Room(4 * GB, 3 * GB, 'ulimit -v allows 4.0 GB'),
    )
    check_room(parts, room._replace(left=sum(parts.values()) + RESERVE), 'here', 'less would do')
    with pytest.raises(InputError) as error:
        check_room(parts, room, 'here', 'less would do')
    assert str(error.value) == (
        'this would take 3.5 GB of memory on here, 3.0 GB for activations, 268 MB for programs and threads, 200 MB for images; '
        'but ulimit -v allows 4.0 GB, of which 3.0 GB are left: less would do'
    )


@pytest.mark.parametrize(('limits', 'said'), [({'-v': GB}, r'ulimit -v allows 1\.0 GB'), ({'-d': 10**6}, 'ulimit -d allows 1 MB')])
def test_too_little_for_jax_itself(limits, said):
    with pytest.raises(InputError, match=f'{said} of memory, of which Python, JAX and their threads alone take 3.0 GB'):
        check_limits(limits, OWN)
    check_limits({'-v': 100 * GB, '-d': None})


def test_which_errors_say_that_memory_ran_out():
    assert out_of_memory(MemoryError()) and out_of_memory(RuntimeError("can't start new thread"))
    assert out_of_memory(RuntimeError('RESOURCE_EXHAUSTED: Out of memory allocating 3200000000 bytes.'))
    assert not out_of_memory(RuntimeError('INTERNAL: something else'))
