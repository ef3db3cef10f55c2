"""What a report says of one group: its protocol, its weak spots, and its section of figures and tables."""

from collections.abc import Sequence

import numpy as np

from fer_jax.core.config import differences
from fer_jax.core.fields import MOVABLE, default_config
from fer_jax.core.statistics import calibration, coverage, coverage_summary
from fer_jax.evaluation.figures import coverage_png, curves_png, mean_confusion_png, reliability_png, row_shares
from fer_jax.report.pages import Beside, Block, Cell, Fold, Picture, Table, Text
from fer_jax.report.tables import Row
from fer_jax.runs.records import read_metrics

PNG_SIGNATURE = b'\x89PNG\r\n\x1a\n'
# Of no interest to what a group is: where things lie, what differs by seed, and what its title says already.
UNTOLD = (*MOVABLE, 'name', 'seed', 'data.fold')


def percent(share: float | None, digits: int = 2) -> str:
    """`70.12` for 0.7012; a dash for none."""
    return '–' if share is None else f'{100 * share:.{digits}f}'


def views_text(row: Row) -> str:
    """The views in words."""
    return {'centre': 'one centre crop', 'ten': 'ten crops'}.get(row.views, row.views)


def repetitions(row: Row) -> str:
    """`5 seeds`, `10 draws`, `10 draws, 30 runs` where each has three seeds, or `10 folds, 1 seed`."""
    count = len(row.accuracies)
    told = f'{count} {row.over if count > 1 else row.over[:-1]}' + (f', {len(row.units)} runs' if len(row.units) > count else '')
    return f'{len(row.group.units[0])} folds, {told}' if row.group.kind == 'folds' else told


def spread(row: Row) -> str:
    """`5 seeds, sd 0.31`, or `1 seed`."""
    return repetitions(row) + ('' if row.deviation is None else f', sd {percent(row.deviation)}')


def protocol_line(row: Row) -> str:
    """What was trained on what, what chose the checkpoint, and what scored it."""
    protocol, config = row.protocol, row.runs[0].config
    left_out = {'exact': 'images that also stand in a test split left out', 'near': 'near-duplicates of test images left out'}
    left_out |= {True: left_out['exact']}  # as it was written until there were near-duplicates
    dedup = left_out.get(protocol['dedup'], 'duplicates of test images left in')
    images = '' if protocol['train_images'] is None else f'{protocol["train_images"]:,} images, '
    weights = 'averaged weights' if protocol['weights'] == 'average' else 'last weights'
    return (
        f'{protocol["data"]}: trained on {protocol["trained_on"]} ({images}{dedup})'
        f' for {config.epochs:g} epochs; checkpoint chosen on {protocol["chosen_on"]};'
        f' scored on {row.title} ({row.images:,} images) by {views_text(row)}, {weights}'
    )


def weakest(row: Row) -> str:
    """Where it fails: the classes of least recall, and the commonest confusions."""
    names, matrices = list(row.units[0].summary['per_class']), np.array([unit.summary['confusion_matrix'] for unit in row.units])
    shares = np.mean([row_shares(matrix) for matrix in matrices], axis=0)
    present = np.flatnonzero(matrices.sum((0, 2)))
    low = sorted(present, key=lambda i: shares[i, i])[:2]
    pairs = sorted(((shares[i, j], i, j) for i in present for j in range(len(names)) if i != j), reverse=True)[:3]
    # With a space that does not break before the sign.
    told = ', '.join(f'{names[i]} ({percent(shares[i, i], 0)}\xa0% found)' for i in low)
    confusions = ', '.join(f'{names[i]} → {names[j]} {percent(share, 0)}\xa0%' for share, i, j in pairs if share > 0)
    return f'weakest: {told}' + (f'; most confused: {confusions}' if confusions else '')


def details(rows: Sequence[Row], head: Row, is_open: bool) -> Fold:
    """Everything about one group."""
    group = head.group
    differing = [line for line in differences(default_config(), head.runs[0].config) if line.partition(':')[0] not in UNTOLD]
    blocks: list[Block] = [
        Text(protocol_line(head) + '.'),
        Text(f'Set otherwise than by default: {"; ".join(differing) or "nothing"}.', remark=True),
        Text(weakest(head)[0].upper() + weakest(head)[1:] + '.'),
    ]
    curves = [lines for run in head.runs if (lines := read_metrics(run.folder))]
    if curves:
        blocks.append(Picture(curves_png(curves), f'Loss and accuracy during training of {group.title}, a line for each run'))
    names = list(head.units[0].summary['per_class'])
    matrices = [unit.summary['confusion_matrix'] for unit in head.units]
    alt = f'Confusion matrix, {head.title} by {views_text(head)}' + (f', mean of {len(matrices)}' if len(matrices) > 1 else '')
    pictures = [Picture(mean_confusion_png(matrices, names, head.title), alt)]
    known = [unit.predictions for unit in head.units if unit.predictions]
    if known:
        confidence, correct = (np.concatenate([getattr(each, name) for each in known]) for name in ('confidence', 'correct'))
        error = head.average('calibration_error')
        alt = 'Calibration: bars under the dotted line are too sure' + ('' if error is None else f'; expected error {percent(error, 1)} %')
        pictures.append(Picture(reliability_png(*calibration(confidence, correct)), alt))
        pictures.append(Picture(coverage_png(coverage(confidence, correct)), coverage_line(coverage_summary(confidence, correct))))
    blocks += [Beside(pictures), class_table(head)]
    blocks += [*pictures_of(rows, head), runs_table(head)]
    return Fold(f'{group.title}: {percent(head.mean)} % on {head.title} by {views_text(head)} ({spread(head)})', blocks, is_open)


