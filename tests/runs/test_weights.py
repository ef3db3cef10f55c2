"""fer_jax/runs/weights.py: a file that comes back as it went, damaged ones refused in a line, and training that starts from others."""

import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import struct

import jax
import numpy as np
import pytest

from fer_jax.__main__ import main
from fer_jax.core.config import load_config, values
from fer_jax.core.errors import InputError
from fer_jax.core.fields import default_config
from fer_jax.core.files import read_json
from fer_jax.data.predictions import read_predictions
from fer_jax.runs import weights as module
from fer_jax.runs.checkpoint import Checkpoints
from fer_jax.runs.weights import (
    Weights,
    difference_text,
    find_weights,
    flat,
    head_paths,
    load_weights,
    nested,
    read_weights,
    save_weights,
    shapes,
    transfer,
)
from fer_jax.training.loop import Loop
from fer_jax.training.run import build
from fer_jax.training.train import train
from tests.ckplus_like import write
from tests.tiny import FIELDS, ROOT

pytestmark = pytest.mark.filterwarnings('ignore::fer_jax.core.errors.DataWarning')
FER = ('angry', 'disgust', 'fear', 'happy', 'sad', 'surprise', 'neutral')


def tiny_config():
    return load_config(
        str(ROOT / 'configs/toyfaces.py'), {'network.blocks': '4,6', 'network.strides': '2,2', 'network.shuffle_groups': '2'}
    )


def metadata_of(config, classes=FER):
    told = {'protocol': {'trained_on': 'Training'}, 'step': 12, 'seed': 3, 'content_sha256': 'ab' * 32}
    return {'config': config.to_dict(), 'class_names': list(classes), **told}


def drawn(config, classes=7, seed=0):
    generator = np.random.default_rng(seed)
    return {path: generator.normal(size=shape).astype(np.float32) for path, shape in shapes(config.network, classes).items()}


@pytest.fixture(scope='module')
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp('content') / 'tiny.safetensors'
    save_weights(path, drawn(tiny_config()), metadata_of(tiny_config()))
    return path.read_bytes()


@pytest.fixture
def file(content: bytes, tmp_path: pathlib.Path) -> pathlib.Path:
    (tmp_path / 'tiny.safetensors').write_bytes(content)
    return tmp_path / 'tiny.safetensors'


# --- The file


def test_a_file_comes_back(file):
    config, weights = tiny_config(), load_weights(file)
    assert weights.variables.keys() == drawn(config).keys()
    for path, value in drawn(config).items():
        np.testing.assert_array_equal(weights.variables[path], value)
        assert weights.variables[path].dtype == np.float32
    assert (weights.name, weights.class_names, weights.metadata['step']) == ('tiny', FER, 12)
    assert values(weights.config) == values(config)
    again = file.with_name('again.safetensors')
    save_weights(again, weights.variables, metadata_of(config))
    assert again.read_bytes() == file.read_bytes(), 'the same weights make the same file'


def test_the_file_is_plain_safetensors(file):
    """Read by the format's own description: eight bytes of length, a JSON header, the arrays' bytes."""
    data = file.read_bytes()
    (length,) = struct.unpack('<Q', data[:8])
    header = json.loads(data[8 : 8 + length])
    body = data[8 + length :]
    assert set(header.pop('__metadata__')) == {'fer_jax'}
    for path, value in drawn(tiny_config()).items():
        entry = header.pop(path)
        assert entry['dtype'] == 'F32' and entry['shape'] == list(value.shape)
        assert body[slice(*entry['data_offsets'])] == value.astype('<f4').tobytes()
    assert not header


def test_the_papers_network_takes_less_than_8_megabytes(tmp_path):
    config = default_config()
    variables = drawn(config)
    assert sum(value.size for path, value in variables.items() if path.startswith('params/')) == 1_906_382
    summary = {'per_class': {name: dict.fromkeys(('precision', 'recall', 'f1'), 0.123456789012345) for name in FER}}
    results = {f'{split}, {views}': summary for split in ('PublicTest', 'PrivateTest') for views in ('centre', 'ten')}
    path = tmp_path / 'paper.safetensors'
    size = save_weights(path, variables, metadata_of(config) | {'results': results})
    assert size == path.stat().st_size < 8_000_000


