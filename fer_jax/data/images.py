"""Picture files of any kind as 8 bits of grey or RGB: what is a picture, and the one way from its pixels to a grey face."""

import importlib
import io
import math
import re
import threading
import warnings
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageOps

from fer_jax.core.errors import InputError
from fer_jax.data.schema import IMAGE_SIDE

# Endings of files that are meant as pictures. Others are pictures where their content is; and some of these cannot be read.
ENDINGS = (
    '.png', '.apng', '.jpg', '.jpeg', '.jpe', '.jfif', '.mpo', '.bmp', '.dib', '.gif', '.tif', '.tiff', '.webp', '.pgm', '.ppm', '.pbm',
    '.pnm', '.pfm', '.avif', '.heic', '.heif', '.hif', '.jp2', '.j2k', '.jxl', '.qoi', '.tga', '.psd', '.svg', '.ico', '.eps', '.exr',
)  # fmt: skip
# Named, because Pillow would otherwise also try formats that start other programs (EPS).
FORMATS = ('PNG', 'JPEG', 'BMP', 'GIF', 'TIFF', 'WEBP', 'PPM', 'AVIF', 'JPEG2000')
HEIC = re.compile(rb'....ftyp(heic|heix|heim|heis|hevc|hevx|mif1|msf1)', re.DOTALL)  # how a file of the HEIF kind begins
HEAD = 16  # bytes that tell a picture's format
MAX_FILE = 256 << 20  # bytes of one picture file
MEGAPIXELS = 250  # millions of pixels that a picture may have unless another number is set; RGB of so many takes 1 GB
WHOLE = 89_478_485  # pixels that are kept of a picture, at most: a larger one is read at a half of each side, a quarter, …
BLOCK = 1 << 22  # pixels that are converted together: on their way some take eight times the room
GREY = ('1', 'L', 'LA', 'La')
WHITE_IS_ZERO, TIFF_BITS = 262, 258  # tags of a TIFF: how its numbers are meant, and how many bits each has
PNG_BITS = 24  # where a PNG says how many bits its numbers have
DECODING = threading.Lock()  # for Python's warnings and Pillow's limit hold for all threads
SLACK = 0.1  # of floats' range: so far beyond it, as resampling leaves them, pixels are cut off


class TooLarge(InputError):
    """A picture of more pixels than are allowed, or than the memory takes."""


class Box(NamedTuple):
    """In pixels of the picture, turned upright."""

    left: int
    top: int
    width: int
    height: int

    def scaled(self, factor: float) -> 'Box':
        """The same in a picture whose sides are `factor` times as long."""
        return Box(*(round(value * factor) for value in self))


def is_image_name(name: str) -> bool:
    """Whether a file's ending is a picture's."""
    return name.lower().endswith(ENDINGS)


def begins_as_image(head: bytes) -> bool:
    """Whether a file with these first HEAD bytes is a picture, whatever its name."""
    if head.startswith(b'P'):  # of which Pillow says so by two letters, as a text may have them
        return re.match(rb'P[1-6]\s+[\d#]', head) is not None
    Image.init()
    return _is_heic(head) or any(Image.OPEN[form][1](head) for form in FORMATS if form in Image.OPEN)


def _is_heic(content: bytes) -> bool:
    return HEIC.match(content) is not None and b'avif' not in content[:64]  # AVIF is of the same kind


def decode_face(content: bytes, megapixels: int = MEGAPIXELS) -> UInt8[np.ndarray, '48 48']:
    """A picture file of any kind and size as a grey face: the largest centred square of `decode`'s picture, resampled to 48×48.

    Raises:
      InputError: as of `decode`.
    """
    return face_in(*decode(content, megapixels, 2 * IMAGE_SIDE), None)


