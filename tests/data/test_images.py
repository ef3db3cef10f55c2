"""fer_jax/data/images.py, image_folder.py and ckplus.py: any image as a grey face, and folders of them as classes."""

import io
import os
import re
import shutil
import struct
import sys
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from fer_jax.core.errors import DataWarning, InputError
from fer_jax.core.fields import default_config
from fer_jax.data import ckplus, fer2013, image_folder
from fer_jax.data.folders import split_of
from fer_jax.data.images import decode, decode_face, plain, square_face
from fer_jax.data.prepare import prepare
from fer_jax.inference.sources import look
from tests.tiny import ROOT

GREY = np.tile(np.arange(48, dtype=np.uint8) * 5, (48, 1))  # darker on the left: 0 to 235


def encoded(image, form='PNG', **options):
    buffer = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(buffer, form, **options)
    return buffer.getvalue()


def test_a_grey_png_of_the_right_size_is_kept_bit_for_bit():
    np.testing.assert_array_equal(decode_face(encoded(GREY)), GREY)


def test_modes():
    rgb = np.repeat(GREY[..., None], 3, axis=2)
    alpha = np.full((48, 48, 1), 255, np.uint8)
    same = [
        encoded(rgb),
        encoded(np.concatenate([rgb, alpha], axis=2)),
        encoded(np.concatenate([GREY[..., None], alpha], axis=2)),
        encoded(GREY.astype(np.uint16) * 257),
        encoded(Image.fromarray(GREY).convert('P')),
        encoded(GREY, 'BMP'),
        encoded(GREY, 'GIF'),
        encoded(GREY, 'WEBP', lossless=True),
        encoded(GREY, 'PPM'),
        encoded(GREY, 'TIFF'),
        encoded(GREY.astype(np.float32) / 255, 'TIFF'),
        encoded(GREY.astype(np.float32), 'TIFF'),
    ]
    for content in same:
        face = decode_face(content)
        assert face.dtype == np.uint8
        np.testing.assert_allclose(face.astype(int), GREY, atol=1)
    # ITU-R 601: 0.299 of 255 for pure red; CMYK (0, 255, 255, 0) is the same red.
    red = Image.new('RGB', (48, 48), (255, 0, 0))
    assert np.all(decode_face(encoded(red)) == 76)
    np.testing.assert_allclose(decode_face(encoded(Image.new('CMYK', (48, 48), (0, 255, 255, 0)), 'TIFF')), 76, atol=1)
    assert set(np.unique(decode_face(encoded(Image.fromarray(GREY > 100))))) == {0, 255}


PAGE = (ROOT / 'docs' / 'predict.md').read_text('utf-8')
TABLE = PAGE[PAGE.index('| mode, as Pillow calls it |') :].partition('\n\n')[0]
MODES = [mode for cell in re.findall(r'^\| (`[^|]*) \|', TABLE, re.MULTILINE) for mode in re.findall('`([^`]+)`', cell)]
RAMP = np.add.outer(np.arange(48), np.arange(48) * 4).astype(np.uint8)  # 0 to 235
COLOURS = Image.merge('RGB', [Image.fromarray(channel.copy()) for channel in (RAMP, RAMP.T, RAMP[::-1])])
TO_RGB = ImageCms.buildTransform(ImageCms.createProfile('LAB'), ImageCms.createProfile('sRGB'), 'LAB', 'RGB')


def pillows(image: Image.Image) -> Image.Image:
    """The grey that docs/predict.md promises, by Pillow's own conversions between 8-bit modes and its own arithmetic."""
    if image.mode == 'F' or image.mode.startswith('I'):
        floats = image if image.mode == 'F' else Image.fromarray(np.asarray(image).astype(np.float32))
        high = floats.getextrema()[1]
        factor = (255 if high <= 1 else 1) if image.mode == 'F' else (1 if high <= 255 else 1 / 257)
        return floats.point(lambda value: value * factor + 0.5).convert('L')  # which cuts off, where 0.5 more rounds
    if image.mode == 'LAB':
        return ImageCms.applyTransform(image, TO_RGB).convert('L')
    if image.mode in ('LA', 'La', 'PA', 'RGBA', 'RGBa') or 'transparency' in image.info:
        image = (image.convert('LA') if image.mode == 'La' else image).convert('RGBA')
        return Image.composite(image.convert('RGB'), Image.new('RGB', image.size), image.getchannel('A')).convert('L')
    return image.convert('RGB').convert('L')