def test_a_variable_that_is_not_float32_is_refused(tmp_path):
    with pytest.raises(ValueError, match='params/a is float64, not float32'):
        save_weights(tmp_path / 'x.safetensors', {'params/a': np.zeros(2)}, metadata_of(tiny_config()))
    assert not list(tmp_path.iterdir())


# --- Damaged files


def packed(header: bytes, body: bytes) -> bytes:
    return struct.pack('<Q', len(header)) + header + body


def changed(data: bytes, change) -> bytes:
    """The file with its header changed by `change`, a function of the parsed header (in place) and the body that returns the body."""
    (length,) = struct.unpack('<Q', data[:8])
    header = json.loads(data[8 : 8 + length])
    body = change(header, data[8 + length :])
    return packed(json.dumps(header).encode(), body)


def without_an_array(header, body):
    """The last array by its bytes, so that the others' stand."""
    last = max((name for name in header if name != '__metadata__'), key=lambda name: header[name]['data_offsets'][1])
    start, _ = header.pop(last)['data_offsets']
    return body[:start]


def with_a_surplus(header, body):
    header['params/extra'] = {'dtype': 'F32', 'shape': [2], 'data_offsets': [len(body), len(body) + 8]}
    return body + bytes(8)


def of_whole_numbers(header, body):
    header['params/head/bias']['dtype'] = 'I32'
    return body


def of_another_shape(header, body):
    header['params/head/bias']['shape'] = [1, 7]
    return body


def with_overlap(header, body):
    header['params/head/bias']['data_offsets'] = header['params/stem_bn/bias']['data_offsets']
    return body


def not_a_number(header, body):
    start, _ = header['params/head/bias']['data_offsets']
    return body[:start] + struct.pack('<f', float('nan')) + body[start + 4 :]


def metadata_with(**fields):
    def change(header, body):
        told = json.loads(header['__metadata__']['fer_jax'])
        header['__metadata__']['fer_jax'] = json.dumps(told | fields)
        return body

    return change


def without_metadata(header, body):
    del header['__metadata__']
    return body


@pytest.mark.parametrize(
    ('damage', 'message'),
    [
        (lambda data: b'', 'header too small'),
        (lambda data: data[:5], 'header too small'),
        (lambda data: data[:400], 'invalid header length'),
        (lambda data: data[:-1], 'damaged'),
        (lambda data: data + b'\0', 'damaged'),
        (lambda data: struct.pack('<Q', 2**63) + data[8:], 'header too large'),
        (lambda data: struct.pack('<Q', 9_000_000) + data[8:] + bytes(10_000_000), 'invalid UTF-8 in header|invalid JSON in header'),
        (lambda data: packed(b'{"a": ', data), 'invalid JSON in header'),
        (lambda data: packed(b'[' * 100_000, data), 'invalid JSON in header'),
        (lambda data: packed(b'\xff\xfe{}', data), 'invalid UTF-8 in header'),
        (lambda data: packed(b'[1]', data), 'invalid JSON in header'),
        (lambda data: b'PK\3\4' + data, 'no safetensors file'),
        (lambda data: changed(data, without_metadata), 'no weights of fer_jax'),
        (lambda data: changed(data, lambda header, body: header.update(__metadata__={'fer_jax': 'x'}) or body), 'no weights of fer_jax'),
        (lambda data: changed(data, lambda header, body: header.update(__metadata__=None) or body), 'no weights of fer_jax'),
        (lambda data: changed(data, lambda header, body: header.update(__metadata__=[1]) or body), 'no safetensors file'),
        (lambda data: changed(data, metadata_with(format=2)), 'format 2; this version reads 1'),
        (lambda data: changed(data, metadata_with(class_names=[1, 2])), 'class_names of its metadata'),
        (lambda data: changed(data, metadata_with(step='12')), 'field metadata.step is "12", which is of another type'),
        (lambda data: changed(data, metadata_with(config={'sede': 1})), "unknown config field 'sede'"),
        (lambda data: changed(data, metadata_with(class_names=['a', 'b'])), r'params/head/bias has shape \[7\], its network \[2\]'),
        (lambda data: changed(data, without_an_array), 'it lacks '),
        (lambda data: changed(data, with_a_surplus), "it holds the surplus 'params/extra'"),
        (lambda data: changed(data, of_whole_numbers), 'params/head/bias is of type I32, not F32'),
        (lambda data: changed(data, of_another_shape), r'params/head/bias has shape \[1, 7\], its network \[7\]'),
        (lambda data: changed(data, with_overlap), 'damaged'),
        (lambda data: changed(data, not_a_number), 'params/head/bias holds values that are not finite'),
    ],
)
def test_damaged_files_are_one_line(file, damage, message):
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(InputError, match=message) as error:
        load_weights(file)
    assert '\n' not in str(error.value) and str(file) in str(error.value)


