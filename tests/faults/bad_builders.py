"""What builds the attacks that have a name: bombs, members that climb out, files that are none, headers that say what cannot be."""

import io
import json
import lzma
import os
import pathlib
import struct
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image

from tests.faults.bad_pictures import PNG, chunk, chunks
from tests.faults.bad_readers import (
    Files,
    class_folders,
    config_files,
    encoded,
    finished_run,
    prepared_set,
    table_csv,
    tarred,
    trees,
    weight_file,
    zipped,
)  # fmt: skip

Build = Callable[[pathlib.Path], object]  # puts the files into a folder

GIB = 1 << 30


def holding(name: str, content: bytes) -> Build:
    return lambda source: (source / name).write_bytes(content)


def later(name: str, content: Callable[[], bytes]) -> Build:
    """A file whose content is made when it is asked for, for it is large."""
    return lambda source: (source / name).write_bytes(content())


def files(content: Callable[[], Files], **changed: Build) -> Build:
    """The files of a seed, and then some made otherwise; `__` in a name stands for a slash, `_dot_` for a dot."""

    def build(source: pathlib.Path) -> None:
        for name, data in content().items():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes(data)
        for name, change in changed.items():
            path = source / name.replace('__', '/').replace('_dot_', '.')
            path.unlink(missing_ok=True)
            path.parent.mkdir(parents=True, exist_ok=True)
            change(path)

    return build


def odd_files(name: str) -> dict[str, Build]:
    """What is no regular file, or too much of one, where a file of that name is expected."""
    return {
        'a pipe that nobody writes into': lambda source: os.mkfifo(source / name),
        'a link to an endless device': lambda source: (source / name).symlink_to('/dev/zero'),
        'a link to itself': lambda source: (source / name).symlink_to(source / name),
        'a link to nothing': lambda source: (source / name).symlink_to('nothing'),
        'a file of 2¼ GiB of zeros': lambda source: sparse(source / name),
        'an empty file': holding(name, b''),
        'a file in UTF-16': holding(name, '\ufeffemotion,pixels\n{"a": 1}'.encode('utf-16')),
    }