def of_mode(mode: str) -> list[Image.Image]:
    """Pictures of a mode: colours, half-transparent where it can be; of whole numbers and floats in each of the ranges."""
    wide = RAMP.astype(np.uint16) * 273
    match mode:
        case 'F':
            return [Image.fromarray(RAMP / np.float32(235)), Image.fromarray(RAMP.astype(np.float32))]
        case 'I':
            return [Image.fromarray(values.astype(np.int32)) for values in (RAMP, wide)]
        case 'I;16' | 'I;16L' | 'I;16B' | 'I;16N':
            order = '>' if mode == 'I;16B' else '<'
            return [Image.frombytes(mode, (48, 48), values.astype(f'{order}u2').tobytes(), 'raw', mode) for values in (RAMP, wide)]
        case 'LAB':
            return [ImageCms.profileToProfile(COLOURS, ImageCms.createProfile('sRGB'), ImageCms.createProfile('LAB'), outputMode='LAB')]
        case 'La' | 'RGBa':
            return [half(mode.upper()).convert(mode)]
        case 'LA' | 'PA' | 'RGBA':
            return [half(mode)]
        case 'P':
            palette = COLOURS.quantize(64)
            transparent = palette.copy()
            transparent.info['transparency'] = 7
            return [palette, transparent]
    return [COLOURS.convert(mode)]


def half(mode: str) -> Image.Image:
    image = COLOURS.convert('P').convert('PA') if mode == 'PA' else COLOURS.convert(mode)
    image.putalpha(Image.fromarray(RAMP.T.copy()))
    return image


def test_the_table_has_every_mode():
    assert sorted(MODES) == sorted(Image.MODES)


@pytest.mark.parametrize('mode', MODES)
def test_a_mode_becomes_what_the_table_says(mode):
    for image in of_mode(mode):
        assert image.mode == mode and np.ptp(np.asarray(pillows(image)).astype(int)) > 100
        expected = np.asarray(pillows(image)).astype(int)
        np.testing.assert_allclose(np.asarray(plain(image).convert('L')).astype(int), expected, atol=1)
        ten_rows_at_once = plain(image, block=500)
        np.testing.assert_allclose(np.asarray(ten_rows_at_once.convert('L')).astype(int), expected, atol=1)


def test_predict_with_and_without_detection_has_the_pixels_of_training():
    noisy = [
        encoded(Image.fromarray(np.random.default_rng(1).integers(0, 65536, (60, 60), np.uint16))),
        encoded(half('RGBA').resize((60, 60))),
    ]
    lab = encoded(of_mode('LAB')[0], 'TIFF')
    for content in [*noisy, lab, encoded(of_mode('F')[0], 'TIFF'), encoded(of_mode('I;16')[0])]:
        shot = look(content, None)
        np.testing.assert_array_equal(shot.cuts[0].pixels, decode_face(content))
        np.testing.assert_array_equal(square_face(Image.fromarray(shot.photo).convert('L')), decode_face(content))


@pytest.mark.parametrize(
    ('values', 'message'),
    [
        (np.full((48, 48), -3, np.int32), 'from -3 to -3: whole numbers are read from 0 to 255 or from 0 to 65,535'),
        (np.full((48, 48), 70_000, np.int32), 'from 70000 to 70000'),
        (np.linspace(-1, 1, 2304, dtype=np.float32).reshape(48, 48), 'from -1 to 1: floats are read from 0 to 1 or from 0 to 255'),
        (np.linspace(0, 65535, 2304, dtype=np.float32).reshape(48, 48), 'from 0 to 65535'),
    ],
)
def test_ranges_that_are_none(values, message):
    with pytest.raises(InputError, match=message):
        decode_face(encoded(values, 'TIFF'))


