"""An evaluation's predictions.csv, read again: for a report, for a temperature, or as a teacher's (Hinton et al., 2015)."""

import csv
import io
import os
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int32

from fer_jax.core.errors import InputError
from fer_jax.core.files import check_fields, read_json, read_text
from fer_jax.data.schema import Faces


class Predictions(NamedTuple):
    """predictions.csv, image by image in the split's order."""

    labels: Int32[np.ndarray, ' n']
    predicted: Int32[np.ndarray, ' n']
    probabilities: Float64[np.ndarray, 'n classes']  # to six digits, so that they sum to about 1

    @property
    def correct(self) -> Bool[np.ndarray, ' n']:
        """Whether the prediction is the label."""
        return self.predicted == self.labels

    @property
    def confidence(self) -> Float64[np.ndarray, ' n']:
        """The top probability."""
        return self.probabilities.max(1)


def read_teacher(
    path: str | os.PathLike, faces: Faces, class_names: tuple[str, ...], content_sha256: str
) -> Float32[np.ndarray, 'n classes']:
    """Probabilities of each of `faces`, in their order; each row is scaled to sum to 1.

    Args:
      path: what `python -m fer_jax evaluate --split train` wrote for the teacher.
      content_sha256: of the data that `faces` are of; the result.json beside the file, where there is one, must name the same.

    Raises:
      InputError: no such file, or a row that is not of these images: the file, line and field.
    """
    told = pathlib.Path(path).with_name('result.json')
    if told.exists():
        record = read_json(told)
        check_fields(record, {'content_sha256': str}, told)
        if record['content_sha256'] != content_sha256:
            other = f'{record["content_sha256"][:12]}…, not {content_sha256[:12]}…'
            raise InputError(f'{path}: predictions for other images: content_sha256 in {told.name} beside it is {other}')
    labels, _, probabilities = read_predictions(path, class_names)
    if len(labels) != len(faces):
        raise InputError(f'{path}: {len(labels):,} predictions for {len(faces):,} training images (is data.dedup the same?)')
    for line, (label, own) in enumerate(zip(labels, faces.labels, strict=True), start=2):
        if label != own:
            theirs, ours = class_names[label], class_names[own]
            raise InputError(f'{path}, line {line}: label {theirs!r}, but that training image is {ours!r}: not the same images')
    return (probabilities / probabilities.sum(1, keepdims=True)).astype(np.float32)


def read_predictions(path: str | os.PathLike, class_names: Sequence[str]) -> Predictions:
    """What an evaluation with these classes wrote.

    Raises:
      InputError: no such file, or a row that is none of such an evaluation: the file and line.
    """
    columns = ['index', 'label', 'prediction', *(f'probability_{name}' for name in class_names)]
    number = {name: position for position, name in enumerate(class_names)}
    labels, predicted, probabilities = [], [], []
    rows = csv.reader(io.StringIO(read_text(path), newline=''))
    try:
        if next(rows, []) != columns:
            raise InputError(f'{path}, line 1: no predictions of these classes: expected the columns {columns}')
        for row in rows:
            values = [float(cell) for cell in row[3:]]
            sound = len(values) == len(number) and all(0 <= value <= 1 for value in values) and sum(values) > 0.5
            if not sound or row[0] != str(len(labels)):
                raise ValueError(row)
            label, prediction = number[row[1]], number[row[2]]
            labels.append(label)
            predicted.append(prediction)
            probabilities.append(values)
    except (KeyError, IndexError, csv.Error, ValueError) as error:
        if isinstance(error, InputError):
            raise
        wanted = f'image {len(labels)} with its class, a prediction and a probability for each class'
        raise InputError(f'{path}, line {rows.line_num}: not the row of {wanted}') from None
    shape = len(labels), len(number)
    return Predictions(np.array(labels, np.int32), np.array(predicted, np.int32), np.array(probabilities, np.float64).reshape(shape))
