"""Folders and tables made by rules: each file and row is read, refused by name, counted and named, or passed over, as was known before."""

import io
import itertools
import pathlib
import random
import re
import shutil
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image

from fer_jax.core.errors import InputError, printable
from fer_jax.data import fer2013, image_folder, image_table
from fer_jax.data.schema import Source
from fer_jax.inference.sources import expand
from tests.faults.bad_builders import png
from tests.faults.findings import Findings

SIZE, SMALL = 20_000, 400  # files and rows
CLASSES = ('happy', 'Sad', 'class 3', 'b=[1]', 'Ärger', '(x)', '7', 'a,b', "o'clock", '%20', 'train station', 'surprise!')
SPLITS = {
    'train': ('train', 'Training', 'train_set'),
    'validation': ('val', 'valid', 'Validation', 'dev'),
    'test': ('test', 'test set', 'Testing'),
}
JUNK = ('.DS_Store', 'Thumbs.db', 'desktop.ini', '._1.png', '.hidden/1.png', '__MACOSX/1.png', '@eaDir/1.jpg')
TEXTS = ('notes.txt', 'README', 'README.md', 'labels.json', 'script.py', 'a.pdf', 'b.csv.bak', 'c.html', 'archive.7z')


class File(NamedTuple):
    """One file, and its fate: `read`, `bad` (refused, or skipped and named), `left out` (counted and named) or `passed over`."""

    name: str
    content: bytes
    fate: str
    grey: int = 0  # of all its pixels, where it is read


def saved(values: np.ndarray | Image.Image, form: str, **options: object) -> bytes:
    file = io.BytesIO()
    (Image.fromarray(values) if isinstance(values, np.ndarray) else values).save(file, form, **options)
    return file.getvalue()


def full(grey: int, side: int = 20) -> np.ndarray:
    return np.full((side, side), grey, np.uint8)


# A picture of one grey in each of the forms, and the endings that it may have.
PICTURES: tuple[tuple[Callable[[int], bytes], tuple[str, ...]], ...] = (
    (lambda grey: saved(full(grey), 'PNG'), ('.png', '.PNG', '.apng', '.jpg', '', '.dat', '.txt')),
    (lambda grey: saved(full(grey), 'JPEG'), ('.jpg', '.jpeg', '.JPE', '.jfif', '.png', '', '.tmp')),
    (lambda grey: saved(full(grey), 'TIFF'), ('.tif', '.TIFF', '')),
    (lambda grey: saved(full(grey), 'BMP'), ('.bmp', '.dib', '')),
    (lambda grey: saved(full(grey), 'GIF'), ('.gif', '.jpg')),
    (lambda grey: saved(full(grey), 'WEBP', lossless=True), ('.webp', '.jpg', '')),
    (lambda grey: saved(full(grey), 'PPM'), ('.ppm', '.pgm', '.pnm', '.raw')),
    (lambda grey: saved(full(grey), 'AVIF', quality=100), ('.avif', '.jpg', '')),
    (lambda grey: saved(full(grey, 60), 'JPEG2000'), ('.jp2', '.j2k', '')),
    (lambda grey: saved(full(grey).astype(np.uint16), 'PNG'), ('.png',)),
    (lambda grey: saved(full(grey).astype(np.int32) * 257, 'TIFF'), ('.tif',)),
    (lambda grey: saved(full(grey) / np.float32(255), 'TIFF'), ('.tif',)),
    (lambda grey: saved(Image.fromarray(full(grey)).convert('RGBA'), 'PNG'), ('.png',)),
    (lambda grey: saved(Image.fromarray(full(grey)).convert('P'), 'PNG'), ('.png', '.gif')),
)  # fmt: skip
NOISE = saved(np.random.default_rng(0).integers(0, 256, (48, 48), np.uint8), 'PNG')
BAD = (
    (b'', ('.png', '.jpg', '.heic')),
    (b'this is no picture', ('.png', '.jpg', '.avif', '.tga', '.svg', '.jfif')),
    (NOISE[:-100], ('.png', '', '.dat')),
    (NOISE[:60] + bytes(40) + NOISE[100:], ('.png',)),
    (png(60_000, 60_000), ('.png', '')),
    (saved(np.full((9, 9), np.nan, np.float32), 'TIFF'), ('.tif', '')),
    (saved(np.full((9, 9), -5, np.int32), 'TIFF'), ('.tif',)),
    (b'\0\0\0\x18ftypheic' + bytes(50), ('.heic', '.jpg', '')),
)