def test_a_transparent_grey_of_16_bits_is_black():
    content = encoded(np.repeat(np.array([[300, 60000]], np.uint16), 24, 1).repeat(48, 0), transparency=60000)
    assert set(np.unique(decode_face(content))) == {0, 1}


@pytest.mark.parametrize(('form', 'mode'), [('PNG', 'RGB'), ('JPEG', 'RGB'), ('TIFF', 'I;16'), ('PNG', 'P'), ('JPEG2000', 'L')])
def test_a_large_picture_is_read_reduced(form, mode):
    image = COLOURS.resize((300, 200))
    image = Image.fromarray(np.asarray(image.convert('L')).astype(np.uint16) * 257) if mode == 'I;16' else image.convert(mode)
    content = encoded(image, form)
    found, scale = decode(content, whole=100 * 50)  # a quarter of the sides, 75×50, has no more
    assert found.size == (75, 50) and scale == 4
    whole, scale = decode(content)
    assert whole.size == (300, 200) and scale == 1
    difference = np.asarray(whole.reduce(4).convert('L')).astype(int) - np.asarray(found.convert('L'))
    assert np.abs(difference).mean() < 2


def test_orientation_of_a_reduced_picture():
    exif = Image.Exif()
    exif[0x0112] = 6
    content = encoded(Image.fromarray(np.repeat(np.repeat(GREY, 2, 0), 4, 1)), exif=exif)  # 192 wide, 96 high
    found, scale = decode(content, whole=96 * 48)
    assert found.size == (48, 96) and scale == 2
    assert np.all(np.diff(np.asarray(found).astype(int)[:, 0]) >= 0)  # dark on top, where it was on the left


def test_transparent_parts_are_black():
    rgba = np.full((48, 48, 4), 200, np.uint8)
    rgba[:, :24, 3] = 0
    rgba[:, 24:, 3] = 255
    face = decode_face(encoded(rgba))
    assert np.all(face[:, :24] == 0) and np.all(face[:, 24:] == 200)


def test_exif_orientation_turns_the_image():
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down, by 180 degrees
    np.testing.assert_array_equal(decode_face(encoded(GREY, exif=exif)), GREY[::-1, ::-1])


def test_other_sizes_give_the_centred_square():
    # A white square between two black margins: the square alone is left, from a wide, a tall and a small image.
    wide = np.zeros((96, 200), np.uint8)
    wide[:, 52:148] = 255
    assert np.all(decode_face(encoded(wide)) == 255)
    assert np.all(decode_face(encoded(wide.T.copy())) == 255)
    assert np.all(decode_face(encoded(np.full((7, 5), 9, np.uint8))) == 9)
    assert np.all(decode_face(encoded(np.full((3000, 4000), 90, np.uint8), 'JPEG')) == 90)


def header_only(width, height):
    """A PNG that claims a size and has no pixels."""
    chunk = b'IHDR' + struct.pack('>IIBBBBB', width, height, 8, 0, 0, 0, 0)
    return b'\x89PNG\r\n\x1a\n' + struct.pack('>I', 13) + chunk + struct.pack('>I', zlib.crc32(chunk))


