"""fer_jax/export/command.py and what it writes with: files that, in their own runtimes, do what the network does in JAX."""

import json
import sys

import flax.linen as nn
import jax
import jax.export
import numpy as np
import pytest

from fer_jax import load
from fer_jax.__main__ import main
from fer_jax.core.config import load_config
from fer_jax.core.fields import default_config
from fer_jax.data.views import normalise
from fer_jax.export import command as module
from fer_jax.export.folded import fold
from fer_jax.model.attention import ATTENTIONS, Places
from fer_jax.model.fernet import make_network
from fer_jax.runs.weights import nested, save_weights, shapes
from tests import reference
from tests.data.test_ferplus import HEADER as VOTES_HEADER
from tests.tiny import ROOT

CLASSES = ('angry', 'disgust', 'fear', 'happy', 'sad', 'surprise', 'neutral')
EIGHT = (*CLASSES, 'contempt')  # FER+'s
# Four blocks, so that maps of odd sides (5, 3) are halved, too; the third narrows, and none but the first is narrow enough to merge.
SMALL = {'blocks': '20,36,24,16', 'strides': '2,2,2,2'}
# What the formats have to do differently; the long test has the rest.
VARIANTS = {
    'the defaults': {},
    'cbam': {
        'attention': 'cbam',
        'fusion': 'attention',
        'preactivation': 'true',
        'activation': 'gelu',
        'shuffle_groups': 'none',
        'blocks': '20,16',
        'strides': '2,2',
    },
}
FORMATS = ('onnx', 'onnx aligned', 'litert')


def network_config(fields):
    return load_config(str(ROOT / 'configs/toyfaces.py'), {f'network.{name}': text for name, text in (SMALL | fields).items()})


def drawn(config, classes=7, seed=0):
    """Variables none of which is at its first value, so that none drops out of what is computed."""
    generator = np.random.default_rng(seed)

    def draw(path, shape):
        if path.endswith(('var', 'scale')):
            return generator.uniform(0.5, 1.5, shape)
        if path.endswith(('mean', 'bias')):
            return generator.uniform(-0.3, 0.3, shape)
        return generator.normal(0, (2 / np.prod(shape[:-1])) ** 0.5, shape)

    return {path: draw(path, shape).astype(np.float32) for path, shape in shapes(config.network, classes).items()}


def some_faces(count=3):
    coarse = np.random.default_rng(1).integers(0, 256, (count, 6, 6), np.uint8)
    return np.kron(coarse, np.ones((1, 8, 8), np.uint8))


def in_jax(config, variables, faces):
    """Logits by the network itself, on the crop from row and column 4 to 43."""
    network = make_network(config.network, len(variables['params/head/bias']))
    forward = reference.jit(lambda variables, x: network.apply(variables, normalise(x), train=False))
    return np.asarray(forward(nested(variables), faces[:, 4:44, 4:44]))


def softmax(logits):
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def loaded(form, config, variables):
    """The file of a format, in its own runtime."""
    if form == 'litert':
        pytest.importorskip('ai_edge_litert')
        from fer_jax.export.litert_graph import litert_bytes, load_litert

        return load_litert(litert_bytes(fold(config.network, variables, 7), {}))
    pytest.importorskip('onnxruntime')
    from fer_jax.export.onnx_graph import load_onnx, onnx_bytes

    return load_onnx(onnx_bytes(fold(config.network, variables, 7, 16 if form == 'onnx aligned' else 1), {}))


def check(fields, forms=FORMATS):
    config = network_config(fields)
    variables, faces = drawn(config), some_faces()
    expected = in_jax(config, variables, faces)
    size = np.abs(expected).max()
    assert np.ptp(expected, axis=0).max() > 1e-2 * size, 'the faces hardly count: an error in what they go through would not show'
    for form in forms:
        predict = loaded(form, config, variables)
        for count in (3, 1):
            logits, probabilities = predict(faces[:count])
            np.testing.assert_allclose(logits, expected[:count], atol=1e-4 * size, err_msg=form)
            np.testing.assert_allclose(probabilities, softmax(expected[:count]), atol=1e-4 * max(1, size), err_msg=form)


