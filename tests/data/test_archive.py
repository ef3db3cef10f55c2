"""fer_jax/data/archive.py: what it finds in folders and archives, and what it refuses."""

import bz2
import gzip
import io
import lzma
import os
import tarfile
import zipfile

import pytest

from fer_jax.core.errors import InputError
from fer_jax.data.archive import kind, listing, members, open_csv

TEXT = b'emotion,pixels\n' + b''.join(b'%d,%d\n' % (i % 7, i) for i in range(20_000))


def write_zip(path, contents, **info):
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as file:
        for name, content in contents.items():
            entry = zipfile.ZipInfo(name)
            entry.compress_type = zipfile.ZIP_DEFLATED
            for field, value in info.items():
                setattr(entry, field, value)
            file.writestr(entry, content)
    return path


def write_tar(path, contents, mode='w', **info):
    with tarfile.open(path, mode) as file:
        for name, content in contents.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            for field, value in info.items():
                setattr(entry, field, value)
            file.addfile(entry, io.BytesIO(content))
    return path


def read_csv(path, fitting=bool):
    with open_csv(path, fitting) as (stream, where, _):
        return stream.read(), where


def single(tmp_path, form):
    """fer.csv holding TEXT, in one of its forms."""
    path = tmp_path / f'fer.{form}'
    if form == 'csv':
        path.write_bytes(TEXT)
    elif form == 'zip':
        write_zip(path, {'fer2013/README': b'x', 'fer2013/fer.csv': TEXT, '__MACOSX/fer2013/._fer.csv': b'junk'})
    elif form.startswith('tar'):
        write_tar(path, {'fer2013/README': b'x', 'fer2013/fer.csv': TEXT}, mode=f'w:{form[4:]}')
    else:
        path.write_bytes({'gz': gzip, 'xz': lzma, 'bz2': bz2}[form].compress(TEXT))
    return path


FORMS = ('csv', 'zip', 'tar', 'tar.gz', 'tar.xz', 'gz', 'xz', 'bz2')


@pytest.mark.parametrize('form', FORMS)
def test_the_one_csv_is_found_in_every_form(tmp_path, form):
    content, where = read_csv(single(tmp_path, form))
    assert content == TEXT
    assert where.endswith('fer2013/fer.csv' if form.startswith(('zip', 'tar')) else f'fer.{form}')


def test_a_name_says_nothing_about_the_form(tmp_path):
    path = single(tmp_path, 'tar.gz').rename(tmp_path / 'download')
    assert kind(path) == 'tar'
    assert read_csv(path)[0] == TEXT


@pytest.mark.parametrize('form', [form for form in FORMS if form != 'csv'])
@pytest.mark.parametrize('share', [0.0, 0.5, 0.9])
def test_truncated_archives_are_named(tmp_path, form, share):
    path = single(tmp_path, form)
    content = path.read_bytes()
    path.write_bytes(content[: max(int(share * len(content)), 600 if form == 'tar' else 20)])
    with pytest.raises(InputError, match=f'fer.{form}') as caught:
        read_csv(path)
    assert '\n' not in str(caught.value)


def test_a_tar_cut_between_members_is_truncated(tmp_path):
    path = write_tar(tmp_path / 'fer.tar', {'a.csv': b'x' * 512, 'b.csv': b'x' * 512})
    path.write_bytes(path.read_bytes()[:1024])  # a.csv's header and content
    with pytest.raises(InputError, match='fer.tar: truncated'):
        listing(path)


@pytest.mark.parametrize('form', ['gz', 'xz', 'zip'])
def test_flipped_bytes_are_found_by_the_checksum(tmp_path, form):
    path = single(tmp_path, form)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(InputError, match='damaged'):
        read_csv(path)


NAMES = ['../fer.csv', 'a/../../fer.csv', '/fer.csv', '..\\fer.csv', 'C:\\fer.csv']


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('write', [write_zip, write_tar])
def test_members_that_climb_out_are_refused(tmp_path, name, write):
    path = write(tmp_path / 'fer.archive', {'good.csv': TEXT, name: TEXT})
    with pytest.raises(InputError, match='leads out of the archive') as caught:
        read_csv(path)
    assert 'fer.csv' in str(caught.value)
    assert os.listdir(tmp_path) == ['fer.archive']


def test_links_are_refused(tmp_path):
    linked = write_tar(tmp_path / 'a.tar', {'fer.csv': b''}, type=tarfile.SYMTYPE, linkname='/etc/passwd')
    hard = write_tar(tmp_path / 'b.tar', {'fer.csv': b''}, type=tarfile.LNKTYPE, linkname='/etc/passwd')
    zipped = write_zip(tmp_path / 'c.zip', {'fer.csv': b'/etc/passwd'}, external_attr=0o120777 << 16)
    for path in (linked, hard, zipped):
        with pytest.raises(InputError, match='fer.csv: a link'):
            listing(path)


