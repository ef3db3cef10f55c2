"""What Sphinx is told: see build.py, which is the command."""

import re

from sphinx.application import Sphinx
from sphinx.util import logging

import fer_jax

project = 'fer_jax'
author = 'The fer_jax maintainers'
release = version = fer_jax.__version__
extensions = ['myst_parser', 'sphinx.ext.autodoc', 'sphinx.ext.napoleon']

html_theme = 'furo'
html_title = f'fer_jax {release}'
html_show_copyright = html_show_sourcelink = html_copy_source = False
html_static_path = ['style']
html_css_files = ['wide.css']

myst_heading_anchors = 3
# The docstrings put code between single marks, as Markdown does.
default_role = 'code'
autodoc_default_options = {'members': True, 'undoc-members': True, 'member-order': 'bysource'}
autodoc_typehints_format = 'short'
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 100
add_module_names = False
# What an export writes with, and what predict reads with, is not needed to describe them.
autodoc_mock_imports = [
    'ai_edge_litert',
    'backports',
    'cv2',
    'flatbuffers',
    'onnx',
    'onnxruntime',
    'python_multipart',
    'starlette',
    'uvicorn',
]

# What a docstring means as plain text, and reStructuredText does not: `code`s, *name, a|b, name_.
MARKUP = re.compile(r'(`+[^`]*`+)(\w)?|([*|\\]|_(?=\W|$))')
log = logging.getLogger(__name__)


def docstring(app: Sphinx, what: str, name: str, obj: object, options: dict, lines: list[str]) -> None:
    """Warns, which ends the build, of a public name that says nothing; and takes what is plain text for plain text."""
    own = name.startswith(getattr(obj, '__module__', None) or 'fer_jax')  # a module is asked for what it imports, too
    if own and not any(lines) and what in ('module', 'class', 'exception', 'function', 'method', 'property'):
        log.warning('%s has no docstring', name)
    lines[:] = MARKUP.sub(plain, '\n'.join(lines)).split('\n')


def plain(found: re.Match[str]) -> str:
    """The same in reStructuredText."""
    code, glued, mark = found.groups()
    return f'\\{mark}' if mark else code + (f'\\ {glued}' if glued else '')


def setup(app: Sphinx) -> None:
    """Before napoleon, which makes markup of `Args:` and `Raises:`."""
    app.connect('autodoc-process-docstring', docstring, priority=400)
