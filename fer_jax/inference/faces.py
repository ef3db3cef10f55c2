"""Photographs as arrays, and the faces in them, found by a detector and cut out as FER2013's are: grey, 48×48, filled by the face."""

import math
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from fer_jax.core.errors import InputError
from fer_jax.core.fields import MIN_SCORE
from fer_jax.data.images import MEGAPIXELS, Box, decode, plain, square_face
from fer_jax.inference.mtcnn import MTCNN

Photo = UInt8[np.ndarray, 'height width 3']  # RGB
# The longer side of what a detector is given. MTCNN finds faces of SMALLEST pixels and more in it, YuNet of about 10 to 300.
LONGER_SIDE = {'mtcnn': 1280, 'cascade': 1280, 'yunet': 640}
SMALLEST = {'mtcnn': 20.0, 'cascade': 30.0, 'yunet': 10.0}
# The side of what is cut out over that of a detector's box (the mean of its sides). The median over faces of FER2013 drawn into larger
# pictures is 1.03 for the cascade, by which they were once cut, and 1.09 for MTCNN, with which the network is right a little less often
# than with 1.03. YuNet's box ends, like MTCNN's, at forehead, chin and ears.
MARGIN = 1.03
OVERLAP = 0.5  # of two boxes, as a share of the smaller: the less certain goes


class Cut(NamedTuple):
    """A face in a picture, and what the network is given of it."""

    box: Box
    pixels: UInt8[np.ndarray, '48 48']
    score: float | None = None  # in 0..1, how sure the detector is; None where it does not say
    landmarks: Float[np.ndarray, '5 2'] | None = None  # (x, y) of the eyes, the nose and the corners of the mouth, from left to right


class Found(NamedTuple):
    """What a detector finds: a face's box, how sure it is, and where eyes, nose and mouth are, as of Cut."""

    left: float
    top: float
    width: float
    height: float
    score: float | None = None
    landmarks: Float[np.ndarray, '5 2'] | None = None


# Of an image, faces of so many pixels and more, or, by those that can, only about these boxes (left, top, right, bottom) if there are any.
Finder = Callable[[UInt8[np.ndarray, 'height width 3'], float], list[Found]]
# Of a picture, and how many times as long its sides are in its file (1 unless it is told): the faces from left to right.
Detector = Callable[..., list[Cut]]


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


def make_detector(name: str | os.PathLike = 'mtcnn', min_score: float = MIN_SCORE, min_size: float = 0.0) -> Detector:
    """Finds the faces in a picture.

    Args:
      name: `mtcnn` (Zhang et al., 2016) finds upright, turned and tilted faces; `cascade` (Viola & Jones, 2001) upright ones from the
        front, and gives no scores; anything else is the file of a YuNet model (Wu et al., 2023).
      min_score: faces less certain than this are left out.
      min_size: so are faces whose box is narrower or lower than so many pixels of the picture in its file.

    Raises:
      InputError: OpenCV or MTCNN's weights are not installed, a file that is no such model, or a score that no face can have.
    """
    if not 0 <= min_score <= 1:
        raise InputError(f'--min-score {min_score:g}: expected a number from 0 to 1')
    if not min_size >= 0:
        raise InputError(f'--min-size {min_size:g}: expected a number of pixels')
    cv2 = opencv('finding faces')
    kind = os.fspath(name) if name in FINDERS else 'yunet'
    find = FINDERS[kind](cv2, min_score) if name in FINDERS else yunet(cv2, os.fspath(name), min_score)

    def detect(photo: Photo, in_file: float = 1.0) -> list[Cut]:
        image, least = Image.fromarray(photo), min_size / in_file
        scale = reduce(image, LONGER_SIDE[kind])
        found = find(np.asarray(image), max(SMALLEST[kind], least / scale))
        faces = [scaled(face, scale) for face in distinct(found)]
        return sorted((cut_out(photo, face) for face in faces if min(face[2:4]) >= least), key=lambda face: face.box)

    return detect


