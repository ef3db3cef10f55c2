"""A teacher's probabilities for the training images, out of an evaluation's predictions.csv (Hinton et al., 2015)."""

import csv
import io
import os

import numpy as np
from jaxtyping import Float32

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
    columns = [f'probability_{name}' for name in class_names]
    try:
        rows = csv.DictReader(io.StringIO(read_text(path), newline=''))
        if not {'index', 'label', *columns} <= set(rows.fieldnames or ()):
            raise InputError(f'{path}, line 1: no predictions of these classes: expected the columns index, label, {", ".join(columns)}')
        found = [_row(path, line, row, columns) for line, row in enumerate(rows, start=2)]
    except csv.Error as error:
        raise InputError(f'data.teacher {path}: {error}') from None
    if len(found) != len(faces):
        raise InputError(f'{path}: {len(found):,} predictions for {len(faces):,} training images (is data.dedup the same?)')
    for line, ((label, _), own) in enumerate(zip(found, faces.labels, strict=True), start=2):
        if label != class_names[own]:
            raise InputError(f'{path}, line {line}: label {label!r}, but that training image is {class_names[own]!r}: not the same images')
    probabilities = np.array([values for _, values in found], np.float64).reshape(-1, len(columns))
    return (probabilities / probabilities.sum(1, keepdims=True)).astype(np.float32)


def _row(path: str | os.PathLike, line: int, row: dict[str, str], columns: list[str]) -> tuple[str, list[float]]:
    """The label and the probabilities of one row."""
    try:
        values = [float(row[column]) for column in columns]
    except (TypeError, ValueError):
        values = []
    if not values or not all(0 <= value <= 1 for value in values) or sum(values) < 0.5 or row['index'] != str(line - 2):
        raise InputError(f'{path}, line {line}: not the row of image {line - 2} with a probability for each class')
    return row['label'], values