def test_a_file_that_is_far_too_large_is_not_read(file):
    os.truncate(file, 2**30 + 1)  # which the disk keeps none of
    with pytest.raises(InputError, match='larger than 1,073,741,824 bytes'):
        load_weights(file)


# --- By name


def test_weights_are_found_by_name_file_and_folder(file, tmp_path):
    folder = tmp_path / 'weights'
    with pytest.raises(InputError, match='the package has none'):
        find_weights('fer2013-1.9m', folder)
    folder.mkdir()
    for name in ('fer2013-1.9m', 'other'):
        shutil.copy(file, folder / f'{name}.safetensors')
    assert find_weights('fer2013-1.9m', folder) == folder / 'fer2013-1.9m.safetensors'
    assert read_weights(str(find_weights('other', folder))).name == 'other'
    assert find_weights(str(file)) == file
    with pytest.raises(InputError, match='fer2013-2m: no run, .* the package has fer2013-1.9m, other'):
        find_weights('fer2013-2m', folder)
    with pytest.raises(InputError, match='no run there'):
        find_weights(str(tmp_path))


def test_the_folder_lies_in_the_package():
    assert module.FOLDER == ROOT / 'fer_jax' / 'weights'


@pytest.mark.parametrize('path', sorted(module.FOLDER.glob('*.safetensors')), ids=lambda path: path.stem)
def test_the_packages_own_weights_are_those_of_their_networks(path):
    """As reading them takes for granted."""
    weights = load_weights(path)
    held = {name: value.shape for name, value in weights.variables.items()}
    assert held == module.shapes(weights.config.network, len(weights.class_names))
    assert {value.dtype for value in weights.variables.values()} == {np.dtype(np.float32)}


# --- What is taken over


def test_the_head_is_what_hangs_on_the_classes():
    assert head_paths(default_config().network, 7) == {'params/head/kernel', 'params/head/bias'}


def of(variables, classes=FER):
    return Weights('other', {path: np.asarray(value, np.float32) for path, value in variables.items()}, default_config(), classes, {})


HERE = {
    'params/stem/kernel': np.zeros((3, 3, 1, 8), np.float32),
    'params/new/bias': np.zeros(5, np.float32),
    'params/head/kernel': np.zeros((3, 3, 4, 7), np.float32),
    'params/head/bias': np.zeros(7, np.float32),
    'batch_stats/stem_bn/mean': np.zeros(8, np.float32),
}
HEAD = {'params/head/kernel', 'params/head/bias'}


def test_what_fits_is_taken_and_the_rest_is_said():
    there = {
        'params/stem/kernel': np.full((3, 3, 1, 8), 2.0),
        'params/head/kernel': np.full((3, 3, 4, 8), 3.0),
        'params/head/bias': np.full(8, 4.0),
        'batch_stats/stem_bn/mean': np.full(8, 5.0),
        'params/old/scale': np.ones(6),
    }
    variables, report = transfer(HERE, of(there, (*FER, 'contempt')), FER, HEAD)
    assert {path: float(value.flat[0]) for path, value in variables.items()} == {
        'params/stem/kernel': 2.0,
        'params/new/bias': 0.0,
        'params/head/kernel': 0.0,
        'params/head/bias': 0.0,
        'batch_stats/stem_bn/mean': 5.0,
    }
    assert report['arrays'] == {'loaded': 2, 'of': 5}
    assert report['parameters'] == {'loaded': 72, 'of': 72 + 5 + 252 + 7}
    assert report['new'] == {
        'params/new/bias': 'not there',
        'params/head/kernel': 'shape 3×3×4×7 here, 3×3×4×8 there',
        'params/head/bias': 'shape 7 here, 8 there',
    }
    assert report['unused'] == {'params/old/scale': 'not used'}
    assert difference_text(report).splitlines() == [
        'from other: 2 of 5 arrays, 72 of 336 parameters',
        '  new: new/bias (not there)',
        '  new: head/kernel (shape 3×3×4×7 here, 3×3×4×8 there)',
        '  new: head/bias (shape 7 here, 8 there)',
        '  left out: old/scale (not used)',
    ]


