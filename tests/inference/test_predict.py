"""`predict`, from Python and as a command: the same probabilities as `evaluate`, and every source answered or named."""

import collections
import contextlib
import csv
import dataclasses
import functools
import io
import json
import os
import pathlib
import re
import signal
import struct
import subprocess
import sys

import flax.linen as nn
import jax
import numpy as np
import pytest
from PIL import Image

import fer_jax
from fer_jax.__main__ import main
from fer_jax.core.errors import InputError
from fer_jax.core.fields import SHIPPED
from fer_jax.core.mesh import make_mesh
from fer_jax.data.images import Box
from fer_jax.data.schema import Faces
from fer_jax.evaluation.evaluate import make_evaluator
from fer_jax.inference import annotate, classifier, command, display, runtimes, sources
from fer_jax.inference.classifier import Classifier, classify, load, predict
from fer_jax.inference.command import Manner, Outputs, predict_sources
from fer_jax.inference.face import UNSURE, Face
from fer_jax.inference.faces import Cut, whole
from fer_jax.inference.sources import Shot
from fer_jax.inference.tracks import Track
from fer_jax.model.baselines import make_any
from fer_jax.runs.weights import load_weights, nested
from tests.drawn import photo
from tests.tiny_weights import FER, write_weights

cv2 = pytest.importorskip('cv2')


@pytest.fixture(scope='module')
def weights(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return write_weights(tmp_path_factory.mktemp('weights') / 'tiny.safetensors')


@pytest.fixture(scope='module')
def tiny(weights: pathlib.Path) -> Classifier:
    return load(weights)


def drawn_faces(count: int) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (count, 48, 48), np.uint8)


# --- Probabilities


@pytest.mark.parametrize('runtime', ['onnxruntime', 'jax'])
def test_probabilities_are_the_networks(weights, runtime, monkeypatch):
    """Three faces in a call of eight, by each runtime, against the network applied to views cut by hand, softmax and mean in float64."""
    faces = drawn_faces(3)
    places = [(4, 4), (0, 0), (0, 8), (8, 0), (8, 8)]
    views = np.stack(
        [faces[:, y : y + 40, x : x + 40] for y, x in places] + [faces[:, y : y + 40, x : x + 40][..., ::-1] for y, x in places]
    )
    inputs = (views.reshape(-1, 40, 40, 1).astype(np.float32) - 127.5) / 63.75
    held = load_weights(weights)
    network = make_any(held.config.network, len(FER))
    logits = np.asarray(jax.jit(lambda v, x: network.apply(v, x, train=False))(nested(held.variables), inputs), np.float64)
    chances = (np.exp(logits) / np.exp(logits).sum(1, keepdims=True)).reshape(10, 3, 7)
    if runtime == 'jax':
        monkeypatch.setitem(sys.modules, 'onnxruntime', None)
    else:
        pytest.importorskip('onnxruntime')
    for views, expected in (('centre', chances[0]), ('ten', chances.mean(0))):
        found = load(weights, views)
        assert found.run.__qualname__ == f'by_{runtime.removesuffix("runtime")}.<locals>.run'
        np.testing.assert_allclose(found.probabilities(faces), expected, atol=2e-6)


def test_calls_have_few_sizes():
    """Each size is a program that JAX compiles: 129 faces are 64, 64 and 1, three are 8 with five that do not count."""
    sizes = []

    def run(faces):
        sizes.append(len(faces))
        return np.full((len(faces), 7), faces.mean((1, 2))[:, None] / 255, np.float32)

    faces = np.arange(1, 130, dtype=np.uint8)[:, None, None] * np.ones((48, 48), np.uint8)
    found = Classifier('x', FER, 'centre', '', nn.Module(), {}, functools.partial(runtimes.padded, run))
    np.testing.assert_allclose(found.probabilities(faces)[:, 3], np.arange(1, 130) / 255, rtol=1e-5)
    assert sizes == [64, 64, 1]
    np.testing.assert_allclose(found.probabilities(faces[:3])[:, 3], np.arange(1, 4) / 255, rtol=1e-5)
    assert sizes[3:] == [8]


def test_networks_that_have_no_file_run_in_jax(tmp_path):
    """A baseline, and bfloat16, which the file would compute in float32."""
    for name, fields in (('baseline', {'name': 'mini_xception'}), ('half', {'dtype': 'bfloat16'})):
        found = load(write_weights(tmp_path / f'{name}.safetensors', **fields)).run
        assert found.__qualname__ == 'by_jax.<locals>.run'


