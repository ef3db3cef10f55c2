"""`python -m fer_jax report`: from the folders of runs to one page, with tables, figures and what may be said of differences."""

import pathlib
from collections.abc import Sequence

import numpy as np

from fer_jax.core.files import write_atomic
from fer_jax.report.details import details, percent, spread, views_text
from fer_jax.report.pages import Block, Heading, Items, Picture, to_csv, to_html, to_markdown
from fer_jax.report.sections import count, difference_section, heroes, paper_table_2, paper_table_3, results_section, with_parts
from fer_jax.report.tables import Row, headline, make_rows
from fer_jax.runs.records import find_runs, make_groups

CSV_HEADER = (
    'group', 'data', 'split', 'part', 'views', 'repeated_over', 'repetitions', 'images', 'accuracy', 'standard_deviation', 'seeds_low',
    'seeds_high', 'images_low', 'images_high', 'macro_f1', 'balanced_accuracy', 'nll', 'calibration_error', 'one_nearest_neighbour',
    'parameters', 'epochs', 'dedup', 'chosen_on', 'training_seconds',
)  # fmt: skip


def report(folders: Sequence[pathlib.Path], out: pathlib.Path | None = None) -> pathlib.Path:
    """Writes report.html, report.md, report.csv, accuracy.png and, of the paper's networks, table2.md, and returns their folder.

    Args:
      folders: each a run, a sweep, or a folder with such somewhere below; runs of one name and configuration are one group.
      out: folder of the files; default <first folder>/report.

    Raises:
      InputError: no run there, or a file of one that is not what it should be.
    """
    out = out or folders[0] / 'report'
    runs, waiting = find_runs(folders)
    groups, notes = make_groups(runs)
    rows = make_rows(groups)
    scored = {row.group.title for row in rows}
    notes += [f'{group.title}: no split that all of its runs were scored on' for group in groups if group.title not in scored]
    heads = [headline(rows, group) for group in groups if group.title in scored]
    table2 = paper_table_2(rows, heads)
    unfinished = [f'{run.folder}: {run.state}' for run in runs if run.result is None] + waiting
    sections: dict[str, Sequence[Block]] = {
        'Results': results_section(rows, heads),
        'Table 2, beside the paper': table2,
        'Table 3, beside the paper': paper_table_3(heads),
        'Which differences are real': difference_section(rows, heads),
        'Each in detail': [details(rows, head, is_open=len(heads) == 1) for head in heads],
        'Not finished': [Items(unfinished)] if unfinished else [],
        'Left out': [Items(notes)] if notes else [],
    }
    blocks = heroes(rows, heads)
    for heading, section in sections.items():
        blocks += [Heading(heading), *section] if section else []
    title = f'Report on {", ".join(folder.resolve().name for folder in folders)}'
    finished = len(runs) + len(waiting) - len(unfinished)
    subtitle = f'{count(finished, "finished run")} in {count(len(scored), "group")}; {count(len(unfinished), "run")} not finished.'
    files: dict[str, str | bytes] = {block.file: block.png for block in blocks if isinstance(block, Picture) and block.file}
    if table2:
        files['table2.md'] = to_markdown('Table 2, beside the paper', subtitle, table2)
    files |= {
        'report.csv': to_csv(CSV_HEADER, [csv_row(row) for row in with_parts(rows)]),
        'report.md': to_markdown(title, subtitle, blocks),
        'report.html': to_html(title, subtitle, blocks),
    }
    out.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        write_atomic(out / name, content)
    for head in heads:
        print(f'{head.group.title}: {head.title}, {views_text(head)}: {percent(head.mean)} % ({spread(head)})')
    print(f'{subtitle}\n→ {out}/ ({", ".join(files)})')
    return out


def csv_row(row: Row) -> list[object]:
    """The cells of CSV_HEADER; shares in 0..1."""
    low, high = row.seeds_interval or (None, None)
    return [
        row.group.title, row.protocol['data'], row.protocol['split'], row.part, row.views, row.group.kind, len(row.accuracies), row.images,
        row.mean, row.deviation, low, high, *row.images_interval, row.average('macro_f1'), row.average('balanced_accuracy'),
        row.average('nll'), row.average('calibration_error'), row.nearest_neighbour, row.parameters, row.runs[0].config.epochs,
        row.protocol['dedup'], row.protocol['chosen_on'], float(np.mean([run.result['training_seconds'] for run in row.runs])),
    ]  # fmt: skip
