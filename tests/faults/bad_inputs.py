"""Mutated inputs of every reader, the same for the same seed: bytes changed at random, and fields changed by Hypothesis."""

import json
import os
import random
import struct
from collections.abc import Iterator
from typing import Any

import hypothesis
from hypothesis import strategies as st

from fer_jax.core.fields import ARGUMENTS
from tests.faults import bad_archives, bad_pictures
from tests.faults.bad_readers import READERS, Files

HUGE = (
    -1,
    0,
    1,
    2,
    255,
    256,
    65535,
    1 << 31,
    (1 << 31) - 1,
    (1 << 32) - 1,
    1 << 40,
    (1 << 63) - 1,
    1 << 63,
    (1 << 64) - 1,
    10**400,
    -(10**30),
)
WORDS = (
    '', ' ', '-1', '-0', '1e999', 'NaN', '-inf', '1_000', '0x10', '٣', '²', '"', '""', "'", '\0', '\r', '\n', '\t', ';', '9' * 5000, 'a' * 3000, '\ufeff',
    '\u202e', '\x1b[2J', '\x85', '\u2028', '../../evil', '/etc/passwd', 'none', 'True', 'null', '{}', '(1,2)', '1,2,3', '=1+1', '%s%n', '${HOME}', 'inf', '🙂',
)  # fmt: skip
texts = st.one_of(st.sampled_from(WORDS), st.text(max_size=30), st.integers().map(str), st.floats().map(repr))
numbers = st.one_of(st.sampled_from(HUGE), st.integers(), st.floats())
scalars = st.one_of(st.none(), st.booleans(), numbers, texts, st.sampled_from(('\ud800', 'a\ud800b')))
odd_json = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts | st.sampled_from(sorted(ARGUMENTS)), inner, max_size=4),
    max_leaves=6,
)


def by_bytes(files: Files, draws: random.Random) -> Files:
    """Some files with a few of their bytes changed: flipped, set, cut out, doubled, moved, cut off or swapped for another's."""
    changed = dict(files)
    for name in draws.sample(sorted(files), min(len(files), draws.choice((1, 1, 1, 2, 5)))):
        content = bytearray(files[name])
        for _ in range(draws.choice((1, 1, 2, 4, 16))):
            start = draws.randrange(len(content) + 1)
            end = min(len(content), start + draws.choice((1, 2, 4, 8, 64, 1024)))
            match draws.randrange(8):
                case 0 if content:
                    content[start % len(content)] ^= 1 << draws.randrange(8)
                case 1:
                    content[start:end] = draws.randbytes(end - start)
                case 2:
                    del content[start:end]
                case 3:
                    content[start:start] = content[start:end] * draws.choice((1, 2, 50))
                case 4:
                    content[start:end] = draws.choice((b'\0', b'\xff', b'9', b'-', b'"', b',', b'\n', b'[')) * (end - start)
                case 5:
                    del content[start:]
                case 6:
                    content[start:start] = draws.choice(WORDS).encode()
                case 7:
                    other = files[draws.choice(sorted(files))]
                    content[start:end] = other[start : start + draws.randrange(64)]
        changed[name] = bytes(content)
    return changed


@st.composite
def tables(draw: st.DrawFn, files: Files) -> Files:
    """The CSV with cells, columns and rows changed, and cells of any text put in, quoted or not."""
    ((name, content),) = files.items()
    rows = [line.split(',') for line in content.decode('latin-1').split('\n')]
    for _ in range(draw(st.integers(1, 4))):
        row = draw(st.integers(0, min(len(rows) - 1, 60)) | st.just(0))
        column = draw(st.integers(0, max(len(rows[row]) - 1, 0)))
        match draw(st.sampled_from(('cell', 'cell', 'within', 'more', 'less', 'double', 'drop', 'swap'))):
            case 'cell':
                rows[row][column : column + 1] = [draw(texts)]
            case 'within':
                cell = rows[row][column] if rows[row] else ''
                place = draw(st.integers(0, len(cell)))
                rows[row][column : column + 1] = [cell[:place] + draw(texts) + cell[place:]]
            case 'more':
                rows[row].insert(column, draw(texts))
            case 'less':
                del rows[row][column : column + 1]
            case 'double':
                rows[row:row] = [rows[row]] * draw(st.sampled_from((1, 2, 300)))
            case 'drop' if len(rows) > 1:
                del rows[row]
            case 'swap':
                rows[row].reverse()
    text = draw(st.sampled_from(('\n', '\r\n', '\r', '\n\n'))).join(','.join(row) for row in rows)
    return {name: text.encode(draw(st.sampled_from(('utf-8', 'utf-8', 'utf-16'))), 'surrogatepass')}


