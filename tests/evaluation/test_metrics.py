import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fer_jax.core.statistics import wilson_interval
from fer_jax.evaluation.metrics import EvaluationState, summarise
from fer_jax.evaluation.scores import table

NAMES = ('angry', 'happy', 'sad')
# True class in rows. Support 4, 4, 2; predicted 4, 3, 3; on the diagonal 7 of 10.
CONFUSION = [[3, 1, 0], [1, 2, 1], [0, 0, 2]]


def batch_of(confusion, confidence=0.8):
    """Log-probabilities and labels with that confusion matrix, each prediction with the same confidence."""
    classes = len(confusion)
    labels, rows = [], []
    for label, row in enumerate(confusion):
        for prediction, count in enumerate(row):
            for _ in range(count):
                probabilities = np.full(classes, (1 - confidence) / (classes - 1))
                probabilities[prediction] = confidence
                labels.append(label)
                rows.append(np.log(probabilities))
    return jnp.asarray(rows, jnp.float32), jnp.asarray(labels, jnp.int32)


def state_of(confusion, **options):
    log_probabilities, labels = batch_of(confusion, **options)
    return EvaluationState.from_batch(log_probabilities, labels, jnp.ones(len(labels)))


def summary_of(probabilities, labels):
    log_probabilities = jnp.log(jnp.asarray(probabilities, jnp.float32))
    return summarise(EvaluationState.from_batch(log_probabilities, jnp.asarray(labels, jnp.int32), jnp.ones(len(labels))), ('no', 'yes'))


def test_figures_worked_out_on_paper():
    summary = summarise(state_of(CONFUSION), NAMES)
    assert summary['confusion_matrix'] == CONFUSION
    assert (summary['count'], summary['correct'], summary['accuracy']) == (10, 7, 0.7)
    assert summary['per_class']['angry'] == pytest.approx({'precision': 3 / 4, 'recall': 3 / 4, 'f1': 3 / 4, 'support': 4})
    assert summary['per_class']['happy'] == pytest.approx({'precision': 2 / 3, 'recall': 1 / 2, 'f1': 4 / 7, 'support': 4})
    assert summary['per_class']['sad'] == pytest.approx({'precision': 2 / 3, 'recall': 1, 'f1': 4 / 5, 'support': 2})
    assert summary['balanced_accuracy'] == pytest.approx((3 / 4 + 1 / 2 + 1) / 3)
    assert summary['macro_f1'] == pytest.approx((3 / 4 + 4 / 7 + 4 / 5) / 3)
    # Seven labels have probability 0.8 and three 0.1.
    assert summary['nll'] == pytest.approx(-(7 * math.log(0.8) + 3 * math.log(0.1)) / 10, rel=1e-6)


def test_the_loss_of_certainty_and_of_its_contrary():
    assert summary_of([[0.12, 0.88], [0.08, 0.92]], [1, 0])['nll'] == pytest.approx(-(math.log(0.88) + math.log(0.08)) / 2, rel=1e-5)
    assert summary_of([[0.0, 1.0], [0.0, 1.0]], [1, 1])['nll'] == 0


