"""Builds the documentation as a site; a warning, such as a link that leads nowhere or a public name without a docstring, ends it.

    pip install --require-hashes -r requirements.txt -r requirements/docs.txt
    python docs/build.py            # then open site/index.html; or another folder: python docs/build.py /tmp/site

What is written from the code, the reference of every public name and that of the configuration, is made beside copies of the
pages in a temporary folder, so that nothing of it lies in the checkout.
"""

import ast
import inspect
import pathlib
import shutil
import sys
import tempfile
import tokenize

from sphinx.cmd.build import main as sphinx

ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import fer_jax  # noqa: E402 (it is found only now)
from fer_jax.core import fields  # noqa: E402

# In the order in which the data meet them, which is that of the layers in pyproject.toml.
ROOMS = ('core', 'data', 'model', 'evaluation', 'runs', 'training', 'export', 'inference', 'report')


def api_pages() -> dict[str, str]:
    """Name → reStructuredText of the page of what `fer_jax` itself gives, and of each room's."""
    kinds = {name: 'class' if inspect.isclass(getattr(fer_jax, name)) else 'function' for name in fer_jax.__all__}
    names = ''.join(f'.. auto{kind}:: fer_jax.{name}\n\n' for name, kind in kinds.items())
    pages = {'fer_jax.rst': f'fer_jax\n#######\n\n.. automodule:: fer_jax\n   :no-members:\n\n{names}'}
    for room in ROOMS:
        paths = sorted((ROOT / 'fer_jax' / room).rglob('[!_]*.py'))
        modules = ['.'.join(path.relative_to(ROOT).with_suffix('').parts) for path in paths]
        parts = [f'{name}\n{"=" * len(name)}\n\n.. automodule:: {name}' for name in modules]
        pages[f'{room}.rst'] = '\n\n'.join([f'{room}\n{"#" * len(room)}\n\n.. automodule:: fer_jax.{room}\n   :no-members:', *parts, ''])
    return pages


def field_comments() -> dict[str, str]:
    """Dotted field → its comment in `default_config`, in the order of the file."""
    path = pathlib.Path(fields.__file__)
    with open(path, 'rb') as stream:
        tokens = [token for token in tokenize.tokenize(stream.readline) if token.type == tokenize.COMMENT]
    comments = {token.start[0]: token.string.lstrip('# ') for token in tokens}
    body = ast.parse(path.read_text('utf-8')).body
    (function,) = (node for node in body if isinstance(node, ast.FunctionDef) and node.name == 'default_config')
    groups, found = {'c': ''}, {}
    for node in function.body:
        match node:
            case ast.Assign(targets=[ast.Name(name), ast.Attribute(attr=group)]):
                groups[name] = f'{group}.'
            case ast.Assign(targets=[ast.Attribute(ast.Name(name), field)]):
                found[groups[name] + field] = comments[node.lineno]
    return found


def shown(value: object) -> str:
    """A value as it is typed behind `=`."""
    text = ','.join(map(str, value)) if isinstance(value, tuple) else str(value)
    return f'`{text.lower() if value is None or isinstance(value, bool) else text}`'


def allowed(field: str, default: object) -> str:
    """The values that a field may have."""
    if field in fields.CHOICES:
        return ', '.join(f'`{choice}`' for choice in fields.CHOICES[field])
    if field in fields.BOUNDS:
        low, high = fields.BOUNDS[field]
        return f'{low:,} to {high:,}'
    return '`true`, `false`' if isinstance(default, bool) else ''


def configuration_table() -> str:
    """Markdown: the fields of each group, with default, meaning, choices and bounds."""
    config, groups = fields.default_config(), {}
    for field, comment in field_comments().items():
        default = config
        for part in field.split('.'):
            default = default[part]
        cells = (f'`{field}`', shown(default), comment.replace('|', '\\|'), allowed(field, default))
        groups.setdefault(field.rpartition('.')[0], []).append(f'| {" | ".join(cells)} |')
    header = '| field | default | meaning | values |\n|---|---|---|---|'
    tables = [f'### {group or "The run"}\n\n{header}\n' + '\n'.join(rows) for group, rows in groups.items()]
    short = '\n'.join(f'| `{name}` | `{field}` |' for name, field in fields.ARGUMENTS.items())
    return '\n\n'.join([*tables, f'## Short names\n\n| name | field |\n|---|---|\n{short}\n'])


def main(out: pathlib.Path) -> int:
    """Writes the site into `out`; returns Sphinx's exit code."""
    with tempfile.TemporaryDirectory() as scratch:
        # Pages link to records and to other files of the repository as it lies.
        for path in ROOT.iterdir():
            if path.name not in ('docs', 'site'):
                pathlib.Path(scratch, path.name).symlink_to(path)
        pages = pathlib.Path(scratch, 'docs')
        shutil.copytree(ROOT / 'docs', pages)
        (pages / 'api').mkdir()
        for name, text in api_pages().items():
            (pages / 'api' / name).write_text(text, 'utf-8')
        configuration = pages / 'configuration.md'
        configuration.write_text(configuration.read_text('utf-8') + '\n' + configuration_table(), 'utf-8')
        return sphinx(['-W', '--keep-going', '-q', '-d', f'{scratch}/doctrees', str(pages), str(out)])


if __name__ == '__main__':
    sys.exit(main(pathlib.Path(sys.argv[1]) if sys.argv[1:] else ROOT / 'site'))
