"""A report's sections over all groups: the numbers to be seen first, all results, the paper's tables, and which differences are real."""

from collections.abc import Callable, Sequence

from fer_jax.evaluation.figures import Dots, accuracies_png
from fer_jax.report.details import percent, protocol_line, repetitions, spread, views_text, weakest
from fer_jax.report.pages import Block, Cell, Fold, Hero, Picture, Table, Text
from fer_jax.report.tables import METHOD, PAPER_TABLE_2, PAPER_TABLE_3, Comparison, Row, comparable, compare, headline

RESULTS_REMARK = (
    'Accuracy is the mean over seeds (or draws; a seed’s folds make one). “over seeds” is Student’s 95 % interval of that mean and '
    'needs at least two; “of the images” is Wilson’s for one test set of this size, which seeds do not make larger. sd is the sample’s '
    'standard deviation; NLL is in nats; ECE is the expected calibration error over 15 bins.'
)


def count(number: int, what: str) -> str:
    """`1 run`, `2 runs`."""
    return f'{number} {what}{"" if number == 1 else "s"}'


def interval(bounds: tuple[float, float] | None) -> str:
    """`70.10 to 71.30`, in per cent; a dash for none."""
    return '–' if bounds is None else f'{percent(bounds[0])} to {percent(bounds[1])}'


COLUMNS: dict[str, Callable[[Row], str]] = {
    'group': lambda row: row.group.title,
    'split': lambda row: row.title,
    'views': lambda row: row.views,
    'runs': repetitions,
    'accuracy, %': lambda row: percent(row.mean),
    'ours, %': lambda row: percent(row.mean),
    'sd': lambda row: percent(row.deviation),
    'n': lambda row: str(len(row.accuracies)),
    'over seeds': lambda row: interval(row.seeds_interval),
    'of the images': lambda row: interval(row.images_interval),
    'ours − paper': lambda row: '–' if paper_accuracy(row) is None else f'{100 * (row.mean - paper_accuracy(row)):+.2f}',
    'macro F1, %': lambda row: percent(row.average('macro_f1'), 1),
    'NLL': lambda row: '–' if row.average('nll') is None else f'{row.average("nll"):.3f}',
    'ECE, %': lambda row: percent(row.average('calibration_error'), 1),
    'parameters': lambda row: f'{row.parameters:,}',
    'epochs': lambda row: f'{row.runs[0].config.epochs:g}',
    '1\u2011NN, %': lambda row: percent(row.nearest_neighbour),
}
FIGURES = ('accuracy, %', 'sd', 'over seeds', 'of the images', 'macro F1, %')
SHORT = ('group', *FIGURES, 'ECE, %', 'runs', 'parameters')
RESULTS = ('group', 'split', 'views', 'runs', *FIGURES, 'NLL', 'ECE, %', 'parameters', '1\u2011NN, %')
TABLE_2 = ('ours, %', 'sd', 'n', 'over seeds', 'of the images', 'ours − paper', 'parameters', 'epochs')


def cells(row: Row, columns: Sequence[str], is_main: bool = True) -> list[str | Cell]:
    """The row's cells in some of COLUMNS; of a main row the group's name and the accuracy are strong."""
    strong = ('group', 'accuracy, %', 'ours, %') if is_main else ()
    return [Cell(COLUMNS[name](row), 'strong' if name in strong else '') for name in columns]


def heroes(rows: Sequence[Row], heads: Sequence[Row]) -> list[Block]:
    """Of each data set and protocol, the number of the group that is best on the validation split: the test chooses nothing."""
    blocks = []
    for family in comparable(heads):
        # By one centre crop, as checkpoints are chosen, for not all need have been scored by ten there too.
        views = family[0].views if family[0].split == 'validation' else 'centre'
        chosen = {row.group.title: row.mean for row in rows if row.split == 'validation' and row.views == views}
        best = max(family, key=lambda head: chosen.get(head.group.title, 0.0))
        lines = [f'{best.group.title}: {best.parameters:,} parameters, {spread(best)}', protocol_line(best)]
        if len(family) > 1:
            chosen_on = best.protocol['chosen_on']
            apart = f', not on {best.title}' if chosen_on != best.title else ', which is what it is scored on here'
            lines.insert(1, f'of {len(family)} configurations the best on {chosen_on}{apart}')
        over_seeds = f'over {best.over} {interval(best.seeds_interval)}; ' if best.seeds_interval else ''
        lines.append(f'95 % interval: {over_seeds}for {best.images:,} test images {interval(best.images_interval)}')
        lines += [f'of these, {part.part}: {percent(part.mean)} % ({part.images:,} images)' for part in best.parts]
        if best.nearest_neighbour is not None:
            lines.append(f'nearest neighbour on raw pixels, for comparison: {percent(best.nearest_neighbour)} %')
        lines.append(weakest(best))
        blocks.append(Hero(f'{percent(best.mean)} %', f'{best.protocol["data"]}, {best.title}, {views_text(best)}', lines))
    return blocks


