"""Several networks as one: the mean of what they say."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float


class Ensemble(nn.Module):
    """The logarithm of the mean of the members' probabilities, which a softmax leaves as it is: [B, 40, 40, 1] → [B, classes].

    The variables of member i are those of its own under `members_i`.
    """

    members: tuple[nn.Module, ...]

    def __call__(self, images: Float[Array, 'batch height width 1'], train: bool) -> Float[Array, 'batch classes']:
        """Args: images: normalised; train: as of the members."""
        each = jnp.stack([jax.nn.log_softmax(member(images, train)) for member in self.members])
        return jax.nn.logsumexp(each, axis=0) - math.log(len(self.members))
