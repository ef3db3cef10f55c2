"""fer_jax/data/prepare.py, load.py, manifest.py and splits.py: from a source to a run's arrays, once and whole."""

import errno
import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest
from PIL import Image

from fer_jax.core.errors import DataWarning, InputError
from fer_jax.core.fields import default_config
from fer_jax.data import fer2013
from fer_jax.data import prepare as prepare_module
from fer_jax.data.load import load
from fer_jax.data.manifest import describe, manifest_of, understood
from fer_jax.data.near_duplicates import NAMES
from fer_jax.data.prepare import prepare, prepared_folder
from fer_jax.data.readers import CHANGES, READERS
from fer_jax.data.schema import SPLITS, Faces, Source
from fer_jax.data.splits import draw_splits

USAGES = ('Training', 'PublicTest', 'PrivateTest')
pytestmark = pytest.mark.filterwarnings('ignore::fer_jax.core.errors.DataWarning')  # small sets are never the official ones


def pixels(value):
    return ' '.join(map(str, (np.arange(2304) * 7 + value) % 256))


def write_csv(path, rows):
    """`rows` are (label, value that makes the pixels, usage)."""
    path.write_text('emotion,pixels,Usage\n' + ''.join(f'{label},{pixels(value)},{usage}\n' for label, value, usage in rows))
    return path


# Seven faces a split, all different but for: 3 of PublicTest and 5 of PrivateTest stand in Training (5 with another label),
# 4 of PrivateTest stands in PublicTest, and Training's last stands there twice more.
ROWS = [
    *((label, label, 'Training') for label in range(7)),
    (6, 6, 'Training'),
    (6, 6, 'Training'),
    *((label, 3 if label == 3 else 20 + label, 'PublicTest') for label in range(7)),
    *((label, {4: 24, 5: 0}.get(label, 40 + label), 'PrivateTest') for label in range(7)),
]


@pytest.fixture
def data(tmp_path):
    config = default_config().data
    config.dataset, config.path, config.prepared = 'fer2013', str(write_csv(tmp_path / 'fer.csv', ROWS)), str(tmp_path / 'prepared')
    return config


def left_behind(data):
    """What lies under data.prepared, hidden names too, besides whole sets."""
    files = [path for path in pathlib.Path(data.prepared).rglob('*') if path.is_file()]
    return [path for path in files if not (path.parent / 'manifest.json').exists()]


def test_what_is_prepared_is_what_is_loaded(data):
    source, dataset = fer2013.read(data.path), load(data)
    assert dataset.name == 'fer2013' and dataset.class_names == fer2013.CLASSES
    assert list(dataset.splits) == list(SPLITS)
    assert dataset.split_titles == {'train': 'Training', 'validation': 'PublicTest', 'test': 'PrivateTest'}
    for split, faces in dataset.splits.items():
        expected = source.splits[split]
        np.testing.assert_array_equal(faces.images, expected.images)
        np.testing.assert_array_equal(faces.labels, expected.labels)
        np.testing.assert_array_equal(faces.rows, expected.rows)
        assert (faces.images.dtype, faces.labels.dtype, faces.rows.dtype) == (np.uint8, np.int32, np.int64)
        assert faces.subjects is None and faces.sequences is None and faces.votes is None