def test_a_head_of_as_many_but_other_classes_is_not_taken():
    """FER2013 and CK+ have seven classes each: equal shapes, other meanings."""
    there = {path: np.ones(value.shape) for path, value in HERE.items()}
    ckplus = ('anger', 'disgust', 'fear', 'happy', 'sadness', 'surprise', 'contempt')
    variables, report = transfer(HERE, of(there, FER), ckplus, HEAD)
    assert set(report['new']) == HEAD and not variables['params/head/bias'].any() and variables['params/new/bias'].all()
    assert report['new']['params/head/bias'].startswith('classes anger, disgust')
    variables, report = transfer(HERE, of(there, ckplus), ckplus, HEAD)
    assert report['new'] == {} and variables['params/head/bias'].all()


def test_a_long_list_is_shortened_and_nothing_at_all_is_refused():
    there = {'params/stem/kernel': np.ones((3, 3, 1, 8))} | {f'params/old{i}/bias': np.ones(1) for i in range(9)}
    text = difference_text(transfer(HERE, of(there), FER, HEAD)[1])
    assert 'left out: old0/bias, old1/bias, old2/bias, old3/bias and 5 more (not used)' in text
    with pytest.raises(InputError, match='no parameter of other fits this network'):
        transfer(HERE, of({'params/old/bias': np.ones(1), 'batch_stats/stem_bn/mean': np.ones(8)}), FER, HEAD)


def test_the_digest_is_of_names_shapes_and_values():
    one = of({'params/a': [1.0, 2.0], 'params/b': [3.0]})
    assert one.sha256 == of({'params/b': [3.0], 'params/a': [1.0, 2.0]}).sha256
    for other in (
        {'params/a': [1.0, 2.0], 'params/c': [3.0]},
        {'params/a': [[1.0, 2.0]], 'params/b': [3.0]},
        {'params/a': [1.0, 2.5], 'params/b': [3.0]},
    ):
        assert of(other).sha256 != one.sha256


# --- A run, its weights, and runs that start from either


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp('weights')


def toy(folder, **fields):
    chosen = FIELDS | {'epochs': '2', 'data.prepared': str(folder / 'prepared')}
    chosen |= {name.replace('__', '.'): text for name, text in fields.items()}
    return load_config(str(ROOT / 'configs/toyfaces.py'), chosen)


@pytest.fixture(scope='module')
def finished(folder) -> pathlib.Path:
    train(toy(folder), folder / 'run')
    return folder / 'run'


@pytest.fixture(scope='module')
def exported(finished, folder) -> pathlib.Path:
    path = folder / 'toy-tiny.safetensors'
    assert main(['weights', '--workdir', str(finished), '--out', str(path)]) == 0
    return path


@pytest.mark.slow
def test_the_file_holds_the_best_average_and_the_facts(finished, exported, folder):
    weights, result = load_weights(exported), read_json(finished / 'result.json')
    run = read_weights(str(finished))
    told = weights.metadata
    temperature = told['temperature']['divided_by']
    assert 0.05 < temperature < 20 and told['temperature']['run_sha256'] == run.sha256
    for path, value in weights.variables.items():
        factor = temperature if path.startswith('params/head/') else 1
        np.testing.assert_allclose(factor * value, run.variables[path], rtol=1e-5, atol=1e-9, err_msg=path)
    assert (told['name'], told['step'], told['seed']) == ('toyfaces', result['best_step'], 0)
    assert told['class_names'] == result['class_names'] and told['content_sha256'] == result['content_sha256']
    assert told['results'] == {
        'validation, centre': result['validation_centre'],
        'test, centre': result['test_centre'],
        'test, ten': result['test_ten'],
    }
    assert told['protocol']['trained_on'] == 'train' and told['protocol']['weights'] == 'average'
    assert told['code'] == result['environment']['code'] and told['init_from'] is None
    assert str(folder) not in json.dumps(told), 'no folder of the author in it'


