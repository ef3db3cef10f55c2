"""The files in a folder or an archive, as bounded streams: nothing is extracted, and no size in a header is believed.

Looked at: tarfile's filters, which judge names and links as files are extracted and bound no size; and libarchive, which reads more
formats, but by a C library that pip does not bring.
"""

import bz2
import contextlib
import dataclasses
import errno
import gzip
import io
import lzma
import os
import pathlib
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial

from fer_jax.core.errors import InputError, printable
from fer_jax.core.files import open_regular

MAX_INFLATED = 64 << 30  # bytes that one archive may unpack to
MAX_RATIO = 200  # and that as a multiple of its own size; text of pixels shrinks 3 to 8 times, images not at all
RATIO_FROM = 16 << 20  # below this a ratio says nothing: a few hundred black images shrink a thousandfold
UNPACKERS = ((b'\x1f\x8b', gzip.open), (b'\xfd7zXZ\0', lzma.open), (b'BZh', bz2.open))
EXTENDED = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
CORRUPT = (
    EOFError,
    OSError,
    OverflowError,
    ValueError,  # of numbers in tar's extended headers
    lzma.LZMAError,
    struct.error,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
)
MAX_HEADER = 1 << 20  # bytes of a tar's header for a long name or for attributes; tarfile reads it whole
TEXTS = ('.csv', '.tsv', '.txt', '.lst')  # endings of tables
MOST_HEADER = 1 << 14  # bytes of a CSV that tell what is in it
UTF_8_NAME = 0x800  # the flag of a zip's member that says so
MAX_DEPTH = 100  # of folders in each other
# What desktops and file servers leave in folders, besides names that start with a dot: passed over without a word.
JUNK = frozenset(('thumbs.db', 'ehthumbs.db', 'desktop.ini', 'icon\r', '__macosx', '@eadir', '$recycle.bin', 'system volume information'))


@dataclasses.dataclass(frozen=True)
class Member:
    """One regular file of a folder or archive; of an archive it can be opened only until the next one is asked for."""

    name: str  # path inside the folder or archive, with '/'
    where: str  # how messages call it
    open: Callable[[], io.BufferedReader] | None  # None of a folder; `members` gives only files


@dataclasses.dataclass(frozen=True)
class Listing:
    """The names of all files and folders inside a folder or archive, sorted."""

    files: tuple[str, ...]
    folders: tuple[str, ...]


class _Bounded(io.RawIOBase):
    """Passes a stream's bytes on, counts them over all streams of an archive, and turns decoders' errors into InputError."""

    def __init__(self, stream: io.BufferedIOBase, where: str, budget: list[int]):
        self._stream, self._where, self._budget = stream, where, budget

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        if not self.closed:
            self._stream.close()  # a zip file stays open while one of its members is
        super().close()

    def readinto(self, buffer) -> int:
        with _corrupt(self._where):
            content = self._stream.read(len(buffer))
        self._budget[0] -= len(content)
        if self._budget[0] < 0:
            raise _too_large(self._where)
        buffer[: len(content)] = content
        return len(content)


def _too_large(where: str) -> InputError:
    return InputError(f'{where}: unpacks to more than {MAX_RATIO} times its size or {MAX_INFLATED >> 30} GiB: refused')


@contextlib.contextmanager
def _corrupt(where: str) -> Iterator[None]:
    """Errors of a truncated or damaged archive become one line that names it."""
    try:
        yield
    except InputError:
        raise
    except CORRUPT as error:
        # Of OSErrors, decoders' own have no number, and zipfile seeks to where a damaged directory tells it, even before the start.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        raise InputError(f'{where}: truncated or damaged archive ({str(error) or type(error).__name__}): fetch it again') from None
    except (NotImplementedError, RuntimeError) as error:  # zipfile's words for an unknown compression and for encryption
        raise InputError(f'{where}: cannot be unpacked ({error})') from None


def _bounded(unpack: Callable[[], io.BufferedIOBase], where: str, budget: list[int]) -> io.BufferedReader:
    with _corrupt(where):
        return io.BufferedReader(_Bounded(unpack(), where, budget), 1 << 20)


def _budget(path: pathlib.Path) -> list[int]:
    return [min(MAX_INFLATED, max(RATIO_FROM, MAX_RATIO * path.stat().st_size))]


