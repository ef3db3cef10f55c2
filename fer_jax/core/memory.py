"""How much memory this process may still take, by the machine, its cgroup and its ulimit; and the word for too little of it."""

import os
import pathlib
import resource
from collections.abc import Mapping
from typing import NamedTuple

from fer_jax.core.errors import InputError

CORES = os.cpu_count() or 1
# What `ulimit` bounds, by its flag: addresses, also those at which nothing lies, and those that may be written to.
LIMITS = {'-v': resource.RLIMIT_AS, '-d': resource.RLIMIT_DATA}
HELD = {'-v': 'VmSize', '-d': 'VmData'}  # what Linux calls how much of it a process holds
# How much of it Python, JAX and the threads of both (a hundred, and some for each core) take before anything is computed. With less, XLA
# cannot start a thread, and waits for it for ever or ends in C++.
OWN = {'-v': (4 << 30) + (CORES << 27), '-d': (3 << 29) + (CORES << 26)}
RESERVE = 1 << 28  # bytes left to programs, threads and what libraries hold
LEAST_TOLD = 500_000  # bytes of a part that is named: less is 0 MB


class Room(NamedTuple):
    """How many bytes may be taken in all, how many are left of them, and what says so."""

    most: int
    left: int
    bound: str


def host_room() -> Room:
    """What is least left to this process by the machine's memory, its cgroup (v1 and v2) and `ulimit`.

    What other processes hold counts as left, for they may end: what does not fit then never will.
    """
    return least_room(machine_bytes(), cgroup_bytes(), limits(), held_bytes())


def least_room(
    machine: int | None,
    cgroup: int | None,
    limits: Mapping[str, int | None],
    held: Mapping[str, int],
    own: Mapping[str, int] = OWN,
) -> Room:
    """What of these bounds leaves least to a process; all in bytes, None is no bound.

    Args:
      limits: what `ulimit` allows, by its flag.
      held: what the process holds, as of `held_bytes`.
      own: what of each limit the process will hold in any case.
    """
    in_memory = held.get('VmRSS', 0)
    bounds = [(machine, in_memory, 'this machine has'), (cgroup, in_memory, 'the cgroup of this process may take')]
    bounds += [(most, max(own[flag], held.get(HELD[flag], 0)), f'ulimit {flag} allows') for flag, most in limits.items()]
    rooms = [Room(most, most - taken, f'{text} {size(most)}') for most, taken, text in bounds if most]
    return min(rooms, key=lambda room: room.left, default=Room(1 << 62, 1 << 62, 'no bound is known'))


def limits() -> dict[str, int | None]:
    """What `ulimit` allows this process, in bytes by its flag; None without a bound."""
    found = {flag: resource.getrlimit(kind)[0] for flag, kind in LIMITS.items()}
    return {flag: None if most == resource.RLIM_INFINITY else most for flag, most in found.items()}


def machine_bytes() -> int | None:
    """The machine's memory."""
    try:
        return int(pathlib.Path('/proc/meminfo').read_text().partition('MemTotal:')[2].split()[0]) << 10
    except (OSError, ValueError, IndexError):
        return None


def held_bytes() -> dict[str, int]:
    """VmSize (addresses), VmData (those that may be written) and VmRSS (what lies in memory) of this process, where Linux tells."""
    try:
        lines = pathlib.Path('/proc/self/status').read_text().splitlines()
    except OSError:
        return {}
    return {line.partition(':')[0]: int(line.split()[1]) << 10 for line in lines if line.endswith(' kB')}


def cgroup_bytes(mount: pathlib.Path = pathlib.Path('/sys/fs/cgroup'), own: pathlib.Path = pathlib.Path('/proc/self/cgroup')) -> int | None:
    """The least bound of the cgroup that this process is in and of those around it; None where there is none.

    Args:
      mount: where cgroups are mounted: version 2's, or the folder of version 1's controllers.
      own: says which cgroup this process is in; from inside a container that may not be found below `mount`, whose top is then its own.
    """
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return None
    found = []
    for line in lines:
        _, controllers, path = line.split(':', 2)
        if controllers and 'memory' not in controllers.split(','):
            continue
        top, name = (mount / 'memory', 'memory.limit_in_bytes') if controllers else (mount, 'memory.max')
        folder = top / path.lstrip('/')
        for each in (folder, *folder.parents):
            if each.is_relative_to(top):
                try:
                    found.append(int((each / name).read_text()))
                except (OSError, ValueError):  # no such file, or no bound, which is called max
                    continue
    return min(found, default=None)


def check_room(parts: Mapping[str, int], room: Room, where: str, cure: str) -> None:
    """Returns if what the `parts` take, in bytes by what they are, is left where the room is.

    Raises:
      InputError: it is not; the message has each part, and `cure`, what would take less.
    """
    parts = {**parts, 'programs and threads': RESERVE}
    needed = sum(parts.values())
    if needed > room.left:
        told = [item for item in sorted(parts.items(), key=lambda item: -item[1]) if item[1] >= LEAST_TOLD]
        listed = ', '.join(f'{size(taken)} for {what}' for what, taken in told)
        left = size(max(0, room.left))
        raise InputError(
            f'this would take {size(needed)} of memory on {where}, {listed}; but {room.bound}, of which {left} are left: {cure}'
        )


def check_limits(limits: Mapping[str, int | None], own: Mapping[str, int] = OWN) -> None:
    """Returns if these limits leave room for JAX itself, which takes `own` of each; both in bytes by `ulimit`'s flag.

    Raises:
      InputError: it does not.
    """
    for flag, most in limits.items():
        if most is not None and most < own[flag]:
            why = f'of which Python, JAX and their threads alone take {size(own[flag])}, though they fill little of it'
            raise InputError(f'ulimit {flag} allows {size(most)} of memory, {why}: raise it, or bound the memory by a cgroup')


def size(count: int) -> str:
    """`3.2 GB` of a number of bytes, or MB below one."""
    return f'{count / 1e9:,.1f} GB' if count >= 1e9 else f'{count / 1e6:,.0f} MB'
