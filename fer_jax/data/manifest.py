"""What a prepared data set holds: counts, checksums and duplicates, as a manifest and as a table for people."""

import datetime
import hashlib
import importlib.metadata
import pathlib
import platform
from collections.abc import Mapping

import numpy as np
from jaxtyping import Int64

from fer_jax.core.errors import InputError, printable
from fer_jax.core.files import check_fields, read_json
from fer_jax.data.near_duplicates import LEAST
from fer_jax.data.schema import SPLITS, Faces, Source

FORMAT = 2  # of the prepared folder; another number prepares anew
MOST_NAMES = 12  # of classes that a line shows
BLOCK = 4096  # images looked at together: those of a split may be read as they are asked for
FIELDS = {
    'key': str, 'dataset': str, 'class_names': list, 'splits': dict, 'content_sha256': str, 'duplicates': dict,
    'near_duplicates': (dict, type(None)), 'notes': list,
    'source': dict, 'skipped': list, 'warnings': list, 'prepared_at': str,
}  # fmt: skip
PAIRS = [(later, earlier) for i, later in enumerate(SPLITS) for earlier in SPLITS[:i]]  # between which duplicates are counted
PACKAGES = ('numpy', 'pillow', 'tensorflow-datasets', 'array-record')


def manifest_of(source: Source, near_duplicates: dict[str, int] | None) -> dict:
    """The part of a manifest that depends on the prepared content, and the versions it was prepared with.

    Args:
      near_duplicates: as of near_duplicates.counts; None where they were not looked for.
    """
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    counts = {split: np.bincount(faces.labels, minlength=len(source.class_names)) for split, faces in source.splits.items()}
    return {
        'format': FORMAT,
        'dataset': source.name,
        'class_names': list(source.class_names),
        'splits': {
            split: {
                'title': source.split_titles[split],
                'count': len(source.splits[split]),
                'classes': dict(zip(source.class_names, counts[split].tolist(), strict=True)),
                'subjects': None if source.splits[split].subjects is None else len(set(source.splits[split].subjects)),
            }
            for split in SPLITS
        },
        'content_sha256': content_sha256(source.splits),
        'duplicates': _duplicates(source.splits),
        'near_duplicates': near_duplicates,
        'skipped': list(source.skipped),
        'warnings': list(source.warnings),
        'notes': list(source.notes),
        'versions': {'python': platform.python_version(), **versions},
        'prepared_at': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
    }


def read_manifest(path: pathlib.Path) -> dict:
    """The manifest in `path`. One of this format holds what its readers take from it.

    Raises:
      InputError: it cannot be read or holds less; the message names the file and the field.
    """
    manifest = read_json(path)
    check_fields(manifest, {'format': int, 'request': dict}, path)
    if manifest['format'] != FORMAT:
        return manifest
    check_fields(manifest, FIELDS, path)
    check_fields(manifest, {'request': {'dataset': str}, 'source': {'sha256': str}, 'splits': dict.fromkeys(SPLITS, dict)}, path)
    for field in ('class_names', 'skipped', 'warnings', 'notes'):
        if not all(isinstance(each, str) for each in manifest[field]):
            raise InputError(f'{path}: field {field} is not a list of texts')
    split = {'title': str, 'count': int, 'classes': dict.fromkeys(manifest['class_names'], int), 'subjects': (int, type(None))}
    across = dict.fromkeys((f'{later} in {earlier}' for later, earlier in PAIRS), int)
    numbers = {'surplus': int, 'groups': int, 'groups_with_conflicting_labels': int, 'across': across}
    near = {'near_duplicates': dict.fromkeys(SPLITS, int)} if manifest['near_duplicates'] is not None else {}
    check_fields(manifest, {'splits': dict.fromkeys(SPLITS, split), 'duplicates': numbers, **near}, path)
    if manifest['key'] != path.parent.name:
        raise InputError(f'{path}: field key is {manifest["key"]!r}, but its folder is another: delete the folder and prepare again')
    return manifest


def content_sha256(splits: Mapping[str, Faces]) -> str:
    """The sha256 over each split's name, count, pixels and labels (little-endian int32), in order; it names the data."""
    digest = hashlib.sha256()
    for split in SPLITS:
        digest.update(f'{split} {len(splits[split])}\n'.encode())
        for start in range(0, len(splits[split]), BLOCK):
            digest.update(np.ascontiguousarray(splits[split].images[start : start + BLOCK]).data)
        digest.update(np.ascontiguousarray(splits[split].labels, '<i4').data)
    return digest.hexdigest()


