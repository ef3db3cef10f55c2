"""More of fer_jax/evaluation/evaluate.py: odd batches, missing images, names with commas, refusals that leave nothing."""

import csv
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from fer_jax.data.schema import Faces
from fer_jax.evaluation import evaluate as evaluate_module
from fer_jax.evaluation.evaluate import batches, make_evaluator, write_evaluation

NAMES = ('angry', 'happy, or so', 'sad')


def mesh_of(devices):
    if len(jax.devices()) < devices:
        pytest.skip(f'needs {devices} devices')
    return jax.make_mesh((devices,), ('data',), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices])


def make_faces(count, seed=0):
    random = np.random.default_rng(seed)
    return Faces(random.integers(0, 256, (count, 48, 48), np.uint8), random.integers(0, 3, count).astype(np.int32))


def linear(variables, images):
    return images.reshape(len(images), -1) @ variables['kernel']


def linear_variables(mesh, seed=1):
    kernel = np.random.default_rng(seed).normal(size=(1600, 3)).astype(np.float32) / 10
    return jax.device_put({'kernel': kernel}, NamedSharding(mesh, PartitionSpec()))


@pytest.mark.parametrize(('count', 'batch_size', 'devices', 'sizes'), [
    (3589, 256, 1, [240] * 15),  # 15 calls are needed, and 240 is what they need to hold
    (3589, 256, 4, [240] * 15),
    (10, 4, 1, [4, 4, 4]),
    (10, 4, 4, [4, 4, 4]),
    (9, 8, 2, [6, 6]),  # 5 rounded up to the devices
    (3, 256, 4, [4]),
])  # fmt: skip
def test_batches_are_few_equal_and_small(count, batch_size, devices, sizes):
    faces = Faces(np.zeros((count, 48, 48), np.uint8), np.arange(count, dtype=np.int32))
    parts = [jax.device_get(part) for part in batches(faces, batch_size, mesh_of(devices))]
    assert [len(labels) for _, labels, _ in parts] == sizes
    labels, weights = np.concatenate([part[1] for part in parts]), np.concatenate([part[2] for part in parts])
    assert labels[weights == 1].tolist() == list(range(count))
    assert len(labels) - count == (weights == 0).sum() < batch_size + devices


def test_both_batches_and_both_calls_share_one_compilation():
    mesh, traces = mesh_of(1), []

    def apply(variables, images):
        traces.append(images.shape)
        return linear(variables, images)

    evaluate = make_evaluator(apply, mesh, 'centre', NAMES, 4)
    first, second = linear_variables(mesh, seed=1), linear_variables(mesh, seed=2)
    one, other = evaluate(first, make_faces(6)), evaluate(second, make_faces(6))
    assert traces == [(3, 40, 40, 1)]
    assert np.abs(one.probabilities - other.probabilities).max() > 0.01


def test_a_count_that_is_not_the_splits_raises(monkeypatch):
    mesh, faces = mesh_of(1), make_faces(5)
    evaluate = make_evaluator(linear, mesh, 'centre', NAMES, 4)
    whole = evaluate_module.batches
    monkeypatch.setattr(evaluate_module, 'batches', lambda *arguments: list(whole(*arguments))[:-1])
    with pytest.raises(RuntimeError, match='the split has 5 images, 3 were counted'):
        evaluate(linear_variables(mesh), faces)


def test_half_precision_logits_are_summed_up_in_full():
    mesh, faces = mesh_of(1), make_faces(7)
    evaluation = make_evaluator(lambda v, x: linear(v, x).astype(jnp.bfloat16), mesh, 'ten', NAMES, 40)(linear_variables(mesh), faces)
    assert evaluation.probabilities.dtype == np.float32
    np.testing.assert_allclose(evaluation.probabilities.sum(1), 1, atol=1e-6)


def test_written_files_agree(tmp_path):
    mesh, faces = mesh_of(1), make_faces(9)
    evaluation = make_evaluator(linear, mesh, 'centre', NAMES, 4)(linear_variables(mesh), faces)
    folder = tmp_path / 'test' / 'centre'
    write_evaluation(folder, evaluation, faces, {'seed': 3, 'protocol': {'views': 'centre'}})
    assert sorted(path.name for path in folder.iterdir()) == ['predictions.csv', 'result.json']
    result = json.loads((folder / 'result.json').read_text())
    assert result == evaluation.summary | {'seed': 3, 'protocol': {'views': 'centre'}}
    rows = list(csv.DictReader((folder / 'predictions.csv').read_text().splitlines()))
    assert list(rows[0]) == ['index', 'label', 'prediction', 'probability_angry', 'probability_happy, or so', 'probability_sad']
    assert [int(row['index']) for row in rows] == list(range(9))
    assert [row['label'] for row in rows] == [NAMES[label] for label in faces.labels]
    probabilities = np.array([[float(row[f'probability_{name}']) for name in NAMES] for row in rows])
    np.testing.assert_allclose(probabilities, evaluation.probabilities, atol=5.1e-7)
    for row, column in np.ndindex(3, 3):
        count = sum(line['label'] == NAMES[row] and line['prediction'] == NAMES[column] for line in rows)
        assert count == result['confusion_matrix'][row][column]


def test_a_record_may_not_overwrite_a_figure(tmp_path):
    mesh, faces = mesh_of(1), make_faces(4)
    evaluation = make_evaluator(linear, mesh, 'centre', NAMES, 4)(linear_variables(mesh), faces)
    with pytest.raises(ValueError, match='accuracy'):
        write_evaluation(tmp_path / 'result', evaluation, faces, {'accuracy': 1.0})
    assert not (tmp_path / 'result').exists()
