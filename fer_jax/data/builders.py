"""TFDS builders, one named for each data set of readers.READERS, that write ArrayRecord shards. None needs TensorFlow."""

import functools
import os
import types
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from fer_jax.core.config import check_config, set_field
from fer_jax.core.errors import DataWarning, InputError
from fer_jax.core.fields import default_config
from fer_jax.data.readers import READERS, read_source
from fer_jax.data.schema import IMAGE_SIDE, OPTIONAL, Faces, Source

SHARD_IMAGES = 100_000  # in one shard, at most: 230 MB


class LocalInfo(tfds.core.DatasetInfo):
    """A description that is not looked for in TFDS's bucket, a search that asks the network and leaves a folder in /tmp."""

    def initialize_from_bucket(self) -> None:
        """Looks for nothing."""


class FacesBuilder(tfds.core.ShardBasedBuilder, skip_registration=True):
    """Writes a data set: image uint8 [48, 48], label, and subject, sequence and row where known, in the source's order.

    Images are Tensors, not TFDS Images: those need TensorFlow to be written. So would a GeneratorBasedBuilder, for a split of
    more than a gigabyte; shard by shard, one shard is held in memory.
    """

    VERSION = tfds.core.Version('1.0.0')
    # Nothing is downloaded, so there are no checksums to find; the search for them imports a package that TFDS does not declare.
    url_infos = None
    code_path = None

    def __init__(
        self, *, source: Source | None = None, data_dir=None, config=None, version=None, file_format='array_record', **fields: Any
    ):
        """Args:
          source: what is written; None reads it, unless it lies prepared in `data_dir`.
          data_dir, config, version, file_format: as TFDS has them; the format is ArrayRecord, which alone needs no TensorFlow.
          fields: of config.data, such as path, votes or folds.

        Raises:
          InputError: a field or a format that there is not, or a source that is missing or wrong.
        """
        if tfds.core.FileFormat.from_value(file_format) is not tfds.core.FileFormat.ARRAY_RECORD:
            raise InputError(f'file_format={file_format}: array_record is the one that is written and read without TensorFlow')
        self._config = default_config()
        for field, value in {'dataset': self.name, **fields}.items():
            set_field(self._config, f'data.{field}', os.fspath(value) if isinstance(value, os.PathLike) else str(value))
        if source:
            self._source = source
        super().__init__(file_format='array_record', data_dir=data_dir, version=version)

    def __reduce__(self):
        return tfds.builder_from_directory, (str(self.data_path),)

    @functools.cached_property
    def _source(self) -> Source:
        check_config(self._config)
        source = read_source(self._config.data)
        for warning in source.warnings:
            warnings.warn(warning, DataWarning, stacklevel=2)
        return source

    def _info(self) -> tfds.core.DatasetInfo:
        features = None  # those that were written, where the set is prepared: its source may be gone
        if not (self.data_path / 'dataset_info.json').exists():
            optional = {'subject': tfds.features.Text(), 'sequence': tfds.features.Text(), 'row': tfds.features.Scalar(np.int64)}
            features = tfds.features.FeaturesDict({
                'image': tfds.features.Tensor(shape=(IMAGE_SIDE, IMAGE_SIDE), dtype=np.uint8, encoding='bytes'),
                'label': tfds.features.ClassLabel(names=list(self._source.class_names)),
                **{name: optional[name] for name in present(self._source.splits['train']).values()},
            })  # fmt: skip
        # Order is part of the content (FER+ is joined by it), and every run shuffles for itself.
        return LocalInfo(builder=self, description=FacesBuilder.__doc__, features=features, disable_shuffling=True)

    def _shard_iterators_per_split(self, dl_manager) -> dict[str, list[Callable[[], Iterator[tuple[int, dict]]]]]:
        return {
            split: [functools.partial(self._examples, faces, start) for start in range(0, len(faces), SHARD_IMAGES)]
            for split, faces in self._source.splits.items()
        }

    def _examples(self, faces: Faces, start: int) -> Iterator[tuple[int, dict]]:
        """The records of the shard whose first is `start`."""
        names = present(faces)
        for i in range(start, min(start + SHARD_IMAGES, len(faces))):
            optional = {name: getattr(faces, field)[i] for field, name in names.items()}
            optional = {name: int(value) if name == 'row' else str(value) for name, value in optional.items()}
            yield i, {'image': faces.images[i], 'label': int(faces.labels[i]), **optional}


def present(faces: Faces) -> dict[str, str]:
    """Field of Faces → feature name, for the optional ones that `faces` has."""
    return {field: name for field, name in OPTIONAL.items() if getattr(faces, field) is not None}


# A class of its own for each, so that TFDS knows it by its name.
BUILDERS = {name: types.new_class(name, (FacesBuilder,), exec_body=lambda body, name=name: body.update(name=name)) for name in READERS}
