"""fer_jax/evaluation/pictures.py: the mistakes that are shown are the surest, and what attention shows is what the network has."""

import pathlib
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from fer_jax.data.schema import Faces
from fer_jax.evaluation.evaluate import Evaluation
from fer_jax.evaluation.pictures import attention, draw_pictures, mistakes, sample, write_pictures
from fer_jax.model.ensemble import Ensemble
from fer_jax.model.fernet import FERNet
from tests.tiny import fernet

NAMES = ('angry', 'happy', 'sad')


def evaluation_of(probabilities: list[list[float]]) -> Evaluation:
    table = np.array(probabilities, np.float32)
    summary = {'confusion_matrix': np.eye(3, dtype=int).tolist(), 'accuracy': 0.5, 'count': 2}
    return Evaluation(summary, table, table.argmax(1).astype(np.int32))


def faces_of(labels: list[int]) -> Faces:
    images = np.random.default_rng(0).integers(0, 256, (len(labels), 48, 48), np.uint8)
    return Faces(images, np.array(labels, np.int32))


def network_of(attention: str, blocks: tuple[int, ...] = (24,)) -> tuple[FERNet, dict[str, Any]]:
    """A network and its first variables, as plain dictionaries of arrays that may be changed."""
    network = fernet(3, attention=attention, blocks=blocks, strides=(2,) * len(blocks))
    # Two hundred small draws in one program, whose compiling may be quick.
    first = jax.jit(network.init, static_argnames='train', compiler_options={'xla_backend_optimization_level': 0})
    variables = first(jax.random.key(0), jnp.zeros((1, 40, 40, 1)), train=False)
    return network, jax.tree.map(np.array, {name: variables[name] for name in ('params', 'batch_stats')})


def test_the_surest_mistakes_come_first() -> None:
    found = evaluation_of([[0.9, 0.05, 0.05], [0.1, 0.7, 0.2], [0.0, 0.01, 0.99], [0.8, 0.1, 0.1], [0.2, 0.75, 0.05]])
    faces = faces_of([0, 0, 1, 2, 0])  # all but the first are wrong
    wrong, captions = mistakes(found, faces, NAMES)
    assert captions == ['happy → sad\n99.0 %', 'sad → angry\n80.0 %', 'angry → happy\n75.0 %', 'angry → happy\n70.0 %']
    np.testing.assert_array_equal(wrong, [2, 3, 4, 1])


def test_a_sample_goes_from_the_least_to_the_most_probable() -> None:
    probabilities = np.linspace(1, 0, 101)  # the last image is the least probable
    found = evaluation_of([[p, 1 - p, 0.0] for p in probabilities])
    places = sample(found, faces_of([0] * 101), 0)
    assert len(places) == 24 and places[0] == 100 and places[-1] == 0 and (np.diff(places) < 0).all()
    assert sorted(set(sample(found, faces_of([1, 1, 0] + [2] * 98), 1))) == [0, 1]  # fewer than 24: some twice


def test_the_papers_maps_and_gates_are_the_networks() -> None:
    network, variables = network_of('both')
    spatial = variables['params']['spatial_attention']['conv']
    spatial['kernel'][:], spatial['bias'][:] = 0, 1.0  # everywhere sigmoid(1)
    maps, gates = attention(network, variables, faces_of([0] * 5).images)
    assert maps.shape == (5, 40, 40) and gates.shape == (5, 24)
    np.testing.assert_allclose(maps, 1 / (1 + np.exp(-1)), rtol=1e-6)
    variables['params']['channel_attention']['excite']['kernel'][:] = 0
    np.testing.assert_allclose(attention(network, variables, faces_of([0] * 5).images)[1], 0.5)
    assert gates.std() > 0


def test_a_map_is_of_the_centre_crop() -> None:
    network, variables = network_of('spatial')
    spatial = variables['params']['spatial_attention']['conv']
    spatial['kernel'][:] = 0
    spatial['kernel'][1, 1, 1] = 50.0  # the map follows the maximum over the channels, each on its own place
    variables['params']['stem']['kernel'][:] = 0
    variables['params']['stem']['kernel'][1, 1, 0, 0] = 1.0
    images = np.zeros((1, 48, 48), np.uint8)
    images[0, 10, 20] = 255
    (seen,), gates = attention(network, variables, images)
    assert np.unravel_index(seen.argmax(), seen.shape) == (6, 16) and gates is None


def test_of_other_attention_the_last_gates_are_shown() -> None:
    network, variables = network_of('se', (16, 24))
    for block, bias in (('block1_se', -2.0), ('block2_se', 2.0)):
        variables['params'][block]['excite']['kernel'][:] = 0
        variables['params'][block]['excite']['bias'][:] = bias
    maps, gates = attention(network, variables, faces_of([0]).images)
    assert maps is None and gates.shape == (1, 24)
    np.testing.assert_allclose(gates, 1 / (1 + np.exp(-2)), rtol=1e-6)


def test_several_networks_have_no_attention_in_common() -> None:
    """The second's gates are all 0.88 and the first's 0.12, and the channels of one have nothing to do with those of the other."""
    (first, one), (second, other) = network_of('se', (16, 24)), network_of('se', (16, 24))
    for variables, bias in ((one, -2.0), (other, 2.0)):
        variables['params']['block2_se']['excite']['kernel'][:] = 0
        variables['params']['block2_se']['excite']['bias'][:] = bias
    together = {kind: {'members_0': one[kind], 'members_1': other[kind]} for kind in one}
    right = evaluation_of([[0.9, 0.1, 0.0]])
    drawn = draw_pictures(Ensemble((first, second)), together, right, faces_of([0]), NAMES, 'centre', '')
    assert list(drawn) == ['confusion_matrix', 'coverage']


class Plain(nn.Module):
    """A network that sows nothing."""

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        return nn.Dense(3)(images.reshape(len(images), -1))


def test_pictures_of_an_earlier_scoring_go_away(tmp_path: pathlib.Path) -> None:
    network, variables = network_of('both')
    faces = faces_of([0, 0, 2])  # no image of `happy`
    wrong = evaluation_of([[0.1, 0.8, 0.1]] * 3)
    drawn = draw_pictures(network, variables, wrong, faces, NAMES, 'centre', 'a title')
    assert list(drawn) == ['confusion_matrix', 'coverage', 'worst_mistakes', 'attention_maps', 'channel_gates']
    assert all(png.startswith(b'\x89PNG') for png in drawn.values())
    folder = tmp_path / 'new' / 'folder'
    assert write_pictures(folder, drawn) == [f'{name}.png' for name in drawn]
    assert {path.stem: path.read_bytes() for path in folder.iterdir()} == drawn
    of_ten = draw_pictures(network, variables, wrong, faces, NAMES, 'ten', 'a title')
    assert list(of_ten) == ['confusion_matrix', 'coverage', 'worst_mistakes']
    (folder / 'result.json').write_text('{}')
    write_pictures(folder, of_ten)
    assert sorted(path.name for path in folder.iterdir()) == ['confusion_matrix.png', 'coverage.png', 'result.json', 'worst_mistakes.png']
    write_pictures(folder, {})
    assert [path.name for path in folder.iterdir()] == ['result.json']


def test_without_mistakes_and_attention_there_are_no_pictures_of_them() -> None:
    network = Plain()
    variables = network.init(jax.random.key(0), jnp.zeros((1, 40, 40, 1)), train=False)
    right = evaluation_of([[0.9, 0.1, 0.0]])
    assert list(draw_pictures(network, variables, right, faces_of([0]), NAMES, 'centre', '')) == ['confusion_matrix', 'coverage']
