"""Folders and archives of pictures: which files are pictures, what splits and classes their folders say, and all of them as faces."""

import contextlib
import dataclasses
import itertools
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np
from PIL import Image

from fer_jax.core.errors import InputError, printable, unknown
from fer_jax.data.archive import Listing, Member, kind, members
from fer_jax.data.images import HEAD, MAX_FILE, Box, begins_as_image, decode, face_in, is_image_name
from fer_jax.data.schema import IMAGE_SIDE, Faces

NAMED = 10  # files that a message names; of bad ones the manifest has them all
SPLIT_WORDS = {
    'train': ('train', 'training'),
    'validation': ('validation', 'valid', 'val', 'dev', 'publictest'),
    'test': ('test', 'testing', 'privatetest'),
}
# Words by which levels of folders are told apart; any others can be classes too.
EXPRESSIONS = frozenset(
    'angry anger disgust disgusted fear fearful afraid happy happiness sad sadness surprise surprised neutral contempt'.split()
)


def split_of(name: str) -> str | None:
    """The split that a word stands for, such as `Training`, `val_set` or `test-images`; None where it stands for none."""
    word = re.sub(r'[\s_.-]*(set|data|images|labels|list|split)$', '', name.strip().lower())
    word = re.sub(r'[\s_-]', '', word)
    return next((split for split, words in SPLIT_WORDS.items() if word in words), None)


def pictures_in(path: str | os.PathLike, names: Listing) -> frozenset[str]:
    """Those files of a folder or archive that are pictures: by their ending, or else by how they begin."""
    found = {name for name in names.files if is_image_name(name)}
    if len(found) < len(names.files):
        with contextlib.closing(members(path)) as entries:
            for member in entries:
                # What cannot be opened and has no picture's name is none.
                with contextlib.suppress(OSError, InputError):
                    if member.name not in found:
                        with member.open() as stream:
                            if begins_as_image(stream.read(HEAD)):
                                found.add(member.name)
    return frozenset(found)


def shown(names: Sequence[str]) -> str:
    """The first NAMED of some names, and how many more there are."""
    return ', '.join(map(printable, names[:NAMED])) + (f' and {len(names) - NAMED:,} more' if len(names) > NAMED else '')


@dataclasses.dataclass(frozen=True)
class Images:
    """Decoded files: `faces` and `splits` have one of each of `names`; `skipped` says 'name: why' of those that are no images."""

    names: tuple[str, ...]
    faces: Faces
    splits: np.ndarray  # [n] str
    skipped: tuple[str, ...]


def read_images(path: str | os.PathLike, files: Mapping[str, tuple[str, int]], skip_bad: bool, megapixels: int) -> Images:
    """Those files of a folder or archive, sorted by name.

    Args:
      files: name → (split, label).
      megapixels: as of images.decode.

    Raises:
      InputError: some are no images and `skip_bad` is false (they are counted and the first are named); or as of `members`.
    """
    read = {name: face for (name, _), face in read_faces(path, dict.fromkeys(files, (None,)), megapixels).items()}
    bad = {name: str(face) for name, face in read.items() if isinstance(face, InputError)}
    found = {name: face for name, face in read.items() if name not in bad}
    skipped = skipped_or_refused(path, bad, len(files), 'files are no images', skip_bad)
    names = tuple(sorted(found))
    images = np.array([found[name] for name in names], np.uint8).reshape(-1, IMAGE_SIDE, IMAGE_SIDE)
    labels = np.array([files[name][1] for name in names], np.int32)
    return Images(names, Faces(images, labels), np.array([files[name][0] for name in names], str), skipped)


def read_faces(
    path: str | os.PathLike, boxes: Mapping[str, Sequence[Box | None]], megapixels: int
) -> dict[tuple[str, int], np.ndarray | InputError]:
    """(file, place among its boxes) → the face in that box, as of images.face_in, or why it cannot be read; errors as of `members`."""
    found: dict[tuple[str, int], np.ndarray | InputError] = {}
    alone = kind(path) == 'folder'
    with contextlib.closing(members(path)) as entries:
        for member in entries:
            if own := boxes.get(member.name):
                picture = _picture(member, alone, megapixels, None if any(own) else 2 * IMAGE_SIDE)
                for place, box in enumerate(own):
                    try:
                        found[member.name, place] = picture if isinstance(picture, InputError) else face_in(*picture, box)
                    except InputError as error:
                        found[member.name, place] = error
    return found