def identities(splits: Mapping[str, Faces]) -> dict[str, Int64[np.ndarray, 'n']]:
    """A number for each image, over all splits, the same exactly where all pixels are."""
    numbers: dict[bytes, int] = {}  # by checksum: the images themselves may be more than memory holds

    def of_split(faces: Faces) -> Int64[np.ndarray, 'n']:
        blocks = (faces.images[start : start + BLOCK] for start in range(0, len(faces), BLOCK))
        digests = (hashlib.sha256(image).digest() for block in blocks for image in np.ascontiguousarray(block))
        return np.fromiter((numbers.setdefault(digest, len(numbers)) for digest in digests), np.int64, len(faces))

    return {split: of_split(splits[split]) for split in SPLITS}


def _duplicates(splits: Mapping[str, Faces]) -> dict:
    """Counts of pixel-identical images: surplus ones, those of a later split that stand in an earlier one, and label conflicts."""
    number = identities(splits)
    all_numbers = np.concatenate([number[split] for split in SPLITS])
    all_labels = np.concatenate([splits[split].labels for split in SPLITS])
    _, sizes = np.unique(all_numbers, return_counts=True)
    kinds = np.unique(np.stack([all_numbers, all_labels]), axis=1)[0]  # one entry for each label that an image carries
    _, labels_of = np.unique(kinds, return_counts=True)
    return {
        'surplus': int(sizes.sum() - len(sizes)),
        'groups': int((sizes > 1).sum()),
        'within': {split: len(number[split]) - len(np.unique(number[split])) for split in SPLITS},
        'across': {f'{later} in {earlier}': int(np.isin(number[later], number[earlier]).sum()) for later, earlier in PAIRS},
        'groups_with_conflicting_labels': int((labels_of > 1).sum()),
    }


def understood(manifest: dict) -> list[str]:
    """What a source was taken for, in a few lines: images by split, classes, notes, and how much of it was left out as unreadable."""
    splits = [manifest['splits'][split] for split in SPLITS]
    counts = ', '.join(f'{split["title"]} {split["count"]:,}' for split in splits)
    names = manifest['class_names']
    classes = ', '.join(names[:MOST_NAMES]) + (', …' if len(names) > MOST_NAMES else '')
    left_out = len(manifest['skipped'])
    return [
        printable(f'data: {manifest["dataset"]}: {counts}; {len(names)} classes: {classes}'),
        *manifest['notes'],
        *([f'{left_out:,} files or rows could not be read and are left out; the manifest names them'] if left_out else []),
    ]


def describe(manifest: dict) -> str:
    """The manifest as a table for people: counts by class and split, duplicates, checksums, warnings; no newline at the end."""
    splits = manifest['splits']
    titles = [splits[split]['title'] for split in SPLITS]
    counts = {name: [splits[split]['classes'][name] for split in SPLITS] for name in manifest['class_names']}
    counts['all'] = [splits[split]['count'] for split in SPLITS]
    cells = [['', *titles, 'all']] + [[name, *(f'{n:,}' for n in row), f'{sum(row):,}'] for name, row in counts.items()]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    table = [
        row[0].ljust(widths[0]) + ''.join(cell.rjust(width + 2) for cell, width in zip(row[1:], widths[1:], strict=True)) for row in cells
    ]
    duplicates, title = manifest['duplicates'], dict(zip(SPLITS, titles, strict=True))
    across = [(name.split(' in '), count) for name, count in duplicates['across'].items()]
    subjects = [splits[split]['subjects'] for split in SPLITS]
    near = manifest['near_duplicates']
    like = near and ' and '.join(f'{near[split]:,} of {title[split]}' for split in SPLITS[1:]) + f' are like one of {title["train"]}'
    lines = [
        f'{manifest["dataset"]}: {sum(counts["all"]):,} images, {len(manifest["class_names"])} classes',
        *table,
        *([f'subjects: {" + ".join(map(str, subjects))}'] if None not in subjects else []),
        f'exact duplicates: {duplicates["surplus"]:,} surplus images in {duplicates["groups"]:,} groups,'
        f' {duplicates["groups_with_conflicting_labels"]:,} groups with conflicting labels',
        *manifest['notes'],
        *(f'  {count:,} of {title[later]} also in {title[earlier]}' for (later, earlier), count in across if count),
        *([f'near-duplicates, r > {LEAST:g}: {like}, {near["train"]:,} of that like one of these'] if near else []),
        f'source {manifest["request"]["path"] or manifest["dataset"]}: sha256 {manifest["source"]["sha256"]}',
        f'content sha256 {manifest["content_sha256"]}',
        *(f'left out: {each}' for each in manifest['skipped']),
        *(f'warning: {each}' for each in manifest['warnings']),
    ]
    return '\n'.join(lines)
