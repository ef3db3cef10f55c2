"""Which allocator a process takes, and how it comes to have it."""

import os
import pathlib
import platform
import subprocess
import sys

import pytest

from fer_jax.core.allocator import CHOSEN_BY, settings

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='settings of glibc')
CPU = {'JAX_PLATFORMS': 'cpu'}
UNCHOSEN = {name: text for name, text in os.environ.items() if name not in CHOSEN_BY}
LISTED = '    libjemalloc.so.2 (libc6,x86-64) => /usr/lib/a folder/libjemalloc.so.2'


def with_ldconfig(folder: pathlib.Path, line: str) -> dict[str, str]:
    """A PATH on which ldconfig, which leaves a file `asked`, lists this."""
    tool = folder / 'ldconfig'
    tool.write_text(f'#!/bin/sh\ntouch "{folder}/asked"\necho "2 libs found in cache\n    libm.so.6 (libc6) => /lib/libm.so.6\n{line}"\n')
    tool.chmod(0o755)
    return {'PATH': f'{folder}:{os.environ["PATH"]}'}


def test_glibc_keeps_what_it_has(tmp_path):
    kept = 'mmap_max=0', 'top_pad=268435456', 'trim_threshold=68719476736', 'hugetlb=1'
    assert settings(CPU | with_ldconfig(tmp_path, ''), 32 << 30) == {'GLIBC_TUNABLES': ':'.join(f'glibc.malloc.{each}' for each in kept)}


@pytest.mark.parametrize(('gigabytes', 'conf'), [(32, 'dirty_decay_ms:-1,muzzy_decay_ms:-1,thp:always'), (4, 'thp:always')])
def test_jemalloc_is_taken_where_the_system_has_it_and_keeps_all_where_there_is_plenty(gigabytes, conf, tmp_path):
    found = settings(CPU | with_ldconfig(tmp_path, LISTED), gigabytes << 30)
    assert found == {'LD_PRELOAD': '/usr/lib/a folder/libjemalloc.so.2', 'MALLOC_CONF': conf}


@pytest.mark.parametrize('name', ['LD_PRELOAD', 'MALLOC_CONF', 'GLIBC_TUNABLES'])
def test_who_has_chosen_is_left_alone(name, tmp_path):
    assert settings(CPU | with_ldconfig(tmp_path, LISTED) | {name: ''}, 32 << 30) == {}


CALL = 'import json, os; from fer_jax.core.allocator import settings; print(json.dumps(settings(os.environ, 32 << 30)))'


def test_what_ulimit_bounds_is_not_kept(tmp_path):
    environment = UNCHOSEN | CPU | with_ldconfig(tmp_path, '')
    script = f'ulimit -v 64000000; "{sys.executable}" -c "{CALL}"'
    assert subprocess.run(['sh', '-c', script], env=environment, capture_output=True, text=True).stdout == '{}\n'


def test_an_accelerator_needs_none(tmp_path):
    (tmp_path / 'libtpu.py').touch()
    environment = {name: text for name, text in UNCHOSEN.items() if name != 'JAX_PLATFORMS'} | {'PYTHONPATH': str(tmp_path)}
    done = subprocess.run([sys.executable, '-c', CALL], env=environment | with_ldconfig(tmp_path, ''), capture_output=True, text=True)
    assert done.stdout == '{}\n', done.stderr


def test_the_process_starts_again_once_with_its_arguments(tmp_path):
    code = """
import os, sys
from fer_jax.core.allocator import start_again_with_allocator
os.write(2, f'{os.getpid()} {sys.argv[1:]} {os.environ.get("GLIBC_TUNABLES", "")[:21]}\\n'.encode())
start_again_with_allocator()
print('the end')
"""
    environment = UNCHOSEN | CPU | with_ldconfig(tmp_path, '')
    with subprocess.Popen(
        [sys.executable, '-W', 'ignore', '-c', code, 'a b', 'ü'], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        out, err = process.communicate(timeout=60)
    said = f"{process.pid} ['a b', 'ü'] "
    assert (out, err) == ('the end\n', f'{said}\n{said}glibc.malloc.mmap_max\n')


@pytest.mark.parametrize(
    ('command', 'asks'),
    [
        ('train', True),
        ('evaluate', True),
        ('sweep', True),
        ('--config.seed=1 train', True),
        ('--config.seed 1 train', True),
        ('predict', False),
        ('--config.seed=1 report', False),
    ],
)
def test_commands_that_go_in_steps_take_one(command, asks, tmp_path):
    environment = UNCHOSEN | CPU | with_ldconfig(tmp_path, '')
    done = subprocess.run([sys.executable, '-m', 'fer_jax', *command.split(), '--no-such'], env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith('error: ')
    assert (tmp_path / 'asked').exists() == asks
