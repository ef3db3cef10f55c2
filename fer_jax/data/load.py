"""A prepared data set, in memory or with its training images in their shards: checked, with duplicates left out and votes joined."""

import dataclasses
import os

import numpy as np
from ml_collections import ConfigDict

from fer_jax.core.errors import InputError
from fer_jax.core.files import sha256_file
from fer_jax.data import ferplus
from fer_jax.data.manifest import content_sha256, identities
from fer_jax.data.near_duplicates import LEAST, parts, read_closeness
from fer_jax.data.prepare import prepare, prepared_folder
from fer_jax.data.schema import IMAGE_SIDE, SPLITS, Dataset
from fer_jax.data.shards import note_checked, open_split

VOTED = ('ferplus', 'fer2013')  # the data sets that FER+ has votes for
RESIDENT_SHARE = 0.25  # of a device's memory that the training images may take; the rest is for what a step holds


def load(data: ConfigDict, device_memory: int | None = None) -> Dataset:
    """The data set that `data` (config.data) names, prepared on demand; all of it in memory (83 MB for FER2013), or, where
    `pipeline` says stream, all but the training images.

    With data.votes every Faces carries FER+'s soft targets; with data.dedup train lacks the images whose pixels also stand in
    validation or test, or, by `near`, those that are like one there. Both are noted in the Dataset's manifest, as 'votes' and
    'dedup'. The subsets of validation and test are the images that are like one of train as it was prepared, and the others: the
    same ones whatever dedup leaves out, so that what a network knows by memory shows beside one that was trained without.

    Raises:
      InputError: as of `prepare`; the prepared files do not hold what their manifest says; votes do not fit the data; or dedup is
        wanted of training images that are not in memory.
    """
    if data.votes and data.dataset not in VOTED:
        raise InputError(f'data.votes: FER+ has votes for {" and ".join(VOTED)} only, not for {data.dataset}')
    if data.votes and not os.path.exists(data.votes):
        raise InputError(f'data.votes: no such file: {data.votes}')
    manifest = prepare(data)
    folder = prepared_folder(data, manifest)
    streamed = pipeline(data.pipeline, manifest['splits']['train']['count'], device_memory) == 'stream'
    if streamed and data.dedup != 'none':
        raise InputError('data.dedup compares whole images, which data.pipeline=stream does not hold: set data.pipeline=resident')
    opened = {split: open_split(folder, split) for split in SPLITS}
    splits = {split: faces for split, (faces, _) in opened.items()}
    for split in SPLITS[streamed:]:
        splits[split] = dataclasses.replace(splits[split], images=splits[split].images[:])
    checked = streamed and opened['train'][1]
    counts = {split: manifest['splits'][split]['count'] for split in SPLITS}
    fitting = {split: len(faces) for split, faces in splits.items()} == counts
    if not (fitting and (checked or content_sha256(splits) == manifest['content_sha256'])):
        raise InputError(f'{folder}: damaged: its records are not those of its manifest.json: delete the folder and prepare again')
    if streamed and not checked:
        note_checked(folder, 'train', splits['train'])
    titles = {split: manifest['splits'][split]['title'] for split in SPLITS}
    near = read_closeness(folder, counts) if manifest['near_duplicates'] else None
    if near is not None:
        for split in SPLITS[1:]:
            splits[split] = dataclasses.replace(splits[split], subsets=parts(near[split]))
    if data.votes:
        if data.dataset == 'ferplus':
            joined = {split: ferplus.join(data.votes, data.targets, faces, split) for split, faces in splits.items()}
        else:
            joined = {split: (votes, None) for split, votes in ferplus.fer2013_targets(data.votes, splits, titles).items()}
        for split, (votes, strict) in joined.items():
            subsets = ({} if strict is None else {ferplus.STRICT: strict}) | (splits[split].subsets or {})
            splits[split] = dataclasses.replace(splits[split], votes=votes, subsets=subsets or None)
        manifest['votes'] = {'path': data.votes, 'sha256': sha256_file(data.votes)}
    if data.dedup != 'none':
        number = identities(splits)
        clean = ~np.isin(number['train'], np.concatenate([number['validation'], number['test']]))
        if data.dedup == 'near':
            if near is None:
                raise InputError(f'data.dedup=near: near-duplicates were not looked for in {data.dataset}: choose none or exact')
            clean &= near['train'] <= LEAST
        splits['train'] = splits['train'].take(clean)
        manifest['dedup'] = {'left_out_of_train': int(np.count_nonzero(~clean))}
    return Dataset(manifest['dataset'], tuple(manifest['class_names']), splits, titles, manifest)


def pipeline(chosen: str, images: int, device_memory: int | None) -> str:
    """`resident` or `stream`: what is `chosen`, or by `auto` what so many training images of 48×48 bytes ask for.

    Args:
      device_memory: bytes of one device, each of which would hold all of them; None is more than enough.
    """
    if chosen != 'auto':
        return chosen
    return 'resident' if device_memory is None or images * IMAGE_SIDE**2 <= RESIDENT_SHARE * device_memory else 'stream'