def _picture(member: Member, alone: bool, megapixels: int, side: int | None) -> tuple[Image.Image, float] | InputError:
    """As of images.decode, or why it cannot be read; errors of an archive, where a file does not lie `alone` in a folder, are raised."""
    try:
        with member.open() as stream:
            content = stream.read(MAX_FILE + 1)
    except (InputError, OSError) as error:
        if not alone:
            raise
        why = str(error) if isinstance(error, InputError) else f'cannot be read ({error.strerror})'
        return InputError(why.removeprefix(f'{member.where}: '))
    try:
        return decode(content, megapixels, side)
    except InputError as error:
        return error


def skipped_or_refused(path: str | os.PathLike, bad: Mapping[str, str], count: int, what: str, skip_bad: bool) -> tuple[str, ...]:
    """'name: why' of each that is bad, sorted by name and the numbers in it.

    Raises:
      InputError: there are some and `skip_bad` is false.
    """
    skipped = tuple(f'{printable(name)}: {bad[name]}' for name in sorted(bad, key=_by_number))
    if skipped and not skip_bad:
        first = '; '.join(skipped[:NAMED]) + (f'; and {len(skipped) - NAMED:,} more' if len(skipped) > NAMED else '')
        raise InputError(f'{path}: {len(skipped):,} of {count:,} {what} (--skip-bad leaves them out): {first}')
    return skipped


