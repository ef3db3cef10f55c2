"""Pictures whose headers say anything: sizes, depths, tags and chunks, with checksums that are right."""

import struct
import zlib

from hypothesis import strategies as st

from tests.faults.bad_readers import Files

NUMBERS = (0, 1, 2, 3, 5, 7, 8, 16, 32, 255, 256, 9000, 0x7FFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
CHUNKS = (
    b'IHDR',
    b'PLTE',
    b'tRNS',
    b'iCCP',
    b'zTXt',
    b'iTXt',
    b'tEXt',
    b'eXIf',
    b'acTL',
    b'fcTL',
    b'fdAT',
    b'IDAT',
    b'IEND',
    b'gAMA',
    b'pHYs',
    b'abcd',
)
PNG = b'\x89PNG\r\n\x1a\n'
numbers = st.sampled_from(NUMBERS) | st.integers(0, (1 << 32) - 1)


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG, with its length and its checksum."""
    return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))


def chunks(content: bytes) -> list[tuple[bytes, bytes]]:
    """The chunks of a PNG that is whole."""
    found, place = [], len(PNG)
    while place < len(content):
        length = int.from_bytes(content[place : place + 4])
        found.append((content[place + 4 : place + 8], content[place + 8 : place + 8 + length]))
        place += length + 12
    return found


@st.composite
def pngs(draw: st.DrawFn, content: bytes) -> bytes:
    """A PNG with fields of its header changed, and chunks changed, left out, doubled, moved and put in."""
    found = chunks(content)
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(found) - 1))
        kind, data = found[place]
        match draw(st.sampled_from(('size', 'size', 'depth', 'bytes', 'gone', 'twice', 'new', 'new', 'pixels'))):
            case 'size' if found[0][0] == b'IHDR' and len(found[0][1]) == 13:
                header = bytearray(found[0][1])
                struct.pack_into('>I', header, draw(st.sampled_from((0, 4))), draw(numbers))
                found[0] = (b'IHDR', bytes(header))
            case 'depth' if found[0][0] == b'IHDR' and len(found[0][1]) == 13:
                header = bytearray(found[0][1])
                header[draw(st.integers(8, 12))] = draw(st.integers(0, 17))
                found[0] = (b'IHDR', bytes(header))
            case 'bytes':
                at = draw(st.integers(0, len(data)))
                found[place] = (kind, data[:at] + draw(st.binary(max_size=20)) + data[at + draw(st.integers(0, 9)) :])
            case 'gone' if len(found) > 1:
                del found[place]
            case 'twice':
                found[place:place] = [found[place]]
            case 'new':
                packed = b'name\0\0' + zlib.compress(bytes(draw(st.sampled_from((10, 100_000, 20_000_000)))))
                found.insert(place, (draw(st.sampled_from(CHUNKS)), draw(st.binary(max_size=60) | st.just(packed))))
            case 'pixels':
                found[place] = (kind, zlib.compress(bytes(draw(st.sampled_from((0, 100, 10_000_000))))))
    return PNG + b''.join(chunk(*each) for each in found)


@st.composite
def tiffs(draw: st.DrawFn, content: bytes) -> bytes:
    """A TIFF with tags changed: number, type, count, or value and offset."""
    changed = bytearray(content)
    order = '<' if content[:2] == b'II' else '>'
    (place,) = struct.unpack_from(order + 'I', content, 4)
    (count,) = struct.unpack_from(order + 'H', content, place)
    for _ in range(draw(st.integers(1, 3))):
        start = place + 2 + 12 * draw(st.integers(0, count - 1))
        offset, form = draw(st.sampled_from(((0, 'H'), (2, 'H'), (4, 'I'), (8, 'I'), (8, 'I'), (8, 'H'))))
        struct.pack_into(order + form, changed, start + offset, draw(numbers) % (1 << (8 * struct.calcsize(form))))
    return bytes(changed)


@st.composite
def headers(draw: st.DrawFn, content: bytes) -> bytes:
    """Any picture with numbers in its first bytes, or anywhere, set to odd ones."""
    changed = bytearray(content)
    for _ in range(draw(st.integers(1, 3))):
        form = draw(st.sampled_from(('B', '<H', '>H', '<I', '>I', '<Q')))
        size = struct.calcsize(form)
        start = draw(st.integers(0, min(120, len(changed) - size)) | st.integers(0, len(changed) - size))
        struct.pack_into(form, changed, start, draw(numbers) % (1 << (8 * size)))
    return bytes(changed)


@st.composite
def pictures(draw: st.DrawFn, files: Files) -> Files:
    ((name, content),) = files.items()
    own = {'png': pngs, 'tif': tiffs}.get(name[-3:], headers)
    ending = draw(st.sampled_from((name[-3:],) * 5 + ('png', 'tif')))
    return {f'face.{ending}': draw(draw(st.sampled_from((own, own, headers)))(content))}
