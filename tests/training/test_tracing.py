"""The trace of the steps that train.profile names: which calls it holds, what stands in it, and text that names none."""

import jax
import jax.numpy as jnp
import pytest

from fer_jax.core.config import load_config
from fer_jax.core.errors import InputError
from fer_jax.training.tracing import tracing


@pytest.mark.parametrize('text', ['100', '110:100', '5:5', '-1:5', '1:2:3', 'a:b', '1e2:2e2'])
def test_other_text_than_two_steps_in_order_is_refused(text):
    with pytest.raises(InputError, match=r'train.profile=.*FIRST:LAST') as error:
        load_config('configs/toyfaces.py', {'train.profile': text})
    assert '\n' not in str(error.value)


@pytest.mark.parametrize(
    ('profile', 'ahead', 'expected'),
    [('3:6', 3, [3]), ('4:5', 3, [3]), ('2:4', 3, [0, 3]), ('7:99', 3, [6, 9]), ('1:2', 1, [1]), (None, 3, [])],
)
def test_the_trace_holds_whole_calls_that_ran_in_these_steps(tmp_path, profile, ahead, expected):
    """Four calls of so many steps, from step 0 on."""

    def named(name):
        def function(x):
            return x * 2

        function.__name__ = name
        return jax.jit(function)

    steps = range(0, 4 * ahead, ahead)
    with tracing(profile, tmp_path) as trace:
        for step in steps:
            trace(step, ahead, ())
            result = named(f'of_step_{step}')(jnp.ones(3))
            trace(step + ahead, 0, result)
    traces = [jax.profiler.ProfileData.from_file(str(path)) for path in tmp_path.rglob('*.xplane.pb')]
    assert len(traces) == bool(expected)
    names = {event.name for found in traces for plane in found.planes for line in plane.lines for event in line.events}
    assert [step for step in steps if any(f'of_step_{step}' in name for name in names)] == expected


def test_a_trace_ends_with_the_run(tmp_path):
    with pytest.raises(KeyboardInterrupt), tracing('0:9', tmp_path) as trace:
        trace(0, 1, ())
        raise KeyboardInterrupt
    with tracing('0:9', tmp_path) as trace:  # which would fail, if the first one still ran
        trace(0, 1, ())
    assert list(tmp_path.rglob('*.xplane.pb'))