@contextlib.contextmanager
def _unpacked(path: pathlib.Path) -> Iterator[io.BufferedReader]:
    """A file's bytes, through gzip, xz or bzip2 where its first bytes (not its name) say so."""
    with open(path, 'rb', buffering=1 << 20) as file:
        magic = file.read(6)
        file.seek(0)
        unpack = next((unpack for start, unpack in UNPACKERS if magic.startswith(start)), None)
        if unpack is None:
            yield file
        else:
            with _bounded(partial(unpack, file), str(path), _budget(path)) as stream:
                yield stream


def kind(path: str | os.PathLike) -> str:
    """'folder', 'zip', 'tar' or 'file', by content; a gzip, xz or bzip2 around a tar or a file is looked through.

    Raises:
      InputError: there is no such file or folder, or the compressed stream is damaged at its start.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        return 'folder'
    if not path.is_file():
        raise InputError(f'{path}: {"neither a file nor a folder" if path.exists() else "no such file or folder"}')
    with open(path, 'rb') as file:
        if file.read(4) in (b'PK\3\4', b'PK\5\6'):
            return 'zip'
    with _unpacked(path) as stream:
        return 'tar' if stream.read(512)[257:262] == b'ustar' else 'file'


def members(path: str | os.PathLike) -> Iterator[Member]:
    """The regular files in a folder, zip or tar (also compressed), in stored order (a folder's: sorted); desktops' junk left out.

    Raises:
      InputError: the archive is damaged, unpacks beyond MAX_RATIO or MAX_INFLATED, or has a member that is a link or a
        device or whose name leads out of the archive.
    """
    with contextlib.closing(_entries(path)) as entries:
        yield from (member for member in entries if member.open is not None)


def listing(path: str | os.PathLike) -> Listing:
    """The names of what is in a folder, zip or tar; reads a compressed tar to its end. Errors as of `members`."""
    entries = list(_entries(path))
    files = sorted(entry.name for entry in entries if entry.open is not None)
    folders = {str(parent) for entry in entries for parent in pathlib.PurePosixPath(entry.name).parents}
    folders |= {entry.name for entry in entries if entry.open is None}
    return Listing(tuple(files), tuple(sorted(folders - {'', '.'})))


def _entries(path: str | os.PathLike) -> Iterator[Member]:
    """All members, folders too: those have no `open`."""
    readers = {'folder': _folder_entries, 'zip': _zip_entries, 'tar': _tar_entries}
    form = kind(path)
    if form == 'file':
        raise InputError(f'{path}: neither a folder nor a zip or tar archive')
    with contextlib.closing(readers[form](pathlib.Path(path))) as found:
        for member in found:
            if not any(part.startswith('.') or part in JUNK for part in member.name.lower().split('/')):
                yield member


def _folder_entries(path: pathlib.Path) -> Iterator[Member]:
    # A user's folder may be built of links, and those are followed; one that leads back up is met once.
    seen = set()
    for folder, folders, files in os.walk(path, followlinks=True, onerror=_raise):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders.sort()
        inside = pathlib.PurePath(os.path.relpath(folder, path)).as_posix()
        if inside.count('/') >= MAX_DEPTH:
            raise InputError(f'{path}: holds more than {MAX_DEPTH} folders in each other: give the one that has the images')
        prefix = '' if inside == '.' else f'{inside}/'
        if prefix:
            yield Member(inside, folder, None)
        for name in sorted(files):
            file = os.path.join(folder, name)
            yield Member(prefix + name, printable(file), partial(open_regular, file))


def _raise(error: OSError) -> None:
    raise error


def _inside(name: str, where: str) -> str:
    """`name` with '/' for a separator, if it stays inside its archive."""
    name = name.replace('\\', '/')
    if not name:
        raise InputError(f'{where}a member without a name: refused')
    if name.startswith('/') or '..' in name.split('/') or '\0' in name or re.match('[A-Za-z]:', name):
        raise InputError(f'{where}: the name leads out of the archive: refused')
    return '/'.join(part for part in name.split('/') if part not in ('', '.'))


def _name(info: zipfile.ZipInfo) -> str:
    """A member's name: macOS writes it in UTF-8 and does not say so, which zipfile then takes for the code page of DOS."""
    if not info.flag_bits & UTF_8_NAME:
        with contextlib.suppress(UnicodeError):
            return info.filename.encode('cp437').decode()
    return info.filename


def _zip_entries(path: pathlib.Path) -> Iterator[Member]:
    budget = _budget(path)
    with _corrupt(str(path)), zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            told = _name(info)
            where = f'{path}: {printable(told)}'
            name = _inside(told, where)
            if stat.S_ISLNK(info.external_attr >> 16):
                raise InputError(f'{where}: a link: refused')
            if info.is_dir():
                yield Member(name, where, None)
            else:
                yield Member(name, where, partial(_bounded, partial(archive.open, info), where, budget))


class _BoundedTarInfo(tarfile.TarInfo):
    """A member whose header may not ask for more memory than a header takes."""

    @classmethod
    def frombuf(cls, buf: bytes, encoding: str, errors: str) -> tarfile.TarInfo:
        info = super().frombuf(buf, encoding, errors)
        if info.type in EXTENDED and not 0 <= info.size <= MAX_HEADER:
            raise tarfile.ReadError(f'a header of {info.size:,} bytes')
        return info


def _tar_entries(path: pathlib.Path) -> Iterator[Member]:
    budget = _budget(path)  # over the members too: a sparse one is larger than its stream
    with (
        _unpacked(path) as stream,
        _corrupt(str(path)),
        tarfile.open(fileobj=stream, mode='r|', tarinfo=_BoundedTarInfo) as archive,
    ):
        for info in archive:
            where = f'{path}: {printable(info.name)}'
            name = _inside(info.name, where)
            if info.size > budget[0]:  # tarfile would read on for as long, even behind the end
                raise _too_large(where)
            if info.isdir():
                yield Member(name, where, None)
            elif info.isreg():
                yield Member(name, where, partial(_bounded, partial(archive.extractfile, info), where, budget))
            else:
                raise InputError(f'{where}: a link or a device: refused')
    with open(path, 'rb') as file:
        plain = file.read(512)[257:262] == b'ustar'
        file.seek(max(path.stat().st_size - 1024, 0))
        # A compressed one has a checksum; this has only its two blocks of zeros to tell where it ends.
        cut = plain and any(file.read())
    if cut:
        raise InputError(f'{path}: truncated or damaged archive (no end mark): fetch it again')


@contextlib.contextmanager
def open_csv(path: str | os.PathLike, fitting: Callable[[bytes], int]) -> Iterator[tuple[io.BufferedReader, str, tuple[str, ...]]]:
    """(stream, name for messages, names of what lies beside it) of a CSV: `path` itself, plain or compressed, or one in that folder or
    archive: the only *.csv, or of several the one that fits best; where there is none, another text that fits.

    Args:
      fitting: how well the first bytes of a CSV fit, 0 for not at all.

    Raises:
      InputError: there is none, or several that fit as well (they are named), or as of `members`.
    """
    if kind(path) == 'file':
        with _unpacked(pathlib.Path(path)) as stream:
            yield stream, str(path), ()
        return
    names = listing(path).files
    certain = [name for name in names if name.lower().endswith('.csv')]
    found = certain or [name for name in names if name.lower().endswith(TEXTS)]
    if len(found) > len(certain[:1]):
        fits = {}
        with contextlib.closing(members(path)) as files:
            for member in files:
                if member.name in found:
                    with member.open() as stream:
                        fits[member.name] = fitting(stream.read(MOST_HEADER))
        found = [name for name in found if fits[name] == max(fits.values()) and (certain or fits[name])]
    if len(found) != 1:
        shown = ', '.join(printable(name) for name in (found or names)[:10])
        problem = (
            f'{len(found)} CSV files ({shown}): unpack it and give the one to read' if found else f'no CSV file, but {shown or "none"}'
        )
        raise InputError(f'{path}: holds {problem}')
    with open_member(path, found[0]) as (stream, where):
        yield stream, where, tuple(name for name in names if name != found[0])


@contextlib.contextmanager
def open_member(path: str | os.PathLike, name: str) -> Iterator[tuple[io.BufferedReader, str]]:
    """(stream, name for messages) of a file in a folder or archive, which it must be in; errors as of `members`."""
    with contextlib.closing(members(path)) as files:
        member = next(member for member in files if member.name == name)
        with member.open() as stream:
            yield stream, member.where
            # The end of an archive is where its checksum stands: a reader that stops early must not skip it.
            while stream.read(1 << 20):
                pass
