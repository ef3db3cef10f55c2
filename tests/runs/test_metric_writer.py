"""fer_jax/runs/metric_writer.py: what a run tells, and that a resumed one tells nothing twice, nor loses a line to a kill."""

import io
import pathlib
import sys
from collections.abc import Iterator

import pytest
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.record_writer import masked_crc32c

from fer_jax.core.errors import InputError
from fer_jax.runs.metric_writer import MetricWriter, cut_after
from tests.runs.writing import lines_of, make_writer


def test_the_file_holds_every_line_as_it_is_written(tmp_path: pathlib.Path) -> None:
    with make_writer(tmp_path) as metrics:
        metrics.train(5, {'loss': 1.5, 'accuracy': 0.25})
        first = {'step': 5, 'kind': 'train', 'epoch': 0.5, 'loss': 1.5, 'accuracy': 0.25}
        assert lines_of(tmp_path) == [first]
        metrics.validation(10, {'accuracy': 0.5})
    assert lines_of(tmp_path) == [first, {'step': 10, 'kind': 'validation', 'epoch': 1.0, 'accuracy': 0.5}]


def test_a_value_that_is_not_finite_is_null(tmp_path: pathlib.Path) -> None:
    with make_writer(tmp_path) as metrics:
        metrics.train(5, {'loss': float('nan'), 'accuracy': float('-inf')})
    assert (lines_of(tmp_path)[0]['loss'], lines_of(tmp_path)[0]['accuracy']) == (None, None)


def test_a_resumed_run_has_no_lost_and_no_doubled_line(tmp_path: pathlib.Path) -> None:
    def steps(writer: MetricWriter, first: int, last: int) -> None:
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
    assert [path.name for path in tmp_path.iterdir()] == ['metrics.jsonl']


def test_a_new_start_cuts_off_what_a_run_without_a_checkpoint_left(tmp_path: pathlib.Path) -> None:
    with make_writer(tmp_path) as writer:
        writer.validation(0, {'accuracy': 0.1})
    with make_writer(tmp_path) as writer:
        assert lines_of(tmp_path) == []
        writer.validation(0, {'accuracy': 0.2})
    assert [line['accuracy'] for line in lines_of(tmp_path)] == [0.2]


@pytest.mark.parametrize('torn', [b'{"step": 2, "kind": "train"}', b'{"step": 2', b'{', b'\x00\x00\x00\n', b'{"kind": "train"}\n', b'7\n'])
def test_a_torn_last_line_goes(tmp_path: pathlib.Path, torn: bytes) -> None:
    path = tmp_path / 'metrics.jsonl'
    path.write_bytes(b'{"step": 1}\n' + torn)
    cut_after(path, 2)
    assert path.read_bytes() == b'{"step": 1}\n'


def test_cutting_leaves_a_whole_file_alone(tmp_path: pathlib.Path) -> None:
    path = tmp_path / 'metrics.jsonl'
    path.write_text('{"step": 5}\n{"step": 6}\n')
    before = path.stat().st_ino
    cut_after(path, 6)
    assert path.stat().st_ino == before
    cut_after(tmp_path / 'missing', 6)
    assert not (tmp_path / 'missing').exists()


def test_a_process_that_does_not_lead_says_and_writes_nothing(tmp_path: pathlib.Path) -> None:
    stream = io.StringIO()
    with make_writer(tmp_path, stream=stream, lead=False, tensorboard=True) as metrics:
        metrics.train(10, {'loss': 1.0})
        metrics.validation(10, {'accuracy': 1.0})
        metrics.message('hello')
    assert stream.getvalue() == '' and not list(tmp_path.iterdir())


def events_in(folder: pathlib.Path) -> Iterator[Event]:
    """The records of the event files: length, its checksum, the event, its checksum."""
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        while data:
            size = int.from_bytes(data[:8], 'little')
            assert int.from_bytes(data[8:12], 'little') == masked_crc32c(data[:8])
            yield Event.FromString(data[12 : 12 + size])
            data = data[16 + size :]


def test_tensorboard_events(tmp_path: pathlib.Path) -> None:
    with make_writer(tmp_path, tensorboard=True) as writer:
        writer.train(5, {'loss': 1.5})
        writer.validation(5, {'accuracy': 0.5})
    found = list(events_in(tmp_path / 'tensorboard'))
    assert {(value.tag, event.step): value.simple_value for event in found for value in event.summary.value} == {
        ('train/loss', 5): 1.5,
        ('validation/accuracy', 5): 0.5,
    }
    with make_writer(tmp_path, tensorboard=True, resumed_at=3):
        pass
    # TensorBoard hides what was logged from the step of a START event on.
    assert [event.step for event in events_in(tmp_path / 'tensorboard') if event.session_log.status == 1] == [0, 4]


def test_tensorboard_without_its_package_says_what_would_do(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'tensorboardX', None)
    with pytest.raises(InputError, match='train.tensorboard=false'):
        make_writer(tmp_path, tensorboard=True)