@pytest.mark.parametrize('name', VARIANTS)
def test_a_file_computes_what_the_network_does(name):
    check(VARIANTS[name])


KINDS = (  # of a block, and the groups of its shuffle
    {'preactivation': 'false', 'residual': 'true', 'shortcut': 'true', 'activation': 'relu', 'shuffle_groups': '2'},
    {'preactivation': 'true', 'residual': 'true', 'shortcut': 'false', 'activation': 'leaky_relu', 'shuffle_groups': '4'},
    {'preactivation': 'false', 'residual': 'false', 'shortcut': 'true', 'activation': 'gelu', 'shuffle_groups': 'none'},
    {'preactivation': 'true', 'residual': 'false', 'shortcut': 'true', 'activation': 'silu', 'shuffle_groups': '1'},
)


@pytest.mark.slow
@pytest.mark.parametrize(('first', 'attention'), [*enumerate(['none', 'spatial', 'channel', 'both', 'se', 'eca', 'cbam'])])
def test_every_attention_in_every_kind_of_block(first, attention):
    """By turns with the one fusion and the other, so that every attention, and every kind of block, meets both."""
    for place, kind in enumerate(KINDS, first):
        fusion = ('pointwise', 'attention')[place % 2]
        check(kind | {'attention': attention, 'fusion': fusion, 'blocks': '20,36,16', 'strides': '1,2,2'})


# --- The command


def write_weights(folder, class_names, dataset, **told):
    """Weights of a tiny network, whose data are not here."""
    config = network_config({'blocks': '12', 'strides': '2', 'shuffle_groups': '2'})
    config.data.dataset, config.data.path = dataset, 'fer2013.csv'
    config.data.votes = 'votes.csv' if dataset == 'ferplus' else None
    protocol = {'protocol': {'trained_on': 'train', 'data': 'toyfaces'}, 'step': 12, 'seed': 3, 'content_sha256': 'ab' * 32}
    metadata = {'config': config.to_dict(), 'class_names': list(class_names)} | protocol | told
    save_weights(folder / 'tiny.safetensors', drawn(config, len(class_names)), metadata)
    return folder / 'tiny.safetensors'


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    return write_weights(tmp_path_factory.mktemp('weights'), CLASSES, 'fer2013', results={'test, centre': {'accuracy': 0.5}})


def of_the_file(weights, faces):
    stored = module.read_weights(str(weights))
    return softmax(in_jax(stored.config, stored.variables, faces))


def told_of(weights):
    """What each file must say, and the description of what it is checked on."""
    return {'class_names': json.dumps(CLASSES), 'weights': 'tiny', 'weights_sha256': module.read_weights(str(weights)).sha256}


def by_onnxruntime(path, faces):
    """Logits and probabilities, and what the file says of itself; so each of the following."""
    session = pytest.importorskip('onnxruntime').InferenceSession(path, providers=['CPUExecutionProvider'])
    return session.run(['logits', 'probabilities'], {'faces': faces}), session.get_modelmeta().custom_metadata_map


def by_jax(path, faces):
    return jax.export.deserialize(bytearray(path.read_bytes())).call(faces), json.loads(path.with_name(f'{path.name}.json').read_text())


def by_litert(path, faces):
    """By the plain interface, with an input made larger."""
    runtime = pytest.importorskip('ai_edge_litert.interpreter').Interpreter(model_path=str(path))
    from ai_edge_litert import schema_py_generated as schema

    (given,) = runtime.get_input_details()
    runtime.resize_tensor_input(given['index'], faces.shape, strict=True)
    runtime.allocate_tensors()
    runtime.set_tensor(given['index'], faces)
    runtime.invoke()
    model = schema.Model.GetRootAs(path.read_bytes())
    notes = (model.Metadata(i) for i in range(model.MetadataLength()))
    told = {note.Name().decode(): model.Buffers(note.Buffer()).DataAsNumpy().tobytes().decode() for note in notes}
    return [runtime.get_tensor(output['index']) for output in runtime.get_output_details()], told