NOISE = np.random.default_rng(0).integers(0, 256, (48, 48), np.uint8)
NO_IMAGES = [
    (b'', 'empty file'),
    (b'this is text', 'not an image'),
    (encoded(NOISE)[:-100], 'damaged image'),
    (encoded(NOISE)[:40], 'damaged image|not an image'),
    (header_only(20_000, 20_000), '20000×20000 pixels: more than 250 million are a decompression bomb|damaged image'),
    (b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n', 'not an image'),
    (encoded(np.full((48, 48), np.nan, np.float32), 'TIFF'), 'not finite'),
]


@pytest.mark.parametrize(('content', 'message'), NO_IMAGES)
def test_what_is_no_image_is_said(content, message):
    with pytest.raises(InputError, match=message):
        decode_face(content)


def test_white_that_is_zero_in_16_bits():
    """A TIFF may count from white to black; Pillow turns that round up to 8 bits."""
    black = encoded(Image.fromarray(65_535 - GREY.astype(np.uint16) * 257), 'TIFF')
    tag = struct.pack('<HHIHH', 262, 3, 1, 1, 0)
    assert black.count(tag) == 1
    np.testing.assert_array_equal(decode_face(black.replace(tag, struct.pack('<HHIHH', 262, 3, 1, 0, 0))), GREY)


def colours_of_16_bits(values):
    """A PNG of RGB whose channels are all these, uint16 [48, 48]."""
    rows = b''.join(b'\0' + np.repeat(row, 3).astype('>u2').tobytes() for row in values)
    chunks = ((b'IHDR', struct.pack('>IIBBBBB', 48, 48, 16, 2, 0, 0, 0)), (b'IDAT', zlib.compress(rows)), (b'IEND', b''))
    parts = (struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data)) for kind, data in chunks)
    return b'\x89PNG\r\n\x1a\n' + b''.join(parts)


def test_colours_of_16_bits_that_come_out_black_are_refused():
    """Pillow keeps the upper 8 of the 16 bits, of which values of 0 to 255 have none."""
    np.testing.assert_array_equal(decode_face(colours_of_16_bits(GREY.astype(np.uint16) * 257)), GREY)
    with pytest.raises(InputError, match='black throughout, of 16 bits a channel'):
        decode_face(colours_of_16_bits(GREY.astype(np.uint16)))
    assert not decode_face(encoded(np.zeros((48, 48), np.uint8))).any()


def test_an_image_that_pillow_lacks_is_not_called_none():
    doubles = encoded(np.zeros((48, 48), np.float32), 'TIFF').replace(
        struct.pack('<HHIHH', 258, 3, 1, 32, 0), struct.pack('<HHIHH', 258, 3, 1, 64, 0)
    )
    with pytest.raises(InputError, match='of a kind that Pillow does not read'):
        decode_face(doubles)


def test_a_decompression_bomb_is_refused_by_its_size():
    bomb = encoded(Image.new('1', (30_000, 9_000)))  # 270 million pixels in 33 kB
    assert len(bomb) < 50_000
    with pytest.raises(InputError, match='decompression bomb'):
        decode_face(bomb)


def write_images(root, names):
    """Each name's image is all of one grey: its position in `names`."""
    for value, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((48, 48), value, np.uint8)).save(path)
    return root


def contents(source, split):
    """(grey, class name) of each image."""
    faces = source.splits[split]
    return [(int(image[0, 0]), source.class_names[label]) for image, label in zip(faces.images, faces.labels, strict=True)]


THREE = ['train/sad/a.png', 'train/happy/a.png', 'val/sad/a.bmp', 'val/happy/a.png', 'test/sad/x/a.png', 'test/happy/a.png']


@pytest.mark.parametrize('zipped', [False, True])
def test_folders_of_splits(tmp_path, zipped):
    path = write_images(tmp_path / 'set' / 'inner', THREE).parent
    if zipped:
        path = shutil.make_archive(tmp_path / 'set', 'zip', tmp_path, 'set')
    source = image_folder.read(path)
    assert source.class_names == ('happy', 'sad')
    assert source.split_titles == {'train': 'train', 'validation': 'val', 'test': 'test'}
    assert contents(source, 'train') == [(1, 'happy'), (0, 'sad')]
    assert contents(source, 'validation') == [(3, 'happy'), (2, 'sad')]
    assert contents(source, 'test') == [(5, 'happy'), (4, 'sad')]
    assert source.warnings == ()
    prefix = 'set/inner/' if zipped else 'inner/'
    assert source.notes == (f'folders read as {prefix}split/class: train is train, val is validation, test is test',)


