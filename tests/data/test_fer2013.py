"""fer_jax/data/fer2013.py and table.py: the forms of FER2013, the errors in its rows, and FER+'s votes."""

import gzip
import re
import tarfile
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fer_jax.core.errors import InputError
from fer_jax.data import fer2013, ferplus

USAGES = ('Training', 'PublicTest', 'PrivateTest')


def face(number):
    """Pixels that hold every value from 0 to 255, different for each number."""
    return (np.arange(2304).reshape(48, 48) * (2 * number + 1) + number).astype(np.uint8)


def pixels(number):
    return ' '.join(map(str, face(number).ravel()))


def rows_of(count):
    """(label, pixels, usage): each class in each split as `count` grows."""
    return [(str(i % 7), pixels(i), USAGES[i // 7 % 3]) for i in range(count)]


def write_csv(path, rows, header='emotion,pixels,Usage'):
    path.write_text('\n'.join([header, *(','.join(row) for row in rows)]) + '\n')
    return path


def check_splits(source, count):
    for usage, split in zip(USAGES, ('train', 'validation', 'test'), strict=True):
        expected = [i for i in range(count) if USAGES[i // 7 % 3] == usage]
        faces = source.splits[split]
        assert faces.rows.tolist() == expected
        assert faces.labels.tolist() == [i % 7 for i in expected]
        assert faces.labels.dtype == np.int32 and faces.images.dtype == np.uint8
        np.testing.assert_array_equal(faces.images, np.stack([face(i) for i in expected]))
        assert source.split_titles[split] == usage


def test_kaggles_csv(tmp_path):
    source = fer2013.read(write_csv(tmp_path / 'fer2013.csv', rows_of(42)))
    check_splits(source, 42)
    assert source.class_names == ('angry', 'disgust', 'fear', 'happy', 'sad', 'surprise', 'neutral')
    assert source.splits['train'].subjects is None


def test_icml_face_data_has_blanks_and_another_order(tmp_path):
    rows = [(label, f' {usage}', f' {text}') for label, text, usage in rows_of(21)]
    check_splits(fer2013.read(write_csv(tmp_path / 'icml.csv', rows, 'emotion, Usage, pixels')), 21)


def test_quotes_blank_lines_crlf_and_a_byte_order_mark(tmp_path):
    lines = ['\ufeffemotion,pixels,Usage', *(f'{label},"{text}",{usage}' for label, text, usage in rows_of(21))]
    path = tmp_path / 'fer2013.csv'
    path.write_bytes('\r\n'.join([*lines[:9], '', *lines[9:]]).encode() + b'\r\n\r\n')
    check_splits(fer2013.read(path), 21)


def test_odd_blanks_between_pixels(tmp_path):
    rows = rows_of(21)
    rows[3] = (rows[3][0], rows[3][1].replace(' ', '  ', 5).replace(' ', '\t', 1), rows[3][2])
    check_splits(fer2013.read(write_csv(tmp_path / 'fer2013.csv', rows)), 21)


@pytest.mark.parametrize('form', ['zip', 'tar.gz', 'csv.gz', 'folder'])
def test_archives_and_folders_of_one_csv(tmp_path, form):
    path = write_csv(tmp_path / 'fer2013.csv', rows_of(21))
    target = tmp_path / f'fer2013.{form}'
    if form == 'zip':
        with zipfile.ZipFile(target, 'w', zipfile.ZIP_DEFLATED) as file:
            file.write(path, 'fer2013.csv')
    elif form == 'tar.gz':
        with tarfile.open(target, 'w:gz') as file:
            file.add(path, 'fer2013/fer2013.csv')
    elif form == 'csv.gz':
        target.write_bytes(gzip.compress(path.read_bytes()))
    else:
        target.mkdir()
        path.rename(target / 'fer2013.csv')
    check_splits(fer2013.read(target), 21)


def test_train_csv_without_usage_is_all_training(tmp_path):
    source = fer2013.read(write_csv(tmp_path / 'train.csv', [row[:2] for row in rows_of(14)], 'emotion,pixels'))
    assert list(source.splits) == ['train']
    assert len(source.splits['train']) == 14


def semicolons(text):
    return text.replace(',', ';')


def nested(match):
    return f'"[[{match[1].replace(" ", "], [", 47).replace(" ", ", ")}]]"'


FORMS = {
    'semicolons': lambda text: semicolons(text).encode(),
    'tabs': lambda text: text.replace(',', '\t').encode(),
    'UTF-16': lambda text: text.encode('utf-16'),
    'UTF-16, big end first, semicolons': lambda text: b'\xfe\xff' + semicolons(text).encode('utf-16-be'),
    'a column called label': lambda text: text.replace('emotion', 'Label').encode(),
    'labels as fractions': lambda text: re.sub(r'^(\d),', r'\1.0,', text, flags=re.MULTILINE).encode(),
    'names for labels': lambda text: re.sub(r'^(\d),', lambda match: f'{NAMES[int(match[1])]},', text, flags=re.MULTILINE).encode(),
    'lists of pixels': lambda text: re.sub(r'(\d+ [\d ]+)', lambda match: f'"[{match[1].replace(" ", ", ")}]"', text).encode(),
    'rows of pixels in rows': lambda text: re.sub(r'(\d+ [\d ]+)', nested, text).encode(),
    "Excel's word for the delimiter": lambda text: f'sep=;\r\n{semicolons(text)}'.encode(),
    "R's names of the rows": lambda text: ''.join(f'"{n}",' * (n > 0) + row for n, row in enumerate(text.splitlines(True))).encode(),
    'an empty cell behind': lambda text: text.replace('Test\n', 'Test,\n').replace('Training\n', 'Training,\n').encode(),
    'lists over several lines': lambda text: re.sub(r'(\d+ [\d ]+)', lambda match: f'"[{match[1].replace(" ", WRAP, 90)}]"', text).encode(),
}  # fmt: skip
WRAP = '\n '  # as NumPy prints
NAMES = ('Angry', 'disgust', 'Fear', 'happiness', 'SAD', 'surprise', 'neutral')


@pytest.mark.parametrize('form', FORMS)
def test_tables_as_people_have_them(tmp_path, form):
    path = write_csv(tmp_path / 'fer2013.csv', rows_of(21))
    path.write_bytes(FORMS[form](path.read_text()))
    check_splits(fer2013.read(path), 21)


@pytest.mark.parametrize('words', [('train', 'val', 'test'), ('training', 'Validation', 'Private_Test')])
def test_other_words_for_the_splits_are_understood_and_said(tmp_path, words):
    rows = [(label, text, words[USAGES.index(usage)]) for label, text, usage in rows_of(21)]
    source = fer2013.read(write_csv(tmp_path / 'fer2013.csv', rows, 'emotion,pixels,split'))
    check_splits(source, 21)
    assert f'splits from split: {words[0]} is train, {words[1]} is validation, {words[2]} is test' in source.notes[0]


def test_train_and_test_alone(tmp_path):
    rows = [(label, text, 'test' if usage == 'PrivateTest' else 'train') for label, text, usage in rows_of(21)]
    source = fer2013.read(write_csv(tmp_path / 'fer2013.csv', rows))
    assert source.split_titles == {'train': 'Training', 'test': 'PublicTest+PrivateTest'} and len(source.splits['test']) == 7


def test_kaggles_whole_challenge(tmp_path):
    rows = rows_of(21)
    write_csv(tmp_path / 'icml_face_data.csv', [(label, f' {usage}', f' {text}') for label, text, usage in rows], 'emotion, Usage, pixels')
    write_csv(tmp_path / 'train.csv', [row[:2] for row in rows if row[2] == 'Training'], 'emotion,pixels')
    write_csv(tmp_path / 'test.csv', [row[1:2] for row in rows if row[2] != 'Training'], 'pixels')
    (tmp_path / 'example_submission.csv').write_text('7,7\n')
    (tmp_path / 'fer2013.tar.gz').write_bytes(b'')
    source = fer2013.read(tmp_path)
    check_splits(source, 21)
    assert source.notes[0].endswith('icml_face_data.csv; left alone: example_submission.csv, fer2013.tar.gz, test.csv, train.csv')


def test_bad_rows_are_skipped_on_demand_and_counted(tmp_path):
    rows = rows_of(42)
    rows[4], rows[40] = change(rows[4], pixels=FEWER), change(rows[40], label='9')
    source = fer2013.read(write_csv(tmp_path / 'fer2013.csv', rows), skip_bad=True)
    assert [each.rpartition('fer2013.csv, ')[2][:36] for each in source.skipped] == [
        'line 6: has 2,303 pixels, not 2,304 ',
        "line 42: unknown label (emotion) '9'",
    ]
    kept = np.concatenate([source.splits[split].rows for split in ('train', 'validation', 'test')])
    assert sorted(kept) == [number for number in range(42) if number not in (4, 40)]
    np.testing.assert_array_equal(source.splits['train'].images[4], face(5))


def test_counts_off_the_official_ones_are_said(tmp_path):
    source = fer2013.read(write_csv(tmp_path / 'fer2013.csv', rows_of(21)))
    # 7 images, one of each class, where officially 28,709 with 3,995 angry ones stand.
    assert source.warnings[0].startswith('FER2013 Training: 7 images, officially 28,709 (-28,702): angry -3,994, disgust -435')
    assert len(source.warnings) == 3


def test_official_counts_are_those_of_the_table():
    assert [sum(fer2013.OFFICIAL[usage]) for usage in USAGES] == [28709, 3589, 3589]
    assert sum(fer2013.OFFICIAL[fer2013.BOTH_TESTS]) == 7178
    assert fer2013.OFFICIAL[fer2013.BOTH_TESTS][1] == 111


def change(row, **fields):
    return tuple(fields.get(name, value) for name, value in zip(('label', 'pixels', 'usage'), row, strict=True))


FEWER = ' '.join(pixels(1).split()[:-1])
MORE = pixels(1) + ' 7'
BAD_ROWS = [
    ({'pixels': FEWER}, 'line 6: has 2,303 pixels, not 2,304'),
    ({'pixels': MORE}, 'line 6: has 2,305 pixels, not 2,304'),
    ({'pixels': FEWER.replace(' ', '  ', 1)}, 'line 6: has 2,303 pixels'),
    ({'pixels': ''}, 'line 6: has 0 pixels'),
    ({'pixels': f'{FEWER} 300'}, "line 6: pixel 2304 is '300', not a whole number from 0 to 255"),
    ({'pixels': f'{FEWER} 256'}, "pixel 2304 is '256'"),
    ({'pixels': f'-1 {FEWER}'}, "line 6: pixel 1 is '-1'"),
    ({'pixels': f'x {FEWER}'}, "line 6: pixel 1 is 'x'"),
    ({'pixels': f'1.5 {FEWER}'}, "pixel 1 is '1.5'"),
    ({'pixels': f'1e2 {FEWER}'}, "pixel 1 is '1e2'"),
    ({'pixels': f'0007 {FEWER}'}, "pixel 1 is '0007'"),
    ({'pixels': f'\0 {FEWER}'}, r"pixel 1 is '\\x00'"),
    ({'pixels': f'{FEWER} \u0663'}, 'pixel 2304 is'),  # a digit, but no ASCII one
    ({'label': '7'}, r"line 6: unknown label \(emotion\) '7': known are 0 angry"),
    ({'label': '-1'}, "line 6: unknown label .* '-1'"),
    ({'label': ''}, "line 6: unknown label .* ''"),
    ({'label': 'hapy'}, "line 6: unknown label .* 'hapy'"),
    ({'label': '3.5'}, "line 6: unknown label .* '3.5'"),
    ({'usage': 'Trainin'}, "line 6: unknown Usage 'Trainin': did you mean 'Training'"),
    ({'usage': 'Training,x'}, 'line 6: has 4 fields, the header 3'),
]


@pytest.mark.parametrize(('fields', 'message'), BAD_ROWS)
def test_bad_rows_are_named(tmp_path, fields, message):
    rows = rows_of(21)
    rows[4] = change(rows[4], **fields)
    with pytest.raises(InputError, match=f'fer2013.csv, {message}' if message.startswith('line') else message) as caught:
        fer2013.read(write_csv(tmp_path / 'fer2013.csv', rows))
    assert str(caught.value).isprintable()


def test_a_pixel_missing_in_one_row_is_not_made_up_for_by_the_next(tmp_path):
    rows = rows_of(21)
    rows[4], rows[5] = change(rows[4], pixels=FEWER), change(rows[5], pixels=MORE)
    with pytest.raises(InputError, match='line 6: has 2,303 pixels'):
        fer2013.read(write_csv(tmp_path / 'fer2013.csv', rows))


BAD_FILES = [
    (b'', 'is empty'),
    (b'emotion,pixels,Usage\n', 'has a header but no rows'),
    (b'label,image\n0,1\n', "line 1: expected a header of emotion, pixels and .*found 'label,image'"),
    (b'emotion,pixels,pixels\n', 'line 1: expected a header'),
    (b'pixels\n1 2 3\n', 'has no labels .*test.csv'),
    (b'\x89PNG\r\n\x1a\n' + bytes(range(256)), 'line 1: expected a header'),
    (b'\0' * 5000, 'line 1: expected a header'),
    (b'PAR1' + bytes(99), 'damaged after row 0: '),
    (b'\xd0\xcf\x11\xe0' + bytes(99), 'no text but a file of Excel: save it as CSV UTF-8'),
    (b'emotion,pixels,Usage\r0,1 2 3,Training\r', 'its lines end as on a Macintosh of old'),
    (b'emotion,pixels,Usage\n0,' + b'7' * (3 << 20), 'line 2: longer than'),
    (b'emotion,pixels,Usage\n0,1 2 3', 'line 2: has 2 fields, the header 3: cut off'),
]


@pytest.mark.parametrize(('content', 'message'), BAD_FILES)
def test_files_that_are_no_such_csv(tmp_path, content, message):
    path = tmp_path / 'fer2013.csv'
    path.write_bytes(content)
    with pytest.raises(InputError, match=f'fer2013.csv.*{message}'):
        fer2013.read(path)


@pytest.mark.parametrize('as_lists', [False, True])
def test_parquet_of_the_csvs_columns(tmp_path, as_lists):
    rows = rows_of(21)
    table = {
        'emotion': [int(row[0]) for row in rows],
        'pixels': [[int(pixel) for pixel in row[1].split()] for row in rows] if as_lists else [row[1] for row in rows],
        'Usage': [row[2] for row in rows],
    }
    pq.write_table(pa.table(table), tmp_path / 'fer2013.parquet')
    found, expected = fer2013.read(tmp_path / 'fer2013.parquet'), fer2013.read(write_csv(tmp_path / 'fer2013.csv', rows))
    assert found.splits.keys() == expected.splits.keys()
    for split, faces in expected.splits.items():
        np.testing.assert_array_equal(found.splits[split].images, faces.images)
        np.testing.assert_array_equal(found.splits[split].labels, faces.labels)
    table['emotion'][4] = None
    pq.write_table(pa.table(table), tmp_path / 'fer2013.parquet')
    with pytest.raises(InputError, match="fer2013.parquet, line 5: unknown label .emotion. ''"):
        fer2013.read(tmp_path / 'fer2013.parquet')


def test_an_empty_split_is_refused(tmp_path):
    rows = [row for row in rows_of(21) if row[2] != 'PrivateTest']
    with pytest.raises(InputError, match='empty split: no row has the Usage PrivateTest'):
        fer2013.read(write_csv(tmp_path / 'fer2013.csv', rows))


def write_folder(root, splits, classes=fer2013.CLASSES):
    for s, split in enumerate(splits):
        for label, name in enumerate(classes):
            (root / split / name).mkdir(parents=True)
            Image.fromarray(face(10 * s + label)).save(root / split / name / '1.png')
    return root


def test_folder_of_train_and_test_has_both_tests_together(tmp_path):
    source = fer2013.read(write_folder(tmp_path / 'archive', ['train', 'test']))
    assert source.split_titles == {'train': 'Training', 'test': 'PublicTest+PrivateTest'}
    by_label = {int(label): image for label, image in zip(source.splits['test'].labels, source.splits['test'].images, strict=True)}
    np.testing.assert_array_equal(by_label[3], face(13))
    assert source.splits['train'].rows is None
    assert 'PublicTest+PrivateTest: 7 images, officially 7,178' in source.warnings[1]


@pytest.mark.parametrize('splits', [['train', 'PublicTest', 'PrivateTest'], ['Training', 'val', 'test'], ['train', 'validation', 'test']])
def test_folder_of_three_splits(tmp_path, splits):
    source = fer2013.read(write_folder(tmp_path, splits, classes=('Angry', 'disgust', 'fear', 'happiness', 'sadness', '5', 'neutral')))
    assert source.split_titles == {'train': 'Training', 'validation': 'PublicTest', 'test': 'PrivateTest'}
    assert sorted(source.splits['validation'].labels) == list(range(7))
    np.testing.assert_array_equal(source.splits['test'].images[source.splits['test'].labels == 3][0], face(23))


def test_an_unknown_class_folder_is_named(tmp_path):
    write_folder(tmp_path, ['train', 'test'], classes=('angri',))
    with pytest.raises(InputError, match="unknown class folder 'angri': did you mean 'angry'"):
        fer2013.read(tmp_path)


VOTES = 'Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF'


def write_votes(path, rows):
    path.write_text('\n'.join([VOTES, *rows]) + '\n')
    return path


def three_rows(tmp_path):
    rows = [(str(label), pixels(i), usage) for i, (label, usage) in enumerate(zip((3, 0, 5), USAGES, strict=True))]
    return fer2013.read(write_csv(tmp_path / 'fer2013.csv', rows))


GOOD_VOTES = ['Training,a.png,4,0,0,1,3,0,0,2,0,0', 'PublicTest,a.png,0,0,0,0,0,0,0,3,3,4', 'PrivateTest,,0,9,0,0,0,0,0,0,0,0']


def test_votes_are_renormalised_in_the_order_of_the_classes(tmp_path):
    source = three_rows(tmp_path)
    votes = ferplus.fer2013_targets(write_votes(tmp_path / 'v.csv', GOOD_VOTES), source.splits, source.split_titles)
    # angry 3, sad 1, neutral 4 of 8 votes left; no vote left: the label, angry; 9 votes for happy.
    np.testing.assert_allclose(votes['train'], [[3 / 8, 0, 0, 0, 1 / 8, 0, 4 / 8]])
    np.testing.assert_array_equal(votes['validation'], [[1, 0, 0, 0, 0, 0, 0]])
    np.testing.assert_array_equal(votes['test'], [[0, 0, 0, 1, 0, 0, 0]])
    assert votes['train'].dtype == np.float32


BAD_VOTES = [
    (GOOD_VOTES[:2], 'has votes for 2 rows, the data have 3'),
    ([GOOD_VOTES[1], GOOD_VOTES[0], GOOD_VOTES[2]], 'line 2: Usage is PublicTest, but row 0 of the data is Training'),
    ([*GOOD_VOTES[:2], 'PrivateTest,,0,x,0,0,0,0,0,0,0,0'], 'line 4: expected 12 fields'),
    ([*GOOD_VOTES[:2], 'PrivateTest,,0,-1,0,0,0,0,0,0,0,0'], 'line 4'),
    ([*GOOD_VOTES[:2], 'PrivateTest,,9,9,0,0,0,0,0,0,0,0'], 'line 4: .* at most 10'),
    ([*GOOD_VOTES[:2], 'PrivateTest,,9'], 'line 4: expected 12 fields'),
]


@pytest.mark.parametrize(('rows', 'message'), BAD_VOTES)
def test_votes_that_do_not_fit(tmp_path, rows, message):
    source = three_rows(tmp_path)
    with pytest.raises(InputError, match=f'v.csv.*{message}'):
        ferplus.fer2013_targets(write_votes(tmp_path / 'v.csv', rows), source.splits, source.split_titles)


def test_votes_need_the_rows_of_a_csv_and_a_file_of_votes(tmp_path):
    source = three_rows(tmp_path)
    with pytest.raises(InputError, match='fer2013.csv, line 1: not FER'):
        ferplus.fer2013_targets(tmp_path / 'fer2013.csv', source.splits, source.split_titles)
    folder = fer2013.read(write_folder(tmp_path / 'folder', ['train', 'val', 'test']))
    with pytest.raises(InputError, match="joined by the CSV's row order"):
        ferplus.fer2013_targets(tmp_path / 'v.csv', folder.splits, folder.split_titles)