RUNTIMES = {'onnx': by_onnxruntime, 'stablehlo': by_jax, 'litert': by_litert}


def test_onnx(weights, tmp_path, capsys):
    onnx, onnxruntime = pytest.importorskip('onnx'), pytest.importorskip('onnxruntime')
    out = tmp_path / 'new' / 'tiny.onnx'
    assert main(['export', '--format', 'onnx', '--checkpoint', str(weights), '--out', str(out)]) == 0
    printed = capsys.readouterr().out
    assert 'largest difference from JAX in a probability: ' in printed and '256 drawn faces' in printed
    session = onnxruntime.InferenceSession(out, providers=['CPUExecutionProvider'])
    (faces,) = session.get_inputs()
    assert (faces.name, faces.type, faces.shape) == ('faces', 'tensor(uint8)', ['n', 48, 48])
    assert [(output.name, output.shape) for output in session.get_outputs()] == [('logits', ['n', 7]), ('probabilities', ['n', 7])]
    (_, probabilities), told = by_onnxruntime(out, some_faces())
    np.testing.assert_allclose(probabilities, of_the_file(weights, some_faces()), atol=1e-5)
    assert told.items() >= told_of(weights).items()
    assert 'rows and columns 4 to 43, then (pixel - 127.5) / 63.75' in told['preprocessing']
    assert told['licence'].startswith('Apache-2.0')
    kinds = {node.op_type for node in onnx.load(out).graph.node}
    assert not kinds & {'Split', 'Transpose', 'Pad'}, 'maps are copied where weights could have been arranged'


def test_stablehlo(weights, tmp_path):
    out = tmp_path / 'tiny.stablehlo'
    assert main(['export', '--format', 'stablehlo', '--checkpoint', str(weights), '--out', str(out)]) == 0
    exported = jax.export.deserialize(bytearray(out.read_bytes()))
    assert exported.platforms == ('cpu', 'cuda', 'tpu')
    (_, probabilities), told = by_jax(out, some_faces())  # the export itself has called it with more
    np.testing.assert_allclose(probabilities, of_the_file(weights, some_faces()), atol=1e-5)
    assert told.items() >= told_of(weights).items()


def test_litert(weights, tmp_path):
    pytest.importorskip('ai_edge_litert')
    out = tmp_path / 'tiny.tflite'
    assert main(['export', '--format', 'litert', '--checkpoint', str(weights), '--out', str(out)]) == 0
    (_, probabilities), told = by_litert(out, some_faces())
    np.testing.assert_allclose(probabilities, of_the_file(weights, some_faces()), atol=1e-5)
    assert told.items() >= told_of(weights).items()


@pytest.mark.parametrize('form', [*RUNTIMES, 'hub'])
def test_every_format_carries_the_eight_classes_of_ferplus(form, tmp_path):
    for package in {'onnx': ['onnx', 'onnxruntime'], 'litert': ['ai_edge_litert']}.get(form, ()):
        pytest.importorskip(package)
    weights, out = write_weights(tmp_path, EIGHT, 'ferplus'), tmp_path / 'out'
    assert main(['export', '--format', form, '--checkpoint', str(weights), '--out', str(out)]) == 0
    stored = module.read_weights(str(weights))
    logits = in_jax(stored.config, stored.variables, some_faces())
    assert logits.shape == (3, 8)
    if form == 'hub':
        read = load(out)
        probabilities, names = read.probabilities(some_faces()), read.class_names
    else:
        (found, probabilities), told = RUNTIMES[form](out, some_faces())
        np.testing.assert_allclose(found, logits, atol=1e-4 * np.abs(logits).max())
        names = json.loads(told['class_names'])
    assert tuple(names) == EIGHT
    np.testing.assert_allclose(probabilities, softmax(logits), atol=1e-5)


