"""fer_jax/runs/writers.py: what a run tells, and that a resumed one tells nothing twice."""

import io
import json
import pathlib
import subprocess

import pytest

from fer_jax.runs.environment import code_revision, environment
from fer_jax.runs.writers import MetricWriter, cut_after, duration


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def writer(folder: pathlib.Path, stream: io.StringIO, clock: Clock, **options: object) -> MetricWriter:
    settings = {'total_steps': 100, 'steps_per_epoch': 10, 'batch_size': 32, 'stream': stream, 'clock': clock} | options
    return MetricWriter(folder, **settings)


def test_the_file_holds_every_line_as_it_is_written(tmp_path: pathlib.Path) -> None:
    with writer(tmp_path, io.StringIO(), Clock()) as metrics:
        metrics.train(5, {'loss': 1.5, 'accuracy': 0.25})
        assert json.loads((tmp_path / 'metrics.jsonl').read_text()) == {
            'step': 5,
            'kind': 'train',
            'epoch': 0.5,
            'loss': 1.5,
            'accuracy': 0.25,
        }
        metrics.validation(10, {'accuracy': 0.5})
    lines = [json.loads(line) for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()]
    assert lines[1] == {'step': 10, 'kind': 'validation', 'epoch': 1.0, 'accuracy': 0.5}


def test_a_value_that_is_not_finite_is_null(tmp_path: pathlib.Path) -> None:
    with writer(tmp_path, io.StringIO(), Clock()) as metrics:
        metrics.train(5, {'loss': float('nan')})
    assert json.loads((tmp_path / 'metrics.jsonl').read_text())['loss'] is None


def test_a_resumed_run_cuts_what_lies_beyond_its_checkpoint(tmp_path: pathlib.Path) -> None:
    lines = [json.dumps({'step': step, 'kind': 'train'}) for step in (5, 10, 15, 20)]
    (tmp_path / 'metrics.jsonl').write_text('\n'.join(lines) + '\n{"step": 25, "ki')  # a kill tore the last one
    with writer(tmp_path, io.StringIO(), Clock(), resumed_at=12) as metrics:
        metrics.train(15, {'loss': 1.0})
    assert [json.loads(line)['step'] for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()] == [5, 10, 15]
    assert [path.name for path in tmp_path.iterdir()] == ['metrics.jsonl']


def test_a_start_from_nothing_cuts_everything(tmp_path: pathlib.Path) -> None:
    (tmp_path / 'metrics.jsonl').write_text('{"step": 5}\n')
    writer(tmp_path, io.StringIO(), Clock()).close()
    assert (tmp_path / 'metrics.jsonl').read_text() == ''


def test_cutting_leaves_a_whole_file_alone(tmp_path: pathlib.Path) -> None:
    path = tmp_path / 'metrics.jsonl'
    path.write_text('{"step": 5}\n{"step": 6}\n')
    before = path.stat().st_ino
    cut_after(path, 6)
    assert path.stat().st_ino == before
    cut_after(tmp_path / 'missing', 6)


def test_rate_and_time_left_by_hand(tmp_path: pathlib.Path) -> None:
    stream, clock = Terminal(), Clock()
    with writer(tmp_path, stream, clock) as metrics:
        clock.now += 4  # 10 steps of 32 images in 4 s: 80 images/s, 0.4 s a step, 90 steps left: 36 s
        metrics.train(10, {'loss': 1.5, 'accuracy': 0.25})
    assert 'step 10/100' in stream.getvalue() and '80 images/s' in stream.getvalue() and '0:36 left' in stream.getvalue()
    assert 'loss 1.5000' in stream.getvalue() and 'accuracy 25.0 %' in stream.getvalue()


def test_a_pause_counts_nowhere(tmp_path: pathlib.Path) -> None:
    stream, clock = Terminal(), Clock()
    with writer(tmp_path, stream, clock) as metrics:
        with metrics.pause():
            clock.now += 1000
        clock.now += 4
        metrics.train(10, {'loss': 1.5})
    assert '80 images/s' in stream.getvalue()


def test_a_log_gets_plain_lines_and_not_too_many(tmp_path: pathlib.Path) -> None:
    stream, clock = io.StringIO(), Clock()
    with writer(tmp_path, stream, clock, quiet_seconds=10.0) as metrics:
        for step in range(1, 101):  # one a second
            clock.now += 1
            metrics.train(step, {'loss': 1.0})
    lines = stream.getvalue().splitlines()
    assert '\r' not in stream.getvalue() and '\x1b' not in stream.getvalue()
    assert 10 <= len(lines) <= 12 and lines[-1].startswith('step 100/100')
    assert len((tmp_path / 'metrics.jsonl').read_text().splitlines()) == 100


def test_a_process_that_does_not_lead_says_and_writes_nothing(tmp_path: pathlib.Path) -> None:
    stream = io.StringIO()
    with writer(tmp_path, stream, Clock(), lead=False, tensorboard=True) as metrics:
        metrics.train(10, {'loss': 1.0})
        metrics.validation(10, {'accuracy': 1.0})
        metrics.message('hello')
    assert stream.getvalue() == '' and not list(tmp_path.iterdir())


def test_tensorboard_events_are_written(tmp_path: pathlib.Path) -> None:
    with writer(tmp_path, io.StringIO(), Clock(), tensorboard=True) as metrics:
        metrics.train(10, {'loss': 1.25})
    (events,) = (tmp_path / 'tensorboard').iterdir()
    assert b'train/loss' in events.read_bytes()


@pytest.mark.parametrize(('seconds', 'text'), [(0.0, '0:00'), (61.0, '1:01'), (3599.6, '1:00:00'), (7325.0, '2:02:05')])
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_environment_names_what_ran() -> None:
    told = environment()
    assert told['device']['platform'] == 'cpu' and told['device']['count'] == 4
    assert told['packages']['jax'] and set(told['code']) == {'revision', 'dirty'}


def test_code_revision_of_a_checkout_and_of_none(tmp_path: pathlib.Path) -> None:
    package = tmp_path / 'repository' / 'package'
    package.mkdir(parents=True)
    assert code_revision(package) == {'revision': '', 'dirty': False}

    def git(*arguments: str) -> str:
        identity = ['-c', 'user.name=a', '-c', 'user.email=a@example.org']
        return subprocess.run(['git', '-C', package, *identity, *arguments], check=True, capture_output=True, text=True).stdout.strip()

    (package / '__init__.py').write_text('')
    git('init', '--quiet')
    git('add', '.')
    git('commit', '--quiet', '-m', 'first')
    assert code_revision(package) == {'revision': git('rev-parse', 'HEAD'), 'dirty': False}
    (package / '__init__.py').write_text('changed')
    assert code_revision(package)['dirty']
