"""What a reader meets: the site builds without a warning and says every field, commands are commands, and diffs apply."""

import importlib.util
import os
import pathlib
import re
import shlex
import subprocess
import sys

import pytest
from ml_collections import ConfigDict

from fer_jax.__main__ import parse
from fer_jax.core.config import find_config
from fer_jax.core.fields import default_config
from tests.tiny import ROOT

PAGES = ['README.md', 'CONTRIBUTING.md', *(f'docs/{path.name}' for path in sorted((ROOT / 'docs').glob('*.md')))]
COMMAND = re.compile(r'(?:python -m fer_jax|fer-jax) +([a-z][^\n`|]*)')
OWN = 'rates.py'  # the configuration that a page tells its reader to write
DIFFS = re.findall(r'^```diff\n(.*?)^```', (ROOT / 'CONTRIBUTING.md').read_text('utf-8'), re.MULTILINE | re.DOTALL)


@pytest.fixture(scope='module')
def build():
    """docs/build.py."""
    spec = importlib.util.spec_from_file_location('docs_build', ROOT / 'docs' / 'build.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def leaves(config: ConfigDict, before: str = '') -> list[str]:
    """The dotted names of the fields."""
    found = []
    for name, value in config.items():
        found += leaves(value, f'{before}{name}.') if isinstance(value, ConfigDict) else [before + name]
    return found


def test_the_reference_of_the_configuration_has_every_field_with_what_it_means(build) -> None:
    rows = dict(re.findall(r'^\| `([\w.]+)` \| (.*) \|$', build.configuration_table().partition('## Short names')[0], re.MULTILINE))
    assert sorted(rows) == sorted(leaves(default_config()))
    meanings = [row.split(' | ')[1] for row in rows.values()]
    assert all(len(meaning) > 5 for meaning in meanings)
    assert rows['data.dedup'].startswith('`none` | leave out ') and rows['data.dedup'].endswith(' | `none`, `exact`, `near`')
    assert rows['augment.flip'].startswith('`true` | mirror ') and rows['augment.flip'].endswith(' | `true`, `false`')
    assert rows['augment.mixup'].startswith('`0.0` | ') and rows['augment.mixup'].endswith(' | 0 to 100')
    assert rows['network.strides'].startswith('`1,2,2,2,2,2` | ')


@pytest.mark.parametrize('page', PAGES)
def test_links_lead_to_files_and_those_of_the_site_to_no_page_outside_of_it(page: str) -> None:
    """The site has the pages of docs/ alone; a record's README is reached by its folder's other files."""
    for target in re.findall(r'\]\((?!\w+:|#)([^)#\s]+)', (ROOT / page).read_text('utf-8')):
        path = (ROOT / page).parent / target
        assert path.exists(), target
        outside = path.suffix == '.md' and path.resolve().parent != ROOT / 'docs'
        assert not (page.startswith('docs/') and outside), target


@pytest.mark.parametrize('page', PAGES)
def test_the_commands_of_a_page_are_commands(page: str) -> None:
    for text in COMMAND.findall((ROOT / page).read_text('utf-8')):
        if '…' not in text:  # which leaves something out
            options = parse(shlex.split(text, comments=True))
            config = getattr(options, 'config', None)
            assert config in (None, OWN) or find_config(config.partition(':')[0]).is_file()


@pytest.mark.parametrize('diff', DIFFS, ids=lambda diff: re.search(r'^\+\+\+ b/(.*)', diff, re.MULTILINE)[1])
def test_what_contributing_adds_fits_the_code_and_is_in_two_files(diff: str) -> None:
    assert len(re.findall(r'^\+\+\+ ', diff, re.MULTILINE)) <= 2
    checked = subprocess.run(['git', 'apply', '--check', '-'], cwd=ROOT, input=diff, capture_output=True, text=True, timeout=60)
    assert checked.returncode == 0, checked.stderr


def test_contributing_shows_four_diffs() -> None:
    assert len(DIFFS) == 4


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: pathlib.Path) -> None:
    command = [sys.executable, '-W', 'ignore', str(ROOT / 'docs' / 'build.py'), str(tmp_path / 'site')]
    environment = os.environ | {'JAX_PLATFORMS': 'cpu'}
    built = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert built.returncode == 0, built.stderr
    page = (tmp_path / 'site' / 'api' / 'inference.html').read_text('utf-8')
    assert 'id="fer_jax.inference.classifier.predict"' in page
    assert 'data.validation_fraction' in (tmp_path / 'site' / 'configuration.html').read_text('utf-8')
