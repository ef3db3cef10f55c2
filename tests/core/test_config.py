"""The configuration: every field commented and bounded, every kind of override, and the files in configs/."""

import ast
import functools
import io
import json
import pathlib
import re
import tokenize

import jax
import jax.numpy as jnp
import pytest
from ml_collections import ConfigDict

from fer_jax.core import fields as module
from fer_jax.core.config import check_config, differences, from_record, load_config, load_variants, set_field, values
from fer_jax.core.errors import InputError
from fer_jax.core.fields import ARGUMENTS, BOUNDS, CHOICES, default_config
from fer_jax.model.baselines import make_any

ROOT = pathlib.Path(__file__).parent.parent.parent
# Those of one run are quick; the others trace each of their networks.
CONFIGS = [
    path if path.name in ('toyfaces.py', 'fer2013.py') else pytest.param(path, marks=pytest.mark.slow)
    for path in sorted((ROOT / 'configs').glob('*.py'))
]
TOYFACES = str(ROOT / 'configs' / 'toyfaces.py')


def error_of(function, *arguments):
    with pytest.raises(InputError) as error:
        function(*arguments)
    assert '\n' not in str(error.value)
    return str(error.value)


# --- The fields


def test_every_field_has_a_comment():
    source = pathlib.Path(module.__file__).read_text()
    function = next(node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef) and node.name == 'default_config')
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {token.start[0]: token.string for token in tokens if token.type == tokenize.COMMENT}
    groups = {'c': ''}
    commented = set()
    for node in function.body:
        if not isinstance(node, ast.Assign) or not any(isinstance(target, ast.Attribute) for target in node.targets):
            continue
        target = next(target for target in node.targets if isinstance(target, ast.Attribute))
        field = groups[target.value.id] + target.attr
        if isinstance(node.value, ast.Call) and getattr(node.value.func, 'id', '') == 'ConfigDict':
            groups[next(each.id for each in node.targets if isinstance(each, ast.Name))] = f'{field}.'
            continue
        assert len(comments.get(node.end_lineno, '')) > 3, f'{field} has no comment'
        commented.add(field)
    assert commented == set(values(default_config()))


def test_every_number_has_bounds_and_every_word_its_choices():
    """A number without bounds is one that somebody can set to -1 and find out in a traceback."""
    known = values(default_config())
    assert set(BOUNDS) | set(CHOICES) <= set(known)
    assert {field for field, value in known.items() if type(value) in (int, float, tuple)} == set(BOUNDS)
    assert {field for field, value in known.items() if type(value) is str} - set(CHOICES) == {'name', 'data.dataset', 'data.prepared'}


def test_the_short_names_are_those_of_fields():
    assert set(ARGUMENTS.values()) <= set(values(default_config()))


def test_the_default_is_locked_checked_and_new_each_time():
    config = default_config()
    check_config(config)
    with pytest.raises((AttributeError, KeyError)):
        config.sed = 1
    with pytest.raises((AttributeError, KeyError)):
        config.network.atention = 'none'
    config.network.stem = 16
    assert default_config().network.stem == 8


# --- Overrides


@pytest.mark.parametrize(
    ('field', 'text', 'value'),
    [
        ('seed', '7', 7),
        ('epochs', '0.5', 0.5),
        ('epochs', '3', 3.0),
        ('epochs', '1e2', 100.0),
        ('name', 'a=b', 'a=b'),
        ('augment.crop', 'false', False),
        ('augment.flip', 'True', True),
        ('data.class_weights', 'yes', True),
        ('data.class_weights', '0', False),
        ('data.dedup', 'near', 'near'),
        ('network.blocks', '24,32', (24, 32)),
        ('network.blocks', '(24, 32,)', (24, 32)),
        ('network.blocks', '[24,32]', (24, 32)),
        ('network.blocks', '24', (24,)),
        ('network.shuffle_groups', 'none', None),
        ('network.shuffle_groups', '', None),
        ('network.shuffle_groups', '2', 2),
        ('optimizer.clip', 'None', None),
        ('optimizer.clip', '1.5', 1.5),
        ('data.path', 'a b/c.csv', 'a b/c.csv'),
        ('data.path', 'none', None),
    ],
)
def test_overrides(field, text, value):
    config = default_config()
    set_field(config, field, text)
    found = values(config)[field]
    assert found == value and type(found) is type(value)
    changed = {name for name, each in values(default_config()).items() if values(config)[name] != each}
    assert changed <= {field}


