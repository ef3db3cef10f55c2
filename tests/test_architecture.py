"""The rooms of the package: a file imports only from its own and those before it, and nothing that it must do without."""

import ast
import pathlib
import re
import subprocess
import sys
import tomllib

import pytest
from packaging.requirements import Requirement

ROOT = pathlib.Path(__file__).parent.parent
FILES = sorted(path.relative_to(ROOT / 'fer_jax').as_posix() for path in (ROOT / 'fer_jax').rglob('*.py'))
# What starts without JAX and what else takes seconds, so that --help and a mistyped argument answer at once.
LIGHT = ['core.errors', 'core.files', 'core.fields', 'core.config', 'core.command_line', 'report.command', 'runs.workdir', '__main__']
SLOW = {'jax', 'flax', 'tensorflow_datasets', 'scipy.stats'}
# Where a package's import name is not the name that it is installed by.
INSTALLED_AS = {'PIL': 'pillow', 'cv2': 'opencv-python-headless', 'orbax': 'orbax-checkpoint'}


def imports(file: str) -> set[str]:
    """The modules that `file` names in import statements anywhere in it; for `from a import b` both a and a.b."""
    modules = set()
    for node in ast.walk(ast.parse((ROOT / 'fer_jax' / file).read_text())):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f'fer_jax/{file}:{node.lineno}: a relative import; name the module in full'
            modules |= {node.module, *(f'{node.module}.{alias.name}' for alias in node.names)}
    return modules


def test_imports_keep_to_the_contracts():
    """Those of [tool.importlinter] in pyproject.toml: the rooms' one direction, and no circle in any of them."""
    code = 'import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))'
    result = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stdout + result.stderr


# Of data, the file registers the data sets with TFDS as well.
@pytest.mark.parametrize('file', [file for file in FILES if file.endswith('/__init__.py') and file != 'data/__init__.py'])
def test_a_rooms_own_file_is_one_docstring(file):
    """A package that imports its modules makes every one of them load with any other."""
    (only,) = ast.parse((ROOT / 'fer_jax' / file).read_text()).body
    assert isinstance(only, ast.Expr) and isinstance(only.value.value, str)


@pytest.mark.parametrize('file', FILES)
def test_imports_are_declared_dependencies(file):
    with open(ROOT / 'pyproject.toml', 'rb') as stream:
        project = tomllib.load(stream)['project']
    # What only an extra brings is imported by the commands that ask for it.
    extras = [line for name, lines in project['optional-dependencies'].items() if name != 'dev' for line in lines]
    declared = {Requirement(line).name.lower() for line in [*project['dependencies'], *extras]}
    outside = {module.partition('.')[0] for module in imports(file)} - sys.stdlib_module_names - {'fer_jax'}
    undeclared = {name for name in outside if INSTALLED_AS.get(name, name).replace('_', '-').lower() not in declared}
    assert not undeclared


@pytest.mark.parametrize('file', FILES)
def test_no_tensorflow_and_no_torch(file):
    assert not {module.partition('.')[0] for module in imports(file)} & {'tensorflow', 'torch', 'torchvision'}


@pytest.mark.parametrize('module', LIGHT)
def test_what_must_start_fast_does_not_import_jax(module):
    code = f'import sys, fer_jax.{module}; sys.exit(", ".join({SLOW} & set(sys.modules)) or 0)'
    result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize('file', FILES)
def test_configurations_are_read_by_name(file):
    """No `config.get(…)`: a misspelt field must raise, not fall back to a default that nobody sees."""
    for node in ast.walk(ast.parse((ROOT / 'fer_jax' / file).read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == 'get':
            owner = ast.unparse(node.func.value)
            assert not re.search(r'\bconfig\b[\w.]*$', owner), f'fer_jax/{file}:{node.lineno}: {owner}.get'


@pytest.mark.parametrize('file', FILES)
def test_nothing_is_unpickled_evaluated_or_executed(file: str) -> None:
    """But configuration files, which users run on purpose."""
    unsafe = {'pickle', 'dill', 'cloudpickle', 'joblib', 'shelve', 'marshal', 'code', 'runpy'}
    assert not {module.partition('.')[0] for module in imports(file)} & unsafe
    found = set()
    for node in ast.walk(ast.parse((ROOT / 'fer_jax' / file).read_text())):
        if isinstance(node, ast.Call):
            name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, 'attr', '')
            bare = isinstance(node.func, ast.Name) and name in ('eval', 'exec', 'compile', '__import__')
            pickles = any(word.arg == 'allow_pickle' and ast.unparse(word.value) != 'False' for word in node.keywords)
            if bare or name == 'exec_module' or pickles:
                found.add(name)
    assert found == ({'exec_module'} if file == 'core/config.py' else set())
