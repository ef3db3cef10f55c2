"""Batch norm re-estimated: against the statistics worked out by NumPy from what goes into the first one."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh

from fer_jax.core.fields import default_config
from fer_jax.core.mesh import DATA, replicate
from fer_jax.data.schema import Dataset, Faces
from fer_jax.data.views import normalise
from fer_jax.model.fernet import make_network
from fer_jax.runs.state import create_state
from fer_jax.training.reestimate import make_reestimate
from fer_jax.training.run import Run
from tests import reference

IMAGES, BATCH = 26, 8  # three batches


def stem(images, kernel):
    """What the stem's convolution gives of normalised images [n, 40, 40, 1], by shifted sums: [n, 40, 40, 4]."""
    padded = np.pad(images[..., 0], ((0, 0), (1, 1), (1, 1)))
    return sum(padded[:, y : y + 40, x : x + 40, None] * kernel[y, x, 0] for y in range(3) for x in range(3))


@pytest.mark.parametrize('kind', ['global', pytest.param('device', marks=pytest.mark.slow)])
def test_the_statistics_are_those_of_the_average(kind):
    """Of images 0, 1, 2, … 25 evenly taken, 24 of them; momentum, the old statistics and a block's being left out play no part."""
    config = default_config()
    config.batch_size = BATCH
    config.network.update({'stem': 4, 'blocks': (8,), 'strides': (2,), 'shuffle_groups': 2, 'stochastic_depth': 0.5, 'batch_norm': kind})
    images = np.random.default_rng(0).integers(0, 256, (IMAGES, 48, 48), np.uint8)
    dataset = Dataset('drawn', tuple('abc'), {'train': Faces(images, np.zeros(IMAGES, np.int32))}, {'train': 'train'}, {})
    mesh = Mesh(np.array(jax.devices()[:2]), (DATA,))
    network = make_network(config.network, 3, DATA)
    run = Run(config, dataset, mesh, network, optax.identity(), lambda step: 0.1, 9, 3)
    state = reference.jit(lambda: create_state(network, optax.identity(), 3, True))()
    before = jax.device_get(state)
    found = jax.device_get(make_reestimate(run)(replicate(mesh, before), 40))

    rows = np.linspace(0, 25, 24).astype(int)
    maps = stem(np.asarray(normalise(jnp.asarray(images[rows][:, 4:44, 4:44]))), np.asarray(before.average['params']['stem']['kernel']))
    share = BATCH if kind == 'global' else BATCH // 2
    each = maps.reshape(-1, share, 40, 40, 4)
    new = found.average['batch_stats']['stem_bn']
    np.testing.assert_allclose(new['mean'], each.mean((1, 2, 3)).mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(new['var'], each.var((1, 2, 3)).mean(0), rtol=1e-4)
    jax.tree.map(np.testing.assert_array_equal, found.average['params'], before.average['params'])
    jax.tree.map(np.testing.assert_array_equal, found.variables, before.variables)
    assert jax.tree.structure(found) == jax.tree.structure(before)