def coverage_line(parts: Sequence[dict[str, float]]) -> str:
    """How right it is where it is sure, and what `--min-confidence` says so."""
    told = (
        f'{percent(part["accuracy"], 1)} % of the {percent(part["covered"], 0)} % (--min-confidence {part["min_confidence"]:.2f})'
        for part in parts[:-1]
    )
    return f'How right it is on the images it is surest of: {", ".join(told)}'


def class_table(row: Row) -> Table:
    """Precision, recall and F1 of each class, means over seeds, or draws, and their standard deviations."""

    def cell(name: str, figure: str) -> str:
        values = row.repeated([unit.summary['per_class'][name][figure] for unit in row.units])
        return percent(float(np.mean(values)), 1) + (f' ± {percent(float(np.std(values, ddof=1)), 1)}' if len(values) > 1 else '')

    lines: list[list[str | Cell]] = []
    for i, name in enumerate(row.units[0].summary['per_class']):
        support = sum(row.units[0].summary['confusion_matrix'][i])
        lines.append([name, *(cell(name, figure) for figure in ('precision', 'recall', 'f1')), f'{support:,}'])
    macro = [percent(row.average(name), 1) for name in ('balanced_accuracy', 'macro_f1')]
    lines.append([Cell('mean over classes', 'strong'), '', *(Cell(text, 'strong') for text in macro), f'{row.images:,}'])
    return Table(['class', 'precision, %', 'recall, %', 'F1, %', 'images'], lines)


def pictures_of(rows: Sequence[Row], head: Row) -> list[Block]:
    """What scoring drew for the first of the runs: worst mistakes of `head`, attention of the same split's centre crop."""
    centre = [row for row in rows if row.group is head.group and row.split == head.split and row.views == 'centre']
    seed = head.runs[0].config.seed
    wanted = [(head, 'worst_mistakes.png', f'The mistakes it was surest of: label → prediction, and its probability (seed {seed})')]
    for row in centre[:1]:
        wanted += [
            (row, 'attention_maps.png', f'Spatial attention over faces of each class, the least surely known first (seed {seed})'),
            (row, 'channel_gates.png', f'Channel attention: each class’s mean weights, less the mean over the classes (seed {seed})'),
        ]
    found = [(row.units[0].folder / name, alt) for row, name, alt in wanted]
    pictures = [Picture(path.read_bytes(), alt) for path, alt in found if path.is_file()]
    return [picture for picture in pictures if picture.png.startswith(PNG_SIGNATURE)]


def runs_table(head: Row) -> Table:
    """Each run with its seed, accuracy, length and environment."""
    lines: list[list[str | Cell]] = []
    for run in head.runs:
        result, summary = run.result, run.evaluations[head.title, head.views].summary
        environment, code = result['environment'], result['environment']['code']
        device = f'{environment["device"]["count"]} × {environment["device"]["kind"]}'
        if environment['device']['platform'] == 'cpu':
            device += f' ({environment["cpu"]})'
        draw = {'folds': f', fold {run.config.data.fold}', 'draws': f', draw {run.config.data.split_seed}'}.get(head.group.kind, '')
        revision = (code['revision'][:10] or 'unknown') + (' + changes' if code['dirty'] else '')
        packages = ', '.join(f'{name} {environment["packages"][name]}' for name in ('jax', 'flax') if name in environment['packages'])
        lines.append([
            f'{run.config.seed}{draw}',
            percent(summary['accuracy']),
            f'{summary["protocol"]["epoch"]:.1f}',
            f'{result["training_seconds"] / 60:.1f}',
            str(result['starts']),
            device,
            f'Python {environment["python"]}, {packages}',
            revision,
            result['content_sha256'][:12],
        ])  # fmt: skip
    header = ['seed', f'{head.title}, %', 'best epoch', 'minutes', 'starts', 'device', 'versions', 'code', 'data sha256']
    return Table(header, lines)
