"""What a run was trained on, told by content rather than by where it lies."""

import hashlib

import pytest

from fer_jax.core.errors import InputError
from fer_jax.core.fields import default_config
from fer_jax.training.identity import check_content, check_files, files_sha256


def test_files_beside_the_images_are_known_by_their_content(tmp_path):
    data = default_config().data
    assert files_sha256(data) == {}
    for name in ('votes', 'a', 'b'):
        (tmp_path / name).write_text(name)
    data.votes, data.teacher = str(tmp_path / 'votes'), f'{tmp_path / "a"},{tmp_path / "b"}'
    sums = {name: hashlib.sha256(name.encode()).hexdigest() for name in ('votes', 'a', 'b', 'c')}
    found = files_sha256(data)
    assert found == {'data.votes': [sums['votes']], 'data.teacher': [sums['a'], sums['b']]}
    check_files(found, {'files_sha256': found})
    check_files(found, {})  # a record of before they were noted
    (tmp_path / 'b').write_text('c')
    expected = f'data.teacher: not what the run was trained by: its sha256 is {sums["a"][:12]}…, {sums["c"][:12]}…, not {sums["a"][:12]}…, '
    with pytest.raises(InputError, match=expected):
        check_files(files_sha256(data), {'files_sha256': found})
    (tmp_path / 'b').unlink()
    assert list(files_sha256(data)) == ['data.votes'], 'who reads the teacher will tell'


def test_other_data_are_named():
    with pytest.raises(InputError, match='fer2013: these are not the data .* sha256 0a0a0a0a0a0a…, not 0b0b0b0b0b0b…'):
        check_content({'dataset': 'fer2013', 'content_sha256': '0a' * 32}, {'content_sha256': '0b' * 32})
