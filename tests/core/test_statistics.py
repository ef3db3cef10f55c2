"""fer_jax/core/statistics.py against numbers worked out by hand, by enumeration, or by SciPy's own tests."""

import itertools

import numpy as np
import pytest
import scipy.stats

from fer_jax.core.statistics import (
    calibration,
    calibration_error,
    coverage,
    coverage_summary,
    holm,
    paired_differences,
    sign_flip_p,
    t_interval,
    welch_p,
    wilson_interval,
)


def test_t_interval_of_three_seeds() -> None:
    # Mean 71, standard deviation 1, t(2 degrees of freedom, 97.5 %) = 4.30265: 4.30265 / √3 = 2.48414.
    assert t_interval([70.0, 71.0, 72.0]) == pytest.approx((71 - 2.48414, 71 + 2.48414), abs=1e-5)


def test_t_interval_of_five_seeds() -> None:
    # Deviations ±2, ±1, 0: variance 10/4; t(4) = 2.77645; half = 2.77645 · √(2.5 / 5) = 1.96325.
    assert t_interval([1.0, 2.0, 3.0, 4.0, 5.0]) == pytest.approx((3 - 1.96325, 3 + 1.96325), abs=1e-5)


def test_wilson_takes_a_mean_over_seeds() -> None:
    # 7 of 10 is the textbook's 0.3968 to 0.8922. Seeds with 6, 7 and 8 right have that mean, and 10 images, not 30.
    assert wilson_interval(7, 10) == pytest.approx((0.39678, 0.89221), abs=1e-5)
    assert wilson_interval(float(np.mean([6, 7, 8])), 10) == wilson_interval(7, 10)


def test_wilson_of_whole_counts_is_scipys() -> None:
    for correct, count in ((0, 5), (7, 10), (2513, 3589), (5, 5)):
        theirs = scipy.stats.binomtest(correct, count).proportion_ci(method='wilson')
        assert wilson_interval(correct, count) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_t_interval_without_spread_is_the_mean() -> None:
    assert t_interval([0.5, 0.5, 0.5]) == (0.5, 0.5)


def test_welch_by_hand() -> None:
    # t = 4 / √(5/3) = 3.0984 at (5/3)² / (1/18 + 8/9) = 50/17 = 2.94 degrees of freedom.
    assert welch_p([1.0, 2.0, 3.0], [4.0, 6.0, 8.0]) == pytest.approx(2 * scipy.stats.t.sf(4 / np.sqrt(5 / 3), 50 / 17), rel=1e-12)
    # One without spread: variance 0 + 1/3, t = 4 · √3 at 2 degrees of freedom.
    assert welch_p([6.0, 6.0, 6.0], [1.0, 2.0, 3.0]) == pytest.approx(2 * scipy.stats.t.sf(4 * np.sqrt(3), 2), rel=1e-12)


def test_welch_without_spread() -> None:
    assert welch_p([0.5, 0.5], [0.5, 0.5]) == 1
    assert welch_p([0.5, 0.5], [0.6, 0.6]) == 0


def test_one_seed_each_is_mcnemars_exact_test() -> None:
    # 9 images only the first has right, 1 only the second: 2 · (1 + 10) / 2^10.
    differences = np.array([1] * 9 + [-1] + [0] * 50)
    assert sign_flip_p(differences) == pytest.approx(22 / 1024, abs=1e-12)
    assert sign_flip_p(-differences) == sign_flip_p(differences)


def test_many_images_as_the_binomial_test_has_them() -> None:
    differences = np.array([1] * 200 + [-1] * 150 + [0] * 3239)
    assert sign_flip_p(differences) == pytest.approx(scipy.stats.binomtest(200, 350).pvalue, rel=1e-9)


@pytest.mark.parametrize('differences', [[3, 1, 1, 2, -1], [5, -3, 2, 2, 2, -1, 0], [2, 2, -2], [4, 6, -2, 8, 8]])
def test_several_seeds_by_all_changes_of_signs(differences: list[int]) -> None:
    observed = abs(sum(differences))
    sums = [sum(s * d for s, d in zip(signs, differences, strict=True)) for signs in itertools.product((1, -1), repeat=len(differences))]
    assert sign_flip_p(np.array(differences)) == pytest.approx(np.mean([abs(each) >= observed for each in sums]), abs=1e-12)


@pytest.mark.parametrize('differences', [[0, 0, 0], [1, -1, 1, -1], []])
def test_no_difference_is_none(differences: list[int]) -> None:
    assert sign_flip_p(np.array(differences, int)) == 1


def test_differences_of_unequal_numbers_of_seeds() -> None:
    # Two seeds against three: sixths. Image 0: 2/2 - 1/3 = 4/6; image 1: 0 - 3/3 = -6/6; image 2: 1/2 - 2/3 = -1/6.
    first = np.array([[1, 0, 1], [1, 0, 0]], bool)
    second = np.array([[1, 1, 1], [0, 1, 1], [0, 1, 0]], bool)
    assert paired_differences(first, second).tolist() == [4, -6, -1]


def test_holm_by_hand() -> None:
    # Ordered 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1: 0.02, 0.03, 0.06, and 0.04 raised to 0.06.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1, 1]
    assert holm([]) == []


def test_calibration_bins_by_hand() -> None:
    # 15 bins: (0.4, 0.4667] is bin 6, (0.8667, 0.9333] bin 13; 0.4 itself closes bin 5.
    confidence = np.array([0.4, 0.45, 0.9, 0.92])
    counts, means, accuracies = calibration(confidence, np.array([True, False, True, True]))
    assert {i: int(n) for i, n in enumerate(counts) if n} == {5: 1, 6: 1, 13: 2}
    assert means[13] == pytest.approx(0.91) and accuracies[13] == 1 and accuracies[6] == 0
    assert np.isnan(means[0])
    assert calibration_error(confidence, np.array([True, False, True, True])) == pytest.approx((0.6 + 0.45 + 0.1 + 0.08) / 4)
    # Of one bin the right and the wrong are set off: 0.88 and 0.92 share 13, one right of 1.80, and the two of 0.70 bin 10, one of 1.40.
    confidence, correct = np.array([0.88, 0.92, 0.62, 0.70, 0.70]), np.array([True, False, True, True, False])
    assert calibration_error(confidence, correct) == pytest.approx((0.80 + 0.38 + 0.40) / 5)
    assert calibration_error(np.ones(2), np.ones(2, bool)) == 0, 'certainty falls into the last bin'


def test_accuracy_over_coverage_by_hand() -> None:
    """Five images; the two of 0.7 come together, as nothing says which is surer."""
    confidence, correct = np.array([0.7, 0.9, 0.7, 0.4, 0.8]), np.array([True, True, False, False, True])
    curve = coverage(confidence, correct)
    assert curve.min_confidence.tolist() == [0.9, 0.8, 0.7, 0.4]
    assert curve.covered.tolist() == pytest.approx([0.2, 0.4, 0.8, 1.0])
    assert curve.accuracy.tolist() == pytest.approx([1, 1, 3 / 4, 3 / 5])
    told = [(part['covered'], part['accuracy'], part['min_confidence']) for part in coverage_summary(confidence, correct)]
    assert told == [pytest.approx(each) for each in [(0.8, 0.75, 0.7)] * 3 + [(1.0, 0.6, 0.4)] * 2]
    assert len(coverage_summary(np.ones(1), np.ones(1, bool))) == 5
