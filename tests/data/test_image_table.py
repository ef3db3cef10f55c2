"""fer_jax/data/image_table.py and npz.py: tables that name pictures or hold them."""

import io
import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fer_jax.core.errors import InputError
from fer_jax.core.fields import default_config
from fer_jax.data import image_table
from fer_jax.data.prepare import prepare
from fer_jax.data.readers import request_of


def grey(value, size=(48, 48)):
    return np.full(size[::-1], value, np.uint8)


def png(value):
    file = io.BytesIO()
    Image.fromarray(grey(value)).save(file, 'PNG')
    return file.getvalue()


def put(folder, names):
    """Each picture is all of one grey: its position."""
    for value, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(grey(value)).save(folder / name)
    return folder


def held(source, split='train'):
    """(grey, class) of each face, in order."""
    faces = source.splits[split]
    return [(int(image[24, 24]), source.class_names[label]) for image, label in zip(faces.images, faces.labels, strict=True)]


def test_raf_db(tmp_path):
    names = [f'Image/aligned/{split}_{n:05}_aligned.jpg' for split in ('train', 'test') for n in (1, 2)]
    put(tmp_path, [*names, *(f'Image/original/{split}_{n:05}.jpg' for split in ('train', 'test') for n in (1, 2))])
    (tmp_path / 'EmoLabel').mkdir()
    table = tmp_path / 'EmoLabel' / 'list_patition_label.txt'
    table.write_text('train_00001.jpg 5\ntrain_00002.jpg 4\ntest_00001.jpg 1\ntest_00002.jpg 7\n')
    (tmp_path / 'README.txt').write_text('The labels are in EmoLabel.')
    for path in (tmp_path, shutil.make_archive(tmp_path.parent / 'raf', 'zip', tmp_path)):
        source = image_table.read(path)
        assert held(source) == [(0, 'sadness'), (1, 'happiness')]
        assert held(source, 'test') == [(2, 'surprise'), (3, 'neutral')]
        assert source.notes[0] == 'EmoLabel/list_patition_label.txt: RAF-DB, aligned where there are such files'
        assert source.notes[1].startswith('4 pictures are in no row and left out: Image/original/test_00001.jpg')
    table.write_text('train_00001.jpg 8\ntrain_00003.jpg 4\n')
    with pytest.raises(InputError, match=r'2 of 2 rows cannot be read .*line 1: unknown label .8.*line 2: no such picture: train_00003'):
        image_table.read(tmp_path)


def test_expw_has_several_faces_in_a_picture(tmp_path):
    (tmp_path / 'image').mkdir()
    picture = np.concatenate([grey(10, (60, 100)), grey(200, (60, 100))], 1)
    Image.fromarray(picture).save(tmp_path / 'image' / 'crowd_1.png')
    # name, number, top, left, right, bottom, confidence, expression
    rows = ['crowd_1.png 0 5 5 55 55 90.5 3', 'crowd_1.png 1 10 65 115 60 80.0 0', 'crowd_1.png 2 10 130 150 60 80.0 0']
    (tmp_path / 'label.lst').write_text('\n'.join(rows))
    with pytest.raises(
        InputError, match=r'1 of 3 .*label.lst, line 3, image/crowd_1.png: the box 130, 10, 20 × 50 lies outside .* 120 × 100'
    ):
        image_table.read(tmp_path)
    source = image_table.read(tmp_path, skip_bad=True)
    assert held(source) == [(10, 'happy'), (200, 'angry')] and len(source.skipped) == 1
    header = 'image_name face_id_in_image face_box_top face_box_left face_box_right face_box_bottom face_box_confidence expression_label'
    (tmp_path / 'label.lst').write_text('\n'.join([header, *rows[:2]]))
    assert held(image_table.read(tmp_path)) == [(10, 'happy'), (200, 'angry')]


def test_affectnet(tmp_path):
    put(tmp_path, ['689/a.jpg', '689/b.jpg', '1/c.jpg', '1/d.jpg'])
    header = 'subDirectory_filePath,face_x,face_y,face_width,face_height,facial_landmarks,expression,valence,arousal\n'
    (tmp_path / 'training.csv').write_text(
        header + '689/a.jpg,2,2,40,40,1;2,1,0.1,0.2\n689/b.jpg,0,0,48,48,1;2,9,-2,-2\n1/d.jpg,0,0,48,48,1,7,0,0\n'
    )
    (tmp_path / 'validation.csv').write_text(header + '1/c.jpg,0,0,48,48,1;2,6,0,0\n')
    source = image_table.read(tmp_path)
    assert held(source) == [(0, 'happiness'), (3, 'contempt')] and held(source, 'validation') == [(2, 'anger')]
    assert '1 rows are of no expression and left out' in source.notes


