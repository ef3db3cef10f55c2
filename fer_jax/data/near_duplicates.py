"""Near-duplicates between splits, by correlation of pixels: what a network may know by memory instead of by sight."""

import io
import pathlib
import zipfile
from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float32, UInt8

from fer_jax.core.errors import InputError
from fer_jax.data.schema import SPLITS, Faces

CLOSENESS = 'closeness.npz'  # beside the shards
LEAST = 0.9  # two images whose correlation is above it are near-duplicates
NAMES = ('near-duplicates', 'others')  # how those parts of a split are called where it is scored
BLOCK = 512  # images of one side compared at once: with 28,709 on the other 59 MB
MOST_PAIRS = 500_000_000  # FER2013 has 206 million, which take half a minute on two cores


def closeness(splits: Mapping[str, Faces], most_pairs: int = MOST_PAIRS, block: int = BLOCK) -> dict[str, Float32[np.ndarray, 'n']] | None:
    """How near each image comes to one across the border between train and the two others: the highest correlation with an
    image, or a mirror image, of train; and for one of train, of validation and test. None of more than `most_pairs` pairs.
    """
    train, others = splits['train'], [splits[split] for split in SPLITS[1:]]
    if len(train) * sum(map(len, others)) > most_pairs:
        return None
    known = standardised(train.images[:])
    nearest = np.full(len(train), -1, np.float32)
    found = {'train': nearest}
    for split, faces in zip(SPLITS[1:], others, strict=True):
        own = found[split] = np.full(len(faces), -1, np.float32)
        for start in range(0, len(faces), block):
            images = faces.images[start : start + block]
            for views in (images, images[:, :, ::-1]):
                products = standardised(views) @ known.T
                own[start : start + block] = np.maximum(own[start : start + block], products.max(1))
                np.maximum(nearest, products.max(0), out=nearest)
    return found


def standardised(images: UInt8[np.ndarray, 'n height width']) -> Float32[np.ndarray, 'n pixels']:
    """Rows of mean 0 and length 1, whose products are correlations; a row of one colour is all zero and correlates with nothing."""
    rows = images.reshape(len(images), -1).astype(np.float32)
    rows -= rows.mean(1, keepdims=True)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)


def counts(found: Mapping[str, Float32[np.ndarray, 'n']]) -> dict[str, int]:
    """By split, the images that have a near-duplicate across the border."""
    return {split: int(np.count_nonzero(found[split] > LEAST)) for split in SPLITS}


def parts(closeness: Float32[np.ndarray, 'n']) -> dict[str, Bool[np.ndarray, 'n']]:
    """The images of a test split that have a near-duplicate in train, and those that have none, by NAMES."""
    near = closeness > LEAST
    return dict(zip(NAMES, (near, ~near), strict=True))


def read_closeness(folder: pathlib.Path, sizes: Mapping[str, int]) -> dict[str, Float32[np.ndarray, 'n']]:
    """What was kept of `closeness` with the prepared data in `folder`.

    Args:
      sizes: the number of images of each split.

    Raises:
      InputError: it is not there or damaged.
    """
    try:
        with np.load(io.BytesIO((folder / CLOSENESS).read_bytes()), allow_pickle=False) as stored:
            found = {split: stored[split] for split in SPLITS}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f'{folder / CLOSENESS}: damaged ({error}): delete the folder and prepare again') from None
    if any(found[split].dtype != np.float32 or found[split].shape != (sizes[split],) for split in SPLITS):
        raise InputError(f'{folder / CLOSENESS}: damaged: not of these images: delete the folder and prepare again')
    return found