def test_the_manifest_counts_and_names_everything(data):
    manifest = prepare(data)
    assert [manifest['splits'][split]['count'] for split in SPLITS] == [9, 7, 7]
    assert manifest['splits']['train']['classes'] == {name: 3 if name == 'neutral' else 1 for name in fer2013.CLASSES}
    assert manifest['splits']['train']['title'] == 'Training'
    assert manifest['source']['sha256'] == hashlib.sha256(pathlib.Path(data.path).read_bytes()).hexdigest()
    assert manifest['duplicates'] == {
        'surplus': 5,
        'groups': 4,
        'within': {'train': 2, 'validation': 0, 'test': 0},
        'across': {'validation in train': 1, 'test in train': 1, 'test in validation': 1},
        'groups_with_conflicting_labels': 1,
    }
    digest = hashlib.sha256()
    for split, usage in zip(SPLITS, USAGES, strict=True):
        rows = [row for row in ROWS if row[2] == usage]
        digest.update(f'{split} {len(rows)}\n'.encode())
        digest.update(b''.join(bytes(map(int, pixels(value).split())) for _, value, _ in rows))
        digest.update(b''.join(label.to_bytes(4, 'little') for label, _, _ in rows))
    assert manifest['content_sha256'] == digest.hexdigest()
    assert {'numpy', 'tensorflow-datasets', 'python'} <= set(manifest['versions'])
    assert json.loads((prepared_folder(data, manifest) / 'manifest.json').read_text()) == manifest


def test_counts_off_the_official_ones_warn_on_every_use(data):
    for _ in range(2):
        with pytest.warns(DataWarning, match=r'FER2013 Training: 9 images, officially 28,709 \(-28,700\)'):
            manifest = prepare(data)
    assert len(manifest['warnings']) == 3


def test_the_table_for_people(data):
    text = describe(prepare(data))
    lines = text.splitlines()
    assert lines[0] == 'fer2013: 23 images, 7 classes'
    assert lines[1].split() == ['Training', 'PublicTest', 'PrivateTest', 'all']
    assert lines[8].split() == ['neutral', '3', '1', '1', '5']
    assert lines[9].split() == ['all', '9', '7', '7', '23']
    assert '5 surplus images in 4 groups, 1 groups with conflicting labels' in lines[10]
    assert '  1 of PrivateTest also in Training' in lines
    assert sum(line.startswith('warning: FER2013') for line in lines) == 3


