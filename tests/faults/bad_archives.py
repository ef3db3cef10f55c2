"""Archives with anything in them: names that lead out, links and devices, members twice, and headers that say absurd sizes."""

import bz2
import gzip
import io
import lzma
import struct
import tarfile
import warnings
import zipfile
from collections.abc import Callable

from hypothesis import strategies as st

from tests.faults.bad_readers import Files, class_folders, encoded, table_csv, tarred

NAMES = (
    '../evil.png', '../../target/evil', '/evil.png', 'C:\\evil.png', '\\\\host\\evil.png', 'a\\..\\..\\evil.png', './train/angry/0.png', 'train//angry///9.png',
    'train/angry/\x1b[2J.png', 'train/angry/a\nb.png', 'train/angry/\u202egnp.exe.png', 'a' * 300 + '.png', '/'.join(['a'] * 400) + '.png', '', '.', '..',
    'train/angry/', 'fer2013.csv', 'FER2013.CSV', '__MACOSX/._a.csv', 'train/angry/0.png', 'con', 'train/angry/0.png/1.png', 'train', 'é.csv', 'valid/x.png',
)  # fmt: skip
TYPES = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE, tarfile.CONTTYPE, tarfile.AREGTYPE,
         tarfile.GNUTYPE_SPARSE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE, b'Z', b'\xff')  # fmt: skip
SIZES = (0, 1, 511, 512, 513, 1 << 20, 1 << 31, (1 << 32) - 1, 1 << 40, (1 << 63) - 1, -1, -(1 << 40), 1 << 64)
PAX = ('size', 'path', 'linkpath', 'mtime', 'uid', 'hdrcharset', 'GNU.sparse.map', 'GNU.sparse.size', 'GNU.sparse.major', 'GNU.sparse.minor',
       'GNU.sparse.realsize', 'GNU.sparse.numblocks', 'GNU.sparse.offset', 'GNU.sparse.numbytes', 'GNU.sparse.name', 'comment')  # fmt: skip
VALUES = (
    '',
    '0',
    '1',
    '-1',
    '10',
    '512',
    '0,1',
    '0,512,1024,512',
    '1,,2',
    '5,-1',
    '99999999999999999999',
    'BINARY',
    'nan',
    '../evil',
    '/evil',
    'x',
    '1e5',
    '\0',
)
names = st.sampled_from(NAMES) | st.text(max_size=20)
contents = st.sampled_from((b'', b'a', encoded(1), table_csv()['fer2013.csv'], bytes(100_000))) | st.binary(max_size=40)


@st.composite
def zips(draw: st.DrawFn, files: Files) -> Files:
    """A zip of what the other zips hold and some more, then with fields of its directory and headers set to anything."""
    inside = draw(st.sampled_from((class_folders(), table_csv(), {})))
    members = [(name, data, 0, zipfile.ZIP_STORED) for name, data in inside.items()]
    for _ in range(draw(st.integers(0, 3))):
        mode = draw(st.sampled_from((0, 0o100644, 0o120777, 0o040755, 0o010644, 0o060644)))
        method = draw(st.sampled_from((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)))
        members.insert(draw(st.integers(0, len(members))), (draw(names), draw(contents), mode << 16, method))
    file = io.BytesIO()
    with warnings.catch_warnings(action='ignore'), zipfile.ZipFile(file, 'w') as archive:  # of names that stand twice
        for name, data, mode, method in members:
            info = zipfile.ZipInfo(name.replace('\0', '') or '_')
            info.external_attr, info.compress_type = mode, method
            archive.writestr(info, data)
        archive.comment = draw(st.sampled_from((b'', b'', b'PK\5\6', b'PK\1\2' * 20)))
    content = bytearray(file.getvalue())
    for _ in range(draw(st.integers(0, 3))):
        change_header(draw, content)
    return {'archive.zip': bytes(content)}


