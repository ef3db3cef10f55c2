"""fer_jax/inference/saliency.py and explain.py: maps against networks whose sums are done by hand, and the pictures of the command."""

import os
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from fer_jax.__main__ import main
from fer_jax.core.errors import InputError
from fer_jax.data.schema import Dataset, Faces
from fer_jax.evaluation.figures import gates_png
from fer_jax.inference import explain as module
from fer_jax.inference.classifier import load
from fer_jax.inference.explain import Explanation, caption, explain, explain_classes, explanation_png, joined
from fer_jax.inference.saliency import grad_cam, last_layer_with_places, occlusion
from tests.tiny_weights import FER, write_weights


class Pool(nn.Module):
    """Three maps of 5×5 out of 10×10: the means of 2×2 pixels, those times -1, and twice those."""

    @nn.compact
    def __call__(self, x):
        pooled = nn.avg_pool(x, (2, 2), (2, 2))
        return jnp.concatenate([pooled, -pooled, 2 * pooled], -1)


class Linear(nn.Module):
    """Logits that are sums of Pool's maps times `weight`, by way of maps of 1×1."""

    @nn.compact
    def __call__(self, images, train):
        maps = Pool(name='pool')(images)
        weight = self.param('weight', nn.initializers.zeros_init(), (5, 5, 3, 2))
        last = nn.Conv(2, (1, 1), use_bias=False, name='last')(jnp.einsum('nhwk,hwkc->nc', maps, weight)[:, None, None])
        return last[:, 0, 0]


def linear_variables(weight):
    return {'params': {'weight': weight, 'last': {'kernel': np.eye(2, dtype=np.float32)[None, None]}}}


def test_grad_cam_of_a_linear_network():
    """Its gradient is `weight`, so α_k is the mean of `weight` over the places, and the map max(0, (α_0 - α_1 + 2 α_2) · pooled)."""
    generator = np.random.default_rng(0)
    crops = generator.integers(0, 256, (3, 10, 10), np.uint8)
    weight = generator.normal(size=(5, 5, 3, 2)).astype(np.float32)
    weight[..., 0] += [1.0, 0.0, 0.0]  # α of the first class is positive, of the second negative: the maps are not all zero or all not
    weight[..., 1] -= [1.0, 0.0, 0.0]
    pooled = ((crops.astype(float) - 127.5) / 63.75).reshape(3, 5, 2, 5, 2).mean((2, 4))
    maps = np.stack([pooled, -pooled, 2 * pooled], -1)
    expected_logits = np.einsum('nhwk,hwkc->nc', maps, weight)
    for label in (0, 1):
        logits, found, _ = grad_cam(Linear(), linear_variables(weight), crops, np.full(3, label))
        alpha = weight[..., label].mean((0, 1))
        np.testing.assert_allclose(found, np.maximum(0, maps @ alpha), atol=1e-5)
        np.testing.assert_allclose(logits, expected_logits, atol=1e-4)
        assert (np.asarray(found) > 0).any() and (np.asarray(found) == 0).any()
    _, found, _ = grad_cam(Linear(), linear_variables(weight), crops)
    alphas = weight.mean((0, 1))[:, expected_logits.argmax(1)]
    np.testing.assert_allclose(found, np.maximum(0, np.einsum('nhwk,kn->nhw', maps, alphas)), atol=1e-5)


def test_grad_cam_takes_the_last_layer_that_tells_places_apart():
    assert last_layer_with_places({'pool': (5, 5, 3), 'last': (1, 1, 2)}) == 'pool'
    assert last_layer_with_places({'a': (4, 4, 8), 'b': (4, 4, 2), 'c': (2, 2, 9)}) == 'b', 'none is large: the last of the largest'


def watched(crops):
    """Two classes, the second's logit zero and the first's the pixel in row 5, column 9, normalised."""
    chances = 1 / (1 + np.exp(-(crops[:, 5, 9].astype(float) - 127.5) / 63.75))
    return np.stack([chances, 1 - chances], -1).astype(np.float32)


def test_occlusion_finds_the_one_pixel_that_counts():
    """The square's centres are 2, 6, 10 and 14; it covers centre - 4 to centre + 3: row 5 from 2 and 6, column 9 from 6 and 10."""
    crops = np.full((2, 16, 16), 100, np.uint8)
    crops[0, 5, 9], crops[1, 5, 9] = 200, 20
    found = occlusion(watched, crops, np.array([0, 1]), 4)

    def probability(pixel):
        return 1 / (1 + np.exp(-(pixel - 127.5) / 63.75))

    means = crops.mean((1, 2)).round()
    expected = np.zeros((2, 4, 4))
    expected[0, :2, 1:3] = probability(200) - probability(means[0])
    expected[1, :2, 1:3] = probability(means[1]) - probability(20)  # of the other class, which the dark pixel speaks for
    assert expected.max() > 0.2
    np.testing.assert_allclose(found, expected, atol=1e-6)


# --- Explanations and pictures


