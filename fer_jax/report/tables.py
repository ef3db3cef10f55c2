"""From groups of runs to the rows of a report, the differences between them, and the paper's own rows beside them."""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool

from fer_jax.core.statistics import holm, paired_differences, sign_flip_p, t_interval, welch_p, wilson_interval
from fer_jax.runs.records import Evaluation, Group, Run, pool

ALPHA = 0.05
METHOD = (
    'Two rows are compared on the same images by an exact paired permutation test: the difference of the share of seeds that are right, '
    'image by image, with all changes of its signs (for one seed each: McNemar’s test), Holm-corrected over the comparisons of the table. '
    'Since that says nothing of other seeds, a difference is called real only if Welch’s t test over the seeds’ accuracies rejects '
    'equality too, both at 5 %; with a single seed on either side it stays open.'
)
# Table 2 of the paper: accuracy on FER2013 in per cent, by the name in configs/ablation.py.
PAPER_TABLE_2 = {
    'base': ('Base', 69.82),
    'base-g1': ('Base (g=1)', 70.27),
    'base-g2': ('Base (g=2)', 69.23),
    'base-g4': ('Base (g=4)', 70.30),
    'base-g8': ('Base (g=8)', 69.57),
    'sa-base-ca': ('SA + Base + CA', 70.97),
    'sa-base-g4-ca': ('SA + Base (g=4) + CA', 71.80),
}
# Table 3 of the paper: method, FER2013 %, CK+ %, parameters.
PAPER_TABLE_3 = (
    ('[8]', '63.03', '98.71', 11_372_271),
    ('[9]', '63.91', '97.98', 2_464_032),
    ('[10]', '66.40', '93.2', 3_962_328),
    ('[11]', '66.00', '–', 1_825_465),
    ('[12]', '68.80', '96.04', 5_935_271),
    ('[14]', '70.02', '–', 7_151_502),
    ('the paper', '71.80', '99.66', 1_906_382),
)
SPLIT_ORDER = ('train', 'validation', 'test')


class Row(NamedTuple):
    """One group on one split by one kind of views."""

    group: Group
    split: str  # train | validation | test
    title: str  # the data set's name for it
    views: str
    units: list[Evaluation]  # of each of the group's units
    part: str = ''  # of the split, where the row is not of all of it

    @property
    def protocol(self) -> dict[str, Any]:
        """How its runs were trained and scored: the same for all of them."""
        return self.units[0].summary['protocol']

    @property
    def runs(self) -> list[Run]:
        """All of the group's runs."""
        return [run for unit in self.group.units for run in unit]

    @property
    def parameters(self) -> int:
        """Of the network that was trained."""
        return self.runs[0].result['parameters']

    @property
    def content(self) -> tuple[str, ...] | None:
        """What names the images of each run of a unit: the sha256 of its data; None where the units' differ."""
        contents = {tuple(run.result['content_sha256'] for run in unit) for unit in self.group.units}
        return contents.pop() if len(contents) == 1 else None

    @property
    def over(self) -> str:
        """What the accuracies are one each of: seeds, or draws of the split; a seed's folds make one."""
        return 'draws' if self.group.kind == 'draws' else 'seeds'

    @property
    def images(self) -> int:
        """Of the test set, each once however many seeds have been scored on it."""
        return self.units[0].summary['count']

    def repeated(self, figures: Sequence[float]) -> list[float]:
        """From one figure for each unit to one for each seed, or draw, of whose seeds it is the mean: they share its test set."""
        if self.group.kind != 'draws':
            return list(figures)
        by_draw: dict[int, list[float]] = {}
        for run, figure in zip(self.runs, figures, strict=True):
            by_draw.setdefault(run.config.data.split_seed, []).append(figure)
        return [float(np.mean(seeds)) for seeds in by_draw.values()]

    @property
    def accuracies(self) -> list[float]:
        """Of the seeds, or draws, in 0..1."""
        return self.repeated([float(unit.summary['accuracy']) for unit in self.units])

    @property
    def mean(self) -> float:
        """The mean accuracy over seeds, or draws."""
        return float(np.mean(self.accuracies))

    @property
    def deviation(self) -> float | None:
        """The sample's standard deviation; None of a single accuracy."""
        return float(np.std(self.accuracies, ddof=1)) if len(self.accuracies) > 1 else None

    @property
    def seeds_interval(self) -> tuple[float, float] | None:
        """Student's 95 % interval over seeds, or draws."""
        return t_interval(self.accuracies) if len(self.accuracies) > 1 else None

    @property
    def images_interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the mean accuracy on a test set of this size."""
        return wilson_interval(self.mean * self.images, self.images)

    def average(self, name: str) -> float | None:
        """The mean over seeds, or draws, of a figure of the summaries; None where one lacks it."""
        found = [unit.summary.get(name) for unit in self.units]
        return None if None in found else float(np.mean(self.repeated(found)))

    @property
    def nearest_neighbour(self) -> float | None:
        """Accuracy of the nearest training image by raw pixels on the same test images; None where its runs did not measure it."""
        found = [run.result.get('one_nearest_neighbour') for run in self.runs]
        if self.split != 'test' or self.part or None in found:
            return None
        if self.group.kind == 'draws':
            return float(np.mean(self.repeated([each['accuracy'] for each in found])))
        return sum(each['correct'] for each in found) / sum(each['count'] for each in found)

    @property
    def parts(self) -> list['Row']:
        """A row for each part of the split that all units were scored on too; it has accuracies and no other figures."""
        found = []
        for name in self.units[0].summary.get('subsets', {}):
            if all(name in unit.summary.get('subsets', {}) for unit in self.units):
                summaries = [unit.summary['subsets'][name] | {'protocol': unit.summary['protocol']} for unit in self.units]
                units = [Evaluation(summary, None, unit.folder) for summary, unit in zip(summaries, self.units, strict=True)]
                found.append(self._replace(title=f'{self.title}, {name}', units=units, part=name))
        return found


class Comparison(NamedTuple):
    """Two rows on the same images, by their positions."""

    first: int
    second: int
    difference: float  # mean accuracy of the first less that of the second
    p_images: float | None  # of the paired test over images, Holm-corrected; None where they cannot be paired
    p_seeds: float | None  # of Welch's test; None with one seed on either side
    verdict: str  # real | not shown | one seed | not paired
    reason: str = ''  # why they are not paired


def make_rows(groups: Sequence[Group]) -> list[Row]:
    """Every group × split × views that all of the group's runs have been scored on, in that order: test last, ten crops after one."""
    rows = []
    for group in groups:
        runs = [run for unit in group.units for run in unit]
        shared = set.intersection(*(set(run.evaluations) for run in runs))  # each row is of all of the group's runs
        canonical = {title: split for split, title in runs[0].result['split_titles'].items()}
        found = []
        for title, views in shared:
            units = [pool([run.evaluations[title, views] for run in unit]) for unit in group.units]
            found.append(Row(group, canonical.get(title, 'test'), title, views, units))
        rows += sorted(found, key=lambda row: (SPLIT_ORDER.index(row.split), row.title, row.views))
    return rows


