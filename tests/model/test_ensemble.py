"""Several networks as one, by hand."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from fer_jax.model.ensemble import Ensemble


class Even(nn.Module):
    """Says the same of every image: odds that its parameter has the logarithms of."""

    @nn.compact
    def __call__(self, images, train):
        return jnp.tile(self.param('odds', nn.initializers.zeros, (2,)), (len(images), 1))


def test_the_mean_of_the_probabilities():
    """1/2 and 3/4 make 5/8, by odds of 1 to 1 and 3 to 1; by the mean of the logits it would be 0.634."""
    network = Ensemble((Even(), Even()))
    variables = {'params': {'members_0': {'odds': jnp.zeros(2)}, 'members_1': {'odds': jnp.log(jnp.array([9.0, 3.0]))}}}
    found = network.apply(variables, jnp.zeros((3, 40, 40, 1)), train=False)
    np.testing.assert_allclose(np.exp(found), [[5 / 8, 3 / 8]] * 3, rtol=1e-6)
    np.testing.assert_allclose(jax.nn.softmax(found), np.exp(found), rtol=1e-6)
