"""fer_jax/runs/environment.py: what a result says that it ran on."""

import pathlib
import subprocess
from importlib.metadata import version

from fer_jax.runs.environment import code_revision, environment


def test_environment_names_what_ran() -> None:
    told = environment()
    assert told['device'] == {'platform': 'cpu', 'kind': 'cpu', 'count': 4, 'processes': 1}
    assert told['packages']['jax'] == version('jax') and told['packages']['numpy'] == version('numpy')


def test_the_codes_revision_and_whether_it_was_changed(tmp_path: pathlib.Path) -> None:
    package = tmp_path / 'package'
    package.mkdir()
    (package / '__init__.py').write_text('')
    assert code_revision(package) == {'revision': '', 'dirty': False}

    def git(*arguments: str) -> str:
        identity = ['-c', 'user.name=a', '-c', 'user.email=a@example.org', '-c', 'commit.gpgsign=false']
        return subprocess.run(['git', '-C', tmp_path, *identity, *arguments], check=True, capture_output=True, text=True).stdout.strip()

    git('init', '-q')
    assert code_revision(package) == {'revision': '', 'dirty': False}  # as in a virtual environment inside a checkout
    git('add', '.')
    git('commit', '-q', '-m', 'x')
    (tmp_path / 'notes').write_text('')
    assert code_revision(package) == {'revision': git('rev-parse', 'HEAD'), 'dirty': False}
    (package / '__init__.py').write_text('changed = True')
    assert code_revision(package) == {'revision': git('rev-parse', 'HEAD'), 'dirty': True}