@pytest.mark.slow
def test_the_weights_score_as_their_run_did(finished, exported, folder):
    out = folder / 'scored'
    arguments = ['evaluate', '--checkpoint', str(exported), '--split', 'test', '--out', str(out)]
    assert main([*arguments, f'--config.data.prepared={folder / "prepared"}']) == 0
    scored, result = read_json(out / 'result.json'), read_json(finished / 'result.json')
    assert scored['confusion_matrix'] == result['test_centre']['confusion_matrix']
    told = load_weights(exported).metadata['temperature']['centre']['test']
    assert {key: scored[key] for key in told} == pytest.approx(told, rel=1e-3, abs=1e-5)
    ours = read_json(finished / 'evaluations/best-test-centre/result.json')
    assert scored['protocol'] == ours['protocol'] and scored['step'] == ours['step']
    assert scored['weights']['name'] == 'toy-tiny' and scored['weights']['sha256'] == load_weights(exported).sha256


@pytest.mark.slow
def test_an_ensemble_is_the_mean_of_its_members(exported, folder):
    """Two files that answer differently: image by image the probabilities are halfway between."""
    other, weights, found = folder / 'other.safetensors', load_weights(exported), {}
    save_weights(other, {path: 0.5 * value if 'head' in path else value for path, value in weights.variables.items()}, weights.metadata)
    for name, checkpoint in (('one', str(exported)), ('other', str(other)), ('both', f'{exported},{other}')):
        arguments = ['evaluate', '--checkpoint', checkpoint, '--split', 'test', '--views', 'ten', '--out', str(folder / name)]
        assert main([*arguments, f'--config.data.prepared={folder / "prepared"}']) == 0
        found[name] = read_predictions(folder / name / 'predictions.csv', weights.class_names).probabilities
    np.testing.assert_allclose(found['both'], (found['one'] + found['other']) / 2, atol=2e-6)
    told = read_json(folder / 'both' / 'result.json')['weights']
    assert [each['sha256'] for each in told] == [weights.sha256, load_weights(other).sha256]


@pytest.mark.slow
def test_no_scores_take_the_place_of_others(exported, folder, tmp_path, monkeypatch, capsys):
    """The same weights on the same data again do; on other data, or beside another member of an ensemble, they do not."""
    monkeypatch.chdir(tmp_path)
    weights = load_weights(exported)
    for name in ('b', 'c'):
        moved = {path: value + (name == 'c') for path, value in weights.variables.items()}
        save_weights(tmp_path / f'{name}.safetensors', moved, weights.metadata)
    prepared = f'--config.data.prepared={folder / "prepared"}'

    def evaluate(*arguments):
        code = main(['evaluate', '--split', 'test', prepared, '--checkpoint', *arguments])
        return code, capsys.readouterr().err.splitlines()[-1:]

    alone = tmp_path / 'runs/evaluations/toy-tiny-test-centre/result.json'
    pair = tmp_path / 'runs/evaluations/toy-tiny-and-1-more-test-centre/result.json'
    pairs = [f'{exported},{tmp_path / name}.safetensors' for name in ('b', 'c')]
    for path, own, other in (
        (alone, [str(exported)], [str(exported), '--config.data.split_seed=1']),
        (pair, [pairs[0]], [pairs[1]]),
    ):
        assert evaluate(*own)[0] == evaluate(*own)[0] == 0
        before = path.read_bytes()
        assert evaluate(*other) == (2, [f'error: {path.parent.relative_to(tmp_path)} has the scores of other weights or data: give --out'])
        assert path.read_bytes() == before
        assert evaluate(*other, '--out', str(tmp_path / f'beside {path.parent.name}'))[0] == 0


@pytest.mark.slow
def test_evaluate_says_what_it_cannot_do(finished, exported, folder, capsys):
    ckplus = ['--config', 'configs/toyfaces.py', '--config.data.dataset=ckplus']
    data = [f'--config.data.path={write(folder / "CK+48")}', f'--config.data.prepared={folder / "prepared"}']
    for arguments, word in (
        ([], '--checkpoint best of which run?'),
        (['--checkpoint', 'fer2013-none'], 'fer2013-none: no run, no weights file'),
        (['--checkpoint', str(finished)], f'is a run: evaluate it with --workdir {finished}'),
        (['--workdir', str(finished), '--out', 'x'], '--out goes with weights'),
        (['--checkpoint', str(exported), *ckplus, *data], 'ckplus has anger, disgust'),
    ):
        assert main(['evaluate', *arguments]) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith('error: ') and word in error