def test_a_file_of_ferplus_is_checked_on_its_faces_and_votes_where_both_are_here(tmp_path, monkeypatch, capsys):
    weights = write_weights(tmp_path, EIGHT, 'ferplus')
    monkeypatch.chdir(tmp_path)
    faces, votes = ['emotion,pixels,Usage'], [VOTES_HEADER]
    for usage in ('Training', 'PublicTest', 'PrivateTest'):
        for place in range(8):  # ten votes for each class in turn
            faces.append(f'0,{" ".join([str(place)] * 48**2)},{usage}')
            votes.append(f'{usage},,{",".join("10" if each == place else "0" for each in range(10))}')
    # With the faces alone there is nothing to check on, and none of it is asked for.
    (tmp_path / 'fer2013.csv').write_text('\n'.join(faces))
    command = ['export', '--format', 'stablehlo', '--checkpoint', str(weights), '--out', str(tmp_path / 'out')]
    assert main(command) == 0 and '256 drawn faces' in capsys.readouterr().out
    (tmp_path / 'votes.csv').write_text('\n'.join(votes))
    assert main(command) == 0 and '8 faces of ferplus PublicTest' in capsys.readouterr().out


def test_a_file_that_differs_from_jax_is_not_written(weights, tmp_path, capsys, monkeypatch):
    pytest.importorskip('onnxruntime')

    def altered(*arguments):
        graph = fold(*arguments)
        graph.nodes[-2].bias[0] += 0.1
        return graph

    monkeypatch.setattr(module, 'fold', altered)
    out = tmp_path / 'tiny.onnx'
    assert main(['export', '--format', 'onnx', '--checkpoint', str(weights), '--out', str(out)]) == 2
    assert 'not written: a probability' in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_done_is_told_in_a_line(weights, tmp_path, capsys, monkeypatch):
    out = str(tmp_path / 'x')
    wrong = {
        'only data.* may be set': ['--format', 'onnx', '--checkpoint', str(weights), '--config.network.stem=16'],
        'no run, no weights file': ['--format', 'onnx', '--checkpoint', 'nothing'],
        'both name weights': ['--format', 'onnx', '--checkpoint', 'a', '--workdir', 'b'],
        'invalid choice': ['--format', 'tensorrt'],
    }
    for message, arguments in wrong.items():
        assert main(['export', '--out', out, *arguments]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count('\n') == 1
    for form, package, extra in (('onnx', 'onnx', 'export'), ('litert', 'ai_edge_litert', 'litert')):
        with monkeypatch.context() as patch:
            for name in [name for name in sys.modules if name in ('fer_jax.export.onnx_graph', 'fer_jax.export.litert_graph')]:
                patch.delitem(sys.modules, name)
            patch.setitem(sys.modules, package, None)
            assert main(['export', '--format', form, '--checkpoint', str(weights), '--out', out]) == 2
        assert f"pip install 'fer_jax[{extra}]'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_an_attention_that_no_format_has_goes_as_stablehlo_only(monkeypatch):
    monkeypatch.setitem(ATTENTIONS, 'se', Places(block={'se': nn.LayerNorm()}))
    config = network_config({'attention': 'se'})
    with pytest.raises(module.InputError, match='network.attention=se: not written in this format yet; --format stablehlo takes any'):
        fold(config.network, drawn(config), 7)


def test_a_baseline_goes_as_stablehlo_only():
    config = default_config().network
    config.name = 'mini_xception'
    with pytest.raises(module.InputError, match='network.name=mini_xception.*--format stablehlo takes any'):
        fold(config, {}, 7)


@pytest.mark.slow
@pytest.mark.parametrize('form', ['onnx', 'litert', 'stablehlo'])
def test_the_shipped_weights(form, tmp_path, capsys):
    assert main(['export', '--format', form, '--out', str(tmp_path / 'full')]) == 0
    assert 7e6 < (tmp_path / 'full').stat().st_size < 11e6
    assert 'largest difference from JAX' in capsys.readouterr().out
