"""More of fer_jax/runs/writers.py: torn lines, kills, the overwritten terminal line, TensorBoard on resume."""

import io
import json
import subprocess

import pytest

from fer_jax.core import files
from fer_jax.core.errors import InputError
from fer_jax.runs import writers
from fer_jax.runs.environment import code_revision
from fer_jax.runs.writers import MetricWriter, cut_after


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def make_writer(folder, **options):
    options = {'stream': io.StringIO(), 'clock': Clock()} | options
    return MetricWriter(folder, total_steps=100, steps_per_epoch=10, batch_size=32, **options)


def lines_of(folder):
    return [json.loads(line) for line in (folder / 'metrics.jsonl').read_text().splitlines()]


def test_a_resumed_run_has_no_lost_and_no_doubled_line(tmp_path):
    def steps(writer, first, last):
        for step in range(first, last + 1):
            writer.train(step, {'loss': 1 / step})
            if step % 10 == 0:
                writer.validation(step, {'accuracy': step / 100})

    with make_writer(tmp_path) as writer:
        steps(writer, 1, 27)
    with (tmp_path / 'metrics.jsonl').open('a') as file:
        file.write('{"step": 28, "kind": "tra')  # killed here; the last checkpoint was at 20
    with make_writer(tmp_path, resumed_at=20) as writer:
        steps(writer, 21, 30)
    found = [(line['kind'], line['step']) for line in lines_of(tmp_path)]
    assert [step for kind, step in found if kind == 'train'] == list(range(1, 31))
    assert [step for kind, step in found if kind == 'validation'] == [10, 20, 30]


@pytest.mark.parametrize('torn', [b'{"step": 2, "kind": "train"}', b'{"step": 2', b'{', b'\x00\x00\x00\n', b'{"kind": "train"}\n', b'7\n'])
def test_a_torn_last_line_goes(tmp_path, torn):
    path = tmp_path / 'metrics.jsonl'
    path.write_bytes(b'{"step": 1}\n' + torn)
    cut_after(path, 2)
    assert path.read_bytes() == b'{"step": 1}\n'


def test_a_new_start_cuts_off_what_a_run_without_a_checkpoint_left(tmp_path):
    with make_writer(tmp_path) as writer:
        writer.validation(0, {'accuracy': 0.1})
    with make_writer(tmp_path) as writer:
        writer.validation(0, {'accuracy': 0.2})
    assert [line['accuracy'] for line in lines_of(tmp_path)] == [0.2]


def test_a_cut_that_fails_leaves_the_file(tmp_path, monkeypatch):
    path = tmp_path / 'metrics.jsonl'
    path.write_text('{"step": 1}\n{"step": 2}\n')

    def full(*_):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(files.os, 'replace', full)
    with pytest.raises(OSError, match='No space'):
        cut_after(path, 1)
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'
    assert list(tmp_path.iterdir()) == [path]


def test_speed_leaves_out_evaluation_and_compiling(tmp_path):
    clock = Clock()
    stream = Terminal()
    with make_writer(tmp_path, clock=clock, stream=stream) as writer:
        clock.now += 60  # compiling, and the first step
        writer.restart(1)
        clock.now += 3
        with writer.pause():
            clock.now += 1000
        clock.now += 1
        writer.train(9, {})
    assert f'{8 * 32 // 4} images/s' in stream.getvalue()


def test_time_left_is_smoothed(tmp_path):
    clock, stream = Clock(), io.StringIO()
    with make_writer(tmp_path, clock=clock, stream=stream, quiet_seconds=0.0) as writer:
        clock.now += 10
        writer.train(10, {'loss': 1.0})  # 1 s a step, 90 to go
        clock.now += 110
        writer.train(20, {'loss': 1.0})  # 11 s a step: smoothed 0.9 · 1 + 0.1 · 11 = 2 s, 80 to go
    first, second = stream.getvalue().splitlines()
    assert first == 'step 10/100  epoch 1.0/10  32 images/s  loss 1.0000  1:30 left'
    assert second == 'step 20/100  epoch 2.0/10  3 images/s  loss 1.0000  2:40 left'


def test_a_terminal_gets_one_line_that_overwrites_itself(tmp_path, monkeypatch):
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


def test_tensorboard_events(tmp_path):
    pytest.importorskip('tensorboardX')
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import masked_crc32c

    def events():
        for path in sorted((tmp_path / 'tensorboard').iterdir()):
            data = path.read_bytes()
            while data:
                size = int.from_bytes(data[:8], 'little')
                assert int.from_bytes(data[8:12], 'little') == masked_crc32c(data[:8])
                yield Event.FromString(data[12 : 12 + size])
                data = data[16 + size :]

    with make_writer(tmp_path, tensorboard=True) as writer:
        writer.train(5, {'loss': 1.5})
        writer.validation(5, {'accuracy': 0.5})
    scalars = {(value.tag, event.step): value.simple_value for event in events() for value in event.summary.value}
    assert scalars == {('train/loss', 5): 1.5, ('validation/accuracy', 5): 0.5}
    with make_writer(tmp_path, tensorboard=True, resumed_at=3):
        pass
    # TensorBoard hides what was logged from the step of a START event on.
    assert 4 in [event.step for event in events() if event.session_log.status == 1]


def test_tensorboard_without_its_package_says_what_would_do(tmp_path, monkeypatch):
    monkeypatch.setitem(writers.sys.modules, 'tensorboardX', None)
    with pytest.raises(InputError, match='train.tensorboard=false'):
        make_writer(tmp_path, tensorboard=True)


def test_the_codes_revision_and_whether_it_was_changed(tmp_path):
    package = tmp_path / 'package'
    package.mkdir()
    (package / '__init__.py').write_text('')
    assert code_revision(package) == {'revision': '', 'dirty': False}

    def git(*arguments):
        identity = ['-c', 'user.name=a', '-c', 'user.email=a@example.org', '-c', 'commit.gpgsign=false']
        return subprocess.run(['git', '-C', tmp_path, *identity, *arguments], check=True, capture_output=True, text=True).stdout.strip()

    git('init', '-q')
    assert code_revision(package) == {'revision': '', 'dirty': False}  # as in a virtual environment inside a checkout
    git('add', '.')
    git('commit', '-q', '-m', 'x')
    (tmp_path / 'notes').write_text('')
    assert code_revision(package) == {'revision': git('rev-parse', 'HEAD'), 'dirty': False}
    (package / '__init__.py').write_text('changed = True')
    assert code_revision(package) == {'revision': git('rev-parse', 'HEAD'), 'dirty': True}
