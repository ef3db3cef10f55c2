"""The data sets by name: what each takes of config.data, and its source read, with all three splits.

A data set is a function that returns a Source, and its line in READERS. Its parameters are the fields of config.data that its
content depends on.
"""

import dataclasses
import inspect
import os
from collections.abc import Callable
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from fer_jax.core.errors import InputError, unknown
from fer_jax.data import ckplus, fer2013, ferplus, image_folder, image_table, toyfaces
from fer_jax.data.images import MEGAPIXELS
from fer_jax.data.schema import SPLITS, Source
from fer_jax.data.splits import draw_splits

READERS: dict[str, Callable[..., Source]] = {
    'toyfaces': toyfaces.read,
    'fer2013': fer2013.read,
    'ferplus': ferplus.read,
    'ckplus': ckplus.read,
    'image_folder': image_folder.read,
    'image_table': image_table.read,
}
# How often what a reader makes of the same files has changed: what was prepared before, perhaps misread, is prepared anew.
CHANGES = {'image_folder': 1, 'image_table': 1}
FILES = ('path', 'votes')  # parameters that name what is read: they must be given, and are watched for changes


def request_of(data: ConfigDict) -> dict[str, Any]:
    """What determines the prepared content of the data set that `data` (config.data) names, besides the source's own bytes.

    Raises:
      InputError: no such data set, one of its files is not given, or a field is set that it does not heed.
    """
    if data.dataset not in READERS:
        raise unknown('data.dataset', data.dataset, READERS)
    taken = _taken(data)
    for field in FILES:
        if field in taken and not data[field]:
            raise InputError(f'data.{field} is not set: {data.dataset} is read from it: give the file or folder as --config.data.{field}=…')
    if data.targets != 'crossentropy' and 'targets' not in taken:
        raise InputError(f'data.targets={data.targets}: only ferplus has votes to make targets of, not {data.dataset}')
    own = {field: os.path.abspath(data[field]) if field in FILES else data[field] for field in taken if field != 'megapixels'}
    own |= image_table.located(own['path'], own['table']) if data.dataset == 'image_table' else {}
    drawn = {'validation_fraction': data.validation_fraction, 'test_fraction': data.test_fraction, 'split_seed': data.split_seed}
    # Only where they are set, so that what was prepared before they were there is found again.
    drawn |= {} if data.megapixels == MEGAPIXELS or 'megapixels' not in taken else {'megapixels': data.megapixels}
    drawn |= {} if data.by_subject else {'by_subject': False}
    drawn |= {'folds': data.folds, 'fold': data.fold} if data.folds else {}
    drawn |= {'changes': CHANGES[data.dataset]} if data.dataset in CHANGES else {}
    return {'dataset': data.dataset, 'path': None} | own | drawn


def read_source(data: ConfigDict) -> Source:
    """The source with all three splits, checked.

    Raises:
      InputError: as of `request_of` and of the reader; a split without images, or a class without any in train.
    """
    request = request_of(data)
    source = READERS[data.dataset](**{field: request.get(field, data[field]) for field in _taken(data)})
    drawn = (data.validation_fraction, data.test_fraction, data.split_seed, data.by_subject, data.folds, data.fold)
    source = draw_splits(source, *drawn)
    notes = list(source.warnings)
    if source.skipped:
        notes.append(f'{data.path}: {len(source.skipped):,} files or rows could not be read and are left out, first {source.skipped[0]}')
    for split in SPLITS:
        faces, title = source.splits[split], source.split_titles[split]
        if not len(faces):
            raise InputError(f'{data.path}: empty split: {title} has no image')
        counts = np.bincount(faces.labels, minlength=len(source.class_names))
        empty = ', '.join(name for name, count in zip(source.class_names, counts, strict=True) if not count)
        if empty and split == 'train':
            raise InputError(f'{data.path}: empty class: {title} has no image of {empty}')
        if empty:
            notes.append(f'{source.name} {title}: no image of {empty}')
    return dataclasses.replace(source, warnings=tuple(notes))


def _taken(data: ConfigDict) -> list[str]:
    """The fields of config.data that the data set's reader takes."""
    return list(inspect.signature(READERS[data.dataset]).parameters)
