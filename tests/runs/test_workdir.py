"""fer_jax/runs/workdir.py: whose a folder is."""

import json
import pathlib

import pytest

from fer_jax.core.errors import InputError
from fer_jax.core.fields import default_config
from fer_jax.runs.workdir import check_workdir, claim_workdir, default_workdir, stored_config


def test_the_same_command_finds_its_own_run_again() -> None:
    """What decides the result is in the folder's name; where things lie, and what is kept, is not."""
    one, moved, other = default_config(), default_config(), default_config()
    moved.data.prepared, moved.train.keep_checkpoints = 'elsewhere', 7
    other.init_from = 'fer2013-1.9m'
    assert default_workdir(one) == default_workdir(moved) != default_workdir(other)
    assert default_workdir(one).parent == pathlib.Path('runs') and default_workdir(one).name.startswith('toyfaces-')


def test_a_run_with_votes_is_another_than_one_without(tmp_path: pathlib.Path) -> None:
    """Wherever they lie: soft targets are not labels."""
    labels, votes, moved = default_config(), default_config(), default_config()
    for config in (labels, votes, moved):
        config.data.dataset, config.data.path = 'fer2013', 'fer2013.csv'
    votes.data.votes, moved.data.votes = 'fer2013new.csv', 'elsewhere/fer2013new.csv'
    assert default_workdir(labels) != default_workdir(votes) == default_workdir(moved)
    with claim_workdir(tmp_path / 'run', votes):
        pass
    check_workdir(tmp_path / 'run', moved)
    with pytest.raises(InputError, match=r'another configuration \(data.votes: fer2013new.csv → None\)'):
        check_workdir(tmp_path / 'run', labels)


def test_a_claimed_folder_says_what_run_it_is_of(tmp_path: pathlib.Path) -> None:
    config = default_config()
    config.seed = 7
    with claim_workdir(tmp_path / 'new', config):
        assert stored_config(tmp_path / 'new') == config
        with pytest.raises(InputError, match='is at work there'), claim_workdir(tmp_path / 'new', config):
            pass
    check_workdir(tmp_path / 'new', config)
    with pytest.raises(InputError, match=r'another configuration \(seed: 7 → 0\)'):
        check_workdir(tmp_path / 'new', default_config())
    with pytest.raises(InputError, match='no run there'):
        stored_config(tmp_path)


def test_what_a_killed_process_has_left_is_no_other_thing_and_is_cleared_away(tmp_path: pathlib.Path) -> None:
    """A kill before config.json is in its place, and one within a write later."""
    workdir = tmp_path / 'killed_early'
    (workdir / 'claims').mkdir(parents=True)
    left = [workdir / '.config.json.123-0a1b2c3d.tmp', workdir / 'evaluations' / '.result.json.99-deadbeef.tmp']
    config = default_config()
    left[0].write_text('{')
    check_workdir(workdir, config)
    left[1].parent.mkdir()
    left[1].write_text('')
    (workdir / 'config.json').write_text(json.dumps(config.to_dict()))
    mine = workdir / '.mine.tmp'
    mine.write_text('kept: no name that this package gives')
    with claim_workdir(workdir, config):
        assert not any(path.exists() for path in left) and mine.exists()
    (tmp_path / 'new').mkdir()
    (tmp_path / 'new' / 'evaluations').mkdir()
    with pytest.raises(InputError, match='is no run'):
        check_workdir(tmp_path / 'new', config)
