"""TPU chips' public figures, and a simple model of how long a training step takes on many of them.

The model, which leaves everything out that would need a measurement:

- A chip's own work lasts at least as long as its FLOPs at the peak rate, or its bytes at the memory's bandwidth, whichever is longer
  (Williams et al., 2009): the floor. Convolutions of a dozen channels fill little of a matrix unit, and what stays on the chip
  takes time too, so the estimate is the sum of the cycles that XLA itself expects of the program's operations, at the chip's clock.
- An all-reduce of V bytes is a reduce-scatter and an all-gather (Patarasu and Yuan, 2009) round each axis of the torus, one after
  the other, the second on what the first has scattered. On an axis of n chips that is a ring each takes the longer of
  (n - 1) / n · V at both directions of a link, and n // 2 hops; where the ends are not joined, of (n - 1) / n · V at one
  direction, and n - 1 hops.
- Nothing of it overlaps with the work, though XLA may use all axes at once and overlap.
"""

import dataclasses
import math
import re

from fer_jax.core.errors import InputError, unknown

HOP_SECONDS = 1e-6  # of a message over one link, however small (scaling book, chapter on sharding)
MOST_CHIPS = 2**15  # of a topology's name: far more than any pod has


@dataclasses.dataclass(frozen=True)
class Chip:
    """One generation of TPUs. Sources: `source` for the chip, the scaling book for the link."""

    name: str
    flops_per_second: float  # bfloat16
    clock: float  # Hz: the peak rate over the multiply-adds that the matrix units take in a cycle
    hbm_bytes: float
    hbm_bytes_per_second: float
    link_bytes_per_second: float  # of one link in one direction: a tenth below what the chip's page works out to
    axes: int  # of the torus
    ring: int  # an axis is a ring where its length is a multiple of this
    pod: int  # chips of the largest
    source: str


BOOK = 'https://jax-ml.github.io/scaling-book/tpus'
CHIPS = {
    chip.name: chip
    for chip in (
        Chip('v4', 275e12, 1.05e9, 32 * 2**30, 1.2e12, 4.5e10, 3, 4, 4096, 'https://docs.cloud.google.com/tpu/docs/v4'),
        Chip('v5e', 197e12, 1.5e9, 16e9, 8.19e11, 4.5e10, 2, 16, 256, 'https://docs.cloud.google.com/tpu/docs/v5e'),
        Chip('v5p', 459e12, 1.75e9, 95e9, 2.765e12, 9e10, 3, 4, 8960, 'https://docs.cloud.google.com/tpu/docs/v5p'),
        Chip('v6e', 918e12, 1.75e9, 32e9, 1.638e12, 9e10, 2, 16, 256, 'https://docs.cloud.google.com/tpu/docs/v6e'),
    )
}


@dataclasses.dataclass(frozen=True)
class Topology:
    """Chips of one generation in a grid."""

    chip: Chip
    shape: tuple[int, ...]

    @property
    def chips(self) -> int:
        return math.prod(self.shape)

    @property
    def name(self) -> str:
        return f'{self.chip.name}:{"x".join(map(str, self.shape))}'


def parse_topology(text: str) -> Topology:
    """The topology of a name such as `v5e:16x16` or `v5p:4x8x8`.

    Raises:
      InputError: an unknown chip, or a grid that it does not come in.
    """
    name, _, grid = text.partition(':')
    if name not in CHIPS:
        raise unknown('TPU', name, CHIPS)
    chip = CHIPS[name]
    example = f'{name}:{"x".join(["4"] * chip.axes)}'
    if not re.fullmatch(r'[1-9]\d{0,5}(x[1-9]\d{0,5})*', grid) or grid.count('x') + 1 != chip.axes:
        raise InputError(f'--topology {text}: a {name} pod is a grid of {chip.axes} axes, such as {example}')
    topology = Topology(chip, tuple(map(int, grid.split('x'))))
    if topology.chips > MOST_CHIPS:
        raise InputError(f'--topology {text}: {topology.chips} chips; the largest {name} pod has {chip.pod}')
    return topology


def floor_seconds(chip: Chip, flops: float, moved: float) -> tuple[float, str]:
    """The least seconds of one chip's FLOPs and bytes of memory traffic, and which of the two sets it."""
    return max((flops / chip.flops_per_second, 'arithmetic'), (moved / chip.hbm_bytes_per_second, 'memory'))


def all_reduce_seconds(topology: Topology, payload: float) -> float:
    """Seconds of an all-reduce of `payload` bytes over all chips of the topology; 0 on one chip."""
    seconds = 0.0
    for chips in topology.shape:
        joined = chips > 1 and chips % topology.chip.ring == 0
        rate = topology.chip.link_bytes_per_second * (2 if joined else 1)
        hops = chips // 2 if joined else chips - 1
        seconds += 2 * max((chips - 1) / chips * payload / rate, hops * HOP_SECONDS)
        payload /= chips
    return seconds
