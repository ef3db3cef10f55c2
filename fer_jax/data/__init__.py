"""From a source to arrays, and from pixels to the network's input.

In come a CSV, an archive or a folder of pictures; out go prepared shards with a manifest, the splits as uint8 faces with labels, and
their crops in the range that the network takes.

Once this package is imported, before TFDS or after it, TFDS knows the data sets too, and needs no TensorFlow for them:

    tfds.builder('fer2013', path='fer2013.csv', data_dir='data').download_and_prepare()
    tfds.data_source('fer2013', split='test', data_dir='data')

The arguments are TFDS's and the fields of `config.data`.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import sys


class _WithTfds(importlib.abc.MetaPathFinder):
    """Imports the builders, which registers them, right after TFDS.

    To import TFDS here would be plainer, but takes a second or more, which a prediction or an export would wait for nothing.
    """

    def find_spec(self, name: str, path: object = None, target: object = None) -> importlib.machinery.ModuleSpec | None:
        if name != 'tensorflow_datasets':
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None:
            execute = spec.loader.exec_module

            def exec_module(module: object) -> None:
                execute(module)
                importlib.import_module('fer_jax.data.builders')

            spec.loader.exec_module = exec_module
        return spec


if 'tensorflow_datasets' in sys.modules:
    importlib.import_module('fer_jax.data.builders')
else:
    sys.meta_path.insert(0, _WithTfds())
