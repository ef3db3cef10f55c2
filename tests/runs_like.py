"""Run folders written by hand, as `train` leaves them, for what reads them."""

import csv
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from fer_jax.core.config import set_field
from fer_jax.core.fields import default_config
from fer_jax.core.statistics import calibration_error
from fer_jax.evaluation.scores import summarise_confusion

NAMES = ('angry', 'disgust', 'fear', 'happy', 'sad', 'surprise', 'neutral')
TITLES = {'train': 'Training', 'validation': 'PublicTest', 'test': 'PrivateTest'}


def right(count: int, of: int = 100, first: int = 0) -> np.ndarray:
    """Whether each of `of` images is right: `count` of them in a row from position `first` on, round the end."""
    return (np.arange(of) - first) % of < count


def write_run(
    folder: pathlib.Path,
    name: str = 'base',
    seed: int = 0,
    correct: np.ndarray | int = 60,
    *,
    fields: dict[str, str] | None = None,
    class_names: Sequence[str] = NAMES,
    content: str = 'c0ffee',
    dataset: str = 'fer2013',
    parameters: int = 1_500_000,
    splits: Sequence[tuple[str, str]] = (('validation', 'centre'), ('test', 'centre'), ('test', 'ten')),
    validation: int | None = None,
    more: dict[str, Any] | None = None,
) -> pathlib.Path:
    """A finished run whose image i is of class i % classes, and where it is wrong is taken for the next class, with probability 0.8.

    Args:
      correct: whether each test image is right, or how many of 100 are; `validation` is the same of validation, as in the test if None.
      fields: dotted field of the configuration → text.
      more: fields that result.json has besides.
    """
    config = default_config()
    config.name, config.seed = name, seed
    config.data.dataset, config.data.path = dataset, 'somewhere'
    for field, text in (fields or {}).items():
        set_field(config, field, text)
    folder.mkdir(parents=True)
    (folder / 'config.json').write_text(json.dumps(config.to_dict()))
    lines = [{'step': 10 * e, 'kind': 'train', 'epoch': float(e), 'loss': 2 - e / 20, 'accuracy': e / 20} for e in range(1, 11)]
    lines += [{'step': 10 * e, 'kind': 'validation', 'epoch': float(e), 'nll': 2 - e / 25, 'accuracy': e / 25} for e in range(1, 11)]
    (folder / 'metrics.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in lines))
    test = right(correct) if isinstance(correct, int) else correct
    for split, views in splits:
        write_scoring(folder, config, split, views, right(validation) if split == 'validation' and validation else test, class_names)
    environment = {'python': '3.11.7', 'cpu': 'a processor', 'device': {'platform': 'cpu', 'kind': 'cpu', 'count': 4}}
    environment |= {'packages': {'jax': '0.10.2', 'flax': '0.12.8'}, 'code': {'revision': '0123456789abcdef', 'dirty': False}}
    result = {'name': name, 'seed': seed, 'parameters': parameters, 'steps': 100, 'best_step': 90, 'training_seconds': 120.0, 'starts': 1}
    result |= {'environment': environment, 'content_sha256': content, 'class_names': list(class_names), 'split_titles': TITLES}
    (folder / 'result.json').write_text(json.dumps(result | (more or {})))
    return folder


def write_scoring(folder: pathlib.Path, config: Any, split: str, views: str, correct: np.ndarray, class_names: Sequence[str]) -> None:
    """evaluations/best-<title>-<views>/ with result.json and predictions.csv."""
    classes = len(class_names)
    labels = np.arange(len(correct)) % classes
    predictions = np.where(correct, labels, (labels + 1) % classes)
    confusion = np.zeros((classes, classes), int)
    np.add.at(confusion, (labels, predictions), 1)
    protocol = {'data': config.data.dataset, 'trained_on': 'Training', 'train_images': 28709, 'dedup': False, 'chosen_on': 'PublicTest'}
    protocol |= {'split': TITLES[split], 'views': views, 'weights': 'average', 'epoch': 9.0}
    error = calibration_error(np.full(len(correct), 0.8), correct)
    summary = summarise_confusion(confusion, class_names) | {'nll': 1.0, 'calibration_error': error, 'protocol': protocol}
    where = folder / 'evaluations' / f'best-{TITLES[split]}-{views}'
    where.mkdir(parents=True)
    (where / 'result.json').write_text(json.dumps(summary))
    with open(where / 'predictions.csv', 'w', newline='') as file:
        writer = csv.writer(file, lineterminator='\n')
        writer.writerow(['index', 'label', 'prediction', *(f'probability_{name}' for name in class_names)])
        for i, (label, prediction) in enumerate(zip(labels, predictions, strict=True)):
            row = [f'{0.8 if c == prediction else 0.2 / (classes - 1):.6f}' for c in range(classes)]
            writer.writerow([i, class_names[label], class_names[prediction], *row])