def mtcnn(cv2: Any, min_score: float) -> Finder:
    """MTCNN, with the weights that come with a package."""
    networks = MTCNN(cv2, min_score)

    def find(image: Photo, side: float) -> list[Found]:
        rows = zip(*networks.find(image, side), strict=True)
        return [Found(left, top, right - left, bottom - top, float(score), points) for (left, top, right, bottom), score, points in rows]

    return find


def cascade(cv2: Any, min_score: float) -> Finder:
    """The cascade that comes with OpenCV, which gives no scores."""
    classifier = cv2.CascadeClassifier(os.path.join(cv2.data.haarcascades, 'haarcascade_frontalface_default.xml'))

    def find(image: Photo, side: float) -> list[Found]:
        grey, least = np.asarray(Image.fromarray(image).convert('L')), math.ceil(side)
        boxes = classifier.detectMultiScale(grey, scaleFactor=1.1, minNeighbors=5, minSize=(least, least))
        return [Found(*map(float, box)) for box in boxes]

    return find


def yunet(cv2: Any, path: str, min_score: float) -> Finder:
    """The YuNet model of an ONNX file; InputError where it is none."""
    if not os.path.isfile(path):
        raise InputError(f'{path}: no such file; {", ".join(FINDERS)} come without one')
    side = LONGER_SIDE['yunet']

    def find(image: Photo, least: float) -> list[Found]:
        model.setInputSize(image.shape[1::-1])
        _, found = model.detect(np.ascontiguousarray(image[..., ::-1]))
        # Rows are left, top, width, height, then (x, y) of five points, and the score.
        return [Found(*row[:4], float(row[14]), row[4:14].reshape(5, 2)) for row in (() if found is None else found.astype(float))]

    try:
        model = cv2.FaceDetectorYN.create(path, '', (side, side), min_score)
        # A model of another kind can be read as well, but lacks the outputs.
        find(np.zeros((side, side, 3), np.uint8), 0.0)
    except cv2.error:
        raise InputError(f'{path}: no YuNet model; face_detection_yunet_2023mar.onnx of OpenCV Zoo is one') from None
    return find


FINDERS = {'mtcnn': mtcnn, 'cascade': cascade}


def distinct(faces: Sequence[Found]) -> list[Found]:
    """The faces without those that a more certain one, or a larger one, overlaps by more than OVERLAP of the smaller of the two."""
    kept: list[Found] = []
    for face in sorted(faces, key=lambda face: (-(face.score or 0), -face.width * face.height)):
        shares = (shared(face, other) / min(face.width * face.height, other.width * other.height) for other in kept)
        if all(share <= OVERLAP for share in shares):
            kept.append(face)
    return kept


def shared(one: Box | Found, other: Box | Found) -> int | float:
    """The pixels that two boxes have in common."""
    width = min(one.left + one.width, other.left + other.width) - max(one.left, other.left)
    height = min(one.top + one.height, other.top + other.height) - max(one.top, other.top)
    return max(0, width) * max(0, height)


def scaled(face: Found, factor: float) -> Found:
    """The face in a picture `factor` times as large."""
    box = [factor * each for each in face[:4]]
    return Found(*box, face.score, None if face.landmarks is None else factor * face.landmarks)


def cut_out(photo: Photo, face: Found) -> Cut:
    """The square that FER2013 would have of a face, turned until the eyes are level where it is known where they are."""
    middle = face.left + face.width / 2, face.top + face.height / 2
    return level(photo, *middle, MARGIN * math.sqrt(face.width * face.height), face.score, face.landmarks)


def level(photo: Photo, x: float, y: float, side: float, score: float | None, landmarks: Float[np.ndarray, '5 2'] | None) -> Cut:
    """`cut` of a face with this score and these landmarks, turned until its eyes are level."""
    across, down = (1.0, 0.0) if landmarks is None else landmarks[1] - landmarks[0]
    return cut(photo, x, y, side, math.degrees(math.atan2(down, across)))._replace(score=score, landmarks=landmarks)


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