GENERAL = 'Filename;Emotion;Subject;Split\nsub dir/a=[1].png;Happy;anna;train\n./b.png;sad;ben;Test\nC:\\faces\\c.png;sad;ben;training\n'


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'utf-16'])
def test_any_table_with_a_path_and_a_label(tmp_path, encoding):
    put(tmp_path, ['sub dir/a=[1].png', 'b.png', 'c.png'])
    (tmp_path / 'list.csv').write_bytes(GENERAL.encode(encoding))
    source = image_table.read(tmp_path)
    assert held(source) == [(0, 'Happy'), (2, 'sad')] and held(source, 'test') == [(1, 'sad')]
    assert source.splits['train'].subjects.tolist() == ['anna', 'ben']
    assert source.notes == ('list.csv: picture from filename, label from emotion, split from split, subject from subject',)


def test_prepared_with_folds_by_subject_from_the_table_itself(tmp_path):
    names = [f'{who}/{what}{n}.png' for who in 'abcd' for what in ('happy', 'sad') for n in range(2)]
    put(tmp_path / 'faces', names)
    lines = [f'{name},{name[2:-5]},{name[0]}' for name in names]
    (tmp_path / 'faces' / 'labels.csv').write_text('\n'.join(['file,label,person', *lines]))
    data = default_config().data
    data.update(
        {'dataset': 'image_table', 'path': str(tmp_path / 'faces' / 'labels.csv'), 'prepared': str(tmp_path / 'out [1]=x y'), 'folds': 2}
    )
    assert request_of(data)['table'] == 'labels.csv' and request_of(data)['path'] == str(tmp_path / 'faces')
    manifest = prepare(data)
    assert [manifest['splits'][split]['subjects'] for split in ('train', 'validation', 'test')] == [1, 1, 2]
    (tmp_path / 'faces' / 'a' / 'happy0.png').write_bytes(png(99))
    assert prepare(data)['key'] != manifest['key']


WRONG = [
    ('path,label\na.png,1\nb.png\n', 'list.csv, line 3: has 1 fields, the first line 2'),
    ('path,label\na.png,\nb.png,1\n', 'line 2: has no label'),
    ('path,label,split\na.png,1,train\nb.png,1,trian\n', "line 3: unknown split 'trian'"),
    ('path,label,x,y,w,h\na.png,1,0,0,9,9\nb.png,1,0,0,0,9\n', 'line 3: a box of 0×9 pixels'),
    ('path,label,x,y,w,h\na.png,1,0,0,9,9\nb.png,1,0,0,nan,9\n', "line 3: a box of '0, 0, nan, 9', which are no four numbers"),
    ('path,label\na.png,1\nnone.png,2\n', 'line 3: no such picture: none.png'),
    ('path,label\na.png,1\nbad.png,2\n', 'line 3, bad.png: not an image'),
    ('path,label\na.png,1\nsame.png,2\n', 'line 3: same.png may be x/same.png, y/same.png: write more of its path'),
    ('path,label\na.png,happy\nb.png,Happy\n', 'classes of one name: Happy and happy: write'),
    ('path,label,split\na.png,1,test\nb.png,2,val\n', 'no row of the training split'),
    ('path,label\na.png,1\nb.png,1\n', 'only one class'),
    ('path,label\na.png,1.0\nb.png,nan\n', 'line 3: has no label'),
    ('path,label,x,y,w,h\na.png,1,0,0,9,9\nb.png,2,0.1,0.1,0.8,0.8\n', 'line 3: a box of .0.1, 0.1, 0.8, 0.8.: parts of the picture'),
    ('path,label\nbad.png,1\n' + 'b.png,2\n' * 9 + 'no.png,3\n', 'line 2, bad.png: not an image; list.csv, line 12: no such'),
    ('path,label,x\na.png,1\n', r'no row that could be read: list.csv, line 2: has 2 fields, the first line 3$'),
]


@pytest.mark.parametrize(('text', 'message'), WRONG)
def test_wrong_rows_are_named(tmp_path, text, message):
    put(tmp_path, ['a.png', 'b.png', 'x/same.png', 'y/same.png'])
    (tmp_path / 'bad.png').write_bytes(b'nothing')
    (tmp_path / 'list.csv').write_text(text)
    with pytest.raises(InputError, match=message):
        image_table.read(tmp_path)


