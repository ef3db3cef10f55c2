"""What the edit list of an MP4 (ISO 14496-12) shows: trimmed, a film may keep all its frames, of which players leave out some."""

import os
from collections.abc import Iterator

import numpy as np

from fer_jax.core.files import open_regular

MOST_FRAMES = 10_000_000  # whose times are looked at: two days of 60 a second
MOST_HEADER = 256 << 20  # bytes of a header, which has some for every frame


def shown_of(path: str, frames: int) -> int:
    """How many of the frames that a video says it has it shows: all, where it is no MP4 or has no edit list."""
    movie = movie_of(path)
    for track in boxes(movie, b'trak'):
        listed, media = first(track, b'edts', b'elst'), first(track, b'mdia')
        wide = is_wide(listed)
        edits = rows(listed, length='>u8' if wide else '>u4', begin='>i8' if wide else '>i4', rate='>i4')
        lengths, shifts = (rows(first(media, b'minf', b'stbl', kind), count='>u4', value='>i4') for kind in (b'stts', b'ctts'))
        if not len(edits) or lengths['count'].sum() != frames or frames > MOST_FRAMES:
            continue  # it hides nothing, or is the sound
        each = np.repeat(lengths['value'].astype(np.int64), lengths['count'])
        times = np.cumsum(each) - each
        if shifts['count'].sum() == frames:  # as where frames are shown in another order than that in which they are stored
            times = np.sort(times + np.repeat(shifts['value'], shifts['count']))
        shown = edits[edits['begin'] >= 0]  # others show nothing for their length
        ends = shown['begin'] + np.rint(shown['length'] * (ticks(first(media, b'mdhd')) / ticks(first(movie, b'mvhd'))))
        return int((np.searchsorted(times, ends) - np.searchsorted(times, shown['begin'])).sum())
    return frames


def movie_of(path: str) -> bytes:
    """What the header of an MP4 holds; empty of another file."""
    with open_regular(path) as file:
        end = os.fstat(file.fileno()).st_size
        while (place := file.tell()) < end:
            head = file.read(16)
            size = int.from_bytes(head[8:] if head[:4] == b'\0\0\0\1' else head[:4])
            if head[4:8] == b'moov':
                file.seek(place + 8)
                return file.read(min(size, MOST_HEADER))
            if not 8 <= size < end - place:
                break
            file.seek(place + size)
    return b''


def boxes(content: bytes, kind: bytes) -> Iterator[bytes]:
    """What each box of a kind holds, of those that stand one behind the other in a box of an MP4."""
    place = 0
    while place < len(content):
        size = max(8, int.from_bytes(content[place : place + 4]))
        if content[place + 4 : place + 8] == kind:
            yield content[place + 8 : place + size]
        place += size


def first(content: bytes, *path: bytes) -> bytes:
    """What the first box of a kind holds in the first of another, and so on; empty where there is none."""
    for kind in path:
        content = next(boxes(content, kind), b'')
    return content


def rows(box: bytes, **columns: str) -> np.ndarray:
    """The table in a box of an MP4, whose columns are of these types."""
    kind = np.dtype([*columns.items()])
    number = min(int.from_bytes(box[4:8]), len(box[8:]) // kind.itemsize)
    return np.frombuffer(box, kind, number, 8) if number else np.empty(0, kind)


def is_wide(box: bytes) -> bool:
    """Whether a box of an MP4 is of version 1, whose lengths and times have 64 bits."""
    return box[:1] == b'\1'


def ticks(header: bytes) -> int:
    """How many parts of a second a header of an MP4 counts in."""
    return max(1, int.from_bytes(header[20:24] if is_wide(header) else header[12:16]))
