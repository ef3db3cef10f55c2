"""fer_jax/data/builders.py and __init__.py: the data sets as TFDS documents builders and data sources, without TensorFlow."""

import pathlib
import pickle
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds

import fer_jax.data  # noqa: F401  it is what registers the builders
from fer_jax.core.errors import DataWarning, InputError
from fer_jax.data import toyfaces

PIXELS = {label: (np.arange(2304) * 7 + label).reshape(48, 48) % 256 for label in range(7)}


def write_csv(path: pathlib.Path) -> pathlib.Path:
    """One face a class in Training and PublicTest, of PrivateTest all but the first."""
    rows = [(label, 'Training') for label in range(7)] + [(label, 'PublicTest') for label in range(7)]
    rows += [(label, 'PrivateTest') for label in range(1, 7)]
    lines = [f'{label},{" ".join(map(str, PIXELS[label].ravel()))},{usage}\n' for label, usage in rows]
    path.write_text('emotion,pixels,Usage\n' + ''.join(lines))
    return path


def test_a_csv_by_builder_and_then_by_data_source(tmp_path):
    source = write_csv(tmp_path / 'fer2013.csv')
    with pytest.warns(DataWarning) as told:
        builder = tfds.builder('fer2013', data_dir=tmp_path / 'data', path=source)
    assert 'FER2013 Training: 7 images, officially 28,709' in str(told[0].message)
    builder.download_and_prepare()
    assert {name: split.num_examples for name, split in builder.info.splits.items()} == {'train': 7, 'validation': 7, 'test': 6}
    assert builder.info.features['label'].names == ['angry', 'disgust', 'fear', 'happy', 'sad', 'surprise', 'neutral']
    source.unlink()  # what is prepared needs it no more
    test = tfds.data_source('fer2013', split='test', data_dir=tmp_path / 'data')
    assert [(record['label'], record['row']) for record in test] == [(label, 13 + label) for label in range(1, 7)]
    np.testing.assert_array_equal(test[2]['image'], PIXELS[3])
    assert 'tensorflow' not in sys.modules


def test_a_data_source_prepares_and_goes_to_other_processes(tmp_path):
    splits = tfds.data_source('toyfaces', data_dir=tmp_path, builder_kwargs={'toyfaces_images': 420, 'split_seed': 3})
    drawn = toyfaces.read(420, 3).splits
    assert {name: len(split) for name, split in splits.items()} == {name: len(faces) for name, faces in drawn.items()}
    copy = pickle.loads(pickle.dumps(splits['train']))  # as a loader's worker gets it
    np.testing.assert_array_equal(copy[5]['image'], drawn['train'].images[5])


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({}, 'fer2013 needs the path of its file or folder'),
        ({'pth': 'x'}, "unknown config field 'data.pth': did you mean 'data.path'"),
        ({'path': 'x', 'fold': -1}, 'data.fold=-1: must lie between 0 and 999'),
        ({'path': 'nowhere.csv'}, 'nowhere.csv: no such file'),
        ({'path': 'x', 'file_format': 'tfrecord'}, 'file_format=tfrecord: array_record is the one'),
    ],
)
def test_wrong_arguments(tmp_path, arguments, message):
    with pytest.raises(InputError, match=message):
        tfds.builder('fer2013', data_dir=tmp_path, **arguments)


@pytest.mark.parametrize(
    'imports', ['import fer_jax.data, tensorflow_datasets as tfds', 'import tensorflow_datasets as tfds, fer_jax.data']
)
def test_they_are_registered_whichever_is_imported_first(imports):
    code = f'{imports}; print(*(tfds.builder_cls(name).name for name in ("toyfaces", "fer2013", "ferplus", "ckplus", "image_folder")))'
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=120, check=True).stdout
    assert out == 'toyfaces fer2013 ferplus ckplus image_folder\n'


def test_it_does_not_wait_for_tfds():
    code = 'import sys, fer_jax.data.images, fer_jax.data.views; sys.exit("tensorflow_datasets" in sys.modules)'
    assert subprocess.run([sys.executable, '-c', code], timeout=60).returncode == 0
