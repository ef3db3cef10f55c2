"""Statistics of accuracies: intervals over images and over seeds, tests, and their correction.

Free of JAX, so that a report starts at once and can be made where none is installed.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

CALIBRATION_BINS = 15
COVERAGES = (0.5, 0.7, 0.8, 0.9, 1.0)  # shares of the images, those it is surest of, whose accuracy is told
Z_95 = 1.959963984540054  # two-sided 95 % point of the standard normal


def wilson_interval(correct: float | int, count: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share (Wilson, 1927): unlike p ± 1.96 σ it stays in 0..1 and holds for small counts.

    `correct` may be a mean over seeds, which scipy.stats.binomtest's own interval, of whole counts, does not take. Seeds add no images:
    they are wrong about the same ones, so `count` is that of one seed.
    """
    share, z2 = correct / count, Z_95**2
    middle = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = Z_95 / (1 + z2 / count) * math.sqrt(share * (1 - share) / count + z2 / (4 * count**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def t_interval(values: Sequence[float]) -> tuple[float, float]:
    """Student's 95 % interval of the mean of what two or more values are drawn from."""
    from scipy import stats  # late, for it takes a second that only tables over seeds have need of

    half, middle = float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)), float(np.mean(values))
    return middle - half, middle + half


def welch_p(first: Sequence[float], second: Sequence[float]) -> float:
    """Two-sided p of Welch's t test (1947) that two or more values each are drawn from the same mean, whatever their variances.

    Values without any spread give 0 where they differ and 1 where they do not.
    """
    from scipy import stats  # late, as in `t_interval`

    # From their moments: ttest_ind warns of values that are all the same, as accuracies of a small split may be.
    moments = [part for values in (first, second) for part in (np.mean(values), np.std(values, ddof=1), len(values))]
    p = float(stats.ttest_ind_from_stats(*moments, equal_var=False).pvalue)
    return 1.0 if math.isnan(p) else p


def paired_differences(first: Bool[np.ndarray, 'seeds n'], second: Bool[np.ndarray, 'others n']) -> Int[np.ndarray, ' n']:
    """Image by image, the share of seeds that are right of `first` less that of `second`, times both numbers' least common multiple."""
    common = math.lcm(len(first), len(second))
    return first.sum(0) * (common // len(first)) - second.sum(0) * (common // len(second))


def sign_flip_p(differences: Int[np.ndarray, ' n']) -> float:
    """Two-sided p of the paired permutation test: how often random signs give a sum as far from 0 as the differences' own.

    Not drawn but exact: a sum of ±k has the characteristic function Π cos(k θ), whose Fourier transform is the probability of each
    sum, to about 1e-15. With differences of -1, 0 and 1 it is McNemar's exact test.
    """
    sizes, counts = np.unique(np.abs(differences[differences != 0]), return_counts=True)
    if len(sizes) == 0:
        return 1.0
    unit = np.gcd.reduce(sizes)
    sizes, observed = sizes // unit, abs(int(differences.sum())) // int(unit)
    length = 2 ** math.ceil(math.log2(2 * int(sizes @ counts) + 2))
    places = np.arange(length)
    transform = np.ones(length)
    for size, count in zip(sizes, counts, strict=True):
        transform *= np.cos(2 * np.pi * (places * size % length) / length) ** count
    probabilities = np.maximum(np.fft.rfft(transform).real / length, 0)  # of the sums 0, 1, 2, …; those below 0 are the same
    return 1.0 if observed == 0 else min(1.0, 2 * float(probabilities[observed:].sum()))


def holm(p_values: Sequence[float]) -> list[float]:
    """The p values so raised that rejecting those ≤ α errs anywhere with probability α at most (Holm, 1979); SciPy has no such."""
    order = np.argsort(p_values, kind='stable')
    raised = np.asarray(p_values, np.float64)[order] * np.arange(len(order), 0, -1)
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(np.maximum.accumulate(raised), 1.0)
    return adjusted.tolist()


def calibration(
    confidence: Float[np.ndarray, ' n'], correct: Bool[np.ndarray, ' n']
) -> tuple[Int[np.ndarray, ' bins'], Float[np.ndarray, ' bins'], Float[np.ndarray, ' bins']]:
    """Images, mean top probability and accuracy in bins (low, high] of equal width (Guo et al., 2017); NaN where a bin is empty."""
    bins = np.clip(np.ceil(confidence * CALIBRATION_BINS).astype(int) - 1, 0, CALIBRATION_BINS - 1)
    counts = np.bincount(bins, minlength=CALIBRATION_BINS)
    with np.errstate(invalid='ignore'):
        means = [np.bincount(bins, weights, CALIBRATION_BINS) / counts for weights in (confidence, correct.astype(float))]
    return counts, means[0], means[1]


def calibration_error(confidence: Float[np.ndarray, ' n'], correct: Bool[np.ndarray, ' n']) -> float:
    """The expected calibration error: mean over images of |accuracy - mean top probability| of their bin."""
    counts, confidences, accuracies = calibration(confidence, correct)
    return float(np.nansum(counts * np.abs(accuracies - confidences)) / counts.sum())


class Coverage(NamedTuple):
    """What follows from saying nothing below a confidence (El-Yaniv & Wiener, 2010), from the highest confidence to the lowest."""

    covered: Float[np.ndarray, ' points']  # the share of images that are at least as sure
    accuracy: Float[np.ndarray, ' points']  # on these
    min_confidence: Float[np.ndarray, ' points']  # which distinguishes them


def coverage(confidence: Float[np.ndarray, ' n'], correct: Bool[np.ndarray, ' n']) -> Coverage:
    """Accuracy over coverage: a point for each confidence that occurs, for of images that are equally sure none comes before another."""
    order = np.argsort(-confidence, kind='stable')
    descending = confidence[order]
    last = np.flatnonzero(np.append(np.diff(descending) != 0, True))
    return Coverage((last + 1) / len(order), correct[order].cumsum()[last] / (last + 1), descending[last])


def coverage_summary(confidence: Float[np.ndarray, ' n'], correct: Bool[np.ndarray, ' n']) -> list[dict[str, float]]:
    """covered, accuracy and min_confidence of the smallest sets that hold at least COVERAGES of the images, the surest first."""
    curve = coverage(confidence, correct)
    places = np.searchsorted(curve.covered, np.array(COVERAGES) - 1e-12)
    return [{name: float(values[place]) for name, values in curve._asdict().items()} for place in places]