def test_folder_without_splits_and_numbered_classes(tmp_path):
    source = image_folder.read(write_images(tmp_path, [f'{name}/a.png' for name in (10, 9, 1)]))
    assert source.class_names == ('1', '9', '10')
    assert list(source.splits) == ['train']
    assert contents(source, 'train') == [(2, '1'), (0, '10'), (1, '9')]


def test_other_files_are_left_out_and_said(tmp_path):
    write_images(tmp_path, ['a/1.png', 'b/1.png', 'stray.png'])
    (tmp_path / 'a' / 'notes.txt').write_text('x')
    (tmp_path / 'a' / '.hidden').write_text('x')
    source = image_folder.read(tmp_path)
    assert len(source.splits['train']) == 2
    assert source.warnings[0].endswith('2 files are not images in a class folder and left out: a/notes.txt, stray.png')


def test_pictures_are_known_by_their_content(tmp_path):
    """Endings that Pillow knows besides, none, and a wrong one; what begins like a picture of Pillow's and is a text."""
    write_images(tmp_path, ['happy/1.png', 'sad/1.png'])
    for name, form in [('a.jfif', 'JPEG'), ('b.jpe', 'JPEG'), ('c.apng', 'PNG'), ('d.avif', 'AVIF'), ('e.jp2', 'JPEG2000'),
                       ('f', 'JPEG'), ('g.dat', 'TIFF'), ('h.txt', 'PNG'), ('i.png', 'WEBP'), ('j.bin', 'PPM')]:  # fmt: skip
        (tmp_path / 'sad' / name).write_bytes(encoded(GREY, form))
    (tmp_path / 'sad' / 'k.py').write_text('P6 is the name of a format')
    (tmp_path / 'sad' / 'Thumbs.db').write_bytes(encoded(GREY, 'JPEG'))
    for path in (tmp_path, shutil.make_archive(tmp_path.parent / 'set', 'zip', tmp_path)):
        source = image_folder.read(path)
        assert len(source.splits['train']) == 12
        assert source.warnings[0].endswith(': 1 files are not images in a class folder and left out: sad/k.py')


def test_heic_needs_a_plug_in(tmp_path, monkeypatch):
    content = b'\0\0\0\x18ftypheic' + bytes(100)
    monkeypatch.setitem(sys.modules, 'pillow_heif', None)
    with pytest.raises(InputError, match=r"HEIC needs pillow-heif: pip install 'fer_jax\[heif\]'"):
        decode_face(content)


def test_heic_where_there_is_the_plug_in():
    plugin = pytest.importorskip('pillow_heif')
    file = io.BytesIO()
    plugin.from_pillow(Image.fromarray(GREY).convert('RGB')).save(file, quality=100)
    np.testing.assert_allclose(decode_face(file.getvalue()).astype(int), GREY, atol=6)


def test_fer2013_folders_name_what_they_leave_out(tmp_path):
    names = [f'{split}/{name}/1.png' for split in ('train', 'test') for name in fer2013.CLASSES]
    write_images(tmp_path, [*names, 'cover.png'])
    (tmp_path / 'train' / 'README.md').write_text('x')
    source = fer2013.read(tmp_path)
    assert source.warnings[0].endswith('2 files are not images in a class folder and left out: cover.png, train/README.md')
    assert source.notes == ('folders read as split/class: train is train, test is test',)


@pytest.mark.parametrize('word', ['train', 'Training', 'train_set', 'training-images', 'Train Data', 'trainset'])
def test_words_of_splits(word):
    assert split_of(word) == 'train'
    assert split_of('Public_Test') == 'validation' and split_of('happy') is None and split_of('dataset') is None