def drawn(draws: random.Random, number: int) -> File:
    """A file by the rules; `number` makes its name one of its own."""
    stem = draws.choice((f'{number}', f'a b{number}', f'[{number}]', f'x={number}', f'é{number}'))
    match draws.choices(('read', 'bad', 'left out', 'passed over'), (80, 6, 8, 6))[0]:
        case 'read':
            (make, endings), grey = draws.choice(PICTURES), draws.randrange(2, 256)
            return File(stem + draws.choice(endings), make(grey), 'read', grey)
        case 'bad':
            content, endings = draws.choice(BAD)
            return File(stem + draws.choice(endings), content, 'bad')
        case 'left out':
            return File(f'{number} {draws.choice(TEXTS)}', draws.choice((b'text', b'', b'Ptext', b'P6 text', bytes(100))), 'left out')
    *folder, name = draws.choice(JUNK).split('/')
    return File('/'.join([*folder, name]), saved(full(9), 'PNG'), 'passed over')


def write(top: pathlib.Path, files: dict[str, File]) -> None:
    for name, file in files.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_bytes(file.content)


def named(files: dict[str, File], fate: str) -> list[str]:
    return sorted(name for name, file in files.items() if file.fate == fate)


def greys(source: Source) -> dict[tuple[str, str], list[int]]:
    """(split, class) → the greys of its faces, sorted."""
    found: dict[tuple[str, str], list[int]] = {}
    for split, faces in source.splits.items():
        for image, label in zip(faces.images, faces.labels, strict=True):
            found.setdefault((split, source.class_names[label]), []).append(int(np.median(image)))
    return {key: sorted(values) for key, values in found.items()}


def differ(found: dict[tuple[str, str], list[int]], expected: dict[tuple[str, str], list[int]]) -> bool:
    if {key: len(values) for key, values in found.items()} != {key: len(values) for key, values in expected.items()}:
        return True
    return any(abs(left - right) > 2 for key in found for left, right in zip(found[key], sorted(expected[key]), strict=True))


def refused(read: Callable[[], object], message: str) -> str:
    """What is wrong with how it was refused; '' where nothing is."""
    try:
        read()
    except InputError as error:
        return '' if re.search(message, str(error)) else f'said {str(error)[:200]!r} rather than {message!r}'
    return f'was read, where {message!r} was expected'


def try_folder(top: pathlib.Path, draws: random.Random, findings: Findings) -> list[str]:
    """A folder of classes, perhaps of splits of them and below others, as it stands or zipped."""
    classes = draws.sample(CLASSES, draws.randint(2, 4))
    splits = {'train': draws.choice(('', *SPLITS['train']))}
    if splits['train']:
        splits |= {split: draws.choice(SPLITS[split]) for split in ('validation', 'test') if draws.random() < 0.7}
    above = draws.choice(('', 'inner/', 'faces [1]=/b/'))
    files: dict[str, File] = {}
    expected: dict[tuple[str, str], list[int]] = {}
    for number, (split, name) in enumerate(itertools.product(splits, classes)):
        place = above + (f'{splits[split]}/' if splits[split] else '') + name
        first = File('first.png', saved(full(77), 'PNG'), 'read', 77)
        for file in [first, *(drawn(draws, 100 * number + each) for each in range(draws.randint(0, 12)))]:
            files[f'{place}/{draws.choice(("", "", "deeper/")) if file is not first else ""}{file.name}'] = file
    for path, file in files.items():
        if file.fate == 'read':
            parts = path.removeprefix(above).split('/')
            split = next((each for each, title in splits.items() if title and title == parts[0]), 'train')
            expected.setdefault((split, parts[1] if splits['train'] else parts[0]), []).append(file.grey)
    write(top, files)
    for file in files.values():
        findings.count(f'file: {file.fate}')
    path = pathlib.Path(shutil.make_archive(str(top), 'zip', top)) if draws.random() < 0.4 else top
    bad, left = named(files, 'bad'), named(files, 'left out')
    wrong = []
    if bad:
        message = f'{len(bad)} of {sum(map(len, expected.values())) + len(bad)} files are no images'
        wrong.append(refused(lambda: image_folder.read(path), message))
    source = image_folder.read(path, skip_bad=True)
    if differ(greys(source), expected):
        wrong.append(f'read {greys(source)}, not {expected}')
    if len(source.skipped) != len(bad) or not all(any(line.startswith(f'{printable(each)}: ') for line in source.skipped) for each in bad):
        wrong.append(f'skipped {source.skipped}, not {bad}')
    told = ' '.join(source.warnings)
    if (
        bool(left) != bool(told)
        or left
        and f': {len(left)} files are not images' not in told
        or not all(each in told for each in left[:10])
    ):
        wrong.append(f'told {told!r}, not {left}')
    if path == top:
        chosen, others = expand(str(top))
        taken = sorted(pathlib.Path(each).relative_to(top).as_posix() for each in chosen)
        if taken != sorted([*named(files, 'read'), *bad]) or others != left:
            wrong.append(f'predict would take {taken} and name {others}')
    return wrong


