"""An evaluation's predictions.csv, read again: a teacher's probabilities (Hinton et al., 2015), or what a temperature is fitted to."""

import csv
import io
import os

import numpy as np
from jaxtyping import Float32, Int32

from fer_jax.core.errors import InputError
from fer_jax.core.files import read_text
from fer_jax.data.schema import Faces


def read_teacher(path: str | os.PathLike, faces: Faces, class_names: tuple[str, ...]) -> Float32[np.ndarray, 'n classes']:
    """Probabilities of each of `faces`, in their order; each row is scaled to sum to 1.

    Args:
      path: what `python -m fer_jax evaluate --split train` wrote for the teacher.

    Raises:
      InputError: no such file, or a row that is not of these images: the file, line and field.
    """
    labels, probabilities = read_predictions(path, class_names)
    if len(labels) != len(faces):
        raise InputError(f'{path}: {len(labels):,} predictions for {len(faces):,} training images (is data.dedup the same?)')
    for line, (label, own) in enumerate(zip(labels, faces.labels, strict=True), start=2):
        if label != own:
            theirs, ours = class_names[label], class_names[own]
            raise InputError(f'{path}, line {line}: label {theirs!r}, but that training image is {ours!r}: not the same images')
    return probabilities


def read_predictions(
    path: str | os.PathLike, class_names: tuple[str, ...]
) -> tuple[Int32[np.ndarray, 'n'], Float32[np.ndarray, 'n classes']]:
    """(labels, probabilities) of each image, in the file's order; each row of the latter is scaled to sum to 1.

    Raises:
      InputError: no such file, or a row that is none of an evaluation with these classes: the file, line and field.
    """
    columns = [f'probability_{name}' for name in class_names]
    try:
        rows = csv.DictReader(io.StringIO(read_text(path), newline=''))
        if not {'index', 'label', *columns} <= set(rows.fieldnames or ()):
            raise InputError(f'{path}, line 1: no predictions of these classes: expected the columns index, label, {", ".join(columns)}')
        found = [_row(path, line, row, columns) for line, row in enumerate(rows, start=2)]
    except csv.Error as error:
        raise InputError(f'{path}: {error}') from None
    for line, (label, _) in enumerate(found, start=2):
        if label not in class_names:
            raise InputError(f'{path}, line {line}: label {label!r} is none of {", ".join(class_names)}')
    labels = np.array([class_names.index(label) for label, _ in found], np.int32)
    probabilities = np.array([values for _, values in found], np.float64).reshape(-1, len(columns))
    return labels, (probabilities / probabilities.sum(1, keepdims=True)).astype(np.float32)


def _row(path: str | os.PathLike, line: int, row: dict[str, str], columns: list[str]) -> tuple[str, list[float]]:
    """The label and the probabilities of one row."""
    try:
        values = [float(row[column]) for column in columns]
    except (TypeError, ValueError):
        values = []
    if not values or not all(0 <= value <= 1 for value in values) or sum(values) < 0.5 or row['index'] != str(line - 2):
        raise InputError(f'{path}, line {line}: not the row of image {line - 2} with a probability for each class')
    return row['label'], values