NEAR = 'Path,Label,Subject ID,note\nA.PNG,happy,7,x\ne\u0301t\u00e9/b,fröhlich,8,x\nx/same.png,sad,9,x\n'


@pytest.mark.parametrize(
    'form',
    [
        lambda text: text,
        lambda text: 'sep=,\r\n' + text.replace('\n', '\r\n'),
        lambda text: 'sep=\t\n' + text.replace(',', '\t'),
        lambda text: text.replace('\n', ',\n').replace('note,', 'note'),  # an empty cell behind each row, but not in the header
        lambda text: text.replace('\nA', '\n1,A').replace('\ne', '\n2,e').replace('\nx', '\n3,x'),  # R's names of the rows
    ],
)
def test_tables_as_programs_save_them(tmp_path, form):
    """UTF-8; names of another case, without their ending, with accents encoded in another way; columns that nobody asked for."""
    put(tmp_path, ['a.png', '\u00e9t\u00e9/b.png', 'x/same.png', 'y/same.png'])
    (tmp_path / 'list.csv').write_bytes(form(NEAR).encode())
    source = image_table.read(tmp_path)
    assert held(source) == [(0, 'happy'), (1, 'fröhlich'), (2, 'sad')]
    assert source.splits['train'].subjects.tolist() == ['7', '8', '9']
    assert source.notes[0] == 'list.csv: picture from path, label from label, subject from subject_id; not heeded: note'


def test_boxes_that_are_not_known_are_the_whole(tmp_path):
    put(tmp_path, ['a.png', 'b.png'])
    (tmp_path / 'list.csv').write_text('path,label,x,y,w,h\na.png,1,NULL,NULL,NULL,NULL\nb.png,2,nan,nan,nan,nan\n')
    assert held(image_table.read(tmp_path)) == [(0, '1'), (1, '2')]


def test_tables_that_are_not_told_apart(tmp_path):
    put(tmp_path, ['a.png', 'b.png'])
    what = 'holds no table with a column for the picture and one for the label'
    with pytest.raises(InputError, match=f'{what} .*: but pictures alone'):
        image_table.read(tmp_path)
    (tmp_path / 'labels.xlsx').write_bytes(b'PK')
    with pytest.raises(InputError, match=f'{what} .*: but labels.xlsx'):
        image_table.read(tmp_path)
    (tmp_path / 'ids.csv').write_text('id,label\na.png,1\n')
    (tmp_path / 'mac.csv').write_text('path,label\ra.png,1\r')
    reasons = "ids.csv, line 1: expected a header .* found 'id,label'; mac.csv: its lines end as on a Macintosh of old"
    with pytest.raises(InputError, match=f'{what} .*: {reasons}'):
        image_table.read(tmp_path)
    (tmp_path / 'ids.csv').unlink()
    (tmp_path / 'mac.csv').unlink()
    for name in ('one.csv', 'two.csv'):
        (tmp_path / name).write_text('path,label\na.png,1\nb.png,2\n')
    with pytest.raises(InputError, match=r'several tables: one.csv, two.csv: name the one to read as --config.data.table'):
        image_table.read(tmp_path)
    assert held(image_table.read(tmp_path, 'two.csv')) == [(0, '1'), (1, '2')]
    with pytest.raises(InputError, match='data.table=three.csv: .* holds no such file'):
        image_table.read(tmp_path, 'three.csv')
    (tmp_path / 'two.csv').write_text('path,label,emotion\na.png,1,1\n')
    with pytest.raises(InputError, match='several columns for the label: label, emotion'):
        image_table.read(tmp_path, 'two.csv')


