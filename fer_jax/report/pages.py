"""A report's contents as blocks, and those as one self-contained HTML page, as Markdown and as CSV.

Every text is taken to come from data: it is escaped, and none of it can become markup.
"""

import base64
import csv
import html
import io
import re
from collections.abc import Sequence
from typing import NamedTuple


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
    look: str = ''  # strong | real | maybe | none | muted
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
SHORT = 32  # characters of a cell that are not broken into lines
STYLE = """
:root { color-scheme: light; --ink: #1d2733; --soft: #5b6878; --line: #dfe4ea; --tint: #f5f7fa; --accent: #1f5fa8; }
* { box-sizing: border-box; }
body { margin: 0; background: #fff; color: var(--ink); font: 16px/1.55 system-ui, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main, nav, header { max-width: 78rem; margin: 0 auto; padding: 0 1.5rem; }
header { padding-top: 2.2rem; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 .3rem; overflow-wrap: anywhere; }
h2 { font-size: 1.3rem; margin: 2.6rem 0 .7rem; padding-top: .6rem; border-top: 1px solid var(--line); }
nav { padding-top: .8rem; display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; font-size: .92rem; }
nav a { color: var(--accent); text-decoration: none; } nav a:hover { text-decoration: underline; }
p { max-width: 52rem; margin: .5rem 0 .9rem; overflow-wrap: anywhere; } p.remark { color: var(--soft); font-size: .9rem; }
ul { margin: .4rem 0 .9rem; padding-left: 1.2rem; max-width: 52rem; overflow-wrap: anywhere; }
.hero { display: flex; flex-wrap: wrap; gap: .4rem 2.2rem; align-items: center; background: var(--tint); border: 1px solid var(--line);
  border-left: 5px solid var(--accent); border-radius: 8px; padding: 1.1rem 1.5rem; margin: 1.2rem 0; }
.hero .number { font-size: 3.2rem; font-weight: 700; line-height: 1.1; letter-spacing: -.02em; font-variant-numeric: tabular-nums; }
.hero .label { color: var(--soft); font-size: .95rem; } .hero ul { list-style: none; padding: 0; margin: 0; flex: 1 1 26rem; }
.hero li { margin: .15rem 0; } .hero li:first-child { font-weight: 600; }
.scroll { overflow-x: auto; margin: .6rem 0 1rem; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { padding: .32rem .7rem; text-align: left; border-bottom: 1px solid var(--line); vertical-align: top; }
th { border-bottom: 2px solid #b9c3cf; font-weight: 600; vertical-align: bottom; }
td.right, th.right { text-align: right; } td.right, td.short { white-space: nowrap; } tbody tr:hover { background: var(--tint); }
td.strong { font-weight: 700; } td.muted { color: #8a95a3; }
td.real { background: #d7efdc; font-weight: 700; } td.maybe { background: #fdf0cf; } td.none { color: #8a95a3; }
img { display: block; max-width: 100%; height: auto; margin: .4rem 0; }
.beside { display: flex; flex-wrap: wrap; gap: .6rem 1.4rem; align-items: flex-start; }
.beside figure { flex: 1 1 24rem; min-width: 0; max-width: 40rem; } figure { margin: .4rem 0 1rem; }
figcaption { color: var(--soft); font-size: .88rem; max-width: 44rem; }
details { border: 1px solid var(--line); border-radius: 8px; margin: .7rem 0; padding: 0 1.1rem; }
summary { cursor: pointer; font-weight: 600; padding: .65rem 0; overflow-wrap: anywhere; }
@media print { details > *, nav { break-inside: avoid; } nav { display: none; } }
"""


def to_html(title: str, subtitle: str, blocks: Sequence[Block]) -> str:
    """One page that needs nothing else: styles inside, pictures as data: addresses, no scripts, no links out."""
    headings = [block.text for block in blocks if isinstance(block, Heading)]
    links = ''.join(f'<a href="#s{number}">{html.escape(text)}</a>' for number, text in enumerate(headings))
    body, number = [], 0
    for block in blocks:
        if isinstance(block, Heading):
            body.append(f'<h2 id="s{number}">{html.escape(block.text)}</h2>')
            number += 1
        else:
            body.append(html_of(block))
    inner = '\n'.join(body)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{html.escape(title)}</title><style>{STYLE}</style></head>\n<body><header><h1>{html.escape(title)}</h1>'
        f'<p class="remark">{html.escape(subtitle)}</p></header>\n<nav>{links}</nav>\n<main>\n{inner}\n</main></body></html>\n'
    )


def html_of(block: Block) -> str:
    """One block's markup."""
    escape = html.escape
    match block:
        case Text(text, remark):
            return f'<p{" class=remark" if remark else ""}>{escape(text)}</p>'
        case Items(lines):
            return f'<ul>{"".join(f"<li>{escape(line)}</li>" for line in lines)}</ul>'
        case Hero(number, label, lines):
            items = ''.join(f'<li>{escape(line)}</li>' for line in lines)
            big = f'<div class="number">{escape(number)}</div><div class="label">{escape(label)}</div>'
            return f'<div class="hero"><div>{big}</div><ul>{items}</ul></div>'
        case Table():
            return html_table(block)
        case Picture(png, alt):
            source = f'data:image/png;base64,{base64.b64encode(png).decode()}'
            return f'<figure><img src="{source}" alt="{escape(alt)}"><figcaption>{escape(alt)}</figcaption></figure>'
        case Beside(pictures):
            return f'<div class="beside">{"".join(map(html_of, pictures))}</div>'
        case Fold(title, blocks, is_open):
            inner = '\n'.join(map(html_of, blocks))
            return f'<details{" open" if is_open else ""}><summary>{escape(title)}</summary>\n{inner}\n</details>'


def html_table(table: Table) -> str:
    """The table, in a frame of its own that scrolls where the page is too narrow."""
    right = numeric_columns(table)

    def cell(tag: str, column: int, value: str | Cell) -> str:
        text, look, hint = value if isinstance(value, Cell) else (value, '', '')
        width = 'short' if len(text) <= SHORT else ''
        classes = ' '.join(filter(None, ['right' if right[column] else width, look]))
        marks = (f' class="{classes}"' if classes else '') + (f' title="{html.escape(hint)}"' if hint else '')
        return f'<{tag}{marks}>{html.escape(text)}</{tag}>'

    head = ''.join(cell('th', column, text) for column, text in enumerate(table.header))
    rows = ''.join(f'<tr>{"".join(cell("td", column, value) for column, value in enumerate(row))}</tr>' for row in table.rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def numeric_columns(table: Table) -> list[bool]:
    """Whether each column holds numbers, and at most some blanks or dashes."""
    columns = zip(*([value.text if isinstance(value, Cell) else value for value in row] for row in table.rows), strict=True)
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
        if isinstance(value, Cell) and value.look in ('strong', 'real') and value.text:
            return f'**{plain(value.text)}**'
        return plain(value.text if isinstance(value, Cell) else value)

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
    writer.writerows([['' if cell is None else cell for cell in row] for row in rows])
    return text.getvalue()
