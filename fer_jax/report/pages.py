"""A report's contents as blocks, and those as one self-contained HTML page, as Markdown and as CSV.

Every text is taken to come from data: it is escaped, by Jinja where the page is HTML, and none of it can become markup.
"""

import base64
import csv
import io
import pathlib
import re
from collections.abc import Sequence
from typing import NamedTuple

import jinja2


class Heading(NamedTuple):
    """A section's; the page's navigation lists them."""

    text: str


class Text(NamedTuple):
    """A paragraph, or a remark about what stands above it."""

    text: str
    remark: bool = False


class Items(NamedTuple):
    """A list."""

    lines: list[str]


class Hero(NamedTuple):
    """A number to be seen first, and what it is."""

    number: str
    label: str
    lines: list[str]


class Cell(NamedTuple):
    """A table's cell that looks or says more than its text."""

    text: str
    look: str = ''  # strong | real | maybe | none
    hint: str = ''  # shown when pointed at


class Table(NamedTuple):
    """Rows of text or cells; columns of numbers are set to the right."""

    header: list[str]
    rows: list[list[str | Cell]]


class Picture(NamedTuple):
    """A PNG, and what it shows; with a file's name Markdown refers to it, without one it leaves it out."""

    png: bytes
    alt: str
    file: str = ''


class Beside(NamedTuple):
    """Pictures side by side where there is room."""

    pictures: list[Picture]


class Fold(NamedTuple):
    """Blocks below a title, which opens and closes them."""

    title: str
    blocks: list
    open: bool = False


Block = Heading | Text | Items | Hero | Table | Picture | Beside | Fold


def to_html(title: str, subtitle: str, blocks: Sequence[Block]) -> str:
    """One page that needs nothing else: page.html.jinja of these blocks."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        'kind': lambda block: type(block).__name__,
        'cell': as_cell,
        'numeric_columns': numeric_columns,
        'base64': lambda png: base64.b64encode(png).decode(),
        'anchor': lambda text: re.sub(r'\W+', '-', text).strip('-').lower(),
    }
    return environment.get_template('page.html.jinja').render(title=title, subtitle=subtitle, blocks=blocks)


def as_cell(value: str | Cell) -> Cell:
    """The cell, also of a bare text."""
    return value if isinstance(value, Cell) else Cell(value)


def numeric_columns(table: Table) -> list[bool]:
    """Whether each column holds numbers, and at most some blanks or dashes."""
    columns = zip(*([as_cell(value).text for value in row] for row in table.rows), strict=True)
    found = [[text for text in column if text.strip('–- ')] for column in columns] or [[] for _ in table.header]
    number = r'[+−-]?[\d.,]+( (to|±) [\d.,]+)?( %|\?)?'
    return [bool(texts) and all(re.fullmatch(number, text) for text in texts) for texts in found]


def to_markdown(title: str, subtitle: str, blocks: Sequence[Block]) -> str:
    """The same as Markdown: hints are left out, and so are the pictures that are no file."""
    return '\n\n'.join([f'# {plain(title)}', plain(subtitle), *filter(None, map(markdown_of, blocks))]) + '\n'


def markdown_of(block: Block) -> str:
    """One block; '' where nothing is left of it."""
    match block:
        case Heading(text):
            return f'## {plain(text)}'
        case Text(text):
            return plain(text)
        case Items(lines):
            return '\n'.join(f'- {plain(line)}' for line in lines)
        case Hero(number, label, lines):
            return '\n'.join([f'**{plain(number)}** {plain(label)}', '', *(f'- {plain(line)}' for line in lines)])
        case Table():
            return markdown_table(block)
        case Picture(_, alt, file):
            return f'![{plain(alt)}]({file})' if file else ''
        case Beside(pictures):
            return '\n\n'.join(filter(None, map(markdown_of, pictures)))
        case Fold(title, blocks):
            inner = list(filter(None, map(markdown_of, blocks)))
            return '\n\n'.join([f'### {plain(title)}', *inner]) if inner else ''


def markdown_table(table: Table) -> str:
    """The table; cells that are strong, or a real difference, are bold."""

    def cell(value: str | Cell) -> str:
        text, look, _ = as_cell(value)
        return f'**{plain(text)}**' if look in ('strong', 'real') and text else plain(text)

    rule = '|'.join('---:' if right else '---' for right in numeric_columns(table))
    rows = [f'| {" | ".join(map(cell, row))} |' for row in table.rows]
    return '\n'.join([f'| {" | ".join(map(plain, table.header))} |', f'|{rule}|', *rows])


def plain(text: str) -> str:
    """`text` on one line, in which Markdown and HTML see no mark of theirs."""
    return re.sub(r'([\\|<>*`\[\]&])', r'\\\1', ' '.join(text.split()))


def to_csv(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """RFC 4180 with plain line ends; None is an empty cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()