def change_header(draw: st.DrawFn, content: bytearray) -> None:
    """Sets a number of a local header, of the directory or of its end: version, flags, method, check, sizes, lengths, offsets."""
    magic, length = draw(st.sampled_from(((b'PK\3\4', 30), (b'PK\1\2', 46), (b'PK\5\6', 22))))
    places = []
    place = content.find(magic)
    while place >= 0 and len(places) < 50:
        places.append(place)
        place = content.find(magic, place + 1)
    if not places:
        return
    start = draw(st.sampled_from(places)) + 4 + 2 * draw(st.integers(0, (length - 6) // 2))
    form, bits = draw(st.sampled_from((('<H', 16), ('<I', 32))))
    value = draw(st.sampled_from((0, 1, 8, 9, 12, 14, 99, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF)) | st.integers(0, (1 << bits) - 1)) % (1 << bits)
    if start + bits // 8 <= len(content):
        struct.pack_into(form, content, start, value)


@st.composite
def tar_bytes(draw: st.DrawFn) -> bytes:
    """A tar of what the other tars hold, with members of any kind, name, size and pax header among them."""
    inside = draw(st.sampled_from((class_folders(), table_csv(), {})))
    blocks = [tarred({name: data})[:-1024].rstrip(b'\0') for name, data in inside.items()]
    blocks = [block + bytes(-len(block) % 512) for block in blocks]
    for _ in range(draw(st.integers(1, 3))):
        info = tarfile.TarInfo(draw(names).replace('\0', ''))
        data = draw(contents)
        info.type = draw(st.sampled_from((tarfile.REGTYPE, tarfile.REGTYPE, *TYPES)))
        info.linkname = draw(st.sampled_from(('', 'fer2013.csv', '../evil', '/etc/passwd')))
        info.size = draw(st.just(len(data)) | st.sampled_from(SIZES))
        info.pax_headers = draw(st.dictionaries(st.sampled_from(PAX), st.sampled_from(VALUES) | st.text(max_size=10), max_size=3))
        try:
            header = info.tobuf(draw(st.sampled_from((tarfile.PAX_FORMAT, tarfile.GNU_FORMAT))), errors='surrogatepass')
        except (ValueError, UnicodeError, OverflowError):
            continue
        blocks.insert(draw(st.integers(0, len(blocks))), header + data + bytes(-len(data) % 512))
    content = bytearray(b''.join(blocks) + bytes(1024 * draw(st.sampled_from((0, 1, 1, 1, 10)))))
    for _ in range(draw(st.sampled_from((0, 0, 1, 2)))):
        change_tar_header(draw, content)
    return bytes(content)


def change_tar_header(draw: st.DrawFn, content: bytearray) -> None:
    """Sets a field of the header in one block, and its sum so that it is right."""
    start = 512 * draw(st.integers(0, max(len(content) // 512 - 1, 0)))
    if content[start + 257 : start + 262] != b'ustar':
        return
    offset, length = draw(
        st.sampled_from(((0, 100), (100, 8), (124, 12), (136, 12), (156, 1), (157, 100), (257, 8), (345, 155), (386, 96), (482, 1)))
    )
    value = draw(
        st.sampled_from((b'7' * length, b'\xff' * length, b'\x80' + b'\xff' * (length - 1), b'-1', b' ', b'99999999999', b'\0' * length))
        | st.binary(max_size=length)
    )
    content[start + offset : start + offset + length] = value[:length].ljust(length, b'\0')
    block = content[start : start + 512]
    total = sum(block) - sum(block[148:156]) + 8 * 32
    content[start + 148 : start + 156] = b'%06o\0 ' % (total % 0o1000000)


def packed(content: bytes) -> st.SearchStrategy[bytes]:
    """The same, as it is or compressed in some way."""
    ways: list[Callable[[bytes], bytes]] = [bytes, lambda data: gzip.compress(data, 1, mtime=0), bz2.compress]
    return st.sampled_from(ways).map(lambda way: way(content))


@st.composite
def tars(draw: st.DrawFn, files: Files) -> Files:
    return {'archive.tar': draw(packed(draw(tar_bytes())))}


@st.composite
def xzs(draw: st.DrawFn, files: Files) -> Files:
    """xz around a tar or a CSV: its own checks, filters and dictionaries, streams one after another, and padding."""
    content = draw(tar_bytes() | st.just(table_csv()['fer2013.csv']))
    first = draw(st.sampled_from(([], [{'id': lzma.FILTER_DELTA, 'dist': 3}], [{'id': lzma.FILTER_X86}])))
    size = draw(st.sampled_from((4096, 1 << 20, 1 << 23)))
    filters = [*first, {'id': lzma.FILTER_LZMA2, 'preset': 0, 'dict_size': size}]
    check = draw(st.sampled_from((lzma.CHECK_NONE, lzma.CHECK_CRC32, lzma.CHECK_SHA256)))
    cut = draw(st.integers(0, len(content)))
    parts = [content] if draw(st.booleans()) else [content[:cut], content[cut:]]
    stream = bytearray(b''.join(lzma.compress(part, check=check, filters=filters) for part in parts))
    for _ in range(draw(st.integers(0, 2))):
        place = draw(st.integers(0, len(stream) - 1) | st.integers(0, 40) | st.integers(-40, -1)) % len(stream)
        stream[place] = draw(st.integers(0, 255))
    return {'archive.tar.xz': bytes(stream) + draw(st.sampled_from((b'', b'', bytes(4), bytes(5), b'rubbish', b'\xfd7zXZ\0')))}