@pytest.mark.parametrize(
    ('field', 'text', 'message'),
    [
        ('seed', '1.5', "seed='1.5': not a whole number"),
        ('seed', 'none', "seed='none': not a whole number"),
        ('epochs', 'many', "epochs='many': not a number"),
        ('augment.crop', 'maybe', "augment.crop='maybe': not true or false"),
        ('network.blocks', '24,b', "network.blocks='24,b': not whole numbers with commas between"),
        ('network.shuffle_groups', 'four', "network.shuffle_groups='four': not a whole number or none"),
        ('sede', '1', "unknown config field 'sede': did you mean 'seed'?"),
        ('network.atention', 'none', "unknown config field 'network.atention': did you mean 'network.attention'?"),
        ('network', '1', "unknown config field 'network'"),
    ],
)
def test_wrong_overrides_are_one_line(field, text, message):
    assert message in error_of(set_field, default_config(), field, text)


@pytest.mark.parametrize(
    ('overrides', 'message'),
    [
        ({'network.attention': 'bth'}, "unknown value of network.attention 'bth': did you mean 'both'?"),
        ({'optimizer.name': 'adam'}, "did you mean 'adamw'?"),
        ({'epochs': '-1'}, 'epochs=-1.0: must lie between 1e-06 and'),
        ({'epochs': 'nan'}, 'epochs=nan: must lie between'),
        ({'epochs': 'inf'}, 'epochs=inf: must lie between'),
        ({'batch_size': '0'}, 'batch_size=0: must lie between 1 and'),
        ({'seed': '4294967296'}, 'seed=4294967296: must lie between 0 and 4294967295'),
        ({'optimizer.clip': '0'}, 'optimizer.clip=0.0: must lie between'),
        ({'optimizer.ema': '1'}, 'optimizer.ema=1.0'),
        ({'network.blocks': '24,32'}, 'network.blocks has 2 widths and network.strides 6'),
        ({'network.blocks': '', 'network.strides': ''}, 'network.blocks has 0 widths'),
        ({'network.strides': '1,2,2,2,2,3'}, 'network.strides=(1, 2, 2, 2, 2, 3): each must lie between 1 and 2'),
        ({'network.blocks': '1000000000,32,72,216,360,512'}, 'each must lie between 1 and 4096'),
        ({'network.shuffle_groups': '0'}, 'network.shuffle_groups=0: must lie between 1 and 4096'),
        ({'network.blocks': '24,33,72,216,360,512', 'network.shuffle_groups': 'none'}, 'block 3 gets 33 channels'),
        ({'network.stem': '9'}, 'block 1 gets 9 channels'),
        ({'network.shuffle_groups': '3'}, 'network.shuffle_groups=3 does not divide the 8 channels of block 1'),
        ({'network.blocks': '24,32,72,216,360,0'}, 'each must lie between 1 and 4096'),
        ({'network.zero_last_gamma': 'true', 'network.residual': 'false'}, 'network.residual=true'),
        ({'network.zero_last_gamma': 'true', 'network.residual': 'true', 'network.preactivation': 'true'}, 'network.preactivation=true'),
        ({'data.dataset': 'fer2013'}, '--config.data.path='),
    ],
)
def test_values_that_do_not_fit(overrides, message):
    assert message in error_of(load_config, TOYFACES, overrides)


def test_arguments_after_the_file():
    config = load_config(TOYFACES + ':attention=none,groups=2,epochs=3,path=', {})
    assert (config.network.attention, config.network.shuffle_groups, config.epochs, config.data.path) == ('none', 2, 3.0, None)
    later = load_config(TOYFACES + ':seed=1', {'seed': '2'})
    assert later.seed == 2, 'dotted fields are applied last'


@pytest.mark.parametrize(
    ('reference', 'message'),
    [
        (TOYFACES + ':atention=none', "unknown config argument 'atention': did you mean 'attention'?"),
        (TOYFACES + ':attention', "'attention' has no value"),
        (TOYFACES + ':groups=x', 'network.shuffle_groups'),
        ('configs/nothing.py', 'configs/nothing.py: no such file; by name there are ablation, baselines, ckplus'),
        ('fer2014', '--config fer2014: no such file'),
        ('elsewhere/toyfaces.py', '--config elsewhere/toyfaces.py: no such file'),
        (str(ROOT / 'pyproject.toml'), 'not a Python file'),
    ],
)
def test_wrong_references_are_one_line(reference, message):
    assert message in error_of(load_config, reference, {})


