"""Faces and labels as NumPy's arrays in one .npz, in the forms that people have them in."""

import contextlib
import os
import re

import numpy as np
from jaxtyping import Shaped, UInt8
from PIL import Image

from fer_jax.core.errors import InputError
from fer_jax.data.archive import kind, listing, members
from fer_jax.data.folders import ordered_classes, shown, split_of
from fer_jax.data.images import plain, scale_of, square_face
from fer_jax.data.schema import IMAGE_SIDE, SPLITS, Faces, Source

# What the arrays may be called, alone or with a split behind: x_train, images_test.
IMAGES = ('images', 'image', 'faces', 'pixels', 'data', 'x')
LABELS = ('labels', 'label', 'emotions', 'targets', 'y')
CLASSES = ('class_names', 'classes', 'label_names', 'names')


def is_npz(path: str | os.PathLike) -> bool:
    """Whether it is a zip of arrays."""
    if kind(path) != 'zip':
        return False
    names = listing(path).files
    return bool(names) and all(name.endswith('.npy') for name in names)


def read(path: str | os.PathLike) -> Source:
    """Images [n, h, w], [n, h, w, 1, 3 or 4] or [n, 2304] of bytes, wider whole numbers or floats, and labels [n] of numbers or words.

    The ranges of pixels are those of images.plain, over all images together. Nothing is unpickled.

    Raises:
      InputError: arrays that are not of this form, or damaged.
    """
    arrays = _load(path)
    images, labels = _named(arrays, IMAGES), _named(arrays, LABELS)
    if not images or images.keys() != labels.keys() or 'train' not in images:
        found = ', '.join(f'{name} {list(array.shape)}' for name, array in arrays.items())
        raise InputError(f'{path}: expected arrays called images and labels, or x_train, y_train, x_test, …; found {found}')
    words = next((arrays[name].tolist() for name in CLASSES if name in arrays), None)
    texts = {split: _texts(array, words, f'{path}: labels of {split}') for split, array in labels.items()}
    class_names = ordered_classes({text for each in texts.values() for text in each}, str(path))
    position = {name: number for number, name in enumerate(class_names)}
    splits = {}
    for split in (split for split in SPLITS if split in images):
        if len(images[split]) != len(texts[split]):
            raise InputError(f'{path}: {len(images[split]):,} images and {len(texts[split]):,} labels for {split}')
        faces = _faces(images[split], f'{path}: images of {split}')
        splits[split] = Faces(faces, np.array([position[text] for text in texts[split]], np.int32))
    titles = {split: split for split in splits} if len(splits) > 1 else {'train': 'all'}
    notes = (f'read from arrays {", ".join(arrays)}',)
    return Source('image_table', class_names, splits, titles, (), (), notes)


def _load(path: str | os.PathLike) -> dict[str, np.ndarray]:
    arrays = {}
    with contextlib.closing(members(path)) as files:
        for member in files:
            try:
                with member.open() as stream:
                    arrays[member.name.removesuffix('.npy')] = np.lib.format.read_array(stream, allow_pickle=False)
            except (ValueError, EOFError, MemoryError, OverflowError) as error:
                if isinstance(error, InputError):
                    raise
                raise InputError(f'{member.where}: no array that is read: {error}') from None
    return arrays


def _named(arrays: dict[str, np.ndarray], names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Split → array of one of these names; an array without a split's name behind is train."""
    found: dict[str, np.ndarray] = {}
    for name, array in arrays.items():
        stem, _, split = name.lower().partition('_')
        canonical = split_of(split) if split else 'train'
        if stem in names and canonical:
            if canonical in found:
                raise InputError(f'several arrays for {canonical}: {shown(list(arrays))}: rename all but one')
            found[canonical] = array
    return found


def _texts(labels: np.ndarray, words: list | None, where: str) -> list[str]:
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or labels.dtype.kind not in 'iufUS':
        raise InputError(f'{where}: expected [n] numbers or words, found {list(labels.shape)} of {labels.dtype}')
    if labels.dtype.kind == 'f' and not np.isfinite(labels).all():
        raise InputError(f'{where}: {np.count_nonzero(~np.isfinite(labels)):,} are not finite, first number {np.isfinite(labels).argmin()}')
    texts = [label.decode('latin-1') if isinstance(label, bytes) else str(label) for label in labels.tolist()]
    texts = [re.sub(r'^(\d+)\.0$', r'\1', text) for text in texts]
    if words is None or labels.dtype.kind in 'US':
        return texts
    if bad := [text for text in texts if not (text.isdecimal() and len(text) < 10 and int(text) < len(words))]:
        raise InputError(f'{where}: {ascii(bad[0])} is none of the {len(words)} classes that are named')
    return [str(words[int(text)]) for text in texts]


def _faces(images: Shaped[np.ndarray, '...'], where: str) -> UInt8[np.ndarray, 'n 48 48']:
    if images.ndim == 2 and images.shape[1] == IMAGE_SIDE**2:
        images = images.reshape(-1, IMAGE_SIDE, IMAGE_SIDE)
    if images.ndim == 4 and images.shape[3] == 1:
        images = images[..., 0]
    colours = images.ndim == 4 and images.shape[3] in (3, 4)
    if not (images.ndim == 3 or colours) or 0 in images.shape or images.dtype.kind not in 'iuf':
        raise InputError(f'{where}: expected [n, height, width] numbers, found {list(images.shape)} of {images.dtype}')
    try:
        scale = scale_of(float(images.min()), float(images.max()), images.dtype.kind == 'f')
    except InputError as error:
        raise InputError(f'{where}: {error}') from None
    found = np.empty((len(images), IMAGE_SIDE, IMAGE_SIDE), np.uint8)
    for number, image in enumerate(images):
        grey = image if image.dtype == np.uint8 else np.clip(np.rint(image * scale), 0, 255).astype(np.uint8)
        found[number] = square_face(plain(Image.fromarray(grey)).convert('L'))
    return found