def test_a_second_call_reads_nothing_again(data):
    """It does not find that another file lies there, of the same size and time."""
    first, status = prepare(data), os.stat(data.path)
    pathlib.Path(data.path).write_bytes(bytes(status.st_size))
    os.utime(data.path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert prepare(data) == first


def test_a_changed_source_is_prepared_anew_and_a_lost_one_is_not_missed(data):
    first = prepare(data)
    write_csv(pathlib.Path(data.path), ROWS[:9] + ROWS[9:])
    os.utime(data.path, ns=(0, 10**18))
    second = prepare(data)
    assert second['key'] != first['key'] and second['content_sha256'] == first['content_sha256']
    os.unlink(data.path)
    assert prepare(data)['content_sha256'] == first['content_sha256']
    assert len(load(data).splits['train']) == 9
    data.split_seed = 1
    with pytest.raises(InputError, match='fer.csv: no such file or folder, and nothing prepared from it'):
        prepare(data)


def test_near_duplicates_are_counted_scored_apart_and_left_out(tmp_path):
    """Four photographs of train: one with a mirrored, lighter copy in PublicTest, one with an exact copy in PrivateTest."""
    generator = np.random.default_rng(0)
    train = generator.integers(0, 200, (4, 48, 48))
    others = generator.integers(0, 256, (2, 48, 48))
    rows = [(image, 'Training') for image in train]
    rows += [(train[1][:, ::-1] + 20, 'PublicTest'), (others[0], 'PublicTest'), (others[1], 'PrivateTest'), (train[2], 'PrivateTest')]
    lines = [f'{i % 7},{" ".join(map(str, image.ravel()))},{usage}' for i, (image, usage) in enumerate(rows)]
    lines += [f'{label},{" ".join(map(str, generator.integers(0, 256, 2304)))},Training' for label in range(4, 7)]
    (tmp_path / 'fer.csv').write_text('\n'.join(['emotion,pixels,Usage', *lines]))
    data = default_config().data
    data.dataset, data.path, data.prepared = 'fer2013', str(tmp_path / 'fer.csv'), str(tmp_path / 'prepared')
    dataset = load(data)
    assert dataset.manifest['near_duplicates'] == {'train': 2, 'validation': 1, 'test': 1}
    text = '1 of PublicTest and 1 of PrivateTest are like one of Training, 2 of that like one of these'
    assert f'near-duplicates, r > 0.9: {text}' in describe(dataset.manifest)
    near, rest = (dataset.splits['validation'].subsets[name] for name in NAMES)
    assert near.tolist() == [True, False] and rest.tolist() == [False, True]
    assert dataset.splits['test'].subsets[NAMES[0]].tolist() == [False, True]
    for dedup, left in (('exact', [0, 1, 3]), ('near', [0, 3])):
        data.dedup = dedup
        cleaned = load(data)
        assert cleaned.splits['train'].rows[: len(left)].tolist() == left
        # The parts stay the same images, to be compared with a network that has seen their like.
        assert [cleaned.splits[split].subsets[NAMES[0]].tolist() for split in ('validation', 'test')] == [[True, False], [False, True]]


def test_dedup_leaves_out_train_images_that_stand_in_other_splits(data):
    data.dedup = 'exact'
    dataset = load(data)
    # Values 3 (in PublicTest) and 0 (in PrivateTest); the copies within Training stay.
    assert dataset.splits['train'].rows.tolist() == [1, 2, 4, 5, 6, 7, 8]
    assert dataset.manifest['dedup'] == {'left_out_of_train': 2}
    assert len(dataset.splits['validation']) == len(dataset.splits['test']) == 7


def test_votes_are_joined(data, tmp_path):
    header = 'Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF'
    # Row i has i % 3 votes for neutral and 5 for anger.
    rows = [f'{usage},x.png,{i % 3},0,0,0,5,0,0,0,0,{5 - i % 3}' for i, (_, _, usage) in enumerate(ROWS)]
    (tmp_path / 'votes.csv').write_text('\n'.join([header, *rows]))
    data.votes, data.dedup = str(tmp_path / 'votes.csv'), 'exact'
    dataset = load(data)
    for faces in dataset.splits.values():
        neutral = faces.rows % 3
        np.testing.assert_allclose(faces.votes[:, 6], neutral / (5 + neutral), rtol=1e-6)
        np.testing.assert_allclose(faces.votes.sum(1), 1, rtol=1e-6)
    assert len(dataset.splits['train'].votes) == 7
    assert dataset.manifest['votes']['sha256'] == hashlib.sha256((tmp_path / 'votes.csv').read_bytes()).hexdigest()
    data.dataset, data.path = 'toyfaces', None
    data.toyfaces_images = 420
    with pytest.raises(InputError, match='votes for ferplus and fer2013 only'):
        load(data)
    assert not (pathlib.Path(data.prepared) / 'toyfaces').exists()
    data.votes, data.targets = None, 'majority'
    with pytest.raises(InputError, match='data.targets=majority: only ferplus has votes'):
        load(data)


def test_votes_that_are_missing_are_told_before_anything_is_prepared(data, tmp_path):
    data.votes = str(tmp_path / 'votes.csv')
    with pytest.raises(InputError, match=r'data.votes: no such file: .*votes.csv$'):
        load(data)
    assert not pathlib.Path(data.prepared).exists()


def test_what_another_reading_prepared_is_not_taken(data, tmp_path, monkeypatch):
    for name in ('happy', 'sad'):
        (tmp_path / 'faces' / name).mkdir(parents=True)
        for number in range(10):
            Image.fromarray(np.full((48, 48), number, np.uint8)).save(tmp_path / 'faces' / name / f'{number}.png')
    data.update({'dataset': 'image_folder', 'path': str(tmp_path / 'faces')})
    first = prepare(data)
    assert prepare(data)['key'] == first['key']
    monkeypatch.setitem(CHANGES, 'image_folder', CHANGES['image_folder'] + 1)
    assert prepare(data)['key'] != first['key']


def test_toyfaces_and_image_folders_are_prepared_too(data, tmp_path):
    data.dataset, data.path, data.toyfaces_images = 'toyfaces', None, 420
    dataset = load(data)
    assert sum(map(len, dataset.splits.values())) == 420
    subjects = [set(faces.subjects) for faces in dataset.splits.values()]
    assert not subjects[0] & subjects[1] and not subjects[0] & subjects[2] and not subjects[1] & subjects[2]
    for i in range(40):
        path = tmp_path / 'faces' / 'ab'[i % 2] / f'{i}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((48, 48), i, np.uint8)).save(path)
    data.dataset, data.path = 'image_folder', str(tmp_path / 'faces')
    dataset = load(data)
    assert {split: len(faces) for split, faces in dataset.splits.items()} == {'train': 32, 'validation': 4, 'test': 4}
    assert all((faces.images[:, 0, 0] % 2 == faces.labels).all() for faces in dataset.splits.values())
    os.utime(tmp_path / 'faces' / 'a' / '0.png', ns=(0, 10**18))
    assert prepare(data)['key'] != dataset.manifest['key']


def test_damaged_shards_are_refused(data):
    folder = prepared_folder(data, prepare(data))
    for shard in sorted(folder.glob('*array_record*')):
        whole = shard.read_bytes()
        where = whole.index(bytes(map(int, pixels(4).split()))[:50]) if 'train' in shard.name else 200
        for damage in (whole[:where] + bytes([whole[where] ^ 1]) + whole[where + 1 :], whole[: len(whole) // 2], b''):
            shard.write_bytes(damage)
            with pytest.raises(InputError, match='damaged.*delete the folder and prepare again'):
                load(data)
        shard.write_bytes(whole)
    assert len(load(data).splits['train']) == 9


def test_swapped_shards_are_refused(data):
    folder = prepared_folder(data, prepare(data))
    one, other = (next(folder.glob(f'fer2013-{split}.array_record*')) for split in ('validation', 'test'))
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)
    with pytest.raises(InputError, match='its records are not those of its manifest'):
        load(data)


FAILURES = [KeyboardInterrupt(), OSError(errno.EIO, os.strerror(errno.EIO)), OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))]


