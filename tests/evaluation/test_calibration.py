"""fer_jax/evaluation/calibration.py by a case whose temperature is known: two classes, always the same confidence."""

import numpy as np
import pytest

from fer_jax.evaluation.calibration import calibration, divided, fit_temperature

# Ten images that are called 0 with probability 0.9; seven are.
PROBABILITIES = np.tile([0.9, 0.1], (10, 1))
LABELS = np.array([0] * 7 + [1] * 3, np.int32)


def test_the_temperature_makes_the_confidence_the_share_that_is_right():
    """Logits ± ½ ln 9 become ± ½ ln(7/3): the temperature is ln 9 / ln(7/3)."""
    temperature = fit_temperature(PROBABILITIES, LABELS)
    assert temperature == pytest.approx(np.log(9) / np.log(7 / 3), rel=1e-4)
    np.testing.assert_allclose(divided(PROBABILITIES, temperature), np.tile([0.7, 0.3], (10, 1)), rtol=1e-4)


def test_figures_before_and_after():
    before = calibration(PROBABILITIES, LABELS)
    assert before['nll'] == pytest.approx(-(7 * np.log(0.9) + 3 * np.log(0.1)) / 10)
    assert before['calibration_error'] == pytest.approx(0.2, abs=1e-6)
    after = calibration(divided(PROBABILITIES, fit_temperature(PROBABILITIES, LABELS)), LABELS)
    assert after['calibration_error'] == pytest.approx(0, abs=1e-4)


def test_a_probability_of_zero_is_no_certainty():
    """predictions.csv rounds to six digits: a label there with 0.000000 must not make the loss infinite."""
    temperature = fit_temperature(np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]]), np.array([0, 0, 1], np.int32))
    assert 1 < temperature < 21
