"""fer_jax/export/hub.py: a folder that gives back the weights it was made of, says what they are, and is refused where it is damaged."""

import json
import shutil

import numpy as np
import pytest
import yaml

from fer_jax import load
from fer_jax.__main__ import main
from fer_jax.core.errors import InputError
from fer_jax.core.fields import SHIPPED
from fer_jax.evaluation.scores import summarise_confusion
from fer_jax.export.hub import front_matter
from fer_jax.runs.weights import load_weights, read_weights, save_weights
from fer_jax.training.score import named_weights
from tests.tiny_weights import FER, write_weights

EIGHT = ('neutral', 'happiness', 'surprise', 'sadness', 'anger', 'disgust', 'fear', 'contempt')  # FER+'s


def export(source, out) -> int:
    return main(['export', '--format', 'hub', '--checkpoint', str(source), '--out', str(out)])


def write_scored(path, class_names=EIGHT):
    """Weights of a tiny network with what `weights` writes into a file: results, temperature, code."""
    written = load_weights(write_weights(path, class_names=class_names))
    count = len(class_names)
    scored = summarise_confusion(np.eye(count, dtype=np.int64) * 3 + 1, class_names) | {'calibration_error': 0.25}
    told = written.metadata | {
        'results': {'PublicTest, centre': scored, 'PrivateTest, ten': scored},
        'protocol': {'data': 'ferplus', 'trained_on': 'Training', 'train_images': 28_000, 'chosen_on': 'PublicTest', 'epoch': 3.0},
        'temperature': {'divided_by': 1.375, 'centre': {'PublicTest': {'calibration_error': 0.125}}},
        'code': {'revision': 'ab' * 20},
    }
    save_weights(path, written.variables, told)
    return path


@pytest.fixture(scope='module')
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp('original')
    assert export(write_scored(folder / 'eight.safetensors'), folder / 'hub') == 0
    return folder / 'hub'


@pytest.fixture
def folder(original, tmp_path):
    return shutil.copytree(original, tmp_path / 'hub')


def some_faces():
    return np.random.default_rng(1).integers(0, 256, (5, 48, 48), np.uint8)


@pytest.mark.parametrize('class_names', [FER, EIGHT], ids=['seven classes', 'eight classes'])
def test_a_folder_gives_back_the_weights(class_names, tmp_path):
    file, out = write_scored(tmp_path / 'tiny 1.safetensors', class_names), tmp_path / 'new' / 'hub'
    assert export(file, out) == 0
    assert sorted(path.name for path in out.iterdir()) == ['README.md', 'config.json', 'model.safetensors']
    before, after = load_weights(file), read_weights(str(out))
    assert (after.name, after.class_names, after.sha256) == ('tiny 1', class_names, before.sha256)
    assert after.metadata == before.metadata and after.metadata['temperature']['divided_by'] == 1.375
    one, other = load(file), load(out)
    assert (other.name, other.class_names) == ('tiny 1', class_names)
    np.testing.assert_array_equal(one.probabilities(some_faces()), other.probabilities(some_faces()))


def test_what_its_files_say(folder):
    config = json.loads((folder / 'config.json').read_text())
    assert config['id2label'] == {str(place): name for place, name in enumerate(EIGHT)}
    assert (config['model_type'], config['temperature'], config['network']['blocks']) == ('fer_jax', 1.375, [6])
    _, front, card = (folder / 'README.md').read_text().split('---\n', 2)
    front = yaml.safe_load(front)
    assert (front['license'], front['library_name'], front['pipeline_tag']) == ('apache-2.0', 'fer_jax', 'image-classification')
    (model,) = front['model-index']
    public, private = model['results']
    assert (model['name'], public['dataset']) == ('eight', {'type': 'ferplus', 'name': 'ferplus', 'split': 'PublicTest'})
    # Of the eight classes each has 4 of its 11 images right.
    assert private['metrics'][0] == {'type': 'accuracy', 'name': 'accuracy, ten', 'value': 32 / 88}
    assert '| PublicTest, centre | 36.36 (27.08 to 46.79) | 36.4 | 36.4 | 12.5 |' in card, 'the calibration is that of the file'
    assert '| contempt | 36.4 | 36.4 | 36.4 | 11 |' in card and "load('hf://OWNER/NAME')" in card


def test_a_hubs_own_library_reads_the_card(folder):
    library = pytest.importorskip('huggingface_hub', reason="needs pip install 'fer_jax[hub]'")
    data = library.ModelCard.load(folder / 'README.md').data
    assert data.library_name == 'fer_jax' and data.model_name == 'eight'
    assert [(each.metric_type, each.dataset_split) for each in data.eval_results][:2] == [('accuracy', 'PublicTest'), ('f1', 'PublicTest')]


