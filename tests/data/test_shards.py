"""A prepared set whose training images stay in their shards, which are checked; and which pipeline a set is given."""

import os
import pathlib
import shutil

import numpy as np
import pytest

from fer_jax.core.errors import InputError
from fer_jax.core.fields import default_config
from fer_jax.data.load import load, pipeline
from fer_jax.data.prepare import prepare, prepared_folder
from fer_jax.data.shards import INDEX
from fer_jax.evaluation.neighbour import one_nearest_neighbour

pytestmark = pytest.mark.filterwarnings('ignore::fer_jax.core.errors.DataWarning')  # small sets are never the official ones
IMAGES, CLASSES = 26, 7


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
    """The folder and configuration of a prepared set: 26, 7 and 7 random faces."""
    folder = tmp_path_factory.mktemp('stream')
    draws, lines = np.random.default_rng(0), ['emotion,pixels,Usage']
    for usage, count in (('Training', IMAGES), ('PublicTest', 7), ('PrivateTest', 7)):
        faces = draws.integers(0, 256, (count, 2304))
        lines += [f'{number % CLASSES},{" ".join(map(str, face))},{usage}' for number, face in enumerate(faces)]
    (folder / 'fer.csv').write_text('\n'.join(lines) + '\n')
    data = default_config().data
    data.dataset, data.path, data.prepared = 'fer2013', str(folder / 'fer.csv'), str(folder / 'prepared')
    prepare(data)
    return folder, data


@pytest.fixture
def data(prepared, tmp_path):
    """A copy of it that a test may spoil, to be streamed."""
    folder, data = prepared
    shutil.copytree(folder / 'prepared', tmp_path / 'prepared')
    data = data.copy_and_resolve_references()
    data.prepared, data.pipeline = str(tmp_path / 'prepared'), 'stream'
    return data


def shard_of(data):
    (path,) = prepared_folder(data, prepare(data)).glob('*-train.array_record*')
    return path


def spoil(path, keep_time=False):
    """Turns over some bytes in the middle of a file."""
    state, content = path.stat(), bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 64] = bytes(255 - value for value in content[middle : middle + 64])
    path.write_bytes(content)
    if keep_time:
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def test_streamed_images_are_read_as_an_array_would_give_them(prepared, data):
    whole, streamed = (load(each).splits['train'] for each in (prepared[1], data))
    assert whole.in_memory and not streamed.in_memory
    for field in ('labels', 'rows'):
        expected = getattr(whole, field)
        np.testing.assert_array_equal(getattr(streamed, field), expected)
        assert getattr(streamed, field).dtype == expected.dtype
    assert streamed.subjects is None and streamed.images.shape == (IMAGES, 48, 48) and len(streamed) == IMAGES
    places = np.array([[3, 25], [3, 0], [7, 11]])
    for index in (slice(None), slice(5, 9), 4, -1, np.array([9, 2, 9]), places, whole.labels == 2):
        found = streamed.images[index]
        np.testing.assert_array_equal(found, whole.images[index])
        assert found.dtype == np.uint8 and found.shape == whole.images[index].shape


def test_only_the_training_images_stay_in_their_shards(data):
    splits = load(data).splits
    assert [splits[split].in_memory for split in ('train', 'validation', 'test')] == [False, True, True]


def test_the_nearest_neighbour_may_lie_in_shards(prepared, data):
    whole, streamed = (load(each).splits for each in (prepared[1], data))
    assert one_nearest_neighbour(streamed['train'], streamed['test']) == one_nearest_neighbour(whole['train'], whole['test'])


def test_what_was_read_and_checked_is_kept_beside_the_shards(data):
    first = load(data)
    spoil(shard_of(data), keep_time=True)  # which whoever reads the records again is told
    second = load(data)
    np.testing.assert_array_equal(first.splits['train'].labels, second.splits['train'].labels)
    np.testing.assert_array_equal(first.splits['train'].rows, second.splits['train'].rows)