def try_level(top: pathlib.Path, draws: random.Random, findings: Findings) -> list[str]:
    """A folder whose levels are wrong, each of its kinds with its own words."""
    classes = draws.sample(CLASSES, 3)
    tops = draws.choice((('fold1', 'fold2'), ('anna', 'ben', 'cleo'), ('set_a', 'set_b')))
    kinds = {
        'a level too many': [f'{above}/{name}/1.png' for above in tops for name in classes],
        'a level too many below splits': [
            f'{split}/{above}/{name}/1.png' for split in ('train', 'val') for above in tops for name in classes
        ],
        'no class': [f'{split}/{n}.png' for split in ('train', 'test') for n in range(3)],
        'different classes': [f'train/{name}/1.png' for name in classes] + [f'test/{name}x/1.png' for name in classes],
        'an empty class': [f'{name}/{"1.png" if name != classes[0] else "notes.txt"}' for name in classes],
        'no training split': [f'val/{name}/1.png' for name in classes],
    }
    messages = {'a level too many below splits': 'a level too many', 'no class': 'no image in a class folder'}
    messages |= {'an empty class': 'empty class', 'no training split': 'no train folder'}
    kind = draws.choice(list(kinds))
    write(top, {name: File(name, saved(full(5), 'PNG') if name.endswith('.png') else b'x', 'bad') for name in kinds[kind]})
    findings.count(f'levels: {kind}', len(kinds[kind]))
    return [refused(lambda: image_folder.read(top, skip_bad=True), messages.get(kind, kind))]


def try_table(top: pathlib.Path, draws: random.Random, findings: Findings) -> list[str]:
    """A list of pictures, a few of whose rows name what is not there, is no picture, no split or no box."""
    comma, classes = draws.choice(',;\t'), draws.sample([name for name in CLASSES if ',' not in name and ';' not in name], 3)
    lines, expected, bad = [comma.join(('image', 'expression', 'split', 'x', 'y', 'w', 'h'))], {}, []
    rows = [
        (f'{n} {draws.choice("ab[=")}.png', draws.choice(classes), draws.choice(('train', 'test'))) for n in range(draws.randint(4, 40))
    ]
    rows = [(f'first{n}.png', name, 'train') for n, name in enumerate(classes)] + rows
    fates = ('read', 'gone', 'no picture', 'no split', 'no box', 'outside', 'short')
    for number, (name, label, split) in enumerate(rows):
        fate, grey = draws.choices(fates, (60, *[1] * 6))[0] if number > 2 else 'read', draws.randrange(2, 256)
        if fate != 'gone':
            (top / name).write_bytes(b'nothing' if fate == 'no picture' else saved(full(grey, 60), 'PNG'))
        box = draws.choice((('',) * 4, ('2', '3', '50', '50')))
        box = {'no box': ('5', '5', '0', '9'), 'outside': ('70', '0', '9', '9')}.get(fate, box)
        fields = (name, label, 'tset' if fate == 'no split' else split, *box)
        lines.append(comma.join(fields[:3] if fate == 'short' else fields))
        findings.count(f'row of a list: {fate}')
        if fate == 'read':
            expected.setdefault((split, label), []).append(grey)
        else:
            bad.append(f'list.csv, line {number + 2}')
    (top / 'list.csv').write_text('\n'.join(lines), draws.choice(('utf-8', 'utf-16')) if all(map(str.isascii, classes)) else 'utf-16')
    wrong = [refused(lambda: image_table.read(top), f'{len(bad)} of {len(rows)} rows cannot be read')] if bad else []
    source = image_table.read(top, skip_bad=True)
    if differ(greys(source), expected):
        wrong.append(f'read {greys(source)}, not {expected}')
    if len(source.skipped) != len(bad) or not all(any(re.match(f'{each}[,:]', line) for line in source.skipped) for each in bad):
        wrong.append(f'skipped {source.skipped}, not {bad}')
    return wrong