@pytest.mark.parametrize('error', FAILURES)
@pytest.mark.parametrize('stage', ['sha256_file', '_write_shards', 'write_json'])
def test_whatever_fails_leaves_nothing_behind(data, monkeypatch, stage, error):
    def fail(*_):
        raise error

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else InputError):
        patched.setattr(prepare_module, stage, fail)
        prepare(data)
    assert not left_behind(data)
    assert os.listdir(pathlib.Path(data.prepared) / 'fer2013') == []
    assert len(load(data).splits['train']) == 9


def test_a_bad_row_leaves_nothing_behind(data):
    write_csv(pathlib.Path(data.path), [*ROWS, (9, 1, 'Training')])
    with pytest.raises(InputError, match='fer.csv, line 25: unknown label'):
        prepare(data)
    assert os.listdir(pathlib.Path(data.prepared) / 'fer2013') == []


def test_a_full_disk_says_how_much_is_needed(data, monkeypatch):
    monkeypatch.setattr(shutil, 'disk_usage', lambda _: shutil._ntuple_diskusage(10**9, 10**9, 5 * 10**5))
    with pytest.raises(InputError, match=r'prepared/fer2013: disk full: fer2013 needs 1\.1 MB, 0\.5 MB are free'):
        prepare(data)
    assert os.listdir(pathlib.Path(data.prepared) / 'fer2013') == []


def test_a_folder_that_cannot_be_written(data, tmp_path):
    (tmp_path / 'file').write_text('x')
    data.prepared = str(tmp_path / 'file' / 'prepared')
    with pytest.raises(InputError, match='file/prepared.*cannot be read or written: Not a directory'):
        prepare(data)


