"""A split of a prepared data set whose images stay in their shards: read where they are asked for, the rest of it in memory."""

import contextlib
import io
import json
import pathlib
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import UInt8

from fer_jax.core.errors import InputError, out_of_memory
from fer_jax.core.files import write_atomic
from fer_jax.data.schema import IMAGE_SIDE, OPTIONAL, Faces

INDEX = '{split}-index.npz'  # beside the shards: what is known of the split's images besides their pixels
COLUMNS = {'labels': 'label', **OPTIONAL}  # field of Faces → feature of a record
PIECE = 512  # images whose records are held at once: of thousands an allocator that gives nothing back would keep more each time


class ShardImages:
    """The images of a split, uint8 [n, 48, 48]: an index, of any kind that a NumPy array takes first, reads them from the shards.

    Threads may read side by side. What a shard's blocks hold is checked by their checksums as it is read.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, folder: pathlib.Path, split: str):
        import tensorflow_datasets as tfds  # slow to import

        self.folder, self.split = folder, split
        with self._plain_errors():
            builder = tfds.builder_from_directory(str(folder))
            self._records = builder.as_data_source(split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES)
            self._numbers = np.arange(len(self._records))
            self.shape = (len(self._records), IMAGE_SIDE, IMAGE_SIDE)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int | slice | np.ndarray) -> UInt8[np.ndarray, '... 48 48']:
        numbers = np.asarray(self._numbers[index])
        images = np.empty((numbers.size, IMAGE_SIDE**2), np.uint8)
        with self._plain_errors():
            for place, features in enumerate(self._features(numbers.ravel())):
                images[place] = np.frombuffer(features['image'].bytes_list.value[0], np.uint8)
        return images.reshape(*numbers.shape, IMAGE_SIDE, IMAGE_SIDE)

    def columns(self) -> dict[str, np.ndarray]:
        """Labels, and subjects, sequences and rows where the records have them, of all images, in one pass over the shards."""
        found: dict[str, list] = {'labels': []}
        kinds = {'labels': np.int32, 'rows': np.int64}
        with self._plain_errors():
            for features in self._features(self._numbers):
                for field, name in COLUMNS.items():
                    if name in features:
                        values = features[name].int64_list.value or features[name].bytes_list.value
                        found.setdefault(field, []).append(values[0])
            if any(len(values) != len(self) for values in found.values()):
                raise ValueError('records of different fields')
            return {
                field: np.array(values, kinds[field]) if field in kinds else np.array([value.decode() for value in values], str)
                for field, values in found.items()
            }

    def _features(self, numbers: np.ndarray) -> Iterator[Any]:
        """The records of these numbers, as maps of name → feature.

        TFDS's own decoding, which is for any data set, takes five times as long, in Python, where threads wait for each other.
        """
        from tensorflow_datasets.proto import tf_example_pb2

        for start in range(0, len(numbers), PIECE):
            for record in self._records.__getitems__(numbers[start : start + PIECE].tolist()):
                yield tf_example_pb2.Example.FromString(record).features.feature

    @contextlib.contextmanager
    def _plain_errors(self):
        # The reader is C++ and names its errors as it likes; whatever it says about these files, they are not what was written.
        try:
            yield
        except Exception as error:
            if out_of_memory(error):
                raise
            said = ' '.join(str(error).split())[:200]
            raise InputError(f'{self.folder}: damaged ({said}): delete the folder and prepare again') from None


def open_split(folder: pathlib.Path, split: str) -> tuple[Faces, bool]:
    """A split whose images stay in the shards, and whether these were checked before and have not changed since.

    What was read of such shards is taken from the index beside them; otherwise it is read in one pass over all records.

    Raises:
      InputError: the shards are damaged.
    """
    images = ShardImages(folder, split)
    columns = _read_index(folder, split)
    checked = columns is not None and all(len(values) == len(images) for values in columns.values())
    return Faces(images, **(columns if checked else images.columns())), checked


def note_checked(folder: pathlib.Path, split: str, faces: Faces) -> None:
    """Keeps in the index that the shards were read as a whole and are what the manifest says; not where the folder is read-only."""
    columns = {field: getattr(faces, field) for field in COLUMNS if getattr(faces, field) is not None}
    content = io.BytesIO()
    np.savez(content, shards=np.array(_shards(folder)), **columns)
    with contextlib.suppress(OSError):
        write_atomic(folder / INDEX.format(split=split), content.getvalue())


def _read_index(folder: pathlib.Path, split: str) -> dict[str, np.ndarray] | None:
    """The columns in the index, where it is whole and the shards are as they were when it was written."""
    try:
        with np.load(folder / INDEX.format(split=split), allow_pickle=False) as stored:
            columns = dict(stored)
        return columns if str(columns.pop('shards')) == _shards(folder) and columns.keys() <= COLUMNS.keys() else None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _shards(folder: pathlib.Path) -> str:
    """Each shard's name, size and time of change, as text."""
    states = ((path.name, path.stat()) for path in sorted(folder.glob('*.array_record*')))
    return json.dumps([[name, state.st_size, state.st_mtime_ns] for name, state in states])
