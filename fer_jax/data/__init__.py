"""From a source to arrays, and from pixels to the network's input.

In come a CSV, an archive or a folder of pictures; out go prepared shards with a manifest, the splits as uint8 faces with labels, and
their crops in the range that the network takes.

Once this package is imported, before TFDS or after it, TFDS knows the data sets too, and needs no TensorFlow for them:

    tfds.builder('fer2013', path='fer2013.csv', data_dir='data').download_and_prepare()
    tfds.data_source('fer2013', split='test', data_dir='data')

The arguments are TFDS's and the fields of `config.data`.
"""

import importlib
from types import ModuleType

import wrapt


@wrapt.when_imported('tensorflow_datasets')
def register_builders(tfds: ModuleType) -> None:
    """Imports the builders, which registers them, right after TFDS.

    To import TFDS here would be plainer, but takes a second or more, which a prediction or an export would wait for nothing.
    """
    importlib.import_module('fer_jax.data.builders')