def test_cropped_files_give_what_evaluate_gives(weights, tiny, tmp_path):
    """Through files and --no-detect on one device, against an evaluation of the same pixels on all devices."""
    faces = drawn_faces(6)
    for number, face in enumerate(faces):
        Image.fromarray(face).save(tmp_path / f'{number}.png')
    held = load_weights(weights)
    network = make_any(held.config.network, len(FER))
    evaluate = make_evaluator(lambda v, x: network.apply(v, x, train=False), make_mesh(8), 'centre', FER, 8)
    evaluation = evaluate(nested(held.variables), Faces(faces, np.zeros(6, np.int32)))
    found = predict(tmp_path, tiny, detect=False)
    assert [face.label for face in found] == [FER[position] for position in evaluation.predictions]
    np.testing.assert_allclose([list(face.probabilities.values()) for face in found], evaluation.probabilities, atol=1e-6)
    for face, pixels in zip(found, faces, strict=True):
        np.testing.assert_array_equal(face.pixels, pixels)


def test_no_faces_no_probabilities(tiny):
    assert tiny.probabilities(drawn_faces(0)).shape == (0, 7)


def test_output_that_is_not_finite_is_an_error(tiny):
    def run(faces):
        return np.full((len(faces), 7), np.nan, np.float32)

    broken = Classifier('broken', FER, 'centre', '', nn.Module(), {}, run)
    with pytest.raises(InputError, match='broken: the network gives no finite output'):
        broken.probabilities(drawn_faces(1))


# --- From Python


def test_the_package_brings_jax_only_with_load_and_predict():
    code = 'import sys, fer_jax; assert "jax" not in sys.modules; fer_jax.nothing'
    result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=60)
    assert "AttributeError: module 'fer_jax' has no attribute 'nothing'" in result.stderr
    assert fer_jax.predict is predict and fer_jax.load is load
    assert classifier.SHIPPED == SHIPPED


def test_arrays_paths_and_lists(tiny, tmp_path):
    picture = photo(300, 500, [(30, 60, 120), (300, 80, 150)])
    Image.fromarray(picture).save(tmp_path / 'two.png')
    from_array = predict(picture, tiny)
    assert len(from_array) == 2 and {face.picture for face in from_array} == {''}
    assert predict(tmp_path / 'two.png', tiny)[0].picture == str(tmp_path / 'two.png')
    found = predict([picture, str(tmp_path / 'two.png'), photo(50, 50, [])], tiny)
    assert [face.box for face in found] == 2 * [face.box for face in from_array]
    for face in found:
        assert sum(face.probabilities.values()) == pytest.approx(1, abs=1e-5)
        assert face.probabilities[face.label] == max(face.probabilities.values())
        assert face.frame is None
    assert predict([], tiny) == []


def test_a_picture_that_cannot_be_read_is_an_error(tiny, tmp_path):
    (tmp_path / 'a.png').write_bytes(b'nothing')
    for path, message in [(tmp_path / 'a.png', 'a.png: not an image'), (tmp_path / 'b.png', 'b.png: no such file'), ('0', 'no such file')]:
        with pytest.raises(InputError, match=message):
            predict(path, tiny)
    with pytest.raises(InputError, match="unknown views 'tne'"):
        load(views='tne')


def test_pictures_wait_only_until_a_batch_is_full(tiny):
    """However long a video: what is held back has at most as many faces as its batch, of 8, and at most 2²⁵ pixels."""
    taken = []

    def endless(faces, picture):
        while True:
            taken.append(1)
            yield Shot('x', len(taken), picture, faces * [whole(photo(60, 60, []))])

    pictures = classify(endless(1, photo(60, 60, [])), tiny)
    next(pictures)
    assert len(taken) == 8
    taken.clear()
    next(classify(endless(0, np.broadcast_to(np.uint8(120), (2**11, 2**12, 3))), tiny))  # one byte of memory
    assert len(taken) == 4
    taken.clear()
    next(classify(endless(1, photo(60, 60, [])), tiny, wait=False))
    assert len(taken) == 1


def test_boxes_of_a_picture_read_reduced_are_those_of_the_whole(tiny):
    file = io.BytesIO()
    Image.new('L', (13_500, 6_800)).save(file, 'PNG', compress_level=1)  # 91.8 million pixels: more than are kept
    shot = sources.look(file.getvalue(), None)
    ((_, (face,)),) = classify([shot], tiny)
    assert shot.photo.shape == (3400, 6750, 3) and shot.cuts[0].box == (1675, 0, 3400, 3400)
    assert face.box == (3350, 0, 6800, 6800)


