"""fer_jax/inference/output.py and face.py: JSON, lines of JSON and tables, what their page says of them, and what is cut off."""

import csv
import json
import os
import pathlib
import re

import numpy as np
import pytest

from fer_jax.core.errors import InputError
from fer_jax.data.images import Box
from fer_jax.inference.face import Face
from fer_jax.inference.output import COLUMNS, Ending, open_outputs
from fer_jax.inference.tracks import Track

PAGE = pathlib.Path(__file__).parent.parent.parent / 'docs' / 'predict.md'
ABOUT = {'checkpoint': 'x', 'classes': ['happy', 'sad']}
CHANCES = {'happy': 0.7500004, 'sad': 0.2499996}
FACE = Face(Box(1, 2, 30, 40), 'happy', CHANCES, 'a\udcff.mp4', 3, np.zeros((48, 48), np.uint8), 0.12, 2, 0.987654321)
PHOTOGRAPHED = Face(Box(0, 0, 5, 5), 'unsure', CHANCES, 'b.jpg', None, np.zeros((48, 48), np.uint8))
TRACK = Track('a.mp4', 2, 0.1, 0.5, Box(1, 2, 3, 4), CHANCES, {'happy': 1.5, 'sad': 0.5}, 2)
TRACK.labels.update(happy=2)


def write(folder: pathlib.Path, *found, interrupted: bool = False) -> tuple[dict, list[dict], list[dict]]:
    """What stands in the JSON, the lines, and the table."""
    files = {f'--{kind}': folder / f'o.{kind}' for kind in ('json', 'jsonl', 'csv')}
    with open_outputs(files, ABOUT, lambda: Ending(2, ['b.png: damaged'], interrupted)) as writes:
        for each in found:
            for to in writes:
                to(each)
    lines = [json.loads(line) for line in (folder / 'o.jsonl').read_text().splitlines()]
    with open(folder / 'o.csv', newline='', encoding='utf-8') as file:
        return json.loads((folder / 'o.json').read_text()), lines, list(csv.DictReader(file))


def test_a_face_is_json_and_a_row_of_a_table():
    assert json.loads(json.dumps(FACE.to_dict())) == {
        'picture': 'a\udcff.mp4', 'frame': 3, 'time': 0.12, 'track': 2, 'box': {'left': 1, 'top': 2, 'width': 30, 'height': 40},
        'score': 0.987654, 'label': 'happy', 'confidence': 0.75, 'probabilities': {'happy': 0.75, 'sad': 0.25},
    }  # fmt: skip
    row, other = FACE.record(), PHOTOGRAPHED.record()
    assert list(row) == list(other) and all(value is None or isinstance(value, (str, int, float)) for value in row.values())
    assert (row['left'], row['height'], row['probability_sad'], other['track'], other['label']) == (1, 40, 0.25, None, 'unsure')


def test_the_three_files_say_the_same(tmp_path):
    whole, lines, rows = write(tmp_path, FACE, PHOTOGRAPHED, TRACK, InputError('b.png: damaged'))
    faces = [FACE.to_dict(), PHOTOGRAPHED.to_dict()]
    head = {'format': 'fer_jax faces', 'version': 1, **ABOUT}
    assert whole == head | {'faces': faces, 'tracks': [TRACK.to_dict()], 'problems': ['b.png: damaged'], 'interrupted': False}
    assert [line.pop('kind') for line in lines] == ['about', 'face', 'face', 'track', 'problem', 'end']
    assert lines == [head, *faces, TRACK.to_dict(), {'message': 'b.png: damaged'}, {'faces': 2, 'interrupted': False}]
    assert [row['picture'] for row in rows] == ['a\\udcff.mp4', 'b.jpg'] and {row['version'] for row in rows} == {'1'}
    for row, face in zip(rows, (FACE, PHOTOGRAPHED), strict=True):
        for name, value in face.record().items():
            assert row[name] == ('' if value is None else str(value)) or name == 'picture'
    assert not list(tmp_path.glob('*.part'))


def test_no_face_is_whole_too(tmp_path):
    whole, lines, rows = write(tmp_path, interrupted=True)
    assert (whole['faces'], whole['interrupted'], rows) == ([], True, []) and lines[-1] == {'kind': 'end', 'faces': 2, 'interrupted': True}


def test_a_table_goes_into_a_pipe_which_stays(tmp_path):
    os.mkfifo(tmp_path / 'o.csv')
    reading = os.open(tmp_path / 'o.csv', os.O_RDONLY | os.O_NONBLOCK)
    with open_outputs({'--csv': tmp_path / 'o.csv'}, ABOUT, lambda: Ending(1, [], False)) as writes:
        writes[0](FACE)
        lines = os.read(reading, 9999).decode().splitlines()
    os.close(reading)
    assert len(lines) == 2 and [path.name for path in tmp_path.iterdir()] == ['o.csv'] and (tmp_path / 'o.csv').is_fifo()


def test_what_was_found_is_there_before_the_end_and_after_a_fault(tmp_path):
    """Every line is in the file at once; what is cut off is told by its name or by the line that is missing."""
    (tmp_path / 'o.csv').write_text('of an earlier time')
    files = {f'--{kind}': tmp_path / f'o.{kind}' for kind in ('json', 'jsonl', 'csv')}
    with pytest.raises(RuntimeError), open_outputs(files, ABOUT, lambda: Ending(0, [], False)) as writes:
        for to in writes:
            to(FACE)
        assert len((tmp_path / 'o.csv.part').read_text().splitlines()) == 2
        assert json.loads((tmp_path / 'o.jsonl').read_text().splitlines()[1])['track'] == 2
        raise RuntimeError('a fault')
    assert sorted(path.name for path in tmp_path.iterdir()) == ['o.csv', 'o.csv.part', 'o.json.part', 'o.jsonl']
    assert (tmp_path / 'o.csv').read_text() == 'of an earlier time'
    assert [json.loads(line)['kind'] for line in (tmp_path / 'o.jsonl').read_text().splitlines()] == ['about', 'face']


def test_one_that_cannot_be_written_leaves_nothing_of_the_others(tmp_path):
    files = {'--json': tmp_path / 'o.json', '--csv': tmp_path / 'gone' / 'o.csv'}
    with pytest.raises(InputError, match='--csv .*No such file'), open_outputs(files, ABOUT, lambda: Ending(0, [], False)):
        pass
    assert not list(tmp_path.iterdir())


def test_a_folder_and_a_file_that_another_option_has_are_refused(tmp_path):
    (tmp_path / 'there').mkdir()
    for files, told in (
        ({'--json': tmp_path / 'o.json', '--csv': tmp_path / 'there'}, '--csv .*there: is a folder'),
        ({'--json': tmp_path / 'o', '--csv': tmp_path / 'there' / '..' / 'o'}, '--csv .*: --json is written there'),
    ):
        with pytest.raises(InputError, match=told), open_outputs(files, ABOUT, lambda: Ending(0, [], False)):
            pass
        assert [path.name for path in tmp_path.iterdir()] == ['there']


def test_the_page_names_every_field():
    """The table of docs/predict.md, whose first column has the fields of a face in JSON and the second its columns in a table."""
    rows = re.findall(r'^\| `([^|]*)` \| `([^|]*)` \|', PAGE.read_text(), re.MULTILINE)
    documented = {name for _, columns in rows for name in columns.split('`, `')}
    assert documented == {*COLUMNS, 'probability_CLASS'}
    assert {name for fields, _ in rows for name in fields.split('`, `')} == {*FACE.to_dict(), 'version'}
