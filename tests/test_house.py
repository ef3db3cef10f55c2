"""The house rules that a machine can hold: lint, format, sizes, shell scripts, pinned requirements."""

import ast
import builtins
import dis
import os
import pathlib
import re
import shutil
import subprocess
import symtable
import sys
import tomllib
import types

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = pathlib.Path(__file__).parent.parent
SHELL = ('launch/*.sh', 'launch/*.sbatch', 'requirements/*.sh')
SCRIPTS = [ROOT / '.ci/run', *(path for kind in SHELL for path in sorted(ROOT.glob(kind)))]
FOLDERS = ('fer_jax', 'configs', 'benchmarks', 'docs', 'launch', 'tests')
SOURCES = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob('*.py'))]
LOCKS = [ROOT / 'requirements.txt', *sorted((ROOT / 'requirements').glob('*.txt'))]
# A list of fields with a comment each, no logic.
LISTINGS = ('default_config',)
PYTHONS = ('3.11.7', '3.12.1', '3.13.0')


def ruff(*arguments: str) -> None:
    result = subprocess.run([sys.executable, '-m', 'ruff', *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stdout + result.stderr


def test_lint():
    ruff('check', '--quiet', '.')


def test_format():
    ruff('format', '--quiet', '--diff', '.')


@pytest.mark.parametrize('path', sorted((ROOT / 'fer_jax').rglob('*.py')), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_function_is_read_on_one_screen(path):
    text = path.read_text()
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    functions = [node for node in functions if node.name not in LISTINGS]
    long = {node.name: node.end_lineno - node.lineno + 1 for node in functions if node.end_lineno - node.lineno >= 70}
    assert not long


@pytest.mark.parametrize('path', SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_name_that_code_reads_is_there(path):
    """What ruff's F821 would find, which cannot tell jaxtyping's shapes from names."""
    text, unknown = path.read_text(), []
    known = set(symtable.symtable(text, path.name, 'exec').get_identifiers()) | set(dir(builtins)) | {'__file__', '__name__'}
    codes = [compile(text, path.name, 'exec')]
    while codes:
        code = codes.pop()
        codes += [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
        unknown += [found.argval for found in dis.get_instructions(code) if found.opname == 'LOAD_GLOBAL' and found.argval not in known]
    assert not unknown


@pytest.mark.parametrize('path', SCRIPTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_shell_scripts(path):
    subprocess.run(['bash', '-n', path], check=True, timeout=60)
    assert os.access(path, os.X_OK) == path.read_text().startswith('#!'), 'a script that is run has both, one that is sourced neither'
    shellcheck = shutil.which('shellcheck', path=os.path.dirname(sys.executable)) or 'shellcheck'  # of the extra dev
    result = subprocess.run([shellcheck, '--external-sources', path], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stdout


def locked(path: pathlib.Path) -> list[Requirement]:
    """The requirements of a lock; each must be pinned and have a hash."""
    entries = re.sub(r'^#.*\n', '', path.read_text(), flags=re.MULTILINE).replace('\\\n', ' ').splitlines()
    requirements = []
    for entry in entries:
        requirement, *hashes = re.split(r'\s+--hash=sha256:', entry.strip())
        assert re.fullmatch(r'[a-z0-9._-]+==[\w.]+( ; .*)?', requirement), entry
        assert hashes and all(re.fullmatch('[0-9a-f]{64}', each) for each in hashes), entry
        requirements.append(Requirement(requirement))
    return requirements


def applying(requirements: list[Requirement], python: str) -> dict[str, Requirement]:
    """Those that hold for a version of Python on this platform, by name."""
    environment = default_environment() | {'python_full_version': python, 'python_version': python.rpartition('.')[0]}
    holding = [each for each in requirements if each.marker is None or each.marker.evaluate(environment)]
    names = [canonicalize_name(each.name) for each in holding]
    assert len(names) == len(set(names)), 'a package is pinned twice'
    return dict(zip(names, holding, strict=True))


@pytest.mark.parametrize('path', LOCKS, ids=lambda path: path.name)
def test_requirements_are_pinned_with_hashes(path):
    assert locked(path)


@pytest.mark.parametrize('python', PYTHONS)
@pytest.mark.parametrize('extra', [None, 'cuda12', 'cuda13', 'tpu', 'docs', 'dev'])
def test_the_locks_are_of_what_pyproject_asks_for(python, extra):
    with open(ROOT / 'pyproject.toml', 'rb') as stream:
        project = tomllib.load(stream)['project']
    base = applying(locked(ROOT / 'requirements.txt'), python)
    added = applying(locked(ROOT / f'requirements/{extra}.txt'), python) if extra else {}
    assert not set(base) & set(added), 'pinned in both files'
    for wanted in map(Requirement, project['optional-dependencies'][extra] if extra else project['dependencies']):
        pin = (base | added)[canonicalize_name(wanted.name)]
        (version,) = (each.version for each in pin.specifier)
        assert wanted.specifier.contains(version), f'{wanted} is pinned to {version}; write the locks anew with requirements/lock.sh'
