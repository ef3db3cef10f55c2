"""The training loss and its targets."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int


def smooth(targets: Float[np.ndarray, 'n classes'], smoothing: float) -> Float[np.ndarray, 'n classes']:
    """Rows that sum to 1 with `smoothing` of their weight spread over all classes (Szegedy et al., 2016)."""
    return (targets * (1 - smoothing) + smoothing / targets.shape[1]).astype(np.float32)


def class_weights(labels: Int[np.ndarray, ' n'], classes: int) -> Float[np.ndarray, ' classes']:
    """n / (classes · n_class): each class weighs alike in the sum, and the mean weight over the set is 1."""
    return (len(labels) / (classes * np.bincount(labels, minlength=classes))).astype(np.float32)


def cross_entropy(logits: Float[Array, 'batch classes'], targets: Float[Array, 'batch classes']) -> Float[Array, ' batch']:
    """-Σ targets · log softmax(logits) in nats, in float32."""
    return -(targets * jax.nn.log_softmax(logits.astype(jnp.float32))).sum(-1)