def explanation(count, attention=True):
    generator = np.random.default_rng(1)
    maps = generator.random((count, 40, 40)).astype(np.float32) if attention else None
    probabilities = generator.dirichlet(np.ones(7), count).astype(np.float32)
    crops = generator.integers(0, 256, (count, 40, 40), np.uint8)
    cams = generator.random((count, 5, 5)).astype(np.float32)
    gates = generator.random((count, 16)).astype(np.float32) if attention else None
    return Explanation(crops, probabilities, maps, gates, cams, cams - 0.5)


def test_means_weigh_every_grad_cam_alike():
    found = explanation(2)
    found.grad_cam[:] = np.eye(5)
    found.grad_cam[1, 0, 0] = 1000
    mean = found.mean()
    assert mean.crops.shape == (1, 40, 40) and mean.crops.dtype == np.uint8
    np.testing.assert_allclose(mean.grad_cam[0].diagonal(), [1.0, 0.5005, 0.5005, 0.5005, 0.5005])
    np.testing.assert_allclose(mean.attention[0], found.attention.mean(0), atol=1e-6)
    np.testing.assert_array_equal(joined([found, mean]).occlusion[:2], found.occlusion)


@pytest.mark.parametrize('attention', [True, False])
def test_the_picture_has_a_row_for_each_face_and_a_column_for_each_map(attention):
    drawn = explanation_png.__wrapped__(explanation(3, attention), ['a', '$b$', 'c'], 'title').axes
    maps = ['spatial attention', 'Grad-CAM', 'occlusion'][not attention :]
    assert [axes.get_title() for axes in drawn if axes.get_title()] == ['face', *maps]
    assert [axes.get_ylabel() for axes in drawn if axes.get_ylabel()] == ['a', '$b$', 'c']
    assert sum(len(axes.get_images()) for axes in drawn) == 3 * (1 + 2 * len(maps))


# --- The command


@pytest.fixture(scope='module')
def weights(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return write_weights(tmp_path_factory.mktemp('weights') / 'tiny.safetensors')


def photograph(path: pathlib.Path, seed: int = 0) -> str:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (60, 50, 3), np.uint8)).save(path)
    return str(path)


def test_an_explanation_is_of_the_centre_crop(weights):
    """What is outside the 40×40 in the middle changes nothing; the question changes Grad-CAM and occlusion only."""
    model = load(weights)
    faces = np.random.default_rng(0).integers(0, 256, (1, 48, 48), np.uint8)
    framed = faces.copy()
    framed[:, :4], framed[:, :, 44:] = 0, 255
    found, same, other = explain(model, faces, None), explain(model, framed, None), explain(model, faces, 5)
    jax.tree.map(np.testing.assert_array_equal, found, same)
    assert found.probabilities.sum() == pytest.approx(1) and found.probabilities.argmax() != 5
    np.testing.assert_array_equal(found.attention, other.attention)
    assert np.abs(found.occlusion - other.occlusion).max() > 1e-6
    assert found.attention.shape == (1, 40, 40) and found.gates.shape == (1, 6) and found.occlusion.shape == (1, 10, 10)


def test_photographs(weights, tmp_path, capsys):
    photographs = [photograph(tmp_path / folder / 'face.png', seed) for seed, folder in enumerate(('a', 'b'))]
    assert main(['explain', *photographs, '--no-detect', '--checkpoint', str(weights), '--out', str(tmp_path / 'out')]) == 0
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == ['face-2.png', 'face.png']
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and lines[0].startswith(photographs[0]) and lines[1].endswith('face-2.png')
    with Image.open(tmp_path / 'out' / 'face.png') as picture:
        assert picture.width > 2 * picture.height > 300, 'one row'


def test_photographs_that_cannot_be_read_are_told_and_the_others_explained(weights, tmp_path, capsys):
    good = photograph(tmp_path / 'b.png')
    bad = tmp_path / 'a.png'
    bad.write_bytes(b'no picture')
    assert main(['explain', str(bad), good, '--no-detect', '--checkpoint', str(weights), '--out', str(tmp_path / 'out')]) == 2
    printed = capsys.readouterr()
    assert printed.err.count('\n') == 1 and printed.err.startswith(f'error: {bad}: not an image')
    assert [path.name for path in (tmp_path / 'out').iterdir()] == ['b.png'] and printed.out.startswith(good)