def test_a_config_of_the_package_is_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'toyfaces').mkdir()
    for name in ('toyfaces', 'configs/toyfaces.py'):
        assert load_config(f'{name}:seed=3', {}).seed == 3 and load_config(name, {}).name == 'toyfaces'
    assert len(load_variants('ckplus_folds', {'data.path': 'CK+48'})) == 10, 'which takes what it shares from another'


def test_a_file_here_goes_before_one_of_the_package(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'configs').mkdir()
    text = (ROOT / 'configs' / 'toyfaces.py').read_text()
    (tmp_path / 'configs' / 'toyfaces.py').write_text(text.replace('config.epochs = 7.0', 'config.epochs = 9.0'))
    assert load_config('configs/toyfaces.py', {}).epochs == 9
    assert load_config('toyfaces', {}).epochs == 7, "a name is the package's"


# --- Records


def test_a_record_comes_back():
    overrides = {'network.blocks': '24,32', 'network.strides': '2,2', 'optimizer.clip': 'none', 'network.shuffle_groups': '2'}
    config = load_config(TOYFACES, overrides)
    again = from_record(json.loads(json.dumps(config.to_dict())), 'config.json')
    assert values(again) == values(config) and differences(again, config) == []
    assert [type(value) for value in values(again).values()] == [type(value) for value in values(config).values()]
    assert again.is_locked


def test_a_record_of_an_older_version_gets_the_defaults():
    again = from_record({'seed': 3, 'network': {'attention': 'none'}}, 'config.json')
    assert sorted(differences(default_config(), again)) == ['network.attention: both → none', 'seed: 0 → 3']


@pytest.mark.parametrize(
    ('record', 'message'),
    [
        ({'sede': 1}, "config.json: unknown config field 'sede': did you mean 'seed'?"),
        ({'network': {'atention': 'none'}}, "did you mean 'network.attention'?"),
        ({'network': 1}, "config.json: unknown config field 'network'"),
        ({'seed': '1'}, "config.json: config field seed='1' is not a whole number"),
        ({'seed': True}, 'seed=True is not a whole number'),
        ({'seed': None}, 'seed=None is not a whole number'),
        ({'epochs': {}}, 'epochs={} is not a number'),
        ({'network': {'blocks': ['a', 'b', 'c', 'd', 'e', 'f']}}, 'network.blocks'),
        ({'network': {'blocks': [24.0, 32, 72, 216, 360, 512]}}, 'network.blocks'),
        ({'network': {'attention': 'bth'}}, "did you mean 'both'?"),
        ([1], 'config.json'),
    ],
    ids=str,
)
def test_wrong_records_are_one_line(record, message):
    assert message in error_of(from_record, record, 'config.json')


# --- configs/


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.name)
def test_every_config_file(path):
    """It loads, checks, builds networks that fit together, and says what a reader needs to run it."""

    def forward(network, images):
        return network.apply(network.init(jax.random.key(0), images, train=False), images, train=False)

    for config in load_variants(str(path), {'data.path': 'somewhere'}).values():
        assert isinstance(config, ConfigDict) and config.is_locked
        images = jax.ShapeDtypeStruct((2, 40, 40, 1), jnp.float32)
        logits = jax.eval_shape(functools.partial(forward, make_any(config.network, 7)), images)
        assert logits.shape == (2, 7) and logits.dtype == jnp.float32
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    for heading, content in (('Command', r'\S'), ('Hardware', r'\S'), ('Time', r'.*\d'), ('Accuracy', r'.*\d')):
        assert re.search(rf'^{heading}:\s+{content}', docstring, re.MULTILINE), f'{path.name} does not say its {heading.lower()}'


def test_a_file_of_several_configurations(tmp_path):
    path = tmp_path / 'several.py'
    path.write_text("""
from fer_jax.core.fields import default_config
def get_configs():
    for name in ('one', 'two'):
        config = default_config()
        config.name = name
        config.seed = len(name)
        yield config
""")
    found = load_variants(f'{path}:groups=8', {'epochs': '3'})
    assert {name: (config.network.shuffle_groups, config.epochs) for name, config in found.items()} == {'one': (8, 3.0), 'two': (8, 3.0)}
    assert 'holds 2 configurations (one, two)' in error_of(load_config, str(path), {})
    path.write_text(path.read_text().replace('config.name = name', "config.name = 'same'"))
    assert "a name of its own, not ['same', 'same']" in error_of(load_variants, str(path), {})