LAYOUTS = [
    (['x.png', 'y.png'], [], r'no image in a class folder: .* found 2 pictures in none: x.png, y.png$'),
    ([], [], 'no image in a class folder: .* found no file$'),
    (['a/1.png'], [], r'only one class \(a\)'),
    (['a/1.png', 'b/1.png'], ['c'], 'empty class: c holds no image'),
    ([*THREE], ['val/angry'], 'empty class: .*val/angry holds no image'),
    (['train/a/1.png', 'train/b/1.png'], ['test'], 'empty split: test holds no image'),
    (['train/a/1.png', 'angry/1.png'], [], r'folders of splits beside others \(angry\)'),
    ([*THREE, 'validation/sad/a.png'], [], 'several folders for the validation split: val, validation'),
    (['train/1.png', 'val/1.png'], [], 'no image in a class folder'),
    (['fold1/a/1.png', 'fold1/b/1.png', 'fold2/a/1.png', 'fold2/b/1.png'], [], 'a level too many: the folders fold1, fold2 hold a, b'),
    (['anna/happy/1.png', 'ben/sad/1.png'], [], 'a level too many: the folders anna, ben hold happy, sad'),
    ([f'train/{who}/{what}/1.png' for who in ('f1', 'f2') for what in 'ab'], [], 'a level too many: the folders f1, f2 hold a, b'),
    (['train/anna/happy/1.png', 'train/anna/sad/1.png', 'test/happy/1.png'], [], 'the folders anna hold happy, sad, which look like'),
    (
        ['anna/happy/1.png', 'anna/bored/1.png', 'ben/sad/1.png', 'ben/proud/1.png'],
        [],
        'the folders anna, ben hold bored, happy, proud, sad',
    ),
    (['S01/1/happy/1.png', 'S02/1/sad/1.png', 'S02/2/sad/1.png'], [], 'a level too many: the folders S01, S02 hold 1/happy, 1/sad, 2/sad'),
    (
        [f'{what}/{split}/1.png' for what in ('happy', 'sad') for split in ('train', 'test')],
        [],
        'happy, sad hold splits .test, train.: exp',
    ),
    ([f'{name}/{split}/a/1.png' for name in ('ck', 'fer') for split in ('train', 'val')], [], 'ck, fer hold splits .train, val.: expected'),
    (['Happy/1.png', 'happy/1.png', 'sad/1.png'], [], 'classes of one name: Happy and happy: write each in one way'),
    (['happy/1.png', 'happy /1.png', 'sad/1.png'], [], r'classes of one name: happy and happy : write'),
    (['1/1.png', '01/1.png', '2/1.png'], [], 'classes of one name: 01 and 1: write'),
    (['coll\u00e8re/1.png', 'colle\u0300re/1.png', 'sad/1.png'], [], 'classes of one name: '),
    (['train/a/1.png', 'train/b/1.png', 'val/a/1.png', 'val/B/1.png'], [], 'different classes: val has B and lacks b'),
    (['val/a/1.png', 'test/a/1.png'], [], 'no train folder beside test, val'),
]


def test_folders_below_the_classes_are_no_level_too_many(tmp_path):
    persons = [f'{what}/{who}/1.png' for what in ('happy', 'sad') for who in ('anna', 'ben')]
    assert image_folder.read(write_images(tmp_path / 'persons', persons)).class_names == ('happy', 'sad')
    parts = ['a/1.png', 'b/1.png', *(f'{what}/{part}.png' for what in 'ab' for part in ('1', '2', 'x/1', 'y/1'))]
    assert image_folder.read(write_images(tmp_path / 'parts', parts)).class_names == ('a', 'b')
    one = ['a/aligned/1.png', 'b/aligned/1.png']
    source = image_folder.read(write_images(tmp_path / 'one', one))
    assert source.class_names == ('a', 'b')
    assert source.notes == ('folders read as class, without splits; 2 images lie deeper, such as a/aligned/1.png',)


def test_folders_called_sets_are_splits(tmp_path):
    names = [f'{split}/{name}/1.png' for split in ('train_set', 'val_set', 'test set [2]=') for name in ('a b', 'c=[d]')]
    with pytest.raises(InputError, match='folders of splits beside others'):
        image_folder.read(write_images(tmp_path / 'odd', names))
    source = image_folder.read(write_images(tmp_path / 'x y [1]=z', [name.replace(' [2]=', '') for name in names]))
    assert source.class_names == ('a b', 'c=[d]')
    assert source.split_titles == {'train': 'train_set', 'validation': 'val_set', 'test': 'test set'}