@st.composite
def edited(draw: st.DrawFn, value: Any) -> Any:
    """A JSON value with one place in it changed, left out or given another name."""
    if not isinstance(value, dict | list) or not value or draw(st.integers(0, 9)) == 0:
        return draw(odd_json)
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    key = keys[draw(st.integers(0, len(keys) - 1))]
    copy = value.copy()
    match draw(st.sampled_from(('inside', 'inside', 'inside', 'inside', 'leave out', 'rename', 'more'))):
        case 'leave out':
            del copy[key]
        case 'rename' if isinstance(value, dict):
            copy[draw(texts)] = copy.pop(key)
        case 'more' if isinstance(value, dict):
            copy[draw(texts)] = draw(odd_json)
        case _:
            copy[key] = draw(edited(value[key]))
    return copy


@st.composite
def json_text(draw: st.DrawFn, content: bytes) -> bytes:
    """A JSON file changed in one or two places, sometimes nested beyond what can be parsed, or with a key twice."""
    value = json.loads(content)
    for _ in range(draw(st.integers(1, 2))):
        value = draw(edited(value))
    text = json.dumps(value, indent=draw(st.sampled_from((None, 1))))
    match draw(st.sampled_from(('as it is',) * 16 + ('deep', 'deep object', 'twice', 'mark'))):
        case 'deep':
            text = '[' * 100_000 + text
        case 'deep object':
            text = '{"a":' * 5000 + text + '}' * 5000
        case 'twice':
            text = text.replace('{', '{"seed": [], "seed": 0, ', 1)
        case 'mark':
            text = '\ufeff' + text
    return text.encode('utf-8', 'surrogatepass')


@st.composite
def one_json(draw: st.DrawFn, files: Files) -> Files:
    """One of the files that are JSON, or lines of JSON, changed; or one that is a table."""
    names = sorted(name for name in files if name.endswith(('.json', '.jsonl', '.csv')))
    name = draw(st.sampled_from(names))
    if name.endswith('.csv'):
        return files | {name: draw(tables({name: files[name]}))[name]}
    if name.endswith('.json'):
        return files | {name: draw(json_text(files[name]))}
    lines = files[name].splitlines()
    place = draw(st.integers(0, len(lines) - 1))
    lines[place] = draw(json_text(lines[place])).replace(b'\n', b'')
    return files | {name: b'\n'.join(lines)}


@st.composite
def safetensors(draw: st.DrawFn, files: Files) -> Files:
    """Weights whose header says something else: of an array, of itself, or in the metadata."""
    ((name, content),) = files.items()
    length = int.from_bytes(content[:8], 'little')
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    if draw(st.booleans()):
        metadata = json.loads(header['__metadata__']['fer_jax'])
        header['__metadata__']['fer_jax'] = draw(json_text(json.dumps(metadata).encode())).decode('utf-8', 'surrogatepass')
    else:
        header = draw(edited(header))
    text = json.dumps(header).encode()
    stated = draw(st.just(len(text)) | st.sampled_from([n for n in HUGE if 0 <= n < 1 << 64]))
    return {name: struct.pack('<Q', stated) + text + data[: draw(st.just(len(data)) | st.integers(0, len(data)))]}


