"""fer_jax/runs/progress.py: images/s and the time left by hand, one line on a terminal, and few in a log."""

import io
import pathlib

import pytest

from tests.runs.writing import Clock, Terminal, lines_of, make_writer


def test_rate_and_time_left_by_hand(tmp_path: pathlib.Path) -> None:
    stream, clock = io.StringIO(), Clock()
    with make_writer(tmp_path, stream=stream, clock=clock) as metrics:
        clock.now += 4  # 10 steps of 32 images in 4 s: 80 images/s, 0.4 s a step, 90 steps left: 36 s
        metrics.train(10, {'loss': 1.5, 'accuracy': 0.25})
    assert stream.getvalue() == 'step 10/100  epoch 1.0/10  80 images/s  loss 1.5000  accuracy 25.0 %  0:00:36 left\n'


def test_speed_leaves_out_evaluation_and_compiling(tmp_path: pathlib.Path) -> None:
    clock, stream = Clock(), Terminal()
    with make_writer(tmp_path, clock=clock, stream=stream) as writer:
        with writer.pause():
            clock.now += 60  # compiling
        clock.now += 3
        with writer.pause():
            clock.now += 500
            with writer.pause():  # as the average's batch norms are computed within an evaluation
                clock.now += 400
            clock.now += 100
        clock.now += 1
        writer.train(9, {})
    assert f' {9 * 32 // 4} images/s' in stream.getvalue()


def test_time_left_is_smoothed(tmp_path: pathlib.Path) -> None:
    clock, stream = Clock(), io.StringIO()
    with make_writer(tmp_path, clock=clock, stream=stream, quiet_seconds=0.0) as writer:
        clock.now += 10
        writer.train(10, {'loss': 1.0})  # 1 s a step, 90 to go
        clock.now += 110
        writer.train(20, {'loss': 1.0})  # 11 s a step: smoothed 0.9 · 1 + 0.1 · 11 = 2 s, 80 to go
    first, second = stream.getvalue().splitlines()
    assert first == 'step 10/100  epoch 1.0/10  32 images/s  loss 1.0000  0:01:30 left'
    assert second == 'step 20/100  epoch 2.0/10  3 images/s  loss 1.0000  0:02:40 left'


def test_a_terminal_gets_one_line_that_overwrites_itself(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('COLUMNS', '40')
    clock, stream = Clock(), Terminal()
    with make_writer(tmp_path, clock=clock, stream=stream) as writer:
        for step in (1, 2):
            clock.now += 1
            writer.train(step, {'loss': 2.0, 'accuracy': 0.5})
        writer.validation(2, {'accuracy': 0.5})
        clock.now += 1
        writer.train(3, {'loss': 2.0, 'accuracy': 0.5})
    first, second, rest = stream.getvalue().removeprefix('\r\x1b[K').split('\r\x1b[K', 2)
    assert first == 'step 1/100  epoch 0.1/10  32 images/s  loss 2.0000'[:39]
    assert second == 'step 2/100  epoch 0.2/10  32 images/s  loss 2.0000'[:39]
    message, last = rest.split('\n', 1)
    assert message == 'epoch 0.2  validation: accuracy 50.0 %'
    assert last.startswith('\r\x1b[Kstep 3/100') and last.endswith('\n') and last.count('\n') == 1


def test_a_log_gets_plain_lines_and_not_too_many(tmp_path: pathlib.Path) -> None:
    stream, clock = io.StringIO(), Clock()
    with make_writer(tmp_path, stream=stream, clock=clock, quiet_seconds=10.0) as metrics:
        for step in range(1, 101):  # one a second
            clock.now += 1
            metrics.train(step, {'loss': 1.0})
    assert '\r' not in stream.getvalue() and '\x1b' not in stream.getvalue()
    shown = [int(line.split('/')[0].removeprefix('step ')) for line in stream.getvalue().splitlines()]
    assert shown == [1, 11, 21, 31, 41, 51, 61, 71, 81, 91, 100], 'every ten seconds, and the end'
    assert len(lines_of(tmp_path)) == 100