# --- The command


def video(path: pathlib.Path, frames: int) -> None:
    """A face in all frames but the first two."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'MJPG'), 10, (160, 120))
    for number in range(frames):
        writer.write(photo(120, 160, [(30 + number, 10, 90)] if number >= 2 else []))
    writer.release()


def test_a_video_may_be_named_like_an_address(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'http:').mkdir()
    for name in ('12:30.avi', 'http://clip.avi'):
        video(tmp_path / 'clip.avi', 4)
        os.rename('clip.avi', name)
        assert len(list(sources.shots(name, None))) == 4


def test_a_video_whose_name_is_no_utf_8_is_told(tmp_path):
    """On which OpenCV would end the process."""
    video(tmp_path / 'clip.avi', 4)
    os.rename(tmp_path / 'clip.avi', name := os.fsdecode(bytes(tmp_path) + b'/f\xff.avi'))
    with pytest.raises(InputError, match=r'f\\udcff\.avi: its name is no UTF-8'):
        list(sources.shots(name, None))
    with pytest.raises(OSError, match='its name is no UTF-8'), annotate.video_writer(pathlib.Path(name), 10.0, (160, 120)):
        pass


def test_time_goes_on_where_one_film_was_put_behind_another(tmp_path):
    """Two programme streams, one behind the other: FFmpeg gives the second's times from its own begin."""
    for name in 'ab':
        writer = cv2.VideoWriter(str(tmp_path / f'{name}.mpg'), cv2.VideoWriter_fourcc(*'PIM1'), 25, (160, 120))
        for number in range(50):
            writer.write(photo(120, 160, [(10 + number, 10, 90)]))
        writer.release()
    (tmp_path / 'ab.mpg').write_bytes((tmp_path / 'a.mpg').read_bytes() + (tmp_path / 'b.mpg').read_bytes())
    times = []
    with contextlib.suppress(InputError):  # the joint may cost some frames
        for shot in sources.shots(str(tmp_path / 'ab.mpg'), None):
            times.append(shot.time)
    assert len(times) >= 90
    assert np.diff(times).max() < 1 and np.mean(np.diff(times) > 0) > 0.9 and times[-1] > 3


def test_a_film_that_the_disk_had_no_room_for_is_told_and_the_one_before_stays(tmp_path):
    (tmp_path / 'film.mp4').write_text('the one before')
    code = f"""
import cv2, pathlib, resource, numpy as np  # all that is loaded, for of a module loaded later the bytecode would be cut short too
from fer_jax.inference.annotate import video_writer
import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
draws = np.random.default_rng(0)
with video_writer(pathlib.Path({str(tmp_path / 'film.mp4')!r}), 10.0, (160, 120)) as write:
    for _ in range(40):
        write(draws.integers(0, 256, (120, 160, 3), np.uint8))
"""
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.returncode == 1 and 'film.mp4: could not be written whole' in done.stderr
    assert (tmp_path / 'film.mp4').read_text() == 'the one before' and len(list(tmp_path.iterdir())) == 1