@pytest.mark.slow
def test_an_unfinished_run_has_no_weights(finished, tmp_path, capsys):
    shutil.copytree(finished, tmp_path / 'run')
    (tmp_path / 'run/result.json').unlink()
    assert main(['weights', '--workdir', str(tmp_path / 'run'), '--out', str(tmp_path / 'x.safetensors')]) == 2
    assert 'no result.json yet' in capsys.readouterr().err
    shutil.rmtree(tmp_path / 'run/checkpoints/best')
    with pytest.raises(InputError, match='no best checkpoint'):
        read_weights(str(tmp_path / 'run'))


def equal(a, b) -> bool:
    return all(np.array_equal(one, other) for one, other in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


@pytest.mark.slow
def test_a_run_starts_from_a_run_or_its_file(finished, exported, folder, capsys):
    """The file's head is divided by its temperature, so each is the start that it says."""
    run = build(toy(folder, seed='5'))
    for source in (finished, exported):
        from_source = dataclasses.replace(run, config=toy(folder, init_from=str(source), seed='5'))
        state, report = from_source.first_state()
        weights = read_weights(str(source))
        assert report['new'] == report['unused'] == {} and report['sha256'] == weights.sha256
        assert 'arrays' in capsys.readouterr().out
        assert equal(state.variables, nested(weights.variables)) and equal(state.average, nested(weights.variables))
        assert {path: value.shape for path, value in flat(state.variables).items()} == shapes(run.config.network, 7), 'as Flax makes them'
        assert (int(state.step), int(state.seed)) == (0, 5)
        assert all(not np.any(leaf) for leaf in jax.tree.leaves(state.optimizer)), 'no step has been taken'


@pytest.mark.slow
def test_other_classes_get_a_head_of_their_own(exported, folder):
    fields = {'data__dataset': 'ckplus', 'data__path': str(write(folder / 'CK+48')), 'seed': '5'}
    run = build(toy(folder, init_from=str(exported), **fields))
    state, report = run.first_state()
    ours, fresh, theirs = flat(state.variables), flat(run.initial_state().variables), load_weights(exported).variables
    assert set(report['new']) == {'params/head/kernel', 'params/head/bias'}
    assert report['parameters']['of'] - report['parameters']['loaded'] == 9 * 16 * 7 + 7
    for path in ours:
        np.testing.assert_array_equal(ours[path], (fresh if path in report['new'] else theirs)[path])


@pytest.mark.slow
def test_a_resumed_run_does_not_load_again(exported, folder, tmp_path):
    copy = tmp_path / 'moved.safetensors'
    shutil.copy(exported, copy)
    run = build(toy(folder, init_from=str(copy)))
    with contextlib.closing(Checkpoints(tmp_path / 'checkpoints', 2)) as checkpoints:
        loop = Loop(run, tmp_path, checkpoints, lambda: False)
        with loop.writer:
            loop.save(lambda: loop.state, False)
        checkpoints.wait()
        copy.unlink()
        again = Loop(run, tmp_path, checkpoints, lambda: False)
        with again.writer:
            assert again.history.init_from == loop.history.init_from and again.history.starts == 2
            assert equal(again.state.variables, nested(load_weights(exported).variables))
    with contextlib.closing(Checkpoints(tmp_path / 'elsewhere', 2)) as checkpoints:
        with pytest.raises(InputError, match='moved.safetensors: no run'):
            Loop(run, tmp_path, checkpoints, lambda: False)


@pytest.mark.slow
def test_training_records_what_it_started_from(finished, exported, folder, capsys):
    config = toy(folder, init_from=str(exported), epochs='1', optimizer__learning_rate='0')
    result = train(config, folder / 'continued')
    assert 'from toy-tiny: ' in capsys.readouterr().out
    assert result['init_from']['sha256'] == load_weights(exported).sha256
    # A learning rate of 0 leaves the parameters as they were loaded.
    after, before = read_weights(str(folder / 'continued')).variables, load_weights(exported).variables
    for path in before:
        if path.startswith('params/'):
            # But for the average's rounding.
            np.testing.assert_allclose(after[path], before[path], rtol=1e-6, err_msg=path)
