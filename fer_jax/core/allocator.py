"""Which memory allocator a process runs with: on a CPU the system's own costs a third of the training step."""

import importlib.util
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping

from fer_jax.core.memory import host_room, limits

CHOSEN_BY = ('LD_PRELOAD', 'MALLOC_CONF', 'GLIBC_TUNABLES')  # who has set one of them, also to nothing, has chosen
PLUGINS = ('jax_plugins', 'libtpu')  # what JAX's accelerators are installed as

# XLA on CPU allocates and frees its buffers, tens of megabytes each, every step. By default glibc gives such memory back to the kernel at
# once, and the next step faults it in again page by page: 250,000 pages a second. jemalloc is told to keep everything, where there is
# plenty: by and by that is thrice what a step needs, 6 GB for 128 images in views of two sizes. Where there is less it gives back what
# lay unused for ten seconds, and is a sixth slower. Where there is no jemalloc, glibc maps no block for itself, its heaps grow by 256 MB,
# are not trimmed, and may use huge pages. (One heap for all threads, arena_max=1, would keep a little more; but compiling litters it, and
# its threads then wait for its lock half of the time.)
PLENTY = 12 << 30  # bytes
KEEP = 'dirty_decay_ms:-1,muzzy_decay_ms:-1,'
TUNABLES = {'mmap_max': 0, 'top_pad': 1 << 28, 'trim_threshold': 1 << 36, 'hugetlb': 1}
GLIBC = {'GLIBC_TUNABLES': ':'.join(f'glibc.malloc.{name}={value}' for name, value in TUNABLES.items())}


def jemalloc_settings(left: int, path: str = os.defpath) -> dict[str, str]:
    """The environment variables with which a process has jemalloc; none where the system has no jemalloc.

    The linker's list is asked, for jemalloc cannot be loaded into a process that runs.

    Args:
      left: the bytes of memory that the process may take.
      path: is searched for ldconfig before the folders where it usually is.
    """
    where = {'PATH': f'{path}:/usr/sbin:/sbin', 'LC_ALL': 'C'}
    try:
        listed = subprocess.run(['ldconfig', '-p'], env=where, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
    except OSError:
        return {}
    found = re.search(r'^\s*libjemalloc\.so\.2 .*=> (.+)$', listed, re.MULTILINE)
    return {'LD_PRELOAD': found[1], 'MALLOC_CONF': (KEEP if left > PLENTY else '') + 'thp:always'} if found else {}


def settings(environment: Mapping[str, str], left: int) -> dict[str, str]:
    """The environment variables that have a process, which may take the bytes that are left, keep a step's memory for the next step.

    Empty where somebody has chosen, where the C library is not glibc, where JAX has an accelerator to compute on, and where `ulimit`
    bounds the process: what is kept counts.
    """
    on_cpu = environment.get('JAX_PLATFORMS') == 'cpu' or not any(map(importlib.util.find_spec, PLUGINS))
    chosen = any(name in environment for name in CHOSEN_BY)
    if chosen or not on_cpu or platform.libc_ver()[0] != 'glibc' or any(limits().values()):
        return {}
    return jemalloc_settings(left, environment.get('PATH', os.defpath)) or GLIBC


def start_again_with_allocator() -> None:
    """Puts this same command in the place of this process, with the `settings` in its environment, unless there are none to make.

    An allocator is chosen when a process starts; to be called before anything else was done.
    """
    if chosen := settings(os.environ, host_room().left):
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | chosen)
