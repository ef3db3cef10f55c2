"""What the loop over the steps refuses."""

import contextlib

import jax
import numpy as np
import pytest

from fer_jax.core.config import load_config
from fer_jax.core.errors import InputError
from fer_jax.runs.checkpoint import Checkpoints
from fer_jax.training.loop import Loop
from fer_jax.training.run import build
from tests.tiny import ROOT, overrides


@pytest.mark.slow
def test_a_transfer_that_nobody_asked_for_is_an_error(tmp_path):
    """A number that is added to the state where the loop asks whether to stop: after a step, before anything else is due."""
    fields = dict(text.removeprefix('--config.').split('=', 1) for text in overrides(tmp_path))
    run = build(load_config(str(ROOT / 'configs' / 'toyfaces.py'), fields))

    def stopped():
        return bool(loop.state.step + np.int32(1) < 0)

    with contextlib.closing(Checkpoints(tmp_path / 'checkpoints', 2)) as checkpoints:
        loop = Loop(run, tmp_path, checkpoints, stopped)
        with loop.writer, pytest.raises(jax.errors.JaxRuntimeError, match='Disallowed host-to-device transfer'):
            loop.advance()
        assert loop.step == 1
        assert not stopped(), 'the same is allowed outside of the steps'


def test_a_run_is_not_gone_on_with_by_another_teacher(tmp_path):
    """The file keeps its name; what it was is in the checkpoint."""
    (tmp_path / 'teacher.csv').write_text('of its first start')
    fields = dict(text.removeprefix('--config.').split('=', 1) for text in overrides(tmp_path, data__teacher=str(tmp_path / 'teacher.csv')))
    config = load_config(str(ROOT / 'configs' / 'toyfaces.py'), fields)
    with contextlib.closing(Checkpoints(tmp_path / 'checkpoints', 2)) as checkpoints:
        with (first := Loop(build(config), tmp_path, checkpoints, lambda: False)).writer:
            first.saver.save(first.state, first.history, improved=False)
            first.saver.finish()
        with (second := Loop(build(config), tmp_path, checkpoints, lambda: False)).writer:
            assert second.history.starts == 2
        (tmp_path / 'teacher.csv').write_text('of another run')
        with pytest.raises(InputError, match='data.teacher: not what the run was trained by'):
            Loop(build(config), tmp_path, checkpoints, lambda: False)
