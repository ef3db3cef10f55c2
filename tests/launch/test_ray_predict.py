"""launch/ray_predict.py: each photograph's fate is told once, whoever is killed meanwhile, and what is done is not done again."""

import csv
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fer_jax.core.errors import InputError
from fer_jax.core.files import write_atomic
from fer_jax.data.images import Box
from fer_jax.inference.face import Face
from fer_jax.runs.claims import holding
from launch import ray_predict as module
from launch.ray_predict import Lost, Told, done, find, main, open_folder, spread, write_rows
from tests.drawn import photo
from tests.tiny import ROOT
from tests.tiny_weights import write_weights

SCRIPT = str(ROOT / 'launch' / 'ray_predict.py')


def a_face(picture: str, left: int = 3) -> Face:
    return Face(Box(left, 4, 5, 6), 'happy', {'happy': 0.75, 'sad': 0.25}, picture, None, np.zeros((48, 48), np.uint8), score=0.5)


def rows_of(folder: pathlib.Path) -> list[dict]:
    return [row for path in sorted(folder.glob('*.parquet')) for row in pq.read_table(path).to_pylist()]


# --- Rows


def test_a_row_a_face_and_one_for_a_photograph_without_or_that_cannot_be_read(tmp_path):
    found = {'/b': [a_face('/b'), a_face('/b', 9)], '/none': [], '/bad': InputError('/bad: not an image')}
    write_rows(list(found), found, str(tmp_path), ('happy', 'sad'))
    rows = rows_of(tmp_path)
    assert [(row['picture'], row['left'], row['label'], row['problem']) for row in rows] == [
        ('/b', 3, 'happy', None),
        ('/b', 9, 'happy', None),
        ('/none', None, None, None),
        ('/bad', None, None, '/bad: not an image'),
    ]
    expected = {
        'version': 1,
        'picture': '/b',
        'frame': None,
        'time': None,
        'track': None,
        'score': 0.5,
        'label': 'happy',
        'confidence': 0.75,
    }
    expected |= {'left': 3, 'top': 4, 'width': 5, 'height': 6, 'probability_happy': 0.75, 'probability_sad': 0.25, 'problem': None}
    assert rows[0] == expected and list(rows[0]) == list(expected)
    assert done(tmp_path) == set(found)


def test_shards_without_a_face_have_the_same_types(tmp_path):
    for name, faces in (('/a', []), ('/b', [a_face('/b')])):
        write_rows([name], {name: faces}, str(tmp_path), ('happy', 'sad'))
    one, other = (pq.read_schema(path) for path in tmp_path.iterdir())
    assert one == other and pq.read_table(tmp_path).num_rows == 2


def test_the_folder_is_read_as_one_table_while_it_is_written_too(tmp_path):
    open_folder(tmp_path, {'sha256': 'ab'})
    with holding(tmp_path / module.CLAIMS, 'fleet', 'it'):
        for name, faces in (('/a', []), ('/b', [a_face('/b'), a_face('/b', 9)])):
            write_rows([name], {name: faces}, str(tmp_path), ('happy', 'sad'))
        assert sorted(pq.read_table(tmp_path)['picture'].to_pylist()) == ['/a', '/b', '/b']


def test_a_shard_that_is_written_again_is_the_same_file(tmp_path):
    for _ in range(2):
        write_rows(['/a', '/b'], {'/a': [a_face('/a')], '/b': []}, str(tmp_path), ('happy', 'sad'))
    assert len(list(tmp_path.iterdir())) == 1


def test_names_that_are_no_text_are_told_and_known_again(tmp_path):
    name = os.fsdecode(b'/a\xff\nb')
    write_rows([name], {name: []}, str(tmp_path), ('happy',))
    assert done(tmp_path) == {'/a\\udcff\\nb'}


# --- What is lost


def ends_workers(*bad: str):
    """Stands in for a cluster: shards with a bad photograph are lost; the handles are numbers, the last one is ready first."""
    shards: dict[int, list[str]] = {}

    def start(names):
        shards[len(shards)] = names
        return len(shards) - 1

    def ready(handles):
        names = shards[handles[-1]]
        return handles[-1], Lost('gone') if set(names) & set(bad) else Told(len(names), 10 * len(names), 0)

    return start, ready, shards


def test_what_ends_a_worker_is_found_by_halves():
    parts, fates = [list('abcdefgh'), list('ijk'), ['l']], []
    start, ready, shards = ends_workers('c', 'k')

    def give_up(name, lost):
        fates.append((name, str(lost)))
        return Told(1, 0, 1)

    told = list(spread(parts, start, ready, give_up, waiting=2))
    assert sorted(fates) == [('c', 'gone'), ('k', 'gone')]
    assert Told(*map(sum, zip(*told, strict=True))) == Told(12, 100, 2)
    # abcdefgh → abcd, efgh; abcd → ab, cd; cd → c, d. ijk → i, jk; jk → j, k.
    assert sorted(map(''.join, shards.values())) == sorted(
        ['abcdefgh', 'abcd', 'efgh', 'ab', 'cd', 'c', 'd', 'ijk', 'i', 'jk', 'j', 'k', 'l']
    )


# --- What is given


