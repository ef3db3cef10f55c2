"""`summary`: the paper's Table 1, with numbers worked out by hand."""

import re

import flax.linen as nn
import jax
import pytest

from fer_jax.core.config import check_config, load_config
from fer_jax.core.errors import InputError
from fer_jax.core.fields import default_config
from fer_jax.model.attention import ATTENTIONS, Places
from fer_jax.model.fernet import make_network
from fer_jax.model.summary import activation_bytes, parameter_table, summary, table_rows

# Table 1 as the paper prints it: input, operator, parameters.
TABLE_1 = [
    ((1, 40, 40), 'convolution k3 s1 p1', 88),
    ((8, 40, 40), 'SA', 19),
    ((8, 40, 40), 'CSP_BLOCK', 1_260),
    ((24, 40, 40), 'CSP_BLOCK', 5_204),
    ((32, 20, 20), 'CSP_BLOCK', 12_864),
    ((72, 10, 10), 'CSP_BLOCK', 85_068),
    ((216, 5, 5), 'CSP_BLOCK', 430_884),
    ((360, 3, 3), 'CSP_BLOCK', 1_076_588),
    ((512, 2, 2), 'CA', 262_144),
    ((512, 2, 2), 'convolution k3 s1 p1', 32_263),
    ((7, 2, 2), 'AdaptiveAvgPool2d', 0),
    ((7, 1, 1), 'softmax', 0),
]


def block_multiply_adds(inputs, outputs, side, out_side):
    """By hand from the description: weights times output places, the last three layers on the smaller map but `spatial`'s 1×1."""
    half = inputs // 2
    before = 2 * 9 * half**2 + 2 * (9 * half + half**2) + inputs * half
    after = 9 * half + half * outputs + outputs**2
    return before * side**2 + after * out_side**2


def rows(**network):
    config = default_config()
    config.network.update(network)
    return table_rows(make_network(config.network, 7))


def test_the_rows_are_table_1():
    assert [(row.shape, row.operator, row.parameters) for row in rows()] == TABLE_1


def test_multiply_adds_by_hand():
    found = [row.multiply_adds for row in rows()]
    assert found[0] == 9 * 8 * 1600  # 115,200
    assert found[1] == 9 * 2 * 1600
    widths, sides = (8, 24, 32, 72, 216, 360, 512), (40, 40, 20, 10, 5, 3, 2)
    for number in range(6):
        expected = block_multiply_adds(widths[number], widths[number + 1], sides[number], sides[number + 1])
        assert found[2 + number] == expected, f'block {number + 1}'
    # Block 1 in digits: (18·16 + 2·(36 + 16) + 32) · 1600 + (36 + 96 + 576) · 1600 = (424 + 708) · 1600
    assert found[2] == 1_811_200
    assert found[8] == 2 * 262_144  # the perceptron runs twice, over means and maxima
    assert found[9] == 9 * 512 * 7 * 4
    assert found[10:] == [0, 0]


