"""TFDS builders, one named for each data set, that write a Source as ArrayRecord shards. None needs TensorFlow."""

import functools
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow_datasets as tfds

from fer_jax.data.schema import IMAGE_SIDE, Faces, Source

# The optional fields of Faces and how a record calls them; a set without them has no such feature.
OPTIONAL = {'subjects': 'subject', 'sequences': 'sequence', 'rows': 'row'}
SHARD_IMAGES = 100_000  # in one shard, at most: 230 MB


class LocalInfo(tfds.core.DatasetInfo):
    """A description that is not looked for in TFDS's bucket, a search that asks the network and leaves a folder in /tmp."""

    def initialize_from_bucket(self) -> None:
        pass


class FacesBuilder(tfds.core.ShardBasedBuilder, skip_registration=True):
    """Writes a Source: image uint8 [48, 48], label, and subject, sequence and row where known, in the source's order.

    Images are Tensors, not TFDS Images: those need TensorFlow to be written. So would a GeneratorBasedBuilder, for a split of
    more than a gigabyte; shard by shard, one shard is held in memory.
    """

    VERSION = tfds.core.Version('1.0.0')
    # Nothing is downloaded, so there are no checksums to find; the search for them imports a package that TFDS does not declare.
    url_infos = None
    code_path = None

    def __init__(self, *, source: Source, **arguments):
        self._source = source
        super().__init__(file_format='array_record', **arguments)

    def _info(self) -> tfds.core.DatasetInfo:
        optional = {'subject': tfds.features.Text(), 'sequence': tfds.features.Text(), 'row': tfds.features.Scalar(np.int64)}
        features = {
            'image': tfds.features.Tensor(shape=(IMAGE_SIDE, IMAGE_SIDE), dtype=np.uint8, encoding='bytes'),
            'label': tfds.features.ClassLabel(names=list(self._source.class_names)),
            **{name: optional[name] for name in present(self._source.splits['train']).values()},
        }
        # Order is part of the content (FER+ is joined by it), and every run shuffles for itself.
        return LocalInfo(builder=self, description=__doc__, features=tfds.features.FeaturesDict(features), disable_shuffling=True)

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


class Fer2013(FacesBuilder):
    """FER2013."""

    name = 'fer2013'


class Ckplus(FacesBuilder):
    """CK+."""

    name = 'ckplus'


class Ferplus(FacesBuilder):
    """FER2013's images with FER+'s labels."""

    name = 'ferplus'


class ImageFolder(FacesBuilder):
    """Images in folders."""

    name = 'image_folder'


class Toyfaces(FacesBuilder):
    """ToyFaces."""

    name = 'toyfaces'


BUILDERS = {builder.name: builder for builder in (Fer2013, Ferplus, Ckplus, ImageFolder, Toyfaces)}
