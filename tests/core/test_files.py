"""Atomic files: whole or not there, with a user's permissions; JSON errors in one line."""

import errno
import hashlib
import json
import os
import pathlib
import subprocess
import sys

import pytest

from fer_jax.core.errors import InputError
from fer_jax.core.files import read_bytes, read_json, sha256_file, write_atomic, write_json


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_text_and_bytes(tmp_path):
    write_atomic(tmp_path / 'a', 'Zoë\n')
    write_atomic(str(tmp_path / 'b'), b'\x00\xff')
    assert (tmp_path / 'a').read_bytes() == b'Zo\xc3\xab\n'
    assert (tmp_path / 'b').read_bytes() == b'\x00\xff'
    write_atomic(tmp_path / 'a', b'new')
    assert (tmp_path / 'a').read_bytes() == b'new' and names(tmp_path) == ['a', 'b']


def full_disk(*_):
    raise OSError(errno.ENOSPC, 'No space left on device')


@pytest.mark.parametrize('call', ['fsync', 'replace'])
@pytest.mark.parametrize('old', ['old', None])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, call, old):
    path = tmp_path / 'file'
    if old:
        path.write_text(old)
    monkeypatch.setattr(os, call, full_disk)
    with pytest.raises(OSError, match='No space left'):
        write_atomic(path, 'new')
    monkeypatch.undo()
    assert names(tmp_path) == (['file'] if old else [])
    assert not old or path.read_text() == old


def test_ctrl_c_in_the_middle_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, 'fsync', interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(tmp_path / 'file', 'new')
    assert names(tmp_path) == []


def test_a_pipe_is_written_into_and_stays(tmp_path):
    """As any device would: who is root could otherwise replace /dev/stdout."""
    pipe = tmp_path / 'pipe'
    os.mkfifo(pipe)
    reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_atomic(pipe, 'through')
    assert os.read(reading, 99) == b'through' and pipe.is_fifo() and names(tmp_path) == ['pipe']
    os.close(reading)


def test_another_name_of_what_is_open_is_appended_to(tmp_path):
    with open(tmp_path / 'file', 'wb', 0) as file:
        file.write(b'before ')
        write_atomic(f'/dev/fd/{file.fileno()}', b'after')
    assert (tmp_path / 'file').read_bytes() == b'before after' and names(tmp_path) == ['file']


def test_nobody_sees_half_a_file(tmp_path, monkeypatch):
    """When the rename comes, the temporary file is whole and on the disk, and lies in the same folder."""
    path, seen, synced = tmp_path / 'file', [], []
    replace, fsync = os.replace, os.fsync

    def watch(source, target):
        seen.append((pathlib.Path(source).read_text(), pathlib.Path(source).parent, pathlib.Path(target), len(synced)))
        replace(source, target)

    monkeypatch.setattr(os, 'replace', watch)
    monkeypatch.setattr(os, 'fsync', lambda descriptor: (synced.append(descriptor), fsync(descriptor)))
    write_atomic(path, 'x' * 1000)
    assert seen == [('x' * 1000, tmp_path, path, 1)]
    assert len(synced) == 2, 'the folder is synced after the rename'


@pytest.mark.parametrize('umask', [0o022, 0o077, 0o002])
def test_permissions_are_the_users(tmp_path, umask):
    """In a process of its own, as the umask is the whole process's."""
    code = f'import os; os.umask({umask}); from fer_jax.core.files import write_atomic; write_atomic({str(tmp_path / "file")!r}, "x")'
    subprocess.run([sys.executable, '-c', code], check=True, timeout=60)
    assert (tmp_path / 'file').stat().st_mode & 0o777 == 0o666 & ~umask


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_atomic(tmp_path / 'no' / 'file', 'x')


def test_json(tmp_path):
    value = {'z': 1, 'a': [1.5, None, 'é'], 'm': {'x': True}}
    write_json(tmp_path / 'v.json', value)
    text = (tmp_path / 'v.json').read_text()
    assert text.endswith('}\n') and text.startswith('{\n  "z": 1,\n')
    assert json.loads(text) == value == read_json(tmp_path / 'v.json')
    assert list(read_json(tmp_path / 'v.json')) == ['z', 'a', 'm']


@pytest.mark.parametrize('value', [float('nan'), float('inf'), object()])
def test_what_is_no_json_is_refused_and_the_old_file_stands(tmp_path, value):
    write_json(tmp_path / 'v.json', 1)
    with pytest.raises((ValueError, TypeError)):
        write_json(tmp_path / 'v.json', {'a': value})
    assert read_json(tmp_path / 'v.json') == 1 and names(tmp_path) == ['v.json']


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (b'{"a": 1,\n "b": }', 'line 2'),
        (b'', 'not JSON'),
        (b'{"a": "\xff"}', 'not JSON'),
        (b'[' * 100_000, 'not JSON'),
        (b'{"a": 1} x', 'line 1'),
    ],
)
def test_bad_json_is_one_line_with_file_and_place(tmp_path, content, message):
    path = tmp_path / 'v.json'
    path.write_bytes(content)
    with pytest.raises(InputError) as error:
        read_json(path)
    assert str(path) in str(error.value) and message in str(error.value) and '\n' not in str(error.value)


def test_missing_json(tmp_path):
    with pytest.raises(InputError, match='no such file'):
        read_json(tmp_path / 'v.json')


def test_a_folder_for_json(tmp_path):
    with pytest.raises(InputError, match='cannot be read'):
        read_json(tmp_path)


def test_sha256(tmp_path):
    """FIPS 180-2, appendix B.1: the digest of 'abc'."""
    (tmp_path / 'abc').write_bytes(b'abc')
    assert sha256_file(tmp_path / 'abc') == 'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad'
    (tmp_path / 'long').write_bytes(b'x' * 300_000)
    assert sha256_file(tmp_path / 'long') == hashlib.sha256(b'x' * 300_000).hexdigest()


def test_only_regular_files_of_a_size_are_read(tmp_path):
    """A pipe and a device would never end."""
    os.mkfifo(tmp_path / 'pipe')
    (tmp_path / 'link').symlink_to('/dev/zero')
    for name in ('pipe', 'link'):
        with pytest.raises(InputError, match='not a regular file'):
            read_bytes(tmp_path / name, 100)
    (tmp_path / 'file').write_bytes(bytes(100))
    assert read_bytes(tmp_path / 'file', 100) == bytes(100)
    with pytest.raises(InputError, match='larger than 99 bytes'):
        read_bytes(tmp_path / 'file', 99)
    os.truncate(tmp_path / 'file', (64 << 20) + 1)  # a hole, which takes no room
    with pytest.raises(InputError, match='larger than 67,108,864 bytes'):
        read_json(tmp_path / 'file')


def test_a_number_of_thousands_of_digits_is_one_line(tmp_path):
    (tmp_path / 'a.json').write_text('{"seed": ' + '9' * 5000 + '}')
    with pytest.raises(InputError, match='not JSON'):
        read_json(tmp_path / 'a.json')


def test_a_message_is_one_printable_line_whatever_it_quotes():
    assert str(InputError('a\x1b[2Jb\nc\udcff…')) == 'a\\x1b[2Jb\\nc\\udcff…'
    assert len(str(InputError('x' * 10**6))) < 2100
