"""The training step with the allocators that a process on a CPU may have: the system's own, glibc told to keep memory, and jemalloc.

What is sparing of memory gives back what lay unused for ten seconds, as it does while the others have their turns: so it begins each
turn anew, and is somewhat faster in a run.

    python -m benchmarks.allocators [--out results/speed/allocators] [--quick] [--config.FIELD=VALUE …]

`train` chooses one by itself (fer_jax/core/allocator.py). The system has to have jemalloc (Debian, Ubuntu: libjemalloc2).
"""

import os
import statistics
from typing import Any

from benchmarks.side_by_side import Contender, Round, race, ratio, record, serve
from benchmarks.training_step import make_parser, make_training_step, parse, repeated
from fer_jax.core.allocator import CHOSEN_BY, GLIBC, PLENTY, jemalloc_settings

PLAIN = "the system's"


def make(name: str, options: dict[str, Any]) -> tuple[Round, dict[str, Any]]:
    """A contender's round, whose work is images, and what it says of itself."""
    step = make_training_step(options['overrides'])
    return repeated(step, step.images_per_call, options['seconds']), step.about()


def main() -> None:
    if serve(make):
        return
    options, overrides = parse(make_parser(__doc__, 'allocators', rounds=7))
    unchosen = {name: text for name, text in os.environ.items() if name not in CHOSEN_BY}
    chosen = {PLAIN: {}, 'glibc': GLIBC} | {'jemalloc': jemalloc_settings(PLENTY + 1), 'jemalloc, sparing': jemalloc_settings(0)}
    if not chosen['jemalloc']:
        raise SystemExit('this system has no jemalloc (Debian, Ubuntu: apt-get install libjemalloc2)')
    asked = {'overrides': overrides, 'seconds': options.seconds}
    contenders = [Contender('benchmarks.allocators', name, asked, unchosen | variables) for name, variables in chosen.items()]
    about = contenders[0].about
    rates = race(contenders, options.rounds)
    times = {name: ratio(rates, name, PLAIN) for name in chosen if name != PLAIN}
    where = about.pop('environment')
    record(options.out, about | {'variables': chosen, 'images_per_second': rates, 'times_as_fast_as_the_systems': times}, where)
    for name, measured in rates.items():
        beside = '{median:.2f} ({low:.2f} to {high:.2f}) times as fast'.format(**times[name]) if name in times else ''
        print(f'{name:<18} {statistics.median(measured):>6.0f} images/s  {beside}'.rstrip())


if __name__ == '__main__':
    main()