@pytest.mark.parametrize(('names', 'empty', 'message'), LAYOUTS)
def test_layouts_that_are_none(tmp_path, names, empty, message):
    write_images(tmp_path, names)
    for folder in empty:
        (tmp_path / folder).mkdir(parents=True)
    with pytest.raises(InputError, match=message):
        image_folder.read(tmp_path)


def test_bad_images_are_counted_named_and_skipped_only_on_demand(tmp_path):
    write_images(tmp_path, ['a/1.png', 'a/2.png', 'b/1.png', 'b/2.png'])
    (tmp_path / 'a' / '2.png').write_bytes(b'no image')
    (tmp_path / 'b' / '1.png').write_bytes(b'')
    with pytest.raises(InputError, match='2 of 4 files are no images .*--skip-bad.*a/2.png: not an image; b/1.png: empty file'):
        image_folder.read(tmp_path)
    source = image_folder.read(tmp_path, skip_bad=True)
    assert source.skipped == ('a/2.png: not an image', 'b/1.png: empty file')
    assert contents(source, 'train') == [(0, 'a'), (3, 'b')]


def test_what_is_no_file_is_named_and_skipped_on_demand(tmp_path):
    """A link to nothing, as data sets under git-annex and DVC have them, is a bad picture; nobody waits for what a pipe has to say."""
    write_images(tmp_path / 'set', [f'{name}/{n}.png' for name in 'ab' for n in range(10)])
    (tmp_path / 'set' / 'a' / '10.png').symlink_to('nowhere')
    os.mkfifo(tmp_path / 'set' / 'b' / '11.png')
    os.mkfifo(tmp_path / 'set' / 'b' / 'pipe')
    reasons = 'a/10.png: cannot be read .No such file or directory.; b/11.png: not a regular file$'
    data = default_config().data
    data.update({'dataset': 'image_folder', 'path': str(tmp_path / 'set'), 'prepared': str(tmp_path / 'out')})
    with pytest.raises(InputError, match=f'2 of 22 files are no images .*: {reasons}'):
        prepare(data)
    data.skip_bad = True
    with pytest.warns(DataWarning):
        manifest = prepare(data)
    assert re.search(reasons, '; '.join(manifest['skipped']))
    assert manifest['warnings'][0].endswith('1 files are not images in a class folder and left out: b/pipe')


def test_a_zip_that_says_nothing_of_its_names_encoding(tmp_path):
    """macOS writes UTF-8 and does not say so."""
    path = tmp_path / 'mac.zip'
    with zipfile.ZipFile(path, 'w') as archive:
        for name in ('collère', 'hXppy'):
            archive.writestr(f'{name}/1.png', encoded(GREY, 'PNG'))
    content = path.read_bytes().replace(b'hXppy', 'hüpy'.encode())
    flag = [match.start() + (6 if match[0] == b'PK\3\4' else 8) for match in re.finditer(b'PK\3\4|PK\1\2', content)]
    bare = bytearray(content)
    for place in flag:
        bare[place + 1] &= ~0x08
    path.write_bytes(bytes(bare))
    assert image_folder.read(path).class_names == ('collère', 'hüpy')


CK48 = ['anger/S010_004_00000017.png', 'anger/S010_004_00000018.png', 'happy/S011_001_00000010.png', 'contempt/S138_008_00000009.png']


