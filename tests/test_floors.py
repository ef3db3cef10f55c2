"""The floors of the package: a file imports only from floors below its own, and nothing that it must do without."""

import ast
import pathlib
import re
import subprocess
import sys
import tomllib

import pytest
from packaging.requirements import Requirement

ROOT = pathlib.Path(__file__).parent.parent
# README's table of the architecture is this one.
FLOORS = {
    0: ['errors'],
    1: ['files', 'rng', 'fields', 'events'],
    2: ['config', 'parallel', 'convolution', 'normalisation', 'writers', 'claims', 'statistics'],
    3: ['data/schema', 'data/archive', 'augment', 'network', 'losses', 'metrics', 'optimizer', 'figures', 'pages', 'records'],
    4: [
        'data/images',
        'data/table',
        'data/manifest',
        'data/splits',
        'data/builders',
        'data/toyfaces',
        'data/teacher',
        'state',
        'baselines',
        'evaluate',
        'saliency',
        'tables',
        'terminal',
    ],
    5: [
        'data/shards',
        'data/fer2013',
        'data/ckplus',
        'data/image_folder',
        'step',
        'checkpoint',
        'summary',
        'neighbour',
        'pictures',
        'details',
        'faces',
    ],
    6: ['data/prepare', 'data/stream', 'weights', 'sections', 'sources'],
    7: ['data/load', 'report', 'folded', 'classifier'],
    8: ['run', 'onnx_graph', 'litert_graph', 'annotate'],
    9: ['feed', 'score', 'plan', 'int8', 'display'],
    10: ['loop', 'explain', 'export', 'prediction'],
    11: ['train', 'demo'],
    12: ['replicas'],
    13: ['sweep'],
    14: ['__main__'],
}
FLOOR_OF = {f'{name}.py': floor for floor, names in FLOORS.items() for name in names}
FILES = sorted(path.relative_to(ROOT / 'fer_jax').as_posix() for path in (ROOT / 'fer_jax').rglob('*.py'))
# What starts without JAX, so that --help and a mistyped argument answer at once.
LIGHT = ['errors', 'files', 'fields', 'config', 'report', '__main__']
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


def files_of(modules: set[str]) -> set[str]:
    """Those of the package's files that the modules stand for."""
    paths = {module.removeprefix('fer_jax.').replace('.', '/') + '.py' for module in modules if module.startswith('fer_jax.')}
    return paths & set(FILES)


def test_every_file_has_a_floor():
    assert sorted(FLOOR_OF) == [file for file in FILES if not file.endswith('__init__.py')]


@pytest.mark.parametrize('file', FILES)
def test_imports_go_down(file):
    if file.endswith('__init__.py'):
        assert not files_of(imports(file)), 'a package that imports its modules makes every one of them load with any other'
        return
    upwards = {f'{other} (floor {FLOOR_OF[other]})' for other in files_of(imports(file)) if FLOOR_OF[other] >= FLOOR_OF[file]}
    assert not upwards, f'{file} is on floor {FLOOR_OF[file]}'


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
    code = f'import sys, fer_jax.{module}; sys.exit(", ".join({{"jax", "flax", "tensorflow_datasets"}} & set(sys.modules)) or 0)'
    result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize('file', FILES)
def test_configurations_are_read_by_name(file):
    """No `config.get(…)`: a misspelt field must raise, not fall back to a default that nobody sees."""
    for node in ast.walk(ast.parse((ROOT / 'fer_jax' / file).read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == 'get':
            owner = ast.unparse(node.func.value)
            assert not re.search(r'\bconfig\b[\w.]*$', owner), f'fer_jax/{file}:{node.lineno}: {owner}.get'


def test_readme_shows_these_floors():
    """README's rows are `| floor | what … | `file.py`, `data/file.py` |`, a file in the row of its floor."""
    shown = {}
    for line in (ROOT / 'README.md').read_text().splitlines():
        if row := re.match(r'\|\s*(\d+)\s*\|(.*)', line):
            shown |= {file: int(row[1]) for file in re.findall(r'`([\w/]+\.py)`', row[2])}
    assert shown == FLOOR_OF


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
    assert found == ({'exec_module'} if file == 'config.py' else set())
