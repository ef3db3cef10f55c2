"""One temperature that a network's outputs are divided by, so that its probabilities come true (Guo et al., 2017)."""

import numpy as np
from jaxtyping import Float, Int

from fer_jax.core.statistics import calibration_error

LEAST = 1e-7  # of a probability, a tenth of the last digit that predictions.csv has
RANGE = (0.05, 20.0)


def fit_temperature(probabilities: Float[np.ndarray, 'n classes'], labels: Int[np.ndarray, ' n']) -> float:
    """The temperature in RANGE with the least mean negative log-likelihood of the labels."""
    from scipy.optimize import minimize_scalar  # late, for it takes half a second that no prediction should wait for

    def loss(log_temperature: float) -> float:
        return mean_nll(divided(probabilities, np.exp(log_temperature)), labels)

    return float(np.exp(minimize_scalar(loss, bounds=np.log(RANGE), method='bounded', options={'xatol': 1e-6}).x))


def divided(probabilities: Float[np.ndarray, 'n classes'], temperature: float) -> Float[np.ndarray, 'n classes']:
    """The probabilities of the same logits divided by `temperature`. A constant apart, which no softmax sees, those are logarithms."""
    from scipy.special import softmax  # late, as in `fit_temperature`

    return softmax(np.log(np.maximum(probabilities, LEAST)) / temperature, axis=1)


def calibration(probabilities: Float[np.ndarray, 'n classes'], labels: Int[np.ndarray, ' n']) -> dict[str, float]:
    """`nll`, the mean in nats, and `calibration_error`, of what is most probable."""
    error = calibration_error(probabilities.max(1), probabilities.argmax(1) == labels)
    return {'nll': mean_nll(probabilities, labels), 'calibration_error': error}


def mean_nll(probabilities: Float[np.ndarray, 'n classes'], labels: Int[np.ndarray, ' n']) -> float:
    """The mean of -log p(label), in nats."""
    return float(-np.log(probabilities[np.arange(len(labels)), labels]).mean())
