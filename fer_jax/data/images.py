"""Image files as 48×48 grey faces, and folders of them as splits and classes."""

import contextlib
import dataclasses
import io
import itertools
import os
import warnings
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from fer_jax.core.errors import InputError, printable, unknown
from fer_jax.data.archive import Listing, members
from fer_jax.data.schema import IMAGE_SIDE, Faces

ENDINGS = ('.png', '.jpg', '.jpeg', '.bmp', '.gif', '.tif', '.tiff', '.webp', '.pgm', '.ppm')
# Named, because Pillow would otherwise also try formats that start other programs (EPS).
FORMATS = ('PNG', 'JPEG', 'BMP', 'GIF', 'TIFF', 'WEBP', 'PPM')
MAX_FILE = 256 << 20  # bytes of one image file
BLOCK = 1 << 22  # pixels that are scaled together
NAMED = 10  # bad files that a message names; the manifest has them all
SPLIT_FOLDERS = {
    'train': ('train', 'training'),
    'validation': ('validation', 'valid', 'val', 'dev', 'publictest', 'public_test'),
    'test': ('test', 'testing', 'privatetest', 'private_test'),
}


def is_image_name(name: str) -> bool:
    """Whether a file's ending is an image's."""
    return name.lower().endswith(ENDINGS)


def decode_face(content: bytes) -> UInt8[np.ndarray, '48 48']:
    """An image file of any mode and size as a grey face: turned as its EXIF says, transparent parts black, the largest
    centred square of it resampled to 48×48.

    Raises:
      InputError: as of `decode`.
    """

    def read(image: Image.Image) -> Image.Image:
        image.draft('L', (2 * IMAGE_SIDE, 2 * IMAGE_SIDE))  # a large JPEG need not be decoded at full size
        return opaque(ImageOps.exif_transpose(image)).convert('L')

    return square_face(decode(content, read))


def decode(content: bytes, read: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """What `read` makes of an image file that is opened, with none of its pixels decoded yet.

    Raises:
      InputError: it is not an image of FORMATS, is damaged, or is larger than Pillow's limit against decompression bombs.
    """
    if not content:
        raise InputError('empty file')
    if len(content) > MAX_FILE:
        raise InputError(f'larger than {MAX_FILE >> 20} MiB')
    try:
        # Warnings are of odd metadata, and of size, which is checked below, before any pixel is decoded.
        with warnings.catch_warnings(action='ignore'), Image.open(io.BytesIO(content), formats=FORMATS) as image:
            if image.width * image.height > Image.MAX_IMAGE_PIXELS:
                raise InputError(f'{image.width}×{image.height} pixels: refused as a decompression bomb')
            return read(image)
    except InputError:
        raise
    except MemoryError:
        raise InputError('too large for this memory') from None
    except Exception as error:  # Pillow's decoders raise a dozen kinds on damaged files, also KeyError and struct.error
        reason = 'not an image' if isinstance(error, Image.UnidentifiedImageError) else f'damaged image ({error})'
        raise InputError(reason) from None


def square_face(image: Image.Image) -> UInt8[np.ndarray, '48 48']:
    """The largest centred square of a grey image, resampled to 48×48."""
    if image.size == (IMAGE_SIDE, IMAGE_SIDE):
        return np.asarray(image)
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    # Cropped first: resize(box=…) lets the pixels around the box bleed in.
    square = image.crop((left, top, left + side, top + side))
    return np.asarray(square.resize((IMAGE_SIDE, IMAGE_SIDE), Image.Resampling.BILINEAR))


def opaque(image: Image.Image) -> Image.Image:
    """Transparent parts black, and 8 bits: 16 bits keep their upper 8, floats are taken as 0 to 1, or as 0 to 255 if any is above 1."""
    if image.mode.startswith('I') or image.mode == 'F':
        return from_wide(image)
    if image.has_transparency_data:
        return Image.alpha_composite(Image.new('RGBA', image.size, (0, 0, 0, 255)), image.convert('RGBA'))
    return image


def from_wide(image: Image.Image) -> Image.Image:
    """Mode L of whole numbers of 16 bits or of floats, some rows at a time, for in float64 they take eight times the room."""
    height = max(1, BLOCK // image.width)
    boxes = [(0, top, image.width, min(top + height, image.height)) for top in range(0, image.height, height)]
    scale = 1 / 257
    if image.mode == 'F':
        extremes = [(part.min(), part.max()) for part in (np.asarray(image.crop(box)) for box in boxes)]
        if not np.isfinite(extremes).all():
            raise InputError('has pixels that are not finite')
        scale = 255 if max(high for _, high in extremes) <= 1 else 1
    found = Image.new('L', image.size)
    for box in boxes:
        values = np.asarray(image.crop(box), np.float64) * scale
        found.paste(Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8)), box)
    return found


@dataclasses.dataclass(frozen=True)
class Images:
    """Decoded files: `faces` and `splits` have one of each of `names`; `skipped` says 'name: why' of those that are no images."""

    names: tuple[str, ...]
    faces: Faces
    splits: np.ndarray  # [n] str
    skipped: tuple[str, ...]