def test_what_is_to_be_read(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ('b.png', 'sub/a.png'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new('L', (8, 8)).save(tmp_path / name)
    (tmp_path / 'film.mp4').write_bytes(b'x')
    (tmp_path / 'list.txt').write_text(f'b.png\n\nnowhere.jpg\n{tmp_path}/b.png\n')
    assert find('.') == [f'{tmp_path}/b.png', f'{tmp_path}/sub/a.png'] and '1 videos are left alone' in capsys.readouterr().out
    assert find('list.txt') == [f'{tmp_path}/b.png', f'{tmp_path}/nowhere.jpg']
    (tmp_path / 'empty.txt').write_text('\n')
    for source, message in (('empty.txt', 'names no photograph'), ('no.txt', 'no such file'), (str(tmp_path / 'none'), 'no such file')):
        with pytest.raises(InputError, match=message):
            find(source)


def test_a_folder_is_of_one_manner(tmp_path):
    about = {'sha256': 'ab', 'views': 'ten'}
    for _ in range(2):
        open_folder(tmp_path / 'out', about)
    with pytest.raises(InputError, match='its shards were made with another views; choose another folder'):
        open_folder(tmp_path / 'out', about | {'views': 'centre'})
    write_atomic(tmp_path / 'out' / 'faces-0.parquet', b'PAR1')
    with pytest.raises(InputError, match=r'faces-0.parquet: damaged'):
        done(tmp_path / 'out')


def test_bad_arguments_are_one_line(tmp_path, capsys):
    out = ['--out', str(tmp_path / 'out')]
    for arguments, message in (
        ([str(tmp_path / 'none'), *out, '--no-detect'], 'no such file'),
        ([str(tmp_path), *out, '--checkpoint', 'nothing'], 'nothing: no run'),
        ([str(tmp_path), *out, '--workers', '0'], 'no whole number from 1'),
        ([str(tmp_path)], '--out'),
    ):
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert error.startswith('error: ') and message in error and error.count('\n') == 1
    assert not (tmp_path / 'out').exists()


# --- On a cluster


def descendants(pid: int) -> dict[int, str]:
    """Process → command line, of all below `pid`."""
    parents, found = {}, {}
    for path in pathlib.Path('/proc').glob('[0-9]*'):
        try:
            parents[int(path.name)] = int((path / 'stat').read_text().rpartition(')')[2].split()[1])
        except (OSError, IndexError):
            continue
    for process in parents:
        above = process
        while above in parents and above != pid:
            above = parents[above]
        if above == pid and process != pid:
            with_zeros = pathlib.Path(f'/proc/{process}/cmdline')
            found[process] = with_zeros.read_bytes().decode() if with_zeros.exists() else ''
    return found


def kill_a_worker(running: subprocess.Popen, out: pathlib.Path) -> None:
    """Waits for the first shard, and kills a worker that is at the next."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and running.poll() is None:
        busy = [process for process, line in descendants(running.pid).items() if line.startswith('ray::write_shard')]
        if busy and list(out.glob('*.parquet')):
            os.kill(busy[0], signal.SIGKILL)
            return
        time.sleep(0.05)
    raise AssertionError(f'no worker to kill: {running.communicate()}')


@pytest.mark.slow
def test_a_killed_worker_costs_nothing_and_a_second_start_does_nothing_again(tmp_path):
    pytest.importorskip('ray', reason="needs pip install 'fer_jax[fleet]'")
    pytest.importorskip('cv2', reason="needs pip install 'fer_jax[predict]'")
    photographs, out = tmp_path / 'photographs', tmp_path / 'out'
    photographs.mkdir()
    for number in range(24):
        places = [(20 + 180 * place, 30, 150) for place in range(number % 3)]
        Image.fromarray(photo(220, 380, places)).save(photographs / f'{number:02}.png')
    (photographs / 'cut off.jpg').write_bytes(b'\xff\xd8\xff')
    checkpoint = write_weights(tmp_path / 'tiny.safetensors')
    command = [
        sys.executable,
        SCRIPT,
        str(photographs),
        '--out',
        str(out),
        '--checkpoint',
        str(checkpoint),
        '--shard',
        '4',
        '--workers',
        '2',
    ]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    kill_a_worker(running, out)
    printed, errors = running.communicate(timeout=900)
    assert running.returncode == 2, errors
    rows = pq.read_table(out).to_pylist()
    told = [row['picture'] for row in rows]
    assert set(told) == {str(path) for path in photographs.iterdir()}
    assert [row['picture'] for row in rows if row['problem']] == [str(photographs / 'cut off.jpg')]
    # The same as by `predict`, in another order.
    by_predict = tmp_path / 'faces.csv'
    plain = [sys.executable, '-m', 'fer_jax', 'predict', str(photographs), '--csv', str(by_predict), '--checkpoint', str(checkpoint)]
    assert subprocess.run(plain, capture_output=True, timeout=900).returncode == 2
    with open(by_predict, newline='') as file:
        expected = [(row['picture'], int(row['left']), row['label'], float(row['confidence'])) for row in csv.DictReader(file)]
    faces = sorted((row['picture'], row['left'], row['label'], row['confidence']) for row in rows if row['label'])
    assert [face[:3] for face in faces] == [face[:3] for face in sorted(expected)] and len(faces) > 8
    np.testing.assert_allclose([face[3] for face in faces], [face[3] for face in sorted(expected)], atol=1e-5)
    # What has no face, or cannot be read, has one row.
    with_faces = {face[0] for face in faces}
    rest = [name for name in told if name not in with_faces]
    assert len(rest) == len(set(rest)) > 6
    before = {path: path.stat().st_mtime_ns for path in out.glob('*.parquet')}
    Image.fromarray(photo(220, 380, [])).save(photographs / 'new.png')
    again = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert again.returncode == 0, again.stderr
    assert '25 of 26 photographs are done' in again.stdout and '1 photographs, 0 faces' in again.stdout
    assert {path: path.stat().st_mtime_ns for path in before} == before and len(list(out.glob('*.parquet'))) == len(before) + 1