@st.composite
def command_lines(draw: st.DrawFn, files: Files) -> Files:
    """Arguments after the configuration's file and overrides, of fields that are there and that are not, with any text."""
    from fer_jax.core.config import fields
    from fer_jax.core.fields import default_config

    known = st.sampled_from(sorted(fields(default_config()))) | texts
    first = ','.join(f'{draw(st.sampled_from(sorted(ARGUMENTS)) | texts)}={draw(texts)}' for _ in range(draw(st.integers(0, 3))))
    sizes = st.lists(st.integers(-4, 10**12), max_size=8).map(lambda each: ','.join(map(str, each)))
    lines = [f'{draw(known)}={draw(texts | sizes | numbers.map(str_of))}' for _ in range(draw(st.integers(0, 3)))]
    return {'arguments.txt': '\n'.join([first, *lines]).encode('utf-8', 'surrogatepass')}


def str_of(number: float) -> str:
    return f'{number:d}' if isinstance(number, int) else repr(number)


@st.composite
def trees(draw: st.DrawFn, files: Files) -> Files:
    """A folder whose files have other names, other labels or another's content, some gone and some new."""
    changed = dict(files)
    for _ in range(draw(st.integers(1, 5))):
        name = draw(st.sampled_from(sorted(changed)))
        parts = name.split('/')
        match draw(st.sampled_from(('name', 'folder', 'label', 'content', 'gone', 'more', 'class gone'))):
            case 'name':
                odd = draw(texts).replace('/', '_').replace('\0', '_')[:60]
                changed['/'.join([*parts[:-1], odd + parts[-1]])] = changed.pop(name)
            case 'folder':
                odd = draw(texts).replace('/', '_').replace('\0', '_').strip('.')[:60] or '_'
                changed['/'.join([odd, *parts[1:]])] = changed.pop(name)
            case 'label':
                labels = sorted(each for each in changed if each.endswith('.txt')) or [name]
                changed[draw(st.sampled_from(labels))] = draw(texts).encode('utf-8', 'surrogatepass')
            case 'content':
                changed[name] = draw(st.binary(max_size=50))
            case 'gone':
                del changed[name]
            case 'more':
                changed[f'{name}.d/{draw(st.sampled_from(WORDS)).replace("/", "_").replace(chr(0), "_")[:40]}x.png'] = b''
            case 'class gone':
                changed = {each: data for each, data in changed.items() if each.split('/')[0] != parts[0]} or changed
    return changed


@st.composite
def lists(draw: st.DrawFn, files: Files) -> Files:
    """The list of some pictures changed as a table is, or the pictures and their names."""
    (name,) = (each for each in files if not each.endswith('.png'))
    if draw(st.booleans()):
        return draw(trees(files))
    return files | draw(tables({name: files[name]}))


@st.composite
def headed(draw: st.DrawFn, files: Files) -> Files:
    """A file with odd numbers in its first bytes, or anywhere."""
    ((name, content),) = files.items()
    return {name: draw(bad_pictures.headers(content))}


STRUCTURED = {
    'CSV': tables,
    'zip': bad_archives.zips,
    'tar': bad_archives.tars,
    'xz': bad_archives.xzs,
    'picture': bad_pictures.pictures,
    'CK+ tree': trees,
    'picture list': lists,
    'arrays': headed,
    'parquet': headed,
    'FER+ votes': tables,
    "teacher's predictions": tables,
    'safetensors': safetensors,
    'command line': command_lines,
    'config.json': one_json,
    'run folder': one_json,
    'prepared set': one_json,
}


def inputs(reader: str, fuzzer: str, seed: int, count: int) -> Iterator[Files]:
    """`count` inputs of a reader, drawn by `bytes` or `hypothesis`."""
    seeds = READERS[reader].seeds()
    if fuzzer == 'bytes':
        draws = random.Random(f'{reader} {seed}')
        for _ in range(count):
            yield by_bytes(draws.choice(seeds), draws)
        return
    found: list[Files] = []

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=count,
        phases=[hypothesis.Phase.generate],
        database=None,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(st.sampled_from(seeds).flatmap(STRUCTURED[reader]))
    def collect(files: Files) -> None:
        found.append(files)

    collect()
    yield from found


def write(files: Files, folder: os.PathLike) -> bool:
    """Writes the files below a folder; false where their names cannot all stand in one."""
    for name, content in files.items():
        path = os.path.join(folder, name)
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, 'xb') as file:
                file.write(content)
        except OSError:
            return False
    return True