def test_missing_paths_and_unknown_sets(data):
    data.path = str(pathlib.Path(data.path).parent / 'absent.csv')
    with pytest.raises(InputError, match='absent.csv: no such file or folder'):
        prepare(data)
    data.path = None
    with pytest.raises(InputError, match='data.path is not set'):
        prepare(data)
    data.dataset = 'fer2012'
    with pytest.raises(InputError, match="did you mean 'fer2013'"):
        prepare(data)


def test_a_source_that_changes_while_it_is_read_is_refused(data, monkeypatch):
    def read(path, skip_bad):
        source = fer2013.read(path, skip_bad)
        os.utime(path, ns=(0, 10**18))
        return source

    monkeypatch.setitem(READERS, 'fer2013', read)
    with pytest.raises(InputError, match='changed while it was read'):
        prepare(data)


def test_an_empty_class_is_refused_in_train_and_said_elsewhere(data, tmp_path):
    data.path = str(write_csv(tmp_path / 'a.csv', [row for row in ROWS if row[::2] != (1, 'Training')]))
    with pytest.raises(InputError, match='a.csv: empty class: Training has no image of disgust'):
        prepare(data)
    data.path = str(write_csv(tmp_path / 'b.csv', [row for row in ROWS if row[::2] != (1, 'PrivateTest')]))
    assert 'fer2013 PrivateTest: no image of disgust' in prepare(data)['warnings']


def test_two_prepares_at_once_agree(data):
    found, configs = [], [data.copy_and_resolve_references() for _ in range(2)]
    wait = threading.Barrier(2)

    def work(config):
        wait.wait()
        code = 'import sys; from fer_jax.core.fields import default_config; from fer_jax.data.prepare import prepare'
        code += '; d = default_config().data; d.dataset, d.path, d.prepared = sys.argv[1:]; print(prepare(d)["content_sha256"])'
        arguments = [sys.executable, '-W', 'ignore', '-c', code, config.dataset, config.path, config.prepared]
        found.append(subprocess.run(arguments, capture_output=True, text=True, check=True).stdout)

    threads = [threading.Thread(target=work, args=(config,)) for config in configs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0] == found[1] == prepare(data)['content_sha256'] + '\n'
    assert len(os.listdir(pathlib.Path(data.prepared) / 'fer2013')) == 1


def test_old_leftovers_of_killed_processes_are_swept(data):
    root = pathlib.Path(data.prepared) / 'fer2013'
    for name, age in (('.preparing-old', 2 * 86400), ('.preparing-new', 0)):
        (root / name).mkdir(parents=True)
        os.utime(root / name, (os.stat(root).st_mtime - age,) * 2)
    prepare(data)
    assert not (root / '.preparing-old').exists() and (root / '.preparing-new').exists()


def test_what_was_left_out_is_counted_and_said(data, tmp_path):
    for name in ('a', 'b'):
        (tmp_path / 'faces' / name).mkdir(parents=True)
        for value in range(10):
            Image.fromarray(np.full((48, 48), 10 * value, np.uint8)).save(tmp_path / 'faces' / name / f'{value}.png')
    (tmp_path / 'faces' / 'a' / 'broken.png').write_bytes(b'nothing')
    (tmp_path / 'faces' / 'b' / 'notes.txt').write_text('x')
    data.dataset, data.path = 'image_folder', str(tmp_path / 'faces')
    with pytest.raises(InputError, match='1 of 21 files are no images .*a/broken.png: not an image'):
        prepare(data)
    data.skip_bad = True
    manifest = prepare(data)
    assert manifest['skipped'] == ['a/broken.png: not an image']
    assert any('1 files are not images in a class folder and left out: b/notes.txt' in each for each in manifest['warnings'])
    assert understood(manifest) == [
        'data: image_folder: all 16, all (drawn for validation) 2, all (drawn for test) 2; 2 classes: a, b',
        'folders read as class, without splits',
        '1 files or rows could not be read and are left out; the manifest names them',
    ]