def accuracy_picture(family: Sequence[Row], number: int) -> Picture:
    """Every group's seeds, mean and interval on one scale."""
    over_seeds = all(len(row.accuracies) > 2 for row in family)  # the interval of two seeds is wider than any picture
    name = f'95 % interval over {family[0].over}' if over_seeds else '95 % interval of the test images'
    intervals = [row.seeds_interval if over_seeds else row.images_interval for row in family]
    dots = [Dots(row.group.title, row.accuracies, bounds, paper_accuracy(row)) for row, bounds in zip(family, intervals, strict=True)]
    title = f'{family[0].protocol["data"]}, {family[0].title}, {views_text(family[0])}'
    return Picture(accuracies_png(dots, title, name), f'Accuracy: {title}', 'accuracy.png' if number == 1 else f'accuracy-{number}.png')


def paper_accuracy(row: Row) -> float | None:
    """What the paper's Table 2 says of a row's network, in 0..1; None where it is on other data."""
    if row.protocol['data'] != 'fer2013' or row.group.name not in PAPER_TABLE_2:
        return None
    return PAPER_TABLE_2[row.group.name][1] / 100


def short_table(rows: Sequence[Row], family: Sequence[Row]) -> Table:
    """A line for each group of `family`, its row that says most, with parts of the split, other splits and other views behind it."""
    own = {head.group.title: {(row.title, row.views): row for row in rows if row.group is head.group} for head in family}
    shown = {(head.title, head.views) for head in family}
    others = list(dict.fromkeys(key for found in own.values() for key in found if key not in shown))
    parts = list(dict.fromkeys(part.part for head in family for part in head.parts))
    lines: list[list[str | Cell]] = []
    for head in family:
        of_parts, found = {part.part: part for part in head.parts}, own[head.group.title]
        beside = [*(of_parts.get(part) for part in parts), *(found.get(key) for key in others)]
        lines.append([*cells(head, SHORT), *('–' if row is None else percent(row.mean) for row in beside)])
    return Table([*SHORT, *(f'{part}, %' for part in parts), *(f'{title}, {views}' for title, views in others)], lines)


def results_section(rows: Sequence[Row], heads: Sequence[Row]) -> list[Block]:
    """Accuracy as a figure and a table for each data set and protocol, and every figure of every split and views folded up."""
    blocks: list[Block] = []
    for number, family in enumerate(comparable(heads), start=1):
        blocks += [accuracy_picture(family, number), short_table(rows, family)]
    closing = [Text(RESULTS_REMARK, remark=True), Fold('Every split and views', [results_table(rows)])]
    return [*blocks, *closing] if blocks else []


def with_parts(rows: Sequence[Row]) -> list[Row]:
    """Each row with those of its parts behind it."""
    return [each for row in rows for each in (row, *row.parts)]


def results_table(rows: Sequence[Row]) -> Table:
    """Every row."""
    columns = RESULTS if any(row.nearest_neighbour is not None for row in rows) else RESULTS[:-1]
    return Table([*columns], [cells(row, columns, row is headline(rows, row.group)) for row in with_parts(rows)])


def paper_table_2(rows: Sequence[Row], heads: Sequence[Row]) -> list[Block]:
    """Table 2 with the paper's column beside ours, once for each kind of views; empty where no group has one of its names."""
    ours = [head for head in heads if head.group.name in PAPER_TABLE_2]
    if not ours:
        return []
    blocks: list[Block] = []
    for views in sorted({row.views for row in rows}, reverse=True):
        chosen = [row for row in rows if row.views == views and any(row.group is head.group and row.split == head.split for head in ours)]
        lines: list[list[str | Cell]] = []
        for name, (network, paper) in PAPER_TABLE_2.items():
            own = [row for row in chosen if row.group.name == name]
            titles = [network if row.group.title == name else f'{network}: {row.group.title}' for row in own]
            lines += [[title, f'{paper:.2f}', *cells(row, TABLE_2)] for title, row in zip(titles, own, strict=True)]
            lines += [] if own else [[network, f'{paper:.2f}', *['–'] * len(TABLE_2)]]
        if chosen:
            blocks += [Text(protocol_line(chosen[0])), Table(['network', 'paper, %', *TABLE_2], lines)]
    blocks.append(Text(TABLE_2_REMARK, remark=True))
    if any(row.protocol['data'] != 'fer2013' for row in ours):
        blocks.append(Text('Ours is not on FER2013 and cannot be compared with the paper.'))
    return blocks


TABLE_2_REMARK = (
    'The paper gives one number a network, without seeds, and does not say whether it is of PrivateTest alone. With g=1 the shuffle is '
    'the identity: Base and Base (g=1) are one network, so the 0.45 points between the paper’s two are its noise. The block is a '
    'reconstruction from the parameter counts. n is the number of seeds.'
)