def test_a_number_that_no_camera_has_is_a_file():
    assert sources.is_camera('0') and not sources.is_camera('99999999999999') and not sources.is_camera('9' * 5000)


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    (tmp_path / 'in/below').mkdir(parents=True)
    Image.fromarray(photo(300, 500, [(30, 60, 120), (300, 80, 150)])).save(tmp_path / 'in/b.jpg')
    Image.fromarray(photo(100, 100, [])).save(tmp_path / 'in/below/none.png')
    (tmp_path / 'in/a.png').write_bytes((tmp_path / 'in/b.jpg').read_bytes()[:3000])
    (tmp_path / 'in/notes.txt').write_text('no picture')
    video(tmp_path / 'in/film.avi', 12)
    content = (tmp_path / 'in/film.avi').read_bytes()
    (tmp_path / 'in/short.avi').write_bytes(content[: len(content) // 2])
    (tmp_path / 'in/text.mp4').write_text('#EXTM3U\n')
    return tmp_path


def test_every_source_is_answered_or_named(folder, weights, tiny, capfd):
    arguments = ['predict', str(folder / 'in'), str(folder / 'gone'), '99', '--checkpoint', str(weights)]
    outputs = ['--json', str(folder / 'o.json'), '--csv', str(folder / 'o.csv'), '--annotated', str(folder / 'out')]
    outputs += ['--detect-every', '0', '--jsonl', str(folder / 'o.jsonl'), '--timeline', str(folder / 'timelines')]
    assert main([*arguments, *outputs]) == 2
    printed, said = capfd.readouterr()
    inside = folder / 'in'
    problems = [
        f'{folder}/gone: no such file or folder',
        f'{inside}/a.png: damaged image',
        f'{inside}/short.avi: ',
        f'{inside}/text.mp4: cut short, damaged, or no video',
        'camera 99: cannot be opened',
    ]
    lines = [line for line in said.splitlines() if line.startswith('error: ')]  # OpenCV, if it was there before us, has its own to say
    for line, problem in zip(lines, problems, strict=True):
        assert line.startswith(f'error: {problem}')
    assert '1 of 7 files are neither pictures nor videos' in printed
    assert f'{inside}/below/none.png     –  no face found' in printed
    assert f'{inside}/film.avi: faces in 10 of 12 frames (1.2 s); ' in printed and '\n  track 1: 0.2 to 1.1 s, 10 frames; ' in printed
    assert '2 pictures, 2 videos, ' in printed and ' faces, 5 problems\n' in printed

    record = json.loads((folder / 'o.json').read_text())
    assert (record['checkpoint'], record['views'], tuple(record['classes'])) == ('tiny', 'centre', FER)
    assert [f'error: {problem}' for problem in record['problems']] == lines
    with open(folder / 'o.csv', newline='') as file:
        table = list(csv.DictReader(file))
    expected = predict([inside / 'b.jpg', inside / 'film.avi'], tiny, detect_every=0.0)
    for rows, value in ((record['faces'], int), (table, str)):
        rows = [row for row in rows if row['picture'] in (str(inside / 'b.jpg'), str(inside / 'film.avi'))]
        assert len(rows) == len(expected) == 12
        for row, face in zip(rows, expected, strict=True):
            box = row.get('box', row)
            assert [box[side] for side in Box._fields] == [value(each) for each in face.box]
            assert row['label'] == face.label and row['frame'] in (face.frame, '' if face.frame is None else str(face.frame))
            for name, probability in face.probabilities.items():
                told = row['probabilities'][name] if 'probabilities' in row else row[f'probability_{name}']
                assert float(told) == pytest.approx(probability, abs=1e-6)
    assert [face.frame for face in expected] == [None, None, *range(2, 12)]

    assert sorted(path.relative_to(folder / 'out').as_posix() for path in (folder / 'out').rglob('*') if path.is_file()) == [
        'b.jpg',
        'below/none.png',
        'film.avi.mp4',
        'short.avi.mp4',
    ]
    assert sorted(path.name for path in (folder / 'timelines').iterdir()) == ['film.avi.png', 'short.avi.png']
    told = [json.loads(line) for line in (folder / 'o.jsonl').read_text().splitlines()]
    assert [f'error: {each["message"]}' for each in told if each['kind'] == 'problem'] == lines
    assert told[-1] == {'kind': 'end', 'faces': len(record['faces']), 'interrupted': False}
    drawn = cv2.VideoCapture(str(folder / 'out/film.avi.mp4'))
    assert [drawn.get(each) for each in (cv2.CAP_PROP_FRAME_COUNT, cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FPS)] == [12, 160, 10]


def test_frames_after_a_broken_one_are_read(tmp_path):
    video(tmp_path / 'a.avi', 12)
    content = bytearray((tmp_path / 'a.avi').read_bytes())
    chunks = [place for place in range(content.index(b'movi'), len(content)) if content[place : place + 4] == b'00dc']
    content[chunks[5] + 8 : chunks[6]] = bytes(chunks[6] - chunks[5] - 8)
    (tmp_path / 'a.avi').write_bytes(content)
    found = []
    with pytest.raises(InputError, match='a.avi: 1 of 12 frames could not be read'):
        for shot in sources.shots(str(tmp_path / 'a.avi'), None):
            found.append(shot.frame)
    assert found == [0, 1, 2, 3, 4, *range(6, 12)]


def trimmed(path: pathlib.Path, *edits: tuple[int, int], version: int = 0) -> None:
    """Has the edit list of an MP4 of 10 frames a second show these parts of it, (tenths of a second, from which one)."""
    form = ('>IiI', '>QqI')[version]
    content = path.read_bytes()
    place, header = content.index(b'elst') - 4, content.index(b'mdhd') + 16
    ticks = int.from_bytes(content[header : header + 4])
    entries = b''.join(struct.pack(form, 100 * length, begin if begin < 0 else begin * ticks // 10, 1 << 16) for length, begin in edits)
    added = len(entries) - 12  # the one entry that was there; the boxes about the list grow with it, and nothing that is read lies behind
    content = content[: place + 8] + bytes([version, 0, 0, 0]) + len(edits).to_bytes(4) + entries + content[place + 28 :]
    for kind in (b'elst', b'edts', b'trak', b'moov'):
        at = content.index(kind) - 4
        content = content[:at] + (int.from_bytes(content[at : at + 4]) + added).to_bytes(4) + content[at + 4 :]
    path.write_bytes(content)


def film(path: pathlib.Path) -> None:
    """30 frames, the number of each as its grey, one a tenth of a second."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'mp4v'), 10, (160, 120))
    for number in range(30):
        writer.write(np.full((120, 160, 3), 8 * number, np.uint8))
    writer.release()


@pytest.mark.parametrize('version', [0, 1])
@pytest.mark.parametrize(
    ('edits', 'shown'),
    [
        ([(30, 0)], [*range(30)]),
        ([(15, 10)], [*range(10, 25)]),
        ([(5, -1), (20, 0)], [*range(20)]),  # after half a second of nothing
        ([(5, 0), (5, 20)], [*range(5), *range(20, 25)]),
    ],
    ids=['all', 'a part', 'later', 'two parts'],
)
def test_what_an_edit_list_hides_is_not_missing(edits, shown, version, tmp_path):
    film(tmp_path / 'a.mp4')
    trimmed(tmp_path / 'a.mp4', *edits, version=version)
    found = list(sources.shots(str(tmp_path / 'a.mp4'), None))
    assert [round(shot.photo.mean() / 8) for shot in found] == shown
    assert found[0].footage == (len(shown), 10.0)


def test_of_a_film_with_an_edit_list_what_is_damaged_is_missing(tmp_path):
    """The last 10 of the 15 frames that it shows, and what it hides behind them."""
    film(tmp_path / 'a.mp4')
    trimmed(tmp_path / 'a.mp4', (15, 10))
    content = (tmp_path / 'a.mp4').read_bytes()
    begins = [each.start() for each in re.finditer(b'\0\0\1\xb6', content)]  # of the pictures in MPEG-4
    end = content.index(b'moov') - 4
    (tmp_path / 'a.mp4').write_bytes(content[: begins[15]] + bytes(end - begins[15]) + content[end:])
    with pytest.raises(InputError, match='a.mp4: 10 of 15 frames could not be read'):
        list(sources.shots(str(tmp_path / 'a.mp4'), None))


def test_one_frame_in_so_many_is_looked_at(tmp_path):
    video(tmp_path / 'a.avi', 12)
    seen = [(shot.frame, shot.time) for shot in sources.shots(str(tmp_path / 'a.avi'), None, every=5)]
    assert seen == [(0, 0.0), (5, pytest.approx(0.5)), (10, pytest.approx(1.0))]


def test_a_videos_clock():
    clock = sources.Clock(25.0)
    assert clock.at(50, -1.0) == 2.0, 'where it says nothing, by the number'
    assert clock.at(51, 2100.0) == 2.1 and clock.at(52, 1900.0) == 2.1, 'frames a little out of order'
    assert clock.at(54, 40.0) == pytest.approx(2.18), 'a new clock, two frames on'
    assert clock.at(55, 80.0) == pytest.approx(2.22) and clock.at(56, 400.0) == pytest.approx(2.54)


def test_a_signal_ends_a_video_and_keeps_what_was_found(folder, weights, capfd):
    def detect(picture, in_file=1.0):
        calls.append(1)
        if len(calls) == 5:
            os.kill(os.getpid(), signal.SIGINT)
        return [whole(picture)]

    calls = []
    sources, outputs = [str(folder / 'in/film.avi'), str(folder / 'in/b.jpg')], Outputs(csv=folder / 'o.csv', annotated=folder / 'out')
    assert predict_sources(sources, str(weights), 'centre', detect, Manner(detect_every=0.0), outputs) == 130
    assert 'faces in 5 of 5 frames' in capfd.readouterr().out
    assert len((folder / 'o.csv').read_text().splitlines()) == 6
    assert cv2.VideoCapture(str(folder / 'out/film.avi.mp4')).get(cv2.CAP_PROP_FRAME_COUNT) == 5


def test_a_signal_is_how_a_camera_ends(weights, monkeypatch, capfd):
    class Camera:
        def __init__(self, number):
            assert number == 3

        def isOpened(self):
            return True

        def get(self, field):
            return -1.0  # what cameras say of what they do not know

        def read(self):
            if len(taken) == 4:
                os.kill(os.getpid(), signal.SIGINT)
            taken.append(1)
            return True, photo(120, 160, [(30, 10, 90)])

        def release(self):
            released.append(1)

    taken, released = [], []
    monkeypatch.setattr(cv2, 'VideoCapture', Camera)
    assert main(['predict', '3', '--checkpoint', str(weights)]) == 0
    assert 'camera 3: faces in 5 of 5 frames; ' in capfd.readouterr().out
    assert released == [1]


def test_cropped_pictures_need_no_opencv_and_videos_say_that_they_do(folder, weights, monkeypatch, capfd):
    monkeypatch.setitem(sys.modules, 'cv2', None)
    arguments = ['predict', str(folder / 'in/b.jpg'), str(folder / 'in/film.avi'), '--checkpoint', str(weights)]
    assert main(arguments) == 2
    assert capfd.readouterr().err.startswith('error: finding faces needs OpenCV')
    assert main([*arguments, '--no-detect', '--annotated', str(folder / 'out')]) == 2
    printed, said = capfd.readouterr()
    assert '     1  100, 0, 300 × 300 ' in printed
    assert said.startswith('error: reading a video needs OpenCV') and len(said.splitlines()) == 1


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--annotated', 'in'], '--annotated in: that would replace in/b.jpg'),
        (['--annotated', 'in/b.jpg'], '--annotated in/b.jpg: '),
        (['--json', 'gone/o.json'], '--json gone/o.json: No such file'),
        (['--checkpoint', 'none'], 'none: no run, no weights file'),
        (['--workdir', 'x'], '--workdir and --checkpoint both name weights'),
        (['--detector', 'in/notes.txt'], 'in/notes.txt: no YuNet model'),
        (['--detector', 'x', '--no-detect'], 'argument --no-detect: not allowed'),
        (['--min-confidence', '60'], "argument --min-confidence: '60' is no number from 0 to 1"),
        (['--smooth', 'nan'], "argument --smooth: 'nan' is no number from 0 to 3600"),
        (['--every', '0'], "argument --every: '0' is no whole number from 1"),
        (['--megapixels', '0'], "argument --megapixels: '0' is no whole number from 1 to 5,000"),
        (['--megapixels', '5001'], "argument --megapixels: '5001' is no whole number from 1 to 5,000"),
        (['--timeline', 'in/b.jpg'], '--timeline in/b.jpg: '),
        (['--jsonl', 'gone/o.jsonl', '--csv', 'o.csv'], '--jsonl gone/o.jsonl: No such file'),
        (['--config.seed=1'], '--config.seed: predictions take the weights as they are'),
    ],
)
def test_arguments_that_cannot_be(folder, weights, tiny, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(folder)
    assert main(['predict', 'in/b.jpg', '--checkpoint', str(weights), *arguments]) == 2
    assert capsys.readouterr().err.startswith(f'error: {message}')
    assert [path.name for path in folder.iterdir()] == ['in'], 'nothing is left'


# --- Where things go


def test_what_is_drawn_keeps_apart(tmp_path):
    names = {
        'x/a.jpg': 'a.jpg',
        'y/a.jpg': 'a.jpg',
        'x/a.tif': 'a.tif',
        'x/a.avi': 'a.avi',
        'x/a.mp4': 'a.mp4',
        '0': '0',
        'z/b.png': 'z/b.png',
    }
    found = command.drawn_files(tmp_path / 'out', names)
    assert [path.relative_to(tmp_path / 'out').as_posix() for path in found.values()] == [
        'a.jpg',
        'a-2.jpg',
        'a.tif.png',
        'a.avi.mp4',
        'a.mp4',
        'camera0.mp4',
        'z/b.png',
    ]
    assert (tmp_path / 'out/z').is_dir()


def test_a_folder_stands_for_its_pictures_and_videos(tmp_path):
    for name in ('b.PNG', 'a.jpeg', 'c/d.MOV', '.hidden.png', 'text.txt'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    files, others = sources.expand(str(tmp_path))
    assert [os.path.relpath(file, tmp_path) for file in files] == ['a.jpeg', 'b.PNG', 'c/d.MOV'] and others == ['text.txt']
    (tmp_path / 'empty').mkdir()
    with pytest.raises(InputError, match='holds no picture and no video'):
        sources.expand(str(tmp_path / 'empty'))
    os.mkfifo(tmp_path / 'pipe.png')
    with pytest.raises(InputError, match='pipe.png: not a regular file|no such file'):
        list(sources.shots(str(tmp_path / 'pipe.png'), None))


# --- What is printed


def test_a_row_for_each_face():
    faces = [found(Box(1, 2, 30, 40)), found(Box(100, 200, 50, 60), 'sad')]
    assert display.rows('a.jpg', faces, 7, 8) == [
        'a.jpg       1  1, 2, 30 × 40         happy 60.0 %      (angry 6.7 %, disgust 6.7 %)',
        'a.jpg       2  100, 200, 50 × 60     sad 60.0 %        (angry 6.7 %, disgust 6.7 %)',
    ]
    assert display.rows('b.jpg', [], 7, 8) == ['b.jpg       –  no face found']


def test_an_unsure_face_says_what_it_might_be():
    (row,) = display.rows('a.jpg', [dataclasses.replace(found(Box(1, 2, 30, 40)), label=UNSURE)], 7, 8)
    assert row == 'a.jpg       1  1, 2, 30 × 40         unsure            (happy 60.0 %, angry 6.7 %, disgust 6.7 %)'


def track(number: int, frames: int) -> Track:
    none = dict.fromkeys(FER, 0.0)
    labels = collections.Counter(happy=frames - 1, unsure=1)
    return Track('a.mp4', number, 1.0, 1.0 + frames / 10, Box(0, 0, 9, 9), none, none, frames, labels=labels)


def frame(number: int, time: float) -> Shot:
    return Shot('a.mp4', number, photo(20, 20, []), [], sources.Footage(200, 25.0), time)


def test_a_videos_lines():
    labels = collections.Counter(happy=30, sad=8, fear=1, angry=1)
    seen = display.Video('a.mp4', sources.Footage(200, 25.0), 100.0, last=frame(49, 1.96), frames=50, with_faces=30, labels=labels)
    assert display.summary(seen) == ['a.mp4: faces in 30 of 50 frames (2.0 s); happy 75 %, sad 20 %, fear 2 %']
    assert display.progress(seen, [found(Box(0, 0, 9, 9))], 105.0) == 'a.mp4: frame 50 of 200, 10.0 frames/s: happy 60 %'
    assert display.progress(seen, [], 100.1) == 'a.mp4: frame 50 of 200: no face'
    for number in range(1, 11):
        seen.end(track(number, 10 * number if number < 10 else 5))
    lines = display.summary(seen)[1:]
    assert lines[0] == '  track 9: 1.0 to 10.0 s, 90 frames; happy 99 %, unsure 1 %'
    assert [line[8] for line in lines[:-1]] == list('98765432') and lines[-1] == '  and 2 shorter tracks'
    camera = display.Video('1', sources.Footage(0, 30.0), 0.0, last=frame(1, 0.1), frames=2)
    assert display.summary(camera) == ['camera 1: faces in 0 of 2 frames']


def test_progress_is_a_line_now_and_then_where_nobody_looks_on(monkeypatch, capsys):
    """One each 10 s, of a clock that each frame moves on by 4 s."""
    now = 0.0
    monkeypatch.setattr(display.time, 'monotonic', lambda: now)
    shown = display.Display(['a.mp4'], FER, display.Targets(), cropped=False)
    for number in range(8):
        now += 4.0
        shown.show(frame(number, number / 25), [])
    shown.close()
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(',')[0] for line in lines] == ['a.mp4: frame 3 of 200', 'a.mp4: frame 6 of 200']


# --- What is drawn


def found(box: Box, label: str = 'happy') -> Face:
    chances = {name: 0.6 if name == label else 0.4 / 6 for name in FER}
    return Face(box, label, chances, '', None, Cut(box, np.zeros((48, 48), np.uint8)).pixels)


def test_boxes_and_bars_are_drawn_and_the_picture_is_kept_elsewhere():
    picture = photo(400, 800, [(100, 100, 160)])
    drawn = annotate.annotate(picture, [found(Box(100, 100, 160, 160))], cropped=False)
    happy, sad = (tuple(bytes.fromhex(annotate.COLOURS[FER.index(name)][1:])) for name in ('happy', 'sad'))
    assert tuple(drawn[200, 100]) == tuple(drawn[259, 180]) == happy, 'the left and the lower side'
    np.testing.assert_array_equal(drawn[110:250, 110:250], picture[110:250, 110:250])
    np.testing.assert_array_equal(drawn[:, 460:], picture[:, 460:])
    bars = drawn[100:250, 264:440]
    lengths = [(bars == colour).all(-1).sum(1).max() for colour in (happy, sad)]
    assert lengths[0] == pytest.approx(9 * lengths[1], rel=0.2), 'bars as long as the classes are probable'


def test_names_and_bars_cover_no_face_and_are_inside():
    """Of a 4,000-pixel photograph, one of 200 pixels, and a crowd, with names of up to 9 letters."""
    for height, width, boxes in [
        (3000, 4000, [Box(0, 0, 400, 400), Box(1800, 0, 700, 700), Box(3840, 2840, 160, 160), Box(1300, 1000, 160, 160)]),
        (150, 200, [Box(0, 0, 60, 60), Box(140, 90, 60, 60)]),
        (600, 1000, [Box(20 + 110 * column, 40 + 130 * row, 100, 100) for column in range(8) for row in range(4)]),
    ]:
        picture = photo(height, width, [])
        shown = [found(box) for box in boxes]
        factor = annotate.enlargement(picture, shown, cropped=False)
        drawn = annotate.annotate(picture, shown, False, factor, grow=True)
        assert drawn.shape[:2] == (round(height * factor), round(width * factor)), 'there was room for all'
        for box in boxes:
            left, top, side = (round(factor * value) for value in (box.left, box.top, box.width))
            border = annotate.line_height(side, max(drawn.shape)) // 7 + 2
            assert (drawn[top + border : top + side - border, left + border : left + side - border] == 120).all()


def test_text_is_as_high_as_the_picture_asks():
    assert annotate.line_height(400, 1000) == 31, 'of a face of 400 pixels an eighth would be 50'
    assert annotate.line_height(400, 4000) == 62, 'of a large photograph, which is seen smaller, a 64th at least'
    assert annotate.line_height(40, 200) == 11


def test_a_face_without_room_beside_it_gets_a_margin_in_a_photograph_only():
    picture, face = photo(200, 200, [(5, 5, 190)]), found(Box(5, 5, 190, 190))
    assert annotate.annotate(picture, [face], False).shape == (200, 200, 3)
    drawn = annotate.annotate(picture, [face], False, grow=True)
    margin = (len(drawn) - 200) // 2
    assert margin == 190 // 8 + 8
    inner = drawn[margin + 10 : margin + 190, margin + 10 : margin + 190]
    np.testing.assert_array_equal(inner, picture[10:190, 10:190])


def test_no_bars_over_another_face_and_none_in_a_crowd():
    size = (300, 110)
    assert annotate.place(Box(0, 0, 100, 100), 90, 80, size, [Box(0, 0, 100, 100)]) == (104, 0, 90, 80)
    assert annotate.place(Box(200, 0, 100, 100), 90, 80, size, [Box(200, 0, 100, 100)]) == (106, 0, 90, 80), (
        'on the left, where the right has no room'
    )
    assert annotate.place(Box(0, 0, 100, 100), 90, 80, size, [Box(0, 0, 100, 100), Box(193, 70, 100, 30)]) is None
    boxes = [Box(10 + 100 * column, 100, 60, 60) for column in range(9)]
    crowd = annotate.annotate(photo(400, 1000, []), [found(box) for box in boxes], cropped=False)
    assert (crowd[200:] == 120).all(), 'boxes and names only'


def test_cropped_faces_are_drawn_larger_with_bars_at_their_side():
    picture, face = photo(48, 48, [(0, 0, 48)]), found(Box(0, 0, 48, 48))
    factor = annotate.enlargement(picture, [face], cropped=True)
    assert factor == pytest.approx(320 / 48)
    drawn = annotate.annotate(picture, [face], True, factor)
    assert drawn.shape == (320, 320 + round(8.5 * 30) + 30, 3)
    assert annotate.enlargement(photo(400, 400, []), [], cropped=False) == 1
    assert annotate.enlargement(photo(400, 400, []), [found(Box(0, 0, 55, 55))], cropped=False) == pytest.approx(2)
    assert annotate.enlargement(photo(1200, 1600, []), [found(Box(0, 0, 11, 11))], cropped=False) == pytest.approx(1.5)
