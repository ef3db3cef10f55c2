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
    ('profile', 'expected'),
    [
        ('3:6', [0, 'start', 3, 'stop', 6, 9]),
        ('4:5', [0, 'start', 3, 'stop', 6, 9]),
        ('2:4', ['start', 0, 3, 'stop', 6, 9]),
        ('7:99', [0, 3, 'start', 6, 9, 'stop']),
        (None, [0, 3, 6, 9]),
    ],
)
def test_whole_calls_are_traced(monkeypatch, tmp_path, profile, expected):
    """Calls of three steps, from step 0 on."""
    seen = []
    monkeypatch.setattr(jax.profiler, 'start_trace', lambda folder: seen.append('start'))
    monkeypatch.setattr(jax.profiler, 'stop_trace', lambda: seen.append('stop'))
    with tracing(profile, tmp_path) as trace:
        for step in (0, 3, 6, 9):
            trace(step, 3, ())
            seen.append(step)
            trace(step + 3, 0, ())
    assert seen == expected


def test_the_trace_holds_what_ran_in_these_steps(tmp_path):
    def named(name):
        def function(x):
            return x * 2

        function.__name__ = name
        return jax.jit(function)

    with tracing('1:2', tmp_path) as trace:
        for step in range(4):
            trace(step, 1, ())
            result = named(f'of_step_{step}')(jnp.ones(3))
            trace(step + 1, 0, result)
    (path,) = tmp_path.rglob('*.xplane.pb')
    planes = jax.profiler.ProfileData.from_file(str(path)).planes
    names = {event.name for plane in planes for line in plane.lines for event in line.events}
    assert [step for step in range(4) if any(f'of_step_{step}' in name for name in names)] == [1]


def test_a_trace_ends_with_the_run(tmp_path):
    with pytest.raises(KeyboardInterrupt), tracing('0:9', tmp_path) as trace:
        trace(0, 1, ())
        raise KeyboardInterrupt
    with tracing('0:9', tmp_path) as trace:  # which would fail, if the first one still ran
        trace(0, 1, ())
    assert list(tmp_path.rglob('*.xplane.pb'))