def _by_number(name: str) -> list[tuple[int, str]]:
    return [(int(part), '') if part.isdecimal() else (-1, part) for part in re.split(r'([0-9]+)', name)]


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where the images of a folder stand: `files` maps a name to (split, class folder); all are train in a folder without splits."""

    files: Mapping[str, tuple[str, str]]
    titles: Mapping[str, str]  # canonical split → its folder's name; empty without split folders
    notes: tuple[str, ...]  # how the folders were understood
    warnings: tuple[str, ...]  # which files were left out: no images, or images in no class folder


def read_layout(names: Listing, pictures: Collection[str], where: str) -> Layout:
    """Reads split/class/… or class/…, below any number of folders that hold all the rest, out of the names.

    Args:
      pictures: those of the files that are pictures.

    Raises:
      InputError: no image in a class folder, folders of splits beside others, two folders for one split, an empty class folder, or
        folders that look like a level too many.
    """
    prefix = _prefix(pictures)
    inside = {name: name[len(prefix) :].split('/') for name in names.files}
    images = {name: parts for name, parts in inside.items() if name in pictures and len(parts) > 1}
    titles = _split_titles(sorted({parts[0] for parts in images.values()}), where)
    depth = 2 if titles else 1
    images = {name: parts for name, parts in images.items() if len(parts) > depth}
    if not images:
        found = f'no picture among {len(names.files):,} files: {shown(names.files)}' if names.files else 'no file'
        found = f'{len(pictures):,} pictures in none: {shown(sorted(pictures))}' if pictures else found
        raise InputError(f'{where}: no image in a class folder: expected split/class/*.png or class/*.png, found {found}')
    deeper = _check_levels([parts[depth - 1 :] for parts in images.values()], where)
    split_of_folder = {title: split for split, title in titles.items()}
    files = {name: (split_of_folder[parts[0]] if titles else 'train', parts[depth - 1]) for name, parts in images.items()}
    filled = {'/'.join(parts[:depth]) for parts in images.values()}
    for folder in names.folders:
        parts = folder[len(prefix) :].split('/')
        if folder.startswith(prefix) and len(parts) == depth and '/'.join(parts) not in filled:
            raise InputError(f'{where}: empty class: {printable(folder)} holds no image: fill it or remove it')
        if titles and folder.startswith(prefix) and len(parts) == 1 and parts[0] not in split_of_folder:
            raise InputError(f'{where}: empty split: {printable(folder)} holds no image in a class folder: fill it or remove it')
    told = ', '.join(f'{printable(title)} is {split}' for split, title in titles.items())
    note = f'folders read as {printable(prefix)}' + (f'split/class: {told}' if titles else 'class, without splits') + deeper
    ignored = [name for name in names.files if name not in files]
    warnings = (f'{where}: {len(ignored):,} files are not images in a class folder and left out: {shown(ignored)}',) if ignored else ()
    return Layout(files, titles, (note,), warnings)


def _prefix(pictures: Iterable[str]) -> str:
    """The folders that hold all images and are neither a split nor a class: 'fer2013/archive/', or ''."""
    common = os.path.commonprefix([name.split('/')[:-2] for name in pictures])
    return ''.join(f'{part}/' for part in itertools.takewhile(lambda part: not split_of(part), common))


def _split_titles(tops: list[str], where: str) -> dict[str, str]:
    """canonical split → folder, if the top folders are splits; {} if they are classes."""
    splits = {top: split_of(top) for top in tops}
    others = [top for top, split in splits.items() if not split]
    if others == tops:
        return {}
    if others:
        raise InputError(f'{where}: folders of splits beside others ({shown(others)}): expected only train, validation and test')
    found: dict[str, str] = {}
    for top, split in splits.items():
        if split in found:
            raise InputError(f'{where}: several folders for the {split} split: {printable(found[split])}, {printable(top)}')
        found[split] = top
    if 'train' not in found:
        raise InputError(f'{where}: no train folder beside {shown(tops)}')
    return {split: found[split] for split in SPLIT_WORDS if split in found}


def _check_levels(images: list[list[str]], where: str) -> str:
    """What is to be said of images that lie below the first folders of these names, in others; '' where most lie right in the first.

    Raises:
      InputError: the folders below look like the classes, or the splits, rather than the first.
    """
    deep = [parts for parts in images if len(parts) > 2]
    if 2 * len(deep) <= len(images):
        return ''
    tops, below = sorted({parts[0] for parts in deep}), {(parts[0], parts[1]) for parts in deep}
    counts = Counter(name for _, name in below)
    if len(counts) > 1 and all(map(split_of, counts)):
        raise InputError(
            f'{where}: the folders {shown(tops)} hold splits ({shown(sorted(counts))}): expected split/class/…: give one of the folders,'
            ' or put the splits above the classes'
        )
    shared = [name for name, count in counts.items() if count > 1]
    look = set(counts) if len(shared) > 1 and 2 * len(shared) >= len(counts) else set()
    for level in range(1, max(map(len, deep)) - 1):
        names = {parts[level].lower() for parts in deep if len(parts) > level + 1}
        known = names & EXPRESSIONS
        if not look and len(known) > 1 and 2 * len(known) >= len(names):
            look = {'/'.join(parts[1 : level + 1]) for parts in deep if len(parts) > level + 1}
    if look and not {parts[0].lower() for parts in images} <= EXPRESSIONS:
        ways = 'call them train, validation and test, give one of them, or list the files in a table (data.dataset=image_table)'
        raise InputError(
            f'{where}: a level too many: the folders {shown(tops)} hold {shown(sorted(look))}, which look like the classes: {ways};'
            ' if they are none, put the images of each class right into its folder'
        )
    return f'; {len(deep):,} images lie deeper, such as {printable("/".join(deep[0]))}'


def ordered_classes(names: Collection[str], where: str) -> tuple[str, ...]:
    """The classes of a data set, in the order of their labels: sorted by name, or by value where all are numbers.

    Raises:
      InputError: there is only one, or two are the same but for capital letters, blanks, leading zeros or how an accent is encoded.
    """
    if len(names) < 2:
        raise InputError(f'{where}: only one class ({", ".join(map(printable, names))}): there is nothing to tell apart')
    known: dict[str, str] = {}
    for name in sorted(names):
        word = ' '.join(unicodedata.normalize('NFC', name).casefold().split())
        word = str(int(word)) if word.isdecimal() else word
        if word in known:
            raise InputError(f'{where}: classes of one name: {printable(known[word])} and {printable(name)}: write each in one way')
        known[word] = name
    numbers = all(map(str.isdecimal, names))
    return tuple(sorted(names, key=lambda name: (int(name) if numbers else 0, name)))


def class_position(folder: str, classes: Sequence[str], synonyms: Mapping[str, str], path: str | os.PathLike) -> int:
    """The label that a class folder stands for: its name, a synonym or its number.

    Raises:
      InputError: it is none of those; the message names the nearest.
    """
    name = folder.strip().lower()
    name = synonyms.get(name, name)
    if name in classes:
        return classes.index(name)
    if name in map(str, range(len(classes))):
        return int(name)
    raise InputError(f'{path}: {unknown("class folder", folder, classes)}')
