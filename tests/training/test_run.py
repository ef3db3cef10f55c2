"""Which part of a run has what switched on, by hand."""

from unittest import mock

import flax.linen as nn
import optax
import pytest
from jax.sharding import Mesh

from fer_jax.core.config import load_config
from fer_jax.core.errors import InputError
from fer_jax.core.fields import default_config
from fer_jax.core.mesh import DATA
from fer_jax.data.schema import Dataset
from fer_jax.model.baselines import make_any
from fer_jax.training.run import Run, check_side
from tests.tiny import ROOT


def run_of(steps, **fields):
    """A run of so many steps; `fields` with __ for the dots."""
    config = load_config(str(ROOT / 'configs' / 'toyfaces.py'), {name.replace('__', '.'): str(value) for name, value in fields.items()})
    parts = (mock.Mock(spec=kind) for kind in (Dataset, Mesh, nn.Module))
    return Run(config, *parts, optax.identity(), lambda step: 0.1, steps, 1)


def test_what_is_on_in_a_part_of_the_run():
    """Of 100 steps mixup has those from 25 to 84, erasing from 50 on, sharp steps the last ten; views grow after 30."""
    run = run_of(
        100,
        augment__mixup=0.2, augment__mix_from=0.25, augment__mix_to=0.85,
        augment__erase=0.1, augment__erase_from=0.5,
        optimizer__sam=0.05, optimizer__sam_from=0.9,
        augment__early_share=0.3,
    )  # fmt: skip
    assert run.boundaries == [25, 30, 50, 85, 90]
    found = {step: run.config_at(step) for step in (0, 24, 25, 49, 50, 84, 85, 89, 90, 99)}
    assert [step for step, config in found.items() if config.augment.mixup] == [25, 49, 50, 84]
    assert [step for step, config in found.items() if config.augment.erase] == [50, 84, 85, 89, 90, 99]
    assert [step for step, config in found.items() if config.optimizer.sam] == [90, 99]
    assert run.config.augment.mixup == 0.2 and run.config.optimizer.sam == 0.05
    assert [run.side(step) for step in (0, 29, 30, 99)] == [32, 32, 40, 40]


def test_what_is_on_all_the_time_or_never_parts_no_run():
    run = run_of(100, augment__mixup=0.2, augment__erase=0, augment__erase_from=0.3, optimizer__sam=0.05)
    assert run.boundaries == [] and run.config_at(99) == run.config


def test_the_views_that_choose():
    """Validated by ten crops are the states after steps 61 to 100; by views of 32 pixels those after 1 to 30."""
    run = run_of(100, augment__early_share=0.3, evaluation__ten_from=0.6)
    assert [run.validation(step) for step in (1, 30, 31, 60)] == [(32, 'centre')] * 2 + [(40, 'centre')] * 2
    assert [run.validation(step) for step in (61, 100)] == [(40, 'ten')] * 2
    assert run_of(100).validation(100) == (40, 'centre')
    short = run_of(2, augment__early_share=0.9, evaluation__ten_from=0.9)
    assert short.validation(2) == (40, 'ten') and short.validation(1) == (32, 'centre'), 'the last step is always of the last part'


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        (
            {'augment__mixup': 0.2, 'augment__mix_from': 0.9, 'augment__mix_to': 0.2},
            'augment.mixup=0.2 with augment.mix_from=0.9 and augment.mix_to=0.2: no step of the run lies between',
        ),
        ({'augment__erase': 0.1, 'augment__erase_from': 1}, 'augment.erase_from=1 and augment.erase_to=1: no step'),
        ({'optimizer__sam': 0.05, 'optimizer__sam_from': 1}, 'optimizer.sam=0.05 with optimizer.sam_from=1: no step'),
        ({'augment__mixup': 0.2, 'augment__mix_to': 1.2}, 'augment.mix_to=1.2: must lie between 0 and 1'),
        ({'data__votes_head': 0.5}, 'data.votes_head needs data.dataset=fer2013, and data.votes'),
        ({'augment__flip': 'false', 'augment__alternate': 'true'}, 'augment.alternate=true without augment.flip=true'),
        ({'evaluation__ten_from': -1}, 'evaluation.ten_from=-1.0: must lie between 0 and 1'),
    ],
    ids=str,
)
def test_a_window_that_no_step_lies_in_is_one_line(fields, message):
    with pytest.raises(InputError) as error:
        run_of(100, **fields)
    assert message in str(error.value)


@pytest.mark.parametrize(('name', 'least'), [('vgg10', 16), ('vgg13', 32), ('mini_xception', 8)])
def test_the_sizes_that_a_network_takes(name, least):
    """Four halvings of 16 leave one place, of 15 none; five take 32; those that round up take all there are."""
    config = default_config().network
    config.name = name
    network = make_any(config, 7, DATA)
    check_side(network, least)
    if least > 8:
        with pytest.raises(InputError, match=rf'early_side={least - 1}: views are too small .* by 2×2 leaves nothing of its maps of 1×1'):
            check_side(network, least - 1)


def test_a_window_that_a_short_run_leaves_empty():
    run = run_of(3, augment__mixup=0.2, augment__mix_from=0.4, augment__mix_to=0.45)
    with pytest.raises(InputError, match='no step of the run lies between'):
        run.boundaries  # noqa: B018