@pytest.mark.parametrize('change', ['shard touched', 'shard longer', 'index damaged', 'index of another set'])
def test_the_index_is_refused_when_it_may_not_be_of_these_shards(data, change):
    """The records are read again, and found to be damaged."""
    load(data)
    shard = shard_of(data)
    spoil(shard, keep_time=True)
    index = shard.parent / INDEX.format(split='train')
    if change == 'shard touched':
        os.utime(shard)
    elif change == 'shard longer':
        state = shard.stat()
        shard.write_bytes(shard.read_bytes() + bytes(65536))
        os.utime(shard, ns=(state.st_atime_ns, state.st_mtime_ns))
    elif change == 'index damaged':
        spoil(index)
    else:
        with np.load(index) as stored:
            np.savez(index, **{name: values if name == 'shards' else values[1:] for name, values in stored.items()})
    with pytest.raises(InputError, match='damaged'):
        load(data)


def test_a_folder_that_cannot_be_written_is_read_all_the_same(data, monkeypatch):
    def refuse(*arguments):
        raise OSError(30, 'Read-only file system')

    monkeypatch.setattr('fer_jax.data.shards.write_atomic', refuse)
    assert len(load(data).splits['train']) == IMAGES


def assert_told_in_one_line(found):
    assert '\n' not in str(found.value) and 'damaged' in str(found.value)
    assert str(found.value).endswith('delete the folder and prepare again')


def test_a_damaged_shard_is_told_before_training(data):
    spoil(shard_of(data))
    with pytest.raises(InputError) as found:
        load(data)
    assert_told_in_one_line(found)


def test_a_damaged_shard_is_told_while_its_images_are_read(data):
    """The bytes changed behind the file system's back, after the shards were checked."""
    load(data)
    spoil(shard_of(data), keep_time=True)
    images = load(data).splits['train'].images
    with pytest.raises(InputError) as told:
        images[np.arange(IMAGES)]
    assert_told_in_one_line(told)


def test_shards_of_other_images_are_not_taken_for_these(prepared, data, tmp_path):
    other = data.copy_and_resolve_references()
    lines = pathlib.Path(data.path).read_text().splitlines()
    lines[1], lines[8] = lines[8], lines[1]  # two faces of one class change places
    (tmp_path / 'other.csv').write_text('\n'.join(lines) + '\n')
    other.path = str(tmp_path / 'other.csv')
    load(data)
    shutil.copyfile(shard_of(other), shard_of(data))
    with pytest.raises(InputError, match=r'its records are not those of its manifest\.json'):
        load(data)


# --- The choice


def test_auto_chooses_by_the_size_of_the_images_and_the_devices_memory():
    """1,000 images of 2,304 bytes are a quarter of 9,216,000."""
    assert pipeline('auto', 1000, 9_216_000) == 'resident'
    assert pipeline('auto', 1000, 9_215_999) == 'stream'
    assert pipeline('auto', 28_709, 16 * 2**30) == 'resident' and pipeline('auto', 2_000_000, 16 * 2**30) == 'stream'
    assert pipeline('auto', 10**9, None) == 'resident'
    for chosen in ('resident', 'stream'):
        assert pipeline(chosen, 1000, None) == pipeline(chosen, 1000, 1) == pipeline(chosen, 1000, 2**60) == chosen


def test_a_run_is_given_its_pipeline_by_the_manifest_and_the_device(data):
    data.pipeline = 'auto'
    assert load(data).splits['train'].in_memory
    assert load(data, 4 * IMAGES * 2304).splits['train'].in_memory
    assert not load(data, 4 * IMAGES * 2304 - 1).splits['train'].in_memory


def test_dedup_compares_images_that_a_stream_does_not_hold(data):
    data.dedup = 'exact'
    with pytest.raises(InputError, match=r'set data\.pipeline=resident'):
        load(data)
