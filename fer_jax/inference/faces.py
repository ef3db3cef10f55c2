"""Photographs as arrays, and the faces in them, found by OpenCV and cut out as FER2013's are: grey, 48×48, filled by the face."""

import math
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from fer_jax.core.errors import InputError
from fer_jax.data.images import MEGAPIXELS, Box, decode, plain, square_face

Photo = UInt8[np.ndarray, 'height width 3']  # RGB
# The longer side of what a detector is given. YuNet finds faces of about 10 to 300 pixels, the cascade of CASCADE_FACE and more.
CASCADE_SIDE, YUNET_SIDE = 1280, 640
CASCADE_FACE = 30
# FER2013's square over the cascade's, which it was once cut by: the median over 219 of its faces, found again in larger pictures.
CASCADE_MARGIN = 1.03
YUNET_MARGIN = 1.1  # an estimate: its box ends at forehead, chin and ears


class Cut(NamedTuple):
    """A face in a picture, and what the network is given of it."""

    box: Box
    pixels: UInt8[np.ndarray, '48 48']


Detector = Callable[[Photo], list[Cut]]  # the faces from left to right


def opencv(what: str) -> Any:
    """OpenCV, loaded only where it is needed; where it is not installed, InputError says that `what` needs it."""
    os.environ.setdefault('OPENCV_LOG_LEVEL', 'SILENT')  # what is wrong is said once, and by us
    os.environ.setdefault('OPENCV_FFMPEG_LOGLEVEL', '-8')
    try:
        import cv2
    except ImportError:
        raise InputError(f"{what} needs OpenCV, which is not installed: pip install 'fer_jax[predict]'") from None
    return cv2


def read_photo(content: bytes, megapixels: int = MEGAPIXELS) -> tuple[Photo, float]:
    """(an image file as RGB, as of images.decode, which also has the errors; how many times as long its sides are in the file)."""
    picture, scale = decode(content, megapixels)
    return np.asarray(picture.convert('RGB')), scale


def photo_of(array: UInt8[np.ndarray, '...']) -> Photo:
    """An array [height, width] of grey, or [height, width, 3 or 4] of RGB or RGBA, as RGB; InputError of another shape."""
    if array.ndim not in (2, 3) or 0 in array.shape or array.ndim == 3 and array.shape[-1] not in (3, 4):
        raise InputError(f'an array of shape {array.shape} is no picture: [height, width], or [height, width, 3 or 4], does')
    return np.asarray(plain(Image.fromarray(array)).convert('RGB'))


def whole(photo: Photo) -> Cut:
    """The largest centred square of a picture that is a face already."""
    height, width = photo.shape[:2]
    side = min(height, width)
    return Cut(Box((width - side) // 2, (height - side) // 2, side, side), square_face(Image.fromarray(photo).convert('L')))


def make_detector(model: str | os.PathLike | None = None) -> Detector:
    """OpenCV's cascade for faces from the front (Viola & Jones, 2001), which comes with it, or YuNet (Wu et al., 2023) of an ONNX file.

    YuNet also finds faces that are turned or tilted, and its faces are turned until the eyes are level.

    Raises:
      InputError: OpenCV is not installed, or the file is no such model.
    """
    cv2 = opencv('finding faces')
    if model is None:
        cascade = cv2.CascadeClassifier(os.path.join(cv2.data.haarcascades, 'haarcascade_frontalface_default.xml'))
        return lambda photo: by_cascade(cascade, photo)
    if not os.path.isfile(model):
        raise InputError(f'{model}: no such file')
    try:
        yunet = cv2.FaceDetectorYN.create(os.fspath(model), '', (YUNET_SIDE, YUNET_SIDE))
        # A model of another kind can be read as well, but lacks the outputs.
        by_yunet(yunet, np.zeros((YUNET_SIDE, YUNET_SIDE, 3), np.uint8))
    except cv2.error:
        raise InputError(f'{model}: no YuNet model; face_detection_yunet_2023mar.onnx of OpenCV Zoo is one') from None
    return lambda photo: by_yunet(yunet, photo)


def by_cascade(cascade: Any, photo: Photo) -> list[Cut]:
    """The faces that a cv2.CascadeClassifier finds."""
    image = Image.fromarray(photo).convert('L')
    scale = reduce(image, CASCADE_SIDE)
    found = cascade.detectMultiScale(np.asarray(image), scaleFactor=1.1, minNeighbors=5, minSize=(CASCADE_FACE, CASCADE_FACE))
    squares = [(scale * (x + side / 2), scale * (y + side / 2), scale * side * CASCADE_MARGIN) for x, y, side, _ in found]
    return sorted((cut(photo, *square) for square in squares), key=lambda face: face.box)


def by_yunet(yunet: Any, photo: Photo) -> list[Cut]:
    """The faces that a cv2.FaceDetectorYN finds."""
    image = Image.fromarray(photo)
    scale = reduce(image, YUNET_SIDE)
    yunet.setInputSize(image.size)
    _, found = yunet.detect(np.ascontiguousarray(np.asarray(image)[..., ::-1]))
    faces = []
    # Rows are left, top, width, height, then (x, y) of five points, the first two of them the eyes, from left to right.
    for left, top, width, height, x0, y0, x1, y1, *_ in () if found is None else scale * found.astype(float):
        square = left + width / 2, top + height / 2, YUNET_MARGIN * max(width, height)
        faces.append(cut(photo, *square, math.degrees(math.atan2(y1 - y0, x1 - x0))))
    return sorted(faces, key=lambda face: face.box)


def reduce(image: Image.Image, side: int) -> float:
    """Makes the longer side of `image` `side` at most, in place, and returns by how much it was longer."""
    longer = max(image.size)
    image.thumbnail((side, side), Image.Resampling.BILINEAR)
    return longer / max(image.size)


def cut(photo: Photo, x: float, y: float, side: float, angle: float = 0.0) -> Cut:
    """The square about (x, y), turned anticlockwise by `angle` degrees; places beyond the picture take its nearest pixel.

    The box is the part of the unturned square that lies in the picture.
    """
    side = max(1, round(side))
    left, top = round(x - side / 2), round(y - side / 2)
    spare = math.ceil(side * (math.sqrt(2) - 1) / 2) if angle else 0  # so that the turned square lies in what is cut out first
    height, width = photo.shape[:2]
    rows = np.clip(np.arange(top - spare, top + side + spare), 0, height - 1)
    columns = np.clip(np.arange(left - spare, left + side + spare), 0, width - 1)
    image = Image.fromarray(photo[np.ix_(rows, columns)]).convert('L')
    if angle:
        image = image.rotate(angle, Image.Resampling.BILINEAR).crop((spare, spare, spare + side, spare + side))
    right, bottom = min(left + side, width), min(top + side, height)
    box = Box(max(left, 0), max(top, 0), right - max(left, 0), bottom - max(top, 0))
    return Cut(box, square_face(image))