def face_in(picture: Image.Image, scale: float, box: Box | None) -> UInt8[np.ndarray, '48 48']:
    """The face in what `decode` returned: the largest centred square of it, or of a box in the pixels of the file.

    Raises:
      InputError: no part of the box lies in the picture.
    """
    if box:
        left, top, width, height = box.scaled(1 / scale)
        sides = max(left, 0), max(top, 0), min(left + width, picture.width), min(top + height, picture.height)
        if sides[0] >= sides[2] or sides[1] >= sides[3]:
            size = ' × '.join(str(round(side * scale)) for side in picture.size)
            raise InputError(f'the box {box.left}, {box.top}, {box.width} × {box.height} lies outside of the picture, {size}')
        picture = picture.crop(sides)
    return square_face(picture.convert('L'))


def decode(content: bytes, megapixels: int = MEGAPIXELS, side: int | None = None, whole: int = WHOLE) -> tuple[Image.Image, float]:
    """(the picture in a file's bytes as of `plain`, turned as its EXIF says; how many times as long its sides are in the file).

    Args:
      megapixels: millions of pixels that it may have.
      side: no side need be longer than that: a JPEG is then read smaller, and as grey.
      whole: beyond so many pixels it is read at a half of its sides, a quarter, ….

    Raises:
      InputError: it is no picture of a kind that is read, is damaged, or is larger than the limits.
    """
    if not content:
        raise InputError('empty file')
    if len(content) > MAX_FILE:
        raise InputError(f'larger than {MAX_FILE >> 20} MiB')
    try:
        # Warnings are of odd metadata.
        with DECODING, warnings.catch_warnings(action='ignore'), _opened(content) as image:
            longer = max(image.size)
            if image.width * image.height > megapixels * 1_000_000:
                what = f'{image.width}×{image.height} pixels: more than {megapixels} million'
                raise TooLarge(f'{what} are a decompression bomb or want that limit raised (data.megapixels, or --megapixels)')
            factor = _reduction(image.size, whole)
            if side:
                image.draft('L', (side, side))
            elif factor > 1 and image.format == 'JPEG2000':
                image.reduce = factor.bit_length() - 1  # which is how this one is told
            elif factor > 1:
                image.draft(image.mode, (image.width // factor, image.height // factor))
            image.load()
            found = plain(image, _reduction(image.size, whole))
            if is_wide(image.mode) and _tiff_tag(image, WHITE_IS_ZERO) == 0:  # which Pillow heeds up to 8 bits
                found = ImageOps.invert(found)
            if _bits(image, content) == 16 and not found.getbbox():
                raise InputError('black throughout, of 16 bits a channel: of these the upper 8 are read: save it with 8')
            orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
            if orientation != 1:
                found.getexif()[ExifTags.Base.Orientation] = orientation
                ImageOps.exif_transpose(found, in_place=True)
            return found, longer / max(found.size)
    except InputError:
        raise
    except MemoryError:
        raise TooLarge('too large for this memory') from None
    except Image.UnidentifiedImageError:
        known = begins_as_image(content[:HEAD])
        raise InputError('damaged image at its very begin, or of a kind that Pillow does not read' if known else 'not an image') from None
    except Exception as error:  # Pillow's decoders raise a dozen kinds on damaged files, also KeyError and struct.error
        raise InputError(f'damaged image ({error})') from None


def _opened(content: bytes) -> Image.Image:
    """The picture with none of its pixels decoded yet, of whatever size."""
    formats = FORMATS
    if _is_heic(content):
        try:
            importlib.import_module('pillow_heif').register_heif_opener()
        except ImportError:
            raise InputError("not an image that is read here: HEIC needs pillow-heif: pip install 'fer_jax[heif]'") from None
        formats = ('HEIF',)
    kept, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # `decode` has a limit of its own
    try:
        return Image.open(io.BytesIO(content), formats=formats)
    finally:
        Image.MAX_IMAGE_PIXELS = kept


def _tiff_tag(image: Image.Image, tag: int) -> Any:
    return image.tag_v2.get(tag) if image.format == 'TIFF' else None


def _bits(image: Image.Image, content: bytes) -> int | None:
    """Of a channel of a colour picture, where its file says so."""
    if is_wide(image.mode):
        return None
    if image.format == 'PNG':
        return content[PNG_BITS]
    return max(_tiff_tag(image, TIFF_BITS) or (0,))


def is_wide(mode: str) -> bool:
    """Whether pixels of this mode have more than 8 bits."""
    return mode == 'F' or mode.startswith('I')


def _reduction(size: tuple[int, int], most: int) -> int:
    """By what power of two the sides of a picture are to be divided, so that `most` pixels or fewer are left."""
    return 1 << max(0, math.ceil(math.log2(size[0] * size[1] / most) / 2))


def plain(image: Image.Image, factor: int = 1, block: int = BLOCK) -> Image.Image:
    """A picture of any mode, loaded, in 8 bits, mode L where it is grey and RGB where it has colours, its sides `factor` times as short.

    Transparent parts are black. Whole numbers of more than 8 bits are of 0 to 255 where none is above 255, else of 0 to 65,535; floats
    of 0 to 1 where none is above that, else of 0 to 255. docs/predict.md has the table. So many pixels as a `block` are converted together.

    Raises:
      InputError: pixels that are not finite, or outside these ranges.
    """
    wide = is_wide(image.mode)
    mode = 'L' if wide or image.mode in GREY else 'RGB'
    if image.mode == mode and factor == 1 and not image.has_transparency_data:
        return image
    rows = factor * max(1, block // image.width // factor)
    boxes = [(0, top, image.width, min(top + rows, image.height)) for top in range(0, image.height, rows)]
    scale = _scale(image, boxes) if wide else 1.0
    found = Image.new(mode, (-(-image.width // factor), -(-image.height // factor)))
    for box in boxes:
        part = image.crop(box)
        part = _from_wide(part, scale) if wide else _opaque(part).convert(mode)
        found.paste(part if factor == 1 else part.reduce(factor), (0, box[1] // factor))
    return found


def _opaque(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image
    image = image.convert('LA') if image.mode == 'La' else image
    return Image.alpha_composite(Image.new('RGBA', image.size, (0, 0, 0, 255)), image.convert('RGBA'))


def _scale(image: Image.Image, boxes: list[tuple[int, int, int, int]]) -> float:
    """What the pixels of a mode of more than 8 bits are multiplied by."""
    parts = (np.asarray(image.crop(box)) for box in boxes)
    extremes = np.array([(part.min(), part.max()) for part in parts], np.float64)
    return scale_of(extremes[:, 0].min(), extremes[:, 1].max(), image.mode == 'F')


def scale_of(low: float, high: float, floats: bool) -> float:
    """What pixels between these, floats or whole numbers, are multiplied by to be of 0 to 255; InputError of ranges that are not read."""
    if not np.isfinite([low, high]).all():
        raise InputError('has pixels that are not finite')
    tops = {1: 255.0, 255: 1.0} if floats else {255: 1.0, 65_535: 1 / 257}
    slack = SLACK if floats else 0
    for top, scale in tops.items():
        if -slack * high <= low and high <= (1 + slack) * top:
            return scale
    kind = 'floats' if floats else 'whole numbers'
    raise InputError(f'has pixels from {low:g} to {high:g}: {kind} are read {" or ".join(f"from 0 to {top:,}" for top in tops)}')


def _from_wide(image: Image.Image, scale: float) -> Image.Image:
    values = np.asarray(image)
    grey = np.clip(np.rint(values.astype(np.float64) * scale), 0, 255).astype(np.uint8)
    if isinstance(image.info.get('transparency'), int):
        grey[values == image.info['transparency']] = 0
    return Image.fromarray(grey)


def square_face(image: Image.Image) -> UInt8[np.ndarray, '48 48']:
    """The largest centred square of a grey image, resampled to 48×48."""
    if image.size == (IMAGE_SIDE, IMAGE_SIDE):
        return np.asarray(image)
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    # Cropped first: resize(box=…) lets the pixels around the box bleed in.
    square = image.crop((left, top, left + side, top + side))
    return np.asarray(square.resize((IMAGE_SIDE, IMAGE_SIDE), Image.Resampling.BILINEAR))