def test_importing_the_data_modules_stays_light():
    code = 'import sys, fer_jax.data.load; print([m for m in ("jax", "tensorflow", "tensorflow_datasets") if m in sys.modules])'
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout == '[]\n'


def faces_of(labels, subjects=None):
    count = len(labels)
    images = np.repeat(np.arange(count, dtype=np.uint8), 2304).reshape(count, 48, 48)
    return Faces(images, np.array(labels, np.int32), None if subjects is None else np.array(subjects), rows=np.arange(count))


def source_of(**splits):
    return Source('image_folder', ('a', 'b'), splits, {split: split for split in splits})


def test_draws_are_stratified_seeded_and_disjoint():
    source = source_of(train=faces_of([0] * 100 + [1] * 40))
    drawn = draw_splits(source, 0.1, 0.2, seed=3)
    assert {split: np.bincount(faces.labels).tolist() for split, faces in drawn.splits.items()} == {
        'train': [70, 28],
        'validation': [10, 4],
        'test': [20, 8],
    }
    rows = np.concatenate([drawn.splits[split].rows for split in SPLITS])
    assert sorted(rows) == list(range(140))
    again, other = draw_splits(source, 0.1, 0.2, seed=3), draw_splits(source, 0.1, 0.2, seed=4)
    assert again.splits['test'].rows.tolist() == drawn.splits['test'].rows.tolist() != other.splits['test'].rows.tolist()
    assert drawn.split_titles['test'] == 'train (drawn for test)'


def test_splits_that_are_there_are_kept():
    source = source_of(train=faces_of([0, 1] * 20), test=faces_of([0, 1, 1]))
    drawn = draw_splits(source, 0.1, 0.5, seed=0)
    assert drawn.splits['test'] is source.splits['test']
    assert len(drawn.splits['train']) == 36 and len(drawn.splits['validation']) == 4


def test_draws_keep_subjects_together():
    generator = np.random.default_rng(0)
    subjects = np.repeat([f'S{i:03}' for i in range(60)], 10)
    drawn = draw_splits(source_of(train=faces_of(generator.integers(0, 2, 600) % 2, subjects)), 0.1, 0.3, seed=0)
    found = {split: set(faces.subjects) for split, faces in drawn.splits.items()}
    assert not found['train'] & found['test'] and not found['train'] & found['validation'] and not found['test'] & found['validation']
    assert {split: len(faces) for split, faces in drawn.splits.items()} == {'train': 360, 'validation': 60, 'test': 180}


def test_unknown_subjects_are_not_one_subject():
    drawn = draw_splits(source_of(train=faces_of([0, 1] * 20, [''] * 40)), 0.1, 0.1, seed=0)
    assert {split: len(faces) for split, faces in drawn.splits.items()} == {'train': 32, 'validation': 4, 'test': 4}


@pytest.mark.parametrize(('subjects', 'fraction'), [(None, 0.01), (['x'] * 8, 0.5)])
def test_a_draw_that_leaves_a_split_empty_is_refused(subjects, fraction):
    with pytest.raises(InputError, match=f'data.test_fraction={fraction:g} .* leaves (test|train) empty'):
        draw_splits(source_of(train=faces_of([0, 1] * 4, subjects)), 0.5, fraction, seed=0)


def test_subjects_are_counted_in_the_manifest():
    faces = faces_of([0, 1], ['S1', 'S1'])
    manifest = manifest_of(source_of(train=faces, validation=faces, test=faces_of([0, 1], ['S2', 'S3'])), None)
    assert [manifest['splits'][split]['subjects'] for split in SPLITS] == [1, 1, 2]
    assert manifest['duplicates']['across'] == {'validation in train': 2, 'test in train': 2, 'test in validation': 2}
    assert manifest['duplicates']['surplus'] == 4


