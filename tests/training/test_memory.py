"""What a run takes of memory, before it takes it."""

import math

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fer_jax.core.config import load_config
from fer_jax.core.errors import InputError
from fer_jax.core.memory import Room
from fer_jax.core.mesh import check_program
from fer_jax.training.memory import activation_bytes, check_memory, memory_parts
from fer_jax.training.run import build
from tests.tiny import FIELDS


class Two(nn.Module):
    """Two dense layers on 1,600 pixels, with the sine between."""

    statistics_axis: str | None = None

    @nn.compact
    def __call__(self, x, train):
        x = nn.Dense(10, use_bias=False)(x.reshape(len(x), -1))
        self.variable('batch_stats', 'none', lambda: jnp.zeros(()))
        return nn.Dense(7, use_bias=False)(jnp.sin(x))


def test_what_a_forward_pass_keeps():
    """Of 50 images: their pixels, the cosines and the sines of ten numbers each, and the second kernel."""
    network = Two()
    variables = jax.eval_shape(lambda: network.init(jax.random.key(0), jnp.zeros((1, 40, 40, 1)), train=False))
    kept = activation_bytes(network, flax.core.freeze(variables), 50)
    assert kept == 4 * (50 * 1600 + 50 * 10 + 50 * 10 + 10 * 7)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    fields = FIELDS | {'data.prepared': str(tmp_path_factory.mktemp('prepared'))}
    return build(load_config('toyfaces', fields))


def test_a_run_that_does_not_fit_is_told_of_what(run):
    state = run.abstract_state()
    size = sum(math.prod(leaf.shape) * 4 for leaf in jax.tree.leaves([state, state.variables['params']]))
    check_memory(run)
    told = memory_parts(run, 1, copies=4)
    assert told['parameters, moments, average and gradients'] == 4 * size
    assert told['training images'] == 4 * len(run.dataset.splits['train']) * (48 * 48 + 4 * 7 + 4)
    kept = told['activations of 32 images']
    # The stem alone keeps its 8 maps of 40 × 40 before and after the activation.
    assert kept > 32 * 40 * 40 * 8 * 2 * 4
    assert memory_parts(run, 3, copies=4)['parameters, moments, average and gradients'] == 3 * 4 * size
    with pytest.raises(
        InputError,
        match=r'this would take .* on 4 cpu device.*, .* MB for activations of 32 images, .* but this machine has 1\.0 GB, of which 1 MB',
    ):
        check_memory(run, place=(Room(10**9, 10**6, 'this machine has 1.0 GB'), 4))


def test_evaluation_takes_any_batch_size(run):
    """More images a step than there are, and a number that does not divide over the devices: neither is any matter."""
    config = load_config('toyfaces', FIELDS | {'data.prepared': run.config.data.prepared, 'batch_size': '4099'})
    with pytest.raises(InputError, match='batch_size 4099 is more than the'):
        build(config)
    evaluating = build(config, training=False)
    assert evaluating.mesh.size == 4 and evaluating.steps_per_epoch == 1


def test_a_compiled_program_that_does_not_fit():
    program = jax.jit(lambda x: jnp.sort(jnp.outer(x, x), axis=0).sum()).lower(np.ones(1000, np.float32)).compile()
    taken = program.memory_analysis().temp_size_in_bytes
    assert taken >= 4_000_000
    check_program(program, 'a sort', 'less')
    with pytest.raises(InputError, match=rf'{4 * taken / 1e6:,.0f} MB for a sort; but this machine has 1\.0 GB'):
        check_program(program, 'a sort', 'less', place=(Room(10**9, 10**8, 'this machine has 1.0 GB'), 4))