def test_the_shipped_weights_have_their_own_card(tmp_path):
    assert export(SHIPPED, tmp_path) == 0
    assert load_weights(tmp_path).sha256 == read_weights(SHIPPED).sha256 and load_weights(tmp_path).name == SHIPPED
    assert '**Not the paper' in (tmp_path / 'README.md').read_text('utf-8')


def test_evaluate_takes_a_folder_for_weights(folder):
    assert named_weights(str(folder)).name == 'eight'


def test_a_folder_is_written_again_but_nothing_else_is_replaced(folder, tmp_path, capsys):
    other = write_weights(tmp_path / 'other.safetensors', seed=1)
    (folder / '.git').mkdir()
    assert export(other, folder) == 0 and read_weights(str(folder)).sha256 == load_weights(other).sha256
    assert 'No results are in the file.' in (folder / 'README.md').read_text()
    run = tmp_path / 'run'
    run.mkdir()
    (run / 'config.json').write_text('{"batch_size": 8}')
    assert export(other, run) == 2 and 'holds config.json; a new folder' in capsys.readouterr().err
    assert [path.name for path in run.iterdir()] == ['config.json'] and (run / 'config.json').read_text() == '{"batch_size": 8}'
    assert export(other, other) == 2 and 'cannot be written' in capsys.readouterr().err
    assert load_weights(other).name == 'other'


def test_metadata_that_no_card_can_be_made_of_are_told(tmp_path, capsys):
    path = write_scored(tmp_path / 'a.safetensors')
    weights = load_weights(path)
    for wrong in ([1], {'a, b': 1}, {'a, centre': {'accuracy': 'much', 'macro_f1': 1}}):
        save_weights(path, weights.variables, weights.metadata | {'results': wrong})
        assert export(path, tmp_path / 'out') == 2
        assert 'no model card can be made' in capsys.readouterr().err and not (tmp_path / 'out').exists()


def test_fields_of_a_configuration_are_refused(tmp_path, capsys):
    assert main(['export', '--format', 'hub', '--out', str(tmp_path / 'out'), '--config.network.stem=16']) == 2
    assert 'takes the network as it was trained' in capsys.readouterr().err


def remove(name):
    return lambda folder: (folder / name).unlink()


def say(**fields):
    def change(folder):
        config = json.loads((folder / 'config.json').read_text())
        (folder / 'config.json').write_text(json.dumps(config | fields))

    return change


def without_a_tensor(folder):
    weights = load_weights(folder / 'model.safetensors')
    variables = {path: value for path, value in weights.variables.items() if path != 'params/head/bias'}
    save_weights(folder / 'model.safetensors', variables, weights.metadata)


def of_others(folder):
    weights = load_weights(folder / 'model.safetensors')
    save_weights(folder / 'model.safetensors', weights.variables, weights.metadata | {'class_names': EIGHT[::-1]})


@pytest.mark.parametrize(
    ('damage', 'message'),
    [
        (remove('config.json'), 'no run there, nor weights'),
        (remove('model.safetensors'), 'model.safetensors: no such file'),
        (lambda folder: (folder / 'config.json').write_text('{"model_type": '), 'config.json: not JSON'),
        (lambda folder: (folder / 'config.json').write_text('[1]'), "no run with checkpoints, nor a model hub's folder"),
        (say(model_type='bert'), "no run with checkpoints, nor a model hub's folder"),
        (say(name=7), 'field name is 7, which is of another type'),
        (say(name='../../elsewhere'), "weights cannot be called '../../elsewhere'"),
        (say(name='..'), r"weights cannot be called '\.\.'"),
        (say(name='a\nb'), 'weights cannot be called'),
        (say(id2label={'0': 'happy'}), 'do not belong together: the field id2label'),
        (say(temperature=2.0), 'do not belong together: the field temperature'),
        (say(sha256='ab' * 32), 'do not belong together: the field sha256'),
        (of_others, 'do not belong together: the field id2label'),
        (without_a_tensor, "model.safetensors: damaged: it lacks 'params/head/bias'"),
        (lambda folder: (folder / 'model.safetensors').write_bytes(b'PK\3\4'), 'no safetensors file'),
        (lambda folder: (folder / 'model.safetensors').write_bytes(b'\x80\x04cos\nsystem\n(S"touch evil"\ntR.'), 'no safetensors file'),
    ],
)
def test_damaged_folders_are_one_line(folder, damage, message):
    damage(folder)
    with pytest.raises(InputError, match=message) as error:
        read_weights(str(folder))
    assert '\n' not in str(error.value) and str(folder) in str(error.value)


def test_results_of_several_views_stand_under_their_split(tmp_path):
    splits = [each['dataset']['split'] for each in front_matter(read_weights(SHIPPED))['model-index'][0]['results']]
    assert splits == ['PublicTest', 'PrivateTest']