def try_pixels(top: pathlib.Path, draws: random.Random, findings: Findings) -> list[str]:
    """FER2013's form with wrong rows, parted and spelt in any of the ways that are read."""
    comma, words = draws.choice(',;\t'), {split: draws.choice(names) for split, names in SPLITS.items()}
    lines, expected, bad = [comma.join((draws.choice(('emotion', 'label')), 'pixels', draws.choice(('Usage', 'split'))))], {}, []
    cells = [(split, label) for split in words for label in range(7)]
    for number, (split, label) in enumerate(cells + [draws.choice(cells) for _ in range(draws.randint(0, 30))]):
        fate = draws.choices(('read', 'pixels', 'label', 'split', 'short'), (60, 1, 1, 1, 1))[0] if number >= len(cells) else 'read'
        grey = draws.randrange(2, 256)
        pixels = [str(grey)] * (2304 - (fate == 'pixels'))
        text = draws.choice((' '.join(pixels), f'"[{", ".join(pixels)}]"'))
        said = 'hapy' if fate == 'label' else draws.choice((str(label), f'{label}.0', fer2013.CLASSES[label]))
        fields = (said, text, 'tset' if fate == 'split' else words[split])
        lines.append(comma.join(fields[:2] if fate == 'short' else fields))
        findings.count(f'row of pixels: {fate}')
        if fate == 'read':
            expected.setdefault((split, fer2013.CLASSES[label]), []).append(grey)
        else:
            bad.append(f', line {number + 2}: ')
    path = top / 'fer2013.csv'
    path.write_text('\n'.join(lines), draws.choice(('utf-8', 'utf-16')))
    wrong = [refused(lambda: fer2013.read(path), re.escape(bad[0]))] if bad else []
    source = fer2013.read(path, skip_bad=True)
    if differ(greys(source), expected):
        wrong.append(f'read {greys(source)}, not {expected}')
    if len(source.skipped) != len(bad) or not all(each in line for each, line in zip(bad, source.skipped, strict=True)):
        wrong.append(f'skipped {source.skipped}, not {bad}')
    return wrong


def campaign(folder: pathlib.Path, seed: int, small: bool, size: int | None = None) -> Findings:
    """Tries folders, levels, lists and tables of pixels in turn until `size` files and rows were met."""
    findings, wanted = Findings(), size or (SMALL if small else SIZE)
    for number, attempt in enumerate(itertools.cycle((try_folder, try_table, try_pixels, try_level))):
        if findings.tried >= wanted:
            return findings
        top = folder / 'faces a=[b]'
        top.mkdir()
        try:
            wrong = attempt(top, random.Random(f'{seed} {number}'), findings)
        except InputError as error:
            wrong = [f'refused: {error}']
        for line in filter(None, wrong):
            findings.check(False, f'{attempt.__name__} {number}: {line}')
        shutil.rmtree(top)
        top.with_suffix('.zip').unlink(missing_ok=True)
    return findings