def test_undefined_figures_are_as_in_scikit_learn():
    # 'sad' is never predicted and 'none' neither occurs nor is predicted.
    summary = summarise(state_of([[1, 1, 0, 0], [0, 2, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]), (*NAMES, 'none'))
    assert summary['per_class']['sad'] == {'precision': 0, 'recall': 0, 'f1': 0, 'support': 1}
    assert summary['per_class']['none'] == {'precision': 0, 'recall': 0, 'f1': 0, 'support': 0}
    assert summary['balanced_accuracy'] == pytest.approx((1 / 2 + 1 + 0) / 3)
    assert summary['macro_f1'] == pytest.approx((2 / 4 + 4 / 5 + 0) / 3)


def test_wilson_interval_against_known_values():
    assert wilson_interval(2577, 3589) == pytest.approx((0.7030792825, 0.7325091001), abs=1e-9)  # 71.80 % of PrivateTest
    assert wilson_interval(5, 10) == pytest.approx((0.2365930905, 0.7634069095), abs=1e-9)
    assert wilson_interval(0, 10) == pytest.approx((0, 0.2775327999), abs=1e-9)
    assert wilson_interval(10, 10) == pytest.approx((0.7224672001, 1), abs=1e-9)


def test_padding_counts_nowhere_whatever_it_holds():
    log_probabilities, labels = batch_of(CONFUSION)
    padded = jnp.concatenate([log_probabilities, jnp.full((2, 3), jnp.nan), jnp.log(jnp.asarray([[1.0, 0, 0]]))])
    weights = jnp.asarray([1.0] * 10 + [0] * 3)
    state = jax.jit(EvaluationState.from_batch)(padded, jnp.concatenate([labels, jnp.zeros(3, jnp.int32)]), weights)
    for got, wanted in zip(jax.tree.leaves(state), jax.tree.leaves(state_of(CONFUSION)), strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_merged_parts_are_the_whole():
    log_probabilities, labels = batch_of(CONFUSION)
    merged = EvaluationState.empty(3)
    for start in range(0, 10, 3):
        part = slice(start, start + 3)
        merged = merged.merge(EvaluationState.from_batch(log_probabilities[part], labels[part], jnp.ones(len(labels[part]))))
    for got, wanted in zip(jax.tree.leaves(merged), jax.tree.leaves(state_of(CONFUSION)), strict=True):
        assert got.dtype == wanted.dtype
        np.testing.assert_allclose(got, wanted, rtol=1e-6)


def test_a_label_that_is_no_class_is_counted_but_not_in_the_matrix():
    state = EvaluationState.from_batch(jnp.log(jnp.full((3, 2), 0.5)), jnp.asarray([0, 2, -1]), jnp.ones(3))
    assert int(state.count) == 3
    assert state.confusion.tolist() == [[1, 0], [0, 0]]


def test_a_tie_goes_to_the_first_class():
    state = EvaluationState.from_batch(jnp.log(jnp.full((1, 4), 0.25)), jnp.asarray([2]), jnp.ones(1))
    assert state.confusion[2].tolist() == [1, 0, 0, 0]


def test_no_images_and_wrong_names_raise():
    with pytest.raises(ValueError, match='no images'):
        summarise(EvaluationState.empty(3), NAMES)
    with pytest.raises(ValueError):
        summarise(state_of(CONFUSION), NAMES[:2])


def test_a_summary_is_plain_json():
    summary = summarise(state_of(CONFUSION), NAMES)
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary


def test_table_fits_a_terminal():
    half = {'covered': 0.51, 'accuracy': 0.885, 'min_confidence': 0.716}
    summary = summarise(state_of(CONFUSION), ('angry', 'x' * 200, 'sad')) | {'calibration_error': 0.1, 'coverage': [half, half]}
    text = table(summary, 'ToyFaces test, centre crop')
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0] == 'ToyFaces test, centre crop'
    assert lines[1] == 'accuracy 70.00 %  (95 % interval 39.68 to 89.22), 7 of 10 right'
    assert lines[-2] == '88.5 % right on the surest 51.0 % (of probability 0.72 and more)'
    rows = {line.split()[0]: line.split()[1:] for line in lines if line}
    assert rows['angry'] == ['75.0', '75.0', '75.0', '4']
    assert rows['sad'] == ['66.7', '100.0', '80.0', '2']
    assert rows['macro'] == ['F1', '70.7', '10']
    assert rows['balanced'] == ['75.0']
    # 'macro F1' is under F1 and 'balanced' under recall.
    header = next(line for line in lines if line.startswith('class'))
    assert next(line for line in lines if line.startswith('macro')).index('70.7') + 4 == header.index('F1') + 2
    assert next(line for line in lines if line.startswith('balanced')).index('75.0') + 4 == header.index('recall') + 6
