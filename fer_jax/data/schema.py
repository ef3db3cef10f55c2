"""What a data set is: faces, splits and classes, as readers hand them over and as runs load them."""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int32, Int64, UInt8

SPLITS = ('train', 'validation', 'test')  # each data set has titles of its own for them, as FER2013's PublicTest
IMAGE_SIDE = 48
# The optional fields of Faces and how a record calls them; a set without them has no such feature.
OPTIONAL = {'subjects': 'subject', 'sequences': 'sequence', 'rows': 'row'}


@dataclasses.dataclass(frozen=True)
class Faces:
    """One split. The optional arrays are None where the source knows nothing of the kind."""

    images: UInt8[Any, 'n 48 48']  # an array, or shards.ShardImages, which reads those that are asked for
    labels: Int32[np.ndarray, 'n']
    subjects: np.ndarray | None = None  # [n] str; '' is unknown
    votes: Float32[np.ndarray, 'n classes'] | None = None  # soft targets that sum to 1 (FER+)
    sequences: np.ndarray | None = None  # [n] str: the film an image is a frame of, unique over subjects; '' is unknown
    rows: Int64[np.ndarray, 'n'] | None = None  # position in the source's own order, from 0, over all splits
    subsets: dict[str, Bool[np.ndarray, 'n']] | None = None  # parts of the split that are scored beside the whole, by name

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def in_memory(self) -> bool:
        """Whether the images are an array, rather than read from files where they are asked for."""
        return isinstance(self.images, np.ndarray)

    def take(self, index: np.ndarray) -> 'Faces':
        """The faces at `index` (positions or a mask), every field along."""
        fields = ((field.name, getattr(self, field.name)) for field in dataclasses.fields(self))
        parts = {name: member[index] for name, member in (self.subsets or {}).items()}
        taken = {name: None if value is None else value[index] for name, value in fields if name != 'subsets'}
        return Faces(**taken, subsets=parts or None)


@dataclasses.dataclass(frozen=True)
class Source:
    """What a reader returns. Splits the source does not have are left out: they are drawn from train when it is prepared."""

    name: str  # 'fer2013'
    class_names: tuple[str, ...]
    splits: dict[str, Faces]  # keys of SPLITS; train is always there
    split_titles: dict[str, str]  # canonical → the data set's own name, for the splits that are there
    skipped: tuple[str, ...] = ()  # files left out because they could not be read: 'name: why'
    warnings: tuple[str, ...] = ()  # one line each
    notes: tuple[str, ...] = ()  # what else is to be known of the splits, one line each


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A prepared data set in memory, all three splits present."""

    name: str
    class_names: tuple[str, ...]
    splits: dict[str, Faces]  # keys of SPLITS
    split_titles: dict[str, str]
    manifest: dict  # as `prepare` wrote it; manifest['content_sha256'] names the data


def unofficial(title: str, faces: Faces, class_names: tuple[str, ...], official: tuple[int, ...]) -> str:
    """One line on how the counts by class differ from the `official` ones; '' if they do not."""
    counts = np.bincount(faces.labels, minlength=len(class_names)).tolist()
    pairs = zip(class_names, counts, official, strict=True)
    differences = ', '.join(f'{name} {count - expected:+,}' for name, count, expected in pairs if count != expected)
    total = sum(counts) - sum(official)
    return differences and f'{title}: {sum(counts):,} images, officially {sum(official):,} ({total:+,}): {differences}'