def sparse(path: pathlib.Path) -> None:
    """A file of zeros that takes no room."""
    with open(path, 'wb') as file:
        file.truncate(2 * GIB + GIB // 4)


def inside(name: str, change: Callable[[pathlib.Path], object], content: Callable[[], Files]) -> Build:
    """A seed with one of its files made otherwise."""
    return files(content, **{name.replace('/', '__').replace('.', '_dot_'): change})


def deflated(size: int) -> bytes:
    """A deflate stream of `size` zeros without its end, at once: a piece of it as often as needed."""
    packer = zlib.compressobj(9, wbits=-15)
    piece = packer.compress(bytes(1 << 24)) + packer.flush(zlib.Z_FULL_FLUSH)
    return piece * (size >> 24)


def gzipped(before: bytes, zeros: int, ballast: int = 0) -> bytes:
    """gzip of some bytes, zeros and bytes that cannot be packed (which raise what a ratio allows); its end is missing."""
    packer = zlib.compressobj(1, wbits=-15)
    start = packer.compress(before) + packer.flush(zlib.Z_FULL_FLUSH)
    rest = np.random.default_rng(0).bytes(ballast)
    stored = b''.join(
        struct.pack('<BHH', 0, len(rest[i : i + 65535]), len(rest[i : i + 65535]) ^ 0xFFFF) + rest[i : i + 65535]
        for i in range(0, ballast, 65535)
    )
    return b'\x1f\x8b\x08\0\0\0\0\0\0\xff' + start + deflated(zeros) + stored


def zip_bomb() -> bytes:
    """One member of 10 GiB of zeros."""
    content = bytearray(zipped({'fer2013.csv': b''}, zipfile.ZIP_STORED))
    data = deflated(10 * GIB)
    sizes = struct.pack('<III', 0, len(data), 0xFFFFFFFE)
    local, end = content.index(b'PK\1\2'), content.index(b'PK\5\6')
    content[8:10] = content[local + 10 : local + 12] = struct.pack('<H', 8)
    content[14:26] = content[local + 16 : local + 28] = sizes
    struct.pack_into('<I', content, end + 16, local + len(data))
    return bytes(content[:local]) + data + bytes(content[local:])


def overlapping() -> bytes:
    """A thousand members that are one and the same piece of the file."""
    content = zipped({'train/angry/0.png': bytes(1 << 20)})
    start, end = content.index(b'PK\1\2'), content.index(b'PK\5\6')
    tail = bytearray(content[end:])
    struct.pack_into('<HHII', tail, 8, 1000, 1000, 1000 * (end - start), start)
    return content[:start] + content[start:end] * 1000 + bytes(tail)


def zip_of(name: str, data: bytes = b'', mode: int = 0, flags: int = 0) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings(action='ignore'), zipfile.ZipFile(file, 'w') as archive:  # of a name that stands twice
        for each, content in class_folders().items():
            archive.writestr(each, content)
        info = zipfile.ZipInfo(name)
        info.filename, info.external_attr = name, mode << 16
        archive.writestr(info, data)
    content = bytearray(file.getvalue())
    content[content.rindex(b'PK\1\2') + 8] |= flags
    return bytes(content)


def zip_saying(offset: int, value: int) -> bytes:
    """A zip whose directory says something else of its last member."""
    content = bytearray(zip_of('train/angry/9.png', encoded()))
    struct.pack_into('<I', content, content.rindex(b'PK\1\2') + offset, value)
    return bytes(content)


def tar_of(
    kind: bytes = tarfile.REGTYPE, name: str = 'train/angry/9.png', link: str = '', size: int = 0, data: bytes = b'', **pax: str
) -> bytes:
    """A tar whose first member is of a kind, or says a size; the usual faces follow."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size, info.pax_headers = kind, link, size, pax
    form = tarfile.PAX_FORMAT if pax else tarfile.GNU_FORMAT
    return info.tobuf(form) + data + bytes(-len(data) % 512) + tarred(class_folders())


def through_link() -> bytes:
    """A link to the folder above the target, and a file that would be written through it."""
    return tar_of(tarfile.SYMTYPE, 'train/link', '../..')[:512] + tarred({'train/link/evil.png': encoded()})


def xz_bomb() -> bytes:
    return lzma.compress(bytes(1 << 27), preset=0) * 80


def xz_dictionary() -> bytes:
    """A stream that asks for a dictionary of 4 GiB."""
    content = bytearray(lzma.compress(table_csv()['fer2013.csv'], preset=0))
    content[16] = 40  # of the block's header: its one filter's one property
    length = (content[12] + 1) * 4
    content[12 + length - 4 : 12 + length] = struct.pack('<I', zlib.crc32(content[12 : 12 + length - 4]))
    return bytes(content)


def png(width: int, height: int, *more: tuple[bytes, bytes], depth: int = 8, colour: int = 0, data: bytes = b'') -> bytes:
    header = struct.pack('>IIBBBBB', width, height, depth, colour, 0, 0, 0)
    return PNG + b''.join(chunk(*each) for each in ((b'IHDR', header), *more, (b'IDAT', data), (b'IEND', b'')))


def full_png(depth: int, colour: int, bytes_each: int, side: int = 9400) -> bytes:
    """As many pixels as are read at all, in a file of a few hundred kilobytes."""
    return png(side, side, depth=depth, colour=colour, data=zlib.compress(bytes(side * (1 + side * bytes_each)), 1))


def full_picture(form: str, mode: str, side: int = 9400, **options: object) -> bytes:
    file = io.BytesIO()
    Image.new(mode, (side, side)).save(file, form, **options)
    return file.getvalue()


def with_chunk(kind: bytes, data: bytes, times: int = 1) -> bytes:
    found = chunks(encoded(3))
    return PNG + b''.join(chunk(*each) for each in [found[0], *[(kind, data)] * times, *found[1:]])


def tiff(*tags: tuple[int, int, int, int], following: int = 0) -> bytes:
    """A TIFF of tags: number, type, count, value."""
    entries = b''.join(struct.pack('<HHII', *tag) for tag in sorted(tags))
    return b'II*\0' + struct.pack('<IH', 8, len(tags)) + entries + struct.pack('<I', following) + bytes(100)


SQUARE = (
    (256, 4, 1, 48),
    (257, 4, 1, 48),
    (258, 3, 1, 8),
    (259, 3, 1, 1),
    (262, 3, 1, 1),
    (277, 3, 1, 1),
    (278, 4, 1, 48),
    (279, 4, 1, 2304),
)


def scans(count: int) -> bytes:
    """A progressive JPEG that refines the same coefficients again and again."""
    file = io.BytesIO()
    Image.new('L', (4000, 4000)).save(file, 'JPEG', progressive=True)
    content = file.getvalue()
    start = content.rindex(b'\xff\xda')
    return content[:start] + content[start:-2] * count + b'\xff\xd9'


def weights_saying(**metadata: object) -> bytes:
    """Weights whose metadata say something else of a field, or of `config`'s network where it is `network`."""
    content = weight_file()
    length = int.from_bytes(content[:8], 'little')
    header = json.loads(content[8 : 8 + length])
    told = json.loads(header['__metadata__']['fer_jax'])
    told['config']['network'] |= metadata.pop('network', {})
    header['__metadata__']['fer_jax'] = json.dumps(told | metadata)
    text = json.dumps(header).encode()
    return struct.pack('<Q', len(text)) + text + content[8 + length :]


def array_saying(**entry: object) -> bytes:
    """Weights whose header says something else of their first array."""
    content = weight_file()
    length = int.from_bytes(content[:8], 'little')
    header = json.loads(content[8 : 8 + length])
    header[next(name for name in header if name != '__metadata__')] |= entry
    text = json.dumps(header).encode()
    return struct.pack('<Q', len(text)) + text + content[8 + length :]


def config_saying(**network: object) -> bytes:
    record = json.loads(config_files()[0]['config.json'])
    record['network'] |= network
    return json.dumps(record).encode()


def run_saying(file: str, **fields: object) -> Build:
    """A finished run, one of whose JSON files says something else."""
    return inside(file, lambda path: path.write_text(json.dumps(json.loads(finished_run()[file]) | fields)), finished_run)


def looped(source: pathlib.Path) -> None:
    files(lambda: trees()[1])(source)
    (source / 'Emotion' / 'again').symlink_to(source)
    (source / 'cohn-kanade-images' / 'up').symlink_to('..')


def deep(source: pathlib.Path) -> None:
    files(lambda: trees()[1])(source)
    for depth in range(1, 1001):
        (source / '/'.join(['d'] * depth)).mkdir()


def swapped(source: pathlib.Path, part: str, change: Callable[[pathlib.Path], object]) -> None:
    """A prepared set, the first of whose files with that in its name is made otherwise."""
    files(prepared_set)(source)
    (path,) = [path for path in source.rglob('*') if part in path.name][:1]
    path.unlink()
    change(path)
