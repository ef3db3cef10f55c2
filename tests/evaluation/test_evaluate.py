"""fer_jax/evaluation/evaluate.py: each image counted once, whatever the batches, devices and views; what is written is what was found."""

import csv
import json
import pathlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh

from fer_jax.core.errors import Diverged, InputError
from fer_jax.core.statistics import calibration_error
from fer_jax.data.schema import Faces
from fer_jax.data.views import crops
from fer_jax.evaluation import evaluate as evaluate_module
from fer_jax.evaluation.evaluate import make_evaluator, write_evaluation

NAMES = ('low', 'middle', 'high')


def mesh(devices: int) -> Mesh:
    return jax.make_mesh((devices,), ('data',), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices])


def faces(n: int, seed: int = 0) -> Faces:
    generator = np.random.default_rng(seed)
    return Faces(generator.integers(0, 256, (n, 48, 48), np.uint8), generator.integers(0, 3, n).astype(np.int32))


def brightness(variables: dict, images: jax.Array) -> jax.Array:
    """Logits that hang on each view's mean and its top left pixel."""
    mean, corner = images.mean((1, 2, 3)), images[:, 0, 0, 0]
    return variables['scale'] * jnp.stack([-mean, 0.1 * corner, mean + 0.05 * corner], axis=-1)


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def expected(split: Faces, views: str) -> np.ndarray:
    """The probabilities, by NumPy and loops."""
    places = [(4, 4, False)]
    if views == 'ten':
        places = [(y, x, mirrored) for mirrored in (False, True) for y, x in ((0, 0), (0, 8), (8, 0), (8, 8), (4, 4))]
    total = np.zeros((len(split), 3))
    for y, x, mirrored in places:
        view = split.images[:, y : y + 40, x : x + 40].astype(np.float64)
        view = (view[:, :, ::-1] if mirrored else view) / 63.75 - 2
        mean, corner = view.mean((1, 2)), view[:, 0, 0]
        total += softmax(3 * np.stack([-mean, 0.1 * corner, mean + 0.05 * corner], axis=-1))
    return total / len(places)


@pytest.mark.parametrize('views', ['centre', 'ten'])
@pytest.mark.parametrize(('devices', 'batch_size'), [(1, 7), (2, 16), (4, 256)])
def test_any_batch_and_any_devices_give_numpys_numbers(views: str, devices: int, batch_size: int) -> None:
    split = faces(45)
    evaluation = make_evaluator(brightness, mesh(devices), views, NAMES, batch_size)({'scale': jnp.float32(3)}, split)
    probabilities = expected(split, views)
    np.testing.assert_allclose(evaluation.probabilities, probabilities, atol=2e-6)
    predicted = probabilities.argmax(1)
    matrix = np.zeros((3, 3), int)
    np.add.at(matrix, (split.labels, predicted), 1)
    assert evaluation.summary['confusion_matrix'] == matrix.tolist()
    assert evaluation.summary['count'] == 45
    assert evaluation.summary['nll'] == pytest.approx(-np.log(probabilities[np.arange(45), split.labels]).mean(), rel=1e-5)
    sure = calibration_error(probabilities.max(1), predicted == split.labels)
    assert evaluation.summary['calibration_error'] == pytest.approx(sure, abs=1e-5)


def test_crops_lie_where_they_should() -> None:
    rows, columns = np.mgrid[:48, :48]
    image = (rows * 100 + columns)[None].astype(np.float32)  # a pixel's value is its place
    found = np.asarray(crops(jnp.asarray(image), 'ten'))
    assert found.shape == (10, 1, 40, 40)
    assert [int(view[0, 0, 0]) for view in found[:5]] == [0, 8, 800, 808, 404]
    assert [int(view[0, -1, -1]) for view in found[:5]] == [3939, 3947, 4739, 4747, 4343]
    np.testing.assert_array_equal(found[5:], found[:5, :, :, ::-1])
    np.testing.assert_array_equal(crops(jnp.asarray(image), 'centre'), found[4:5])


def test_one_compilation_serves_every_call() -> None:
    traced = []

    def logits(variables: dict, images: jax.Array) -> jax.Array:
        traced.append(1)
        return brightness(variables, images)

    evaluator = make_evaluator(logits, mesh(2), 'centre', NAMES, 16)
    first = evaluator({'scale': jnp.float32(3)}, faces(45))
    count = len(traced)
    second = evaluator({'scale': jnp.float32(0)}, faces(45))
    assert len(traced) == count
    assert first.summary['nll'] != second.summary['nll'] == pytest.approx(np.log(3), rel=1e-5)


def test_on_cpu_one_call_is_over_before_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two programs with collectives in flight once starved each other of threads, and XLA ended the process."""
    make_score, calls = evaluate_module.make_score, []

    def watched(*arguments: object) -> Callable[..., tuple]:
        score = make_score(*arguments)

        def call(*inputs: object) -> tuple:
            assert all(output.is_ready() for output in calls)
            results = score(*inputs)
            calls.append(results[1])
            return results

        return call

    def slow(variables: dict, images: jax.Array) -> jax.Array:
        """Long enough that a call that nobody waits for is seen to be unfinished."""
        work = jax.lax.fori_loop(0, 60, lambda _, x: jnp.tanh(x @ x / 512), jnp.full((512, 512), variables['scale']))
        return brightness(variables, images) + 0 * work.sum()

    monkeypatch.setattr(evaluate_module, 'make_score', watched)
    make_evaluator(slow, mesh(2), 'centre', NAMES, 4)({'scale': jnp.float32(3)}, faces(12))
    assert len(calls) == 3


def test_an_image_that_is_not_counted_raises() -> None:
    split = faces(10)
    split.labels[3] = 3  # no such class
    with pytest.raises(RuntimeError, match='10 images'):
        make_evaluator(brightness, mesh(1), 'centre', NAMES, 16)({'scale': jnp.float32(3)}, split)


def test_output_that_is_not_finite_raises() -> None:
    with pytest.raises(Diverged, match='10 of 10'):
        make_evaluator(brightness, mesh(1), 'centre', NAMES, 16)({'scale': jnp.float32(np.nan)}, faces(10))


def test_unknown_views_are_refused() -> None:
    with pytest.raises(InputError, match="did you mean 'centre'"):
        make_evaluator(brightness, mesh(1), 'center', NAMES, 16)


def test_the_files_say_what_was_found(tmp_path: pathlib.Path) -> None:
    split = faces(12)
    evaluation = make_evaluator(brightness, mesh(1), 'centre', NAMES, 16)({'scale': jnp.float32(3)}, split)
    write_evaluation(tmp_path / 'new' / 'folder', evaluation, split, {'seed': 7})
    written = json.loads((tmp_path / 'new' / 'folder' / 'result.json').read_text())
    assert written == evaluation.summary | {'seed': 7}
    with open(tmp_path / 'new' / 'folder' / 'predictions.csv') as file:
        rows = list(csv.DictReader(file))
    assert [row['label'] for row in rows] == [NAMES[label] for label in split.labels]
    assert [row['prediction'] for row in rows] == [NAMES[each] for each in evaluation.probabilities.argmax(1)]
    assert [float(row['probability_high']) for row in rows] == pytest.approx(evaluation.probabilities[:, 2].tolist(), abs=1e-6)
    with pytest.raises(ValueError, match='accuracy'):
        write_evaluation(tmp_path, evaluation, split, {'accuracy': 1.0})