@pytest.mark.parametrize('form', ['zip', 'tar.gz', 'gz', 'xz', 'bz2'])
def test_bombs_are_refused_while_they_unpack(tmp_path, form):
    bomb = bytes(24 << 20)  # shrinks about a thousandfold
    path = tmp_path / f'bomb.{form}'
    if form == 'zip':
        write_zip(path, {'bomb.csv': bomb})
    elif form == 'tar.gz':
        write_tar(path, {'bomb.csv': bomb}, mode='w:gz')
    else:
        path.write_bytes({'gz': gzip, 'xz': lzma, 'bz2': bz2}[form].compress(bomb))
    with pytest.raises(InputError, match='bomb.*unpacks to more than'):
        read_csv(path)


def test_many_overlapping_small_bombs_share_one_budget(tmp_path):
    path = write_zip(tmp_path / 'bombs.zip', {f'{i}.png': bytes(3 << 19) for i in range(16)})
    with pytest.raises(InputError, match='unpacks to more than'):
        for member in members(path):
            with member.open() as stream:
                stream.read()


def test_a_zip_header_that_lies_about_the_size_is_refused(tmp_path):
    path = write_zip(tmp_path / 'lie.zip', {'fer.csv': TEXT})
    size = len(TEXT).to_bytes(4, 'little')
    path.write_bytes(path.read_bytes().replace(size, (100).to_bytes(4, 'little')))
    with pytest.raises(InputError, match='lie.zip: fer.csv: truncated or damaged'):
        read_csv(path)


def test_a_zip_directory_that_points_before_the_file_is_refused(tmp_path):
    path = write_zip(tmp_path / 'fer.zip', {'fer.csv': TEXT})
    content = bytearray(path.read_bytes())
    end = content.rindex(b'PK\5\6')
    content[end + 16] += 9  # the directory's offset: everything seems to stand nine bytes earlier than it does
    path.write_bytes(content)
    with pytest.raises(InputError, match='fer.zip.*damaged'):
        read_csv(path)


def test_an_encrypted_zip_is_refused(tmp_path):
    path = write_zip(tmp_path / 'fer.zip', {'fer.csv': TEXT})
    content = bytearray(path.read_bytes())
    content[6] |= 1  # the flag in the local header
    content[content.rindex(b'PK\1\2') + 8] |= 1  # and in the directory
    path.write_bytes(content)
    with pytest.raises(InputError, match='fer.zip: fer.csv: cannot be unpacked .*(encrypted|password)'):
        read_csv(path)


def test_several_csvs_are_named_and_none_is_said(tmp_path):
    several = write_zip(tmp_path / 'several.zip', {'train.csv': TEXT, 'x/test.csv': TEXT})
    with pytest.raises(InputError, match=r'several.zip: holds 2 CSV files \(train.csv, x/test.csv\)'):
        read_csv(several)
    (tmp_path / 'folder').mkdir()
    with pytest.raises(InputError, match='folder: holds no CSV file, but none'):
        read_csv(tmp_path / 'folder')
    other = write_zip(tmp_path / 'other.zip', {'README.txt': b'of faces', 'fer2013.tar.gz': b'x'})
    with pytest.raises(InputError, match='other.zip: holds no CSV file, but README.txt, fer2013.tar.gz'):
        read_csv(other, TEXT.startswith)


def test_a_table_of_another_ending_is_found_by_what_it_begins_with(tmp_path):
    path = write_zip(tmp_path / 'tab.zip', {'README.txt': b'of faces', 'fer2013.tsv': TEXT})
    assert read_csv(path, TEXT.startswith) == (TEXT, f'{path}: fer2013.tsv')


def test_missing_and_odd_files(tmp_path):
    with pytest.raises(InputError, match='nothing.csv: no such file or folder'):
        kind(tmp_path / 'nothing.csv')
    os.mkfifo(tmp_path / 'pipe')
    with pytest.raises(InputError, match='neither a file nor a folder'):
        kind(tmp_path / 'pipe')
    with pytest.raises(InputError, match='pipe: not a regular file'):
        next(members(tmp_path)).open()


def test_listing_of_a_folder_follows_links_once_and_skips_junk(tmp_path):
    (tmp_path / 'a' / 'b').mkdir(parents=True)
    for name in ('a/b/1.png', 'a/.DS_Store', 'a/Thumbs.db'):
        (tmp_path / name).write_bytes(b'x')
    (tmp_path / 'a' / 'loop').symlink_to(tmp_path / 'a')
    found = listing(tmp_path)
    assert found.files == ('a/b/1.png',)
    assert {'a', 'a/b'} <= set(found.folders)


def test_control_characters_do_not_reach_the_terminal(tmp_path):
    path = write_tar(tmp_path / 'a.tar', {'../\x1b[2J\n.csv': b''})
    with pytest.raises(InputError) as caught:
        listing(path)
    assert str(caught.value).isprintable()