def headline(rows: Sequence[Row], group: Group) -> Row:
    """The row that says most of a group: the test split where it was scored, by ten crops where they were."""
    return max((row for row in rows if row.group is group), key=lambda row: (SPLIT_ORDER.index(row.split), row.views == 'ten'))


def comparable(rows: Sequence[Row]) -> list[list[Row]]:
    """The rows of one data set, split, views and kind of repetition together, in the order in which they first come."""
    found: dict[tuple[str, str, str, str], list[Row]] = {}
    for row in rows:
        found.setdefault((row.protocol['data'], row.title, row.views, row.group.kind), []).append(row)
    return list(found.values())


def correctness(row: Row) -> Bool[np.ndarray, 'seeds n']:
    """Whether each seed is right, image by image."""
    return np.stack([unit.predictions.correct for unit in row.units])


def why_unpaired(first: Row, second: Row) -> str:
    """Why two rows cannot be compared image by image; '' where they can."""
    for row in (first, second):
        if row.group.kind == 'draws':
            return 'the test sets of several draws share images'
        if row.content is None:
            return f'the runs of {row.group.title} have different data'
        if any(unit.predictions is None for unit in row.units):
            return f'predictions.csv of {row.group.title} is missing'
    labels = [unit.predictions.labels for row in (first, second) for unit in row.units]
    if first.content != second.content or any(not np.array_equal(each, labels[0]) for each in labels):
        return 'their data differ'
    return ''


def compare(rows: Sequence[Row]) -> list[Comparison]:
    """Every pair of rows of one split and views: METHOD."""
    pairs = list(itertools.combinations(range(len(rows)), 2))
    reasons = [why_unpaired(rows[i], rows[j]) for i, j in pairs]
    paired = [pair for pair, reason in zip(pairs, reasons, strict=True) if not reason]
    raw = [sign_flip_p(paired_differences(correctness(rows[i]), correctness(rows[j]))) for i, j in paired]
    corrected = dict(zip(paired, holm(raw), strict=True))
    comparisons = []
    for (i, j), reason in zip(pairs, reasons, strict=True):
        first, second = rows[i].accuracies, rows[j].accuracies
        p_images = corrected.get((i, j))
        p_seeds = welch_p(first, second) if min(len(first), len(second)) > 1 else None
        if reason:
            verdict = 'not paired'
        elif p_images > ALPHA or (p_seeds is not None and p_seeds > ALPHA):
            verdict = 'not shown'
        else:
            verdict = 'one seed' if p_seeds is None else 'real'
        comparisons.append(Comparison(i, j, rows[i].mean - rows[j].mean, p_images, p_seeds, verdict, reason))
    return comparisons