def activations(sa_and_ca=True):
    """Elements that convolutions, dense layers, batch norms and ReLUs put out, by hand, layer by layer.

    A block of h = ci / 2 on a map of p places that leaves one of q places: the dense path is two convolutions, two norms and
    two ReLUs (6·h·p); the other twice two convolutions, two norms and a ReLU (10·h·p); the norm and ReLU behind the
    concatenation (4·h·p); reduce, norm, ReLU (3·h·p); spatial, norm (2·h·q); expand, norm, ReLU, fusion (4·co·q).
    """
    widths, sides = (8, 24, 32, 72, 216, 360, 512), (40, 40, 20, 10, 5, 3, 2)
    total = 3 * 8 * 1600 + 7 * 4  # the stem's three and the head
    for inputs, outputs, side, out_side in zip(widths, widths[1:], sides, sides[1:], strict=False):
        total += 23 * (inputs // 2) * side**2 + (2 * (inputs // 2) + 4 * outputs) * out_side**2
    return total + (1600 + 2 * (256 + 256 + 512) if sa_and_ca else 0)


def test_the_forward_backward_size():
    """2 × 4 bytes × elements / 2^20 = 9.67 MB, where the paper prints 9.46."""
    config = default_config()
    assert activation_bytes(make_network(config.network, 7)) == 8 * activations()
    assert 8 * activations() / 2**20 == pytest.approx(9.67, abs=0.005)
    config.network.attention = 'none'
    assert activation_bytes(make_network(config.network, 7)) == 8 * activations(sa_and_ca=False)


@pytest.mark.parametrize('activation', ['leaky_relu', 'silu', 'gelu'])
def test_other_activations_have_the_same_size(activation):
    """Only the block's and stem's activations change; those inside channel attention stay ReLU."""
    config = default_config()
    config.network.activation = activation
    assert activation_bytes(make_network(config.network, 7)) == 8 * activations()


def test_the_printed_table():
    lines = summary(default_config()).splitlines()
    printed = [re.split(r'\s{2,}', line.strip()) for line in lines]
    assert printed[0] == ['input (C,H,W)', 'operator', 'parameters', 'MFLOPs']
    for line, (size, operator, parameters) in zip(printed[1:13], TABLE_1, strict=True):
        assert line[:3] == [','.join(map(str, size)), operator, f'{parameters:,}']
    assert printed[1][3] == '0.230'  # 2 · 115,200
    assert printed[13][:2] == ['total', '1,906,382']
    assert 'Parameters size (MB): 7.27' in lines  # 4 · 1,906,382 / 2^20
    assert any(line.startswith('Forward/backward pass size (MB): 9.67') for line in lines)


def test_another_number_of_classes():
    head = [row for row in table_rows(make_network(default_config().network, 8)) if row.parameters][-1]
    assert head.parameters == 9 * 512 * 8 + 8


@pytest.mark.parametrize('name', ['fernet', 'vgg13'])
def test_ferplus_has_its_eighth_class(name):
    """One class more is one more of the head's filters, 3·3 or 1·1 of 512 channels, and its bias."""
    config = default_config()
    config.network.update({'name': name, 'blocks': (24, 512), 'strides': (2, 2)})  # FERNet's, which ends as the paper's does
    found = []
    for dataset in ('fer2013', 'ferplus'):
        config.data.dataset = dataset
        total = next(line for line in summary(config).splitlines() if line.startswith('total'))
        found.append(int(total.split()[1].replace(',', '')))
    assert found[1] - found[0] == {'fernet': 9 * 512 + 1, 'vgg13': 512 + 1}[name]


class Halved(nn.Module):
    """An attention without parameters."""

    dtype: str = 'float32'

    def __call__(self, x: jax.Array) -> jax.Array:
        return x / 2


def test_an_attention_without_parameters_has_rows(monkeypatch):
    monkeypatch.setitem(ATTENTIONS, 'se', Places(block={'half': Halved()}))
    found = rows(attention='se')
    assert [row.operator for row in found].count('HALF') == 6
    assert sum(row.parameters for row in found) == 1_906_382 - 19 - 262_144


@pytest.mark.parametrize(('attention', 'extra'), [('none', 0), ('se', 56_266), ('eca', 24), ('cbam', 55_570)])
def test_the_other_attentions_have_rows(attention, extra):
    """Counts of the variants by hand as in test_fernet.py."""
    found = rows(attention=attention)
    assert sum(row.parameters for row in found) == 1_906_382 - 19 - 262_144 + extra
    assert [row.parameters for row in found if row.operator == 'CSP_BLOCK'] == [row[2] for row in TABLE_1 if row[1] == 'CSP_BLOCK']
    assert len(found) == 10 + {'none': 0, 'se': 6, 'eca': 6, 'cbam': 12}[attention]


def test_the_parameter_table():
    text = parameter_table(default_config())
    assert 'block6/fusion/kernel' in text and '1,906,382' in text


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ('groups=3', 'network.shuffle_groups=3 does not divide the 8 channels of block 1'),
        ('groups=0', 'network.shuffle_groups=0'),
        ('attention=spacial', "unknown value of network.attention 'spacial': did you mean 'spatial'?"),
    ],
)
def test_wrong_groups_and_attention_are_one_clear_line(arguments, message):
    with pytest.raises(InputError) as error:
        load_config(f'configs/toyfaces.py:{arguments}', {})
    assert message in str(error.value) and '\n' not in str(error.value)


def test_groups_that_divide_only_some_blocks():
    config = default_config()
    config.network.shuffle_groups = 16  # divides 32 but not 8
    with pytest.raises(InputError, match='does not divide the 8 channels of block 1'):
        check_config(config)
