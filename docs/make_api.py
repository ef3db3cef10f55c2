"""Writes docs/api.md, the reference of every public name, from the signatures and docstrings of the code, which it does not run.

    python docs/make_api.py

Tools that import what they describe would import JAX here, and do not find what `fer_jax` itself gives away only when it is asked.
"""

import ast
import inspect
import pathlib
import re

ROOT = pathlib.Path(__file__).parent.parent
HEAD = """# API reference

Written by `docs/make_api.py` from the docstrings. What a program needs to use a trained network is `fer_jax.load` and
`fer_jax.predict`, which are those of `fer_jax.inference.classifier`; all else is imported from its module. README has a table of what
each module is for, and of which may import which.

"""
SECTIONS = ('Args', 'Returns', 'Yields', 'Raises')


def public(node: ast.Module | ast.ClassDef) -> list[ast.FunctionDef | ast.ClassDef]:
    """The functions and classes at the top of a module, or of a class, that others may use."""
    found = [each for each in node.body if isinstance(each, ast.FunctionDef | ast.ClassDef)]
    return [each for each in found if not each.name.startswith('_')]


def signature(node: ast.FunctionDef | ast.ClassDef) -> str:
    """How it is called, or of a class what it holds."""
    if isinstance(node, ast.FunctionDef):
        returned = f' -> {ast.unparse(node.returns)}' if node.returns else ''
        return f'{node.name}({ast.unparse(node.args)}){returned}'
    bases = ', '.join(map(ast.unparse, node.bases))
    fields = [ast.unparse(each) for each in node.body if isinstance(each, ast.AnnAssign) and not ast.unparse(each.target).startswith('_')]
    return '\n    '.join([f'class {node.name}({bases})' if bases else f'class {node.name}', *fields])


def text(docstring: str | None) -> str:
    """A docstring as Markdown: the names under Args, Returns and Raises become lists."""
    lines, section = [], ''
    for line in inspect.cleandoc(docstring or '').splitlines():
        header = re.fullmatch(rf'({"|".join(SECTIONS)}):', line)
        named = re.fullmatch(r'  (\S.*?): (.*)', line) if section in ('Args', 'Raises') else None
        if header:
            section = header[1]
            lines += [f'*{section}*', '']
        elif named:
            lines.append(f'- `{named[1]}`: {named[2]}')
        else:
            section = section if line.startswith('  ') or not line else ''
            lines.append(line.strip() if section else line)
    return '\n'.join(lines).strip()


def entry(node: ast.FunctionDef | ast.ClassDef, within: str = '') -> str:
    """A name's signature and docstring; a class's methods follow it."""
    parts = [f'#### {within}{node.name}', f'```python\n{signature(node)}\n```', text(ast.get_docstring(node))]
    if isinstance(node, ast.ClassDef):
        parts += [entry(each, f'{node.name}.') for each in public(node) if ast.get_docstring(each)]
    return '\n\n'.join(filter(None, parts))


def reference() -> str:
    """The content of docs/api.md."""
    names, parts = [], []
    for path in sorted((ROOT / 'fer_jax').rglob('*.py')):
        tree = ast.parse(path.read_text('utf-8'))
        name = '.'.join(path.relative_to(ROOT).with_suffix('').parts).removesuffix('.__init__')
        entries = [entry(node) for node in public(tree)]
        if entries or name == 'fer_jax':
            names.append(f'- [`{name}`](#{name.replace(".", "").lower()})')
            parts.append('\n\n'.join([f'## {name}', text(ast.get_docstring(tree)), *entries]))
    return HEAD + '\n'.join(names) + '\n\n' + '\n\n'.join(parts) + '\n'


if __name__ == '__main__':
    (ROOT / 'docs' / 'api.md').write_text(reference(), 'utf-8')