REAL = pathlib.Path(__file__).parents[3] / 'shared'


@pytest.mark.slow
@pytest.mark.skipif(not (REAL / 'data' / 'fer2013_packed.npz').exists(), reason='the real FER2013 is not at hand')
@pytest.mark.filterwarnings('error::fer_jax.core.errors.DataWarning')
def test_the_real_fer2013(tmp_path):
    """Every number that is known of it, from the CSV to the arrays."""
    arguments = [sys.executable, REAL / 'tools' / 'fer2013.py', 'csv', REAL / 'data' / 'fer2013_packed.npz', tmp_path / 'fer2013.csv']
    subprocess.run(arguments, check=True)
    data = default_config().data
    data.dataset, data.path, data.prepared = 'fer2013', str(tmp_path / 'fer2013.csv'), str(tmp_path / 'prepared')
    data.votes = str(REAL / 'data' / 'fer2013new.csv')
    dataset = load(data)
    assert [dataset.manifest['splits'][split]['count'] for split in SPLITS] == [28709, 3589, 3589]
    duplicates = dataset.manifest['duplicates']
    assert (duplicates['surplus'], duplicates['groups'], duplicates['groups_with_conflicting_labels']) == (1853, 1516, 57)
    # The shares of data.md's measurement: 13.7 % and 14.5 %.
    assert dataset.manifest['near_duplicates'] == {'train': 1451, 'validation': 491, 'test': 521}
    assert duplicates['across'] == {'validation in train': 280, 'test in train': 288, 'test in validation': 44}
    one_colour = [i for faces in dataset.splits.values() for i in faces.rows[np.ptp(faces.images, axis=(1, 2)) == 0]]
    assert set(one_colour) == {6458, 7629, 10423, 11286, 13148, 13402, 13988, 15894, 22198, 22927, 28601, 30002}
    packed = np.load(REAL / 'data' / 'fer2013_packed.npz', allow_pickle=False)
    columns = [
        list(packed['ferplus_columns']).index(name) for name in ('anger', 'disgust', 'fear', 'happiness', 'sadness', 'surprise', 'neutral')
    ]
    for faces in dataset.splits.values():
        votes = packed['ferplus_votes'][faces.rows][:, columns].astype(float)
        some = votes.sum(1) > 0
        np.testing.assert_allclose(faces.votes[some], votes[some] / votes[some].sum(1, keepdims=True), rtol=1e-6)
        assert (faces.votes[~some].argmax(1) == faces.labels[~some]).all()
    data.dedup = 'exact'
    kept = {image.tobytes() for image in load(data).splits['train'].images}
    held = {image.tobytes() for split in ('validation', 'test') for image in dataset.splits[split].images}
    assert kept == {image.tobytes() for image in dataset.splits['train'].images} - held


def test_preparing_asks_no_network_and_leaves_nothing_in_the_systems_temporary_folder(data, tmp_path, monkeypatch):
    import socket
    import tempfile

    def refuse(*arguments, **options):
        raise AssertionError('a connection was opened')

    (tmp_path / 'tmp').mkdir()
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path / 'tmp'))
    monkeypatch.setattr(socket.socket, 'connect', refuse)
    load(data)
    assert not list((tmp_path / 'tmp').iterdir())


@pytest.mark.parametrize(
    ('change', 'said'),
    [
        ({'format': None}, 'field format is null'),
        ({'class_names': [1]}, 'class_names is not a list of texts'),
        ({'splits': {'train': {}}}, 'has no field splits.validation'),
        ({'key': '../../elsewhere'}, 'field key is'),
        ({'source': 3}, 'field source is 3'),
    ],
)
def test_a_damaged_manifest_is_one_line(data, change, said):
    path = prepared_folder(data, prepare(data)) / 'manifest.json'
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=re.escape(said)) as error:
        prepare(data)
    assert str(path) in str(error.value)