def test_parquet_as_hugging_face_writes_it(tmp_path):
    features = {'info': {'features': {'image': {'_type': 'Image'}, 'label': {'names': ['angry', 'happy'], '_type': 'ClassLabel'}}}}
    for name, values in (('train-00000-of-00002', (1, 2)), ('train-00001-of-00002', (3,)), ('test-00000-of-00001', (4,))):
        pictures = [{'bytes': png(value), 'path': None} for value in values]
        table = pa.table({'image': pictures, 'label': [value % 2 for value in values]})
        pq.write_table(table.replace_schema_metadata({'huggingface': json.dumps(features)}), tmp_path / f'{name}.parquet')
    source = image_table.read(tmp_path)
    assert held(source) == [(1, 'happy'), (2, 'angry'), (3, 'happy')] and held(source, 'test') == [(4, 'angry')]
    assert held(image_table.read(tmp_path / 'train-00000-of-00002.parquet')) == [(1, 'happy'), (2, 'angry')]
    bad = pa.table({'image': [png(1), b'nothing'], 'label': ['a', 'b']})
    pq.write_table(bad, tmp_path / 'bad.parquet')
    with pytest.raises(InputError, match='1 of 2 rows cannot be read .*bad.parquet, row 2: not an image'):
        image_table.read(tmp_path / 'bad.parquet')
    pq.write_table(pa.table({'image': [png(1), png(2)], 'label': [1.0, float('nan')]}), tmp_path / 'nan.pq')
    with pytest.raises(InputError, match='1 of 2 rows .*row 2: has no label'):
        image_table.read(tmp_path / 'nan.pq')
    pq.write_table(pa.table({'image': [[1, 2], [3]], 'label': [1, 2]}), tmp_path / 'lists.parquet')
    with pytest.raises(InputError, match=r"row 1: '\[1, 2\]' where one word, number or picture was expected"):
        image_table.read(tmp_path / 'lists.parquet')
    (tmp_path / 'bad.parquet').write_bytes(b'PAR1nothingPAR1')
    with pytest.raises(InputError, match='bad.parquet: damaged, or no parquet'):
        image_table.read(tmp_path / 'bad.parquet')


def test_parquet_that_lists_files_is_a_list(tmp_path):
    put(tmp_path, ['a.png', 'b.png'])
    pq.write_table(pa.table({'file': ['a.png', 'b.png'], 'label': ['x', 'y']}), tmp_path / 'list.parquet')
    data = default_config().data
    data.update({'dataset': 'image_table', 'path': str(tmp_path / 'list.parquet')})
    request = request_of(data)
    assert (request['path'], request['table']) == (str(tmp_path), 'list.parquet')
    assert held(image_table.read(request['path'], request['table'])) == [(0, 'x'), (1, 'y')]


def test_npz(tmp_path):
    images = np.stack([grey(value) for value in (10, 20, 255)])
    expected = [(10, 'happy'), (20, 'sad'), (255, 'happy')]
    named = {'labels': np.array([1, 0, 1]), 'class_names': np.array(['sad', 'happy'])}
    forms = [
        images,
        images[..., None],
        np.repeat(images[..., None], 3, 3),
        images / 255,
        images.astype(np.float32),
        images.astype(np.int64),
    ]
    forms += [images.astype(np.uint16) * 257, images.reshape(3, -1), np.repeat(np.repeat(images, 2, 1), 2, 2)]
    for form in forms:
        np.savez(tmp_path / 'faces.npz', images=form, **named)
        assert held(image_table.read(tmp_path / 'faces.npz')) == expected
    np.savez_compressed(
        tmp_path / 'faces.npz', x_train=images, y_train=np.array(['a', 'b', 'a']), x_test=images[:1], y_test=np.array(['b'])
    )
    source = image_table.read(tmp_path / 'faces.npz')
    assert held(source) == [(10, 'a'), (20, 'b'), (255, 'a')] and held(source, 'test') == [(10, 'b')]


@pytest.mark.parametrize(
    ('arrays', 'message'),
    [
        ({'images': np.zeros((2, 48, 48), np.uint8)}, r'expected arrays called images and labels.* found images \[2, 48, 48\]'),
        ({'images': np.zeros((2, 48, 48), np.uint8), 'labels': np.arange(3)}, '2 images and 3 labels for train'),
        ({'images': np.zeros((2, 48), np.uint8), 'labels': np.arange(2)}, r'expected \[n, height, width\] numbers, found \[2, 48\]'),
        ({'images': np.full((2, 48, 48), -1.0), 'labels': np.arange(2)}, 'images of train: has pixels from -1 to -1'),
        ({'images': np.full((2, 48, 48), np.nan), 'labels': np.arange(2)}, 'not finite'),
        ({'images': np.zeros((2, 48, 48), np.uint8), 'labels': np.array([0, np.nan])}, 'labels of train: 1 are not finite, first number 1'),
        ({'images': np.zeros((2, 48, 48), np.uint8), 'labels': np.zeros(2, int)}, 'only one class'),
        (
            {'images': np.zeros((2, 48, 48), np.uint8), 'labels': np.array([{}, 1], object)},
            'labels.npy: no array that is read: Object arrays',
        ),
        (
            {'images': np.zeros((2, 4, 4), np.uint8), 'labels': np.array([0, 5]), 'class_names': np.array(['a', 'b'])},
            "'5' is none of the 2",
        ),
    ],
)
def test_arrays_that_are_none(tmp_path, arrays, message):
    np.savez(tmp_path / 'faces.npz', **arrays)
    with pytest.raises(InputError, match=message):
        image_table.read(tmp_path / 'faces.npz')