def test_ckplus_folders_know_subjects_and_sequences(tmp_path):
    source = ckplus.read(write_images(tmp_path / 'CK+48', CK48))
    faces = source.splits['train']
    assert source.class_names == ('anger', 'disgust', 'fear', 'happy', 'sadness', 'surprise', 'contempt')
    assert contents(source, 'train') == [(0, 'anger'), (1, 'anger'), (3, 'contempt'), (2, 'happy')]
    assert faces.subjects.tolist() == ['S010', 'S010', 'S138', 'S011']
    assert faces.sequences.tolist() == ['S010_004', 'S010_004', 'S138_008', 'S011_001']
    assert source.warnings == (
        'CK+: 4 images, officially 981 (-977): anger -133, disgust -177, fear -75, happy -206, sadness -84, surprise -249, contempt -53',
    )


def test_ckplus_from_a_zip_and_a_nameless_image(tmp_path):
    write_images(tmp_path / 'CK+48', [*CK48, 'fear/odd.png'])
    source = ckplus.read(shutil.make_archive(tmp_path / 'ck', 'zip', tmp_path, 'CK+48'))
    assert source.splits['train'].subjects.tolist() == ['S010', 'S010', 'S138', '', 'S011']
    assert '1 images have no subject in their names' in source.warnings[0]


def test_ckplus_official_counts_are_those_of_the_table():
    assert sum(ckplus.OFFICIAL) == 981
    assert dict(zip(ckplus.CLASSES, ckplus.OFFICIAL, strict=True))['contempt'] == 54


def write_original(root, labels):
    """Films of five frames under cohn-kanade-images; `labels` has the text of each one's label file, None for no label."""
    names = [f'cohn-kanade-images/{s}/{q}/{s}_{q}_{frame:08}.png' for s, q in labels for frame in range(1, 6)]
    write_images(root, names)
    for (subject, sequence), text in labels.items():
        folder = root / 'Emotion' / subject / sequence
        folder.mkdir(parents=True)
        if text is not None:
            (folder / f'{subject}_{sequence}_00000005_emotion.txt').write_text(text)
    return root


def test_ckplus_original_takes_the_last_three_frames_of_labelled_films(tmp_path):
    labels = {('S005', '001'): '   3.0000000e+00\n', ('S010', '001'): None, ('S010', '002'): '   7.0000000e+00\n'}
    source = ckplus.read(write_original(tmp_path, labels))
    assert contents(source, 'train') == [(value, 'disgust') for value in (2, 3, 4)] + [(value, 'surprise') for value in (12, 13, 14)]
    assert source.splits['train'].sequences.tolist() == ['S005_001'] * 3 + ['S010_002'] * 3


@pytest.mark.parametrize('text', ['0.0000000e+00', '8.0', 'nan', '', '3.0e+01'])
def test_ckplus_original_with_an_unknown_label(tmp_path, text):
    with pytest.raises(InputError, match='S005_001_00000005_emotion.txt: unknown label'):
        ckplus.read(write_original(tmp_path, {('S005', '001'): text}))


def test_ckplus_labels_without_images(tmp_path):
    write_original(tmp_path, {('S005', '001'): '3.0'})
    shutil.rmtree(tmp_path / 'cohn-kanade-images')
    with pytest.raises(InputError, match='sequence S005_001 has a label but no images'):
        ckplus.read(tmp_path)


def test_ckplus_csv_has_eight_classes(tmp_path):
    pixels = ' '.join(['9'] * 2304)
    rows = [f'{label},{pixels},{usage}' for usage in ('Training', 'PublicTest', 'PrivateTest') for label in range(8)]
    path = tmp_path / 'ckextended.csv'
    path.write_text('\n'.join(['emotion,pixels,Usage', *rows]))
    source = ckplus.read(path)
    assert source.class_names[6:] == ('neutral', 'contempt')
    assert [len(source.splits[split]) for split in ('train', 'validation', 'test')] == [8, 8, 8]
    with zipfile.ZipFile(tmp_path / 'ck.zip', 'w') as file:
        file.write(path, 'ckextended.csv')
    assert len(ckplus.read(tmp_path / 'ck.zip').splits['test']) == 8
    path.write_text('\n'.join(['emotion,pixels,Usage', f'8,{pixels},Training']))
    with pytest.raises(InputError, match="line 2: unknown label .*'8'"):
        ckplus.read(path)