def test_a_photograph_is_not_replaced_by_its_explanation(weights, tmp_path, capsys):
    photographs = [photograph(tmp_path / 'a.png'), photograph(tmp_path / 'b.jpg')]
    before = (tmp_path / 'a.png').read_bytes()
    assert main(['explain', *photographs, '--no-detect', '--checkpoint', str(weights), '--out', str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(f'error: --out {tmp_path}: that would replace {tmp_path}/a.png')
    assert (tmp_path / 'a.png').read_bytes() == before and len(list(tmp_path.iterdir())) == 2


def test_a_photograph_whose_name_is_no_utf_8_is_explained(weights, tmp_path, capsys):
    os.rename(photograph(tmp_path / 'a.png'), name := os.fsdecode(bytes(tmp_path) + b'/f\xff.png'))
    assert main(['explain', name, '--no-detect', '--checkpoint', str(weights), '--out', str(tmp_path / 'out')]) == 0
    assert len(list((tmp_path / 'out').iterdir())) == 1 and capsys.readouterr().err == ''


def test_a_photograph_has_the_pixels_that_it_may_have(weights, tmp_path, capsys):
    large = tmp_path / 'large.png'
    Image.new('L', (1001, 1000)).save(large)
    arguments = ['explain', str(large), '--no-detect', '--checkpoint', str(weights), '--out', str(tmp_path / 'out')]
    assert main([*arguments, '--megapixels', '1']) == 2
    assert capsys.readouterr().err.startswith(f'error: {large}: 1001×1000 pixels: more than 1 million')


def dataset_of(labels, class_names=FER):
    images = np.random.default_rng(0).integers(0, 256, (len(labels), 48, 48), np.uint8)
    faces = Faces(images, np.array(labels, np.int32))
    return Dataset('drawn', class_names, {'test': faces}, {'test': 'PrivateTest'}, {})


def test_classes(weights, tmp_path, capsys):
    """Rows are the classes that have faces; each mean is of its own faces, here of two, and asks about its own class."""
    model, dataset = load(weights), dataset_of([0, 3, 3, 6])
    images = dataset.splits['test'].images
    angry, happy, neutral = (explain(model, images[places], label) for label, places in ((0, [0, 0]), (3, [1, 2]), (6, [3, 3])))
    explain_classes(model, dataset, 'test', None, tmp_path, sample=2)
    means = joined([angry.mean(), happy.mean(), neutral.mean()])
    captions = [f'{name}\nmean of 2' for name in ('angry', 'happy', 'neutral')]
    assert (tmp_path / 'class_means.png').read_bytes() == explanation_png(means, captions, 'drawn PrivateTest, by tiny')
    assert (tmp_path / 'channel_gates.png').read_bytes() == gates_png(means.gates, ['angry', 'happy', 'neutral'])
    explain_classes(model, dataset, 'test', 'happy', tmp_path, sample=2)
    rows = joined([jax.tree.map(lambda values: values[[0, 0, 0, 1, 1, 1]], happy), happy.mean()])
    captions = [*(caption(model, each) for each in rows.probabilities[:6]), 'mean of 2']
    assert (tmp_path / 'class_3.png').read_bytes() == explanation_png(rows, captions, 'drawn PrivateTest, happy, by tiny')
    assert sorted(path.name for path in tmp_path.iterdir()) == ['channel_gates.png', 'class_3.png', 'class_means.png']
    assert 'class_means.png, channel_gates.png' in capsys.readouterr().out
    with pytest.raises(InputError, match='drawn PrivateTest has no face that is sad'):
        explain_classes(model, dataset, 'test', 'sad', tmp_path, sample=2)


def test_a_class_may_be_called_what_no_file_may(tmp_path):
    names = ('anger/disgust', 'x' * 300)
    model = load(write_weights(tmp_path / 'two.safetensors', class_names=names))
    for name in names:
        explain_classes(model, dataset_of([0, 1], names), 'test', name, tmp_path / 'out', sample=1)
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == ['class_0.png', 'class_1.png']


@pytest.mark.slow
def test_the_classes_of_a_data_set(weights, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(module, 'SAMPLE', 4)
    data = ['--config', 'configs/toyfaces.py', '--config.data.toyfaces_images=350', f'--config.data.prepared={tmp_path / "data"}']
    common = ['explain', '--checkpoint', str(weights), *data, '--out', str(tmp_path / 'out')]
    assert main([*common, '--split', 'validation']) == 0
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == ['channel_gates.png', 'class_means.png']
    two = write_weights(tmp_path / 'two.safetensors', class_names=('awake', 'asleep'))
    assert main([*common, '--checkpoint', str(two)]) == 2
    assert 'two tells awake, asleep apart; toyfaces has angry' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('arguments', 'told'),
    [
        ([], 'nothing to explain'),
        (['no.png'], 'no.png: no such file'),
        (['face.png', '--label', 'hapy'], "did you mean 'happy'?"),
        (['face.png', '--config', 'configs/toyfaces.py'], 'give one of them'),
        (['face.png', '--workdir', 'run'], 'give one of them'),
        (['face.png', '--out', 'face.png'], '--out face.png'),
        (['notes.txt'], 'notes.txt: not an image'),
    ],
)
def test_wrong_input_is_one_line(arguments, told, weights, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    photograph(tmp_path / 'face.png')
    (tmp_path / 'notes.txt').write_text('no image')
    assert main(['explain', '--no-detect', '--checkpoint', str(weights), '--out', 'out', *arguments]) == 2
    error = capsys.readouterr().err
    assert told in error and error.startswith('error: ') and error.count('\n') == 1