def paper_table_3(heads: Sequence[Row]) -> list[Block]:
    """Table 3 with our rows below the paper's; empty where none is on FER2013 or CK+."""
    ours = [head for head in heads if head.protocol['data'] in ('fer2013', 'ckplus') and head.split == 'test']
    if not ours:
        return []
    lines: list[list[str | Cell]] = [[name, fer2013, ckplus, f'{parameters:,}', ''] for name, fer2013, ckplus, parameters in PAPER_TABLE_3]
    for row in ours:
        accuracy = Cell(percent(row.mean) + ('' if row.deviation is None else f' ± {percent(row.deviation)}'), 'strong')
        both = [accuracy, '–'] if row.protocol['data'] == 'fer2013' else ['–', accuracy]
        how = f'{row.title}, {views_text(row)}, {repetitions(row)}'
        if row.nearest_neighbour is not None:
            how += f'; 1-NN on raw pixels {percent(row.nearest_neighbour)} %'
        lines.append([f'ours: {row.group.title}', *both, f'{row.parameters:,}', how])
    remark = 'Ours: mean ± standard deviation; parameters are counted in the trained network. Protocols of the others are their own.'
    return [Table(['method', 'FER2013, %', 'CK+, %', 'parameters', 'protocol'], lines), Text(remark, remark=True)]


def difference_section(rows: Sequence[Row], heads: Sequence[Row]) -> list[Block]:
    """Which differences are real: a matrix for each split and views that the groups are judged by."""
    judged = [row for row in rows if any(row.group is head.group and row.split == head.split for head in heads)]
    families = [family for family in comparable(judged) if len(family) > 1]
    families.sort(key=lambda family: not any(row is head for row in family for head in heads))
    blocks: list[Block] = [Text(METHOD)] if families else []
    for number, family in enumerate(families):
        comparisons = compare(family)
        title = f'{family[0].protocol["data"]}, {family[0].title}, {views_text(family[0])}'
        real = sum(each.verdict == 'real' for each in comparisons)
        inner: list[Block] = [
            Text(f'{title}: {real} of {count(len(comparisons), "difference")} {"is" if real == 1 else "are"} real.'),
            matrix_table(family, comparisons),
            Text(MATRIX_REMARK, remark=True),
        ]
        reasons = list(dict.fromkeys(each.reason for each in comparisons if each.reason))
        inner += [Text(f'Not paired: {"; ".join(reasons)}.')] if reasons else []
        inner.append(Fold('p values', [p_table(family, comparisons)]))
        blocks += inner if number == 0 else [Fold(title, inner)]
    return blocks


MATRIX_REMARK = (
    'Row less column, in points of accuracy: bold on green is real; ? differs on these images, but has a single seed; grey is not shown; '
    '– was not paired.'
)


def matrix_table(family: Sequence[Row], comparisons: Sequence[Comparison]) -> Table:
    """A row and a column for each group; the upper and the lower half are each other's negative."""
    looks = {'real': 'real', 'not shown': 'none', 'one seed': 'maybe', 'not paired': 'none'}
    cells: list[list[str | Cell]] = [[Cell('', 'none') for _ in family] for _ in family]
    for each in comparisons:
        for i, j, sign in ((each.first, each.second, 1), (each.second, each.first, -1)):
            points = f'{100 * sign * each.difference:+.2f}'
            text = {'not paired': '–', 'one seed': f'{points}?'}.get(each.verdict, points)
            p_values = f'p {p_text(each.p_images)} over images, {p_text(each.p_seeds)} over seeds'
            hint = f'{family[i].group.title} less {family[j].group.title}: {each.verdict}; {p_values}'
            cells[i][j] = Cell(text, looks[each.verdict], hint)
    lines = [[f'{i + 1}. {row.group.title}', percent(row.mean), *cells[i]] for i, row in enumerate(family)]
    return Table(['', 'accuracy, %', *(str(i + 1) for i in range(len(family)))], lines)


def p_table(family: Sequence[Row], comparisons: Sequence[Comparison]) -> Table:
    """Every comparison with its two p values."""
    names = [row.group.title for row in family]
    lines: list[list[str | Cell]] = []
    for each in comparisons:
        verdict = Cell(each.verdict, 'real' if each.verdict == 'real' else '')
        p_values = p_text(each.p_images), p_text(each.p_seeds)
        lines.append([f'{names[each.first]} − {names[each.second]}', f'{100 * each.difference:+.2f}', *p_values, verdict])
    return Table(['difference', 'points', 'p over images (Holm)', 'p over seeds (Welch)', 'verdict'], lines)


def p_text(p: float | None) -> str:
    """A p value in three digits; a dash for none."""
    return '–' if p is None else '< 0.0001' if p < 1e-4 else f'{p:.4f}' if p < 0.1 else f'{p:.2f}'