def read_images(path: str | os.PathLike, files: Mapping[str, tuple[str, int]], skip_bad: bool) -> Images:
    """Those files of a folder or archive, sorted by name.

    Args:
      files: name → (split, label).

    Raises:
      InputError: some are no images and `skip_bad` is false (they are counted and the first are named); or as of `members`.
    """
    found, bad = {}, {}
    with contextlib.closing(members(path)) as entries:
        for member in entries:
            if member.name in files:
                with member.open() as stream:  # what is wrong with the archive itself is no bad image, and always refused
                    content = stream.read(MAX_FILE + 1)
                try:
                    found[member.name] = decode_face(content)
                except InputError as error:
                    bad[printable(member.name)] = str(error)
    skipped = tuple(f'{name}: {why}' for name, why in sorted(bad.items()))
    if skipped and not skip_bad:
        shown = '; '.join(skipped[:NAMED]) + (f'; and {len(skipped) - NAMED:,} more' if len(skipped) > NAMED else '')
        raise InputError(f'{path}: {len(skipped):,} of {len(files):,} files are no images (--skip-bad leaves them out): {shown}')
    names = tuple(sorted(found))
    images = np.array([found[name] for name in names], np.uint8).reshape(-1, IMAGE_SIDE, IMAGE_SIDE)
    labels = np.array([files[name][1] for name in names], np.int32)
    return Images(names, Faces(images, labels), np.array([files[name][0] for name in names], str), skipped)


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where the images of a folder stand: `files` maps a name to (split, class folder); all are train in a folder without splits."""

    files: Mapping[str, tuple[str, str]]
    titles: Mapping[str, str]  # canonical split → its folder's name; empty without split folders
    ignored: tuple[str, ...]  # files with no image's ending, and images in no class folder


def read_layout(names: Listing, where: str) -> Layout:
    """Reads split/class/… or class/…, below any number of folders that hold all the rest, out of the names.

    Raises:
      InputError: no image in a class folder, folders of splits beside others, two folders for one split, an empty class folder.
    """
    prefix = _prefix(names)
    inside = {name: name[len(prefix) :].split('/') for name in names.files}
    images = {name: parts for name, parts in inside.items() if is_image_name(name) and len(parts) > 1}
    if not images:
        raise InputError(f'{where}: no image in a class folder: expected split/class/*.png or class/*.png')
    tops = sorted({parts[0] for parts in images.values()})
    titles = _split_titles(tops, where)
    if titles:
        split_of = {title: split for split, title in titles.items()}
        files = {name: (split_of[parts[0]], parts[1]) for name, parts in images.items() if len(parts) > 2}
    else:
        files = {name: ('train', parts[0]) for name, parts in images.items()}
    depth = 2 if titles else 1
    filled = {'/'.join(inside[name][:depth]) for name in files}
    for folder in names.folders:
        parts = folder[len(prefix) :].split('/')
        if folder.startswith(prefix) and len(parts) == depth and '/'.join(parts) not in filled:
            raise InputError(f'{where}: empty class: {printable(folder)} holds no image: fill it or remove it')
        if titles and folder.startswith(prefix) and len(parts) == 1 and parts[0] not in split_of:
            raise InputError(f'{where}: empty split: {printable(folder)} holds no image in a class folder: fill it or remove it')
    return Layout(files, titles, tuple(name for name in names.files if name not in files))


def _prefix(names: Listing) -> str:
    """The folders that hold all images and are neither a split nor a class: 'fer2013/archive/', or ''."""
    parts = [name.split('/') for name in names.files if is_image_name(name)]
    known = {name for folders in SPLIT_FOLDERS.values() for name in folders}
    common = os.path.commonprefix([each[:-2] for each in parts])
    return ''.join(f'{part}/' for part in itertools.takewhile(lambda part: part.lower() not in known, common))


def _split_titles(tops: list[str], where: str) -> dict[str, str]:
    """canonical split → folder, if the top folders are splits; {} if they are classes."""
    found = {split: [top for top in tops if top.lower() in folders] for split, folders in SPLIT_FOLDERS.items()}
    others = [top for top in tops if not any(top in own for own in found.values())]
    if others == tops:
        return {}
    if others:
        shown = ', '.join(map(printable, others))
        raise InputError(f'{where}: folders of splits beside others ({shown}): expected only train, validation and test')
    for split, own in found.items():
        if len(own) > 1:
            raise InputError(f'{where}: several folders for the {split} split: {", ".join(own)}')
    if not found['train']:
        raise InputError(f'{where}: no train folder beside {", ".join(tops)}')
    return {split: own[0] for split, own in found.items() if own}


def class_position(folder: str, classes: Sequence[str], synonyms: Mapping[str, str], path: str | os.PathLike) -> int:
    """The label that a class folder stands for: its name, a synonym or its number.

    Raises:
      InputError: it is none of those; the message names the nearest.
    """
    name = folder.strip().lower()
    name = synonyms.get(name, name)
    if name in classes:
        return classes.index(name)
    if name in map(str, range(len(classes))):
        return int(name)
    raise InputError(f'{path}: {unknown("class folder", folder, classes)}')
