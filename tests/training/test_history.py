"""What a checkpoint's record says of a run's history: written, read, and read from records of earlier revisions."""

import json

from fer_jax.training.history import Best, History

# Of a run of revision 8ef6f68, without its configuration.
RECORD = """{"starts": 2, "seconds": 72.5, "runs_at_once": 3, "rollbacks": 1, "failed_saves": 4, "best": {"step": 7, "accuracy": 0.25},
"pending": {"loss": [[1.5, 1.25]], "accuracy": [[0.5, 0.75]]}, "init_from": null, "environment": {"python": "3.11.7"},
"content_sha256": "0a", "class_names": ["angry"], "split_titles": {"train": "train"}}"""


def test_a_record_of_an_earlier_revision_is_read():
    history = History.of_record(json.loads(RECORD))
    pending = {'loss': [[1.5, 1.25]], 'accuracy': [[0.5, 0.75]]}
    assert history == History(2, 72.5, 3, 1, 4, Best(7, 0.25), pending, None)


def test_what_a_record_lacks_keeps_its_default():
    assert History.of_record({'starts': 1, 'best': None, 'pending': {}}) == History(starts=1)


def test_a_record_gives_the_same_history_and_holds_nothing_of_it():
    history = History(starts=1, best=Best(3, 0.5, 0.75), pending={'loss': [[1.0]]}, init_from={'name': 'x'})
    record = history.to_record()
    assert History.of_record(json.loads(json.dumps(record))) == history
    history.pending['loss'].append([2.0])
    assert record['pending'] == {'loss': [[1.0]]} and record['best'] == {'step': 3, 'accuracy': 0.5, 'nll': 0.75}


def test_the_best_is_that_of_most_right_and_among_equals_the_likeliest():
    best = Best(7, 0.99, 0.12)
    assert best.beats(None) and Best(14, 1.0, 0.5).beats(best) and Best(14, 0.99, 0.11).beats(best)
    assert not Best(14, 0.98, 0.01).beats(best) and not Best(14, 0.99, 0.12).beats(best)
    assert not Best(14, 0.99, 0.01).beats(Best(7, 0.99)), 'where a record of an earlier revision has no likelihood, the first stays'
