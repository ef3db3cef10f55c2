"""fer_jax/data/images.py, image_folder.py and ckplus.py: any image as a grey face, and folders of them as classes."""

import io
import shutil
import struct
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from fer_jax.core.errors import InputError
from fer_jax.data import ckplus, image_folder
from fer_jax.data.images import decode_face

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
    (header_only(20_000, 20_000), '20000×20000 pixels: refused as a decompression bomb|not an image'),
    (b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n', 'not an image'),
    (encoded(np.full((48, 48), np.nan, np.float32), 'TIFF'), 'not finite'),
]


@pytest.mark.parametrize(('content', 'message'), NO_IMAGES)
def test_what_is_no_image_is_said(content, message):
    with pytest.raises(InputError, match=message):
        decode_face(content)


def test_a_decompression_bomb_is_refused_by_its_size():
    bomb = encoded(Image.new('1', (30_000, 6_000)))  # 180 million pixels in 24 kB: beyond twice Pillow's limit too
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
    assert '2 files are not images in a class folder and left out: a/notes.txt, stray.png' in source.warnings[0]


LAYOUTS = [
    (['x.png'], [], 'no image in a class folder'),
    ([], [], 'no image in a class folder'),
    (['a/1.png'], [], r'only one class folder \(a\)'),
    (['a/1.png', 'b/1.png'], ['c'], 'empty class: c holds no image'),
    ([*THREE], ['val/angry'], 'empty class: .*val/angry holds no image'),
    (['train/a/1.png', 'train/b/1.png'], ['test'], 'empty split: test holds no image'),
    (['train/a/1.png', 'angry/1.png'], [], r'folders of splits beside others \(angry\)'),
    ([*THREE, 'validation/sad/a.png'], [], 'several folders for the validation split: val, validation'),
    (['val/a/1.png', 'test/a/1.png'], [], 'no train folder beside test, val'),
]


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
