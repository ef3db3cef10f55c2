"""README and docs/ say what the records say, and each record says how it came about."""

import json
import pathlib
import subprocess
import sys

import pytest

from benchmarks.results_table import HEADLINES, PAGES, ROOT, renewed
from fer_jax.core.fields import SHIPPED
from fer_jax.core.statistics import coverage_summary
from fer_jax.data.predictions import read_predictions
from fer_jax.runs.weights import FOLDER, find_weights, load_weights
from tests.tiny import run

RECORDS = sorted((ROOT / 'results').glob('*/*/result.json'))


@pytest.mark.parametrize('name', PAGES)
def test_the_pages_agree_with_the_records(name: str) -> None:
    text = (ROOT / name).read_text('utf-8')
    assert renewed(name) == text, 'run python -m benchmarks.results_table'


def test_readme_is_a_page_with_a_line_for_each_headline() -> None:
    lines = (ROOT / 'README.md').read_text('utf-8').splitlines()
    assert len(lines) <= 150
    table = lines[lines.index('<!-- results: written by benchmarks/results_table.py -->') : lines.index('<!-- end of results -->')]
    assert sum('](results/' in line for line in table) == len(HEADLINES)


def test_the_model_card_agrees_with_the_weights() -> None:
    card = (FOLDER / 'README.md').read_text()
    assert find_weights(SHIPPED).parent == FOLDER
    for path in FOLDER.glob('*.safetensors'):
        weights = load_weights(path)
        # 1,906,382 of seven classes; the head has 3 · 3 · 512 weights and a bias for each.
        parameters = sum(array.size for name, array in weights.variables.items() if name.startswith('params/'))
        assert parameters == 1_906_382 + (3 * 3 * 512 + 1) * (len(weights.class_names) - 7)
        assert path.stat().st_size < 8e6
        for result in weights.metadata['results'].values():
            assert f'{100 * result["correct"] / result["count"]:.2f}' in card


@pytest.mark.parametrize(
    ('name', 'folder'),
    [
        ('ferplus-1.9m', 'ferplus-distilled/seed1/evaluations/shipped-PrivateTest-centre'),
        ('fer2013-1.9m', 'fer2013-cpu-36/seed0/evaluations/best-PrivateTest-centre'),
    ],
)
def test_what_the_surest_answers_are_worth_agrees_with_the_predictions(name: str, folder: str) -> None:
    held = read_predictions(ROOT / 'results' / folder / 'predictions.csv', load_weights(find_weights(name)).class_names)
    page = ' '.join((ROOT / 'docs' / 'predict.md').read_text('utf-8').split())
    half, seventy, _, ninety, whole = coverage_summary(held.confidence, held.correct)
    told = f'`{name}` is right on {100 * half["accuracy"]:.1f} % of the half it is surest of'
    told += f' (`--min-confidence` {half["min_confidence"]:.2f}), '
    for share, part in ((70, seventy), (90, ninety)):
        told += f'on {100 * part["accuracy"]:.1f} % of the surest {share} % ({part["min_confidence"]:.2f}), '
    assert f'{told}and on {100 * whole["accuracy"]:.1f} % of all.' in page


REAL = ROOT.parent / 'shared'


@pytest.mark.slow
@pytest.mark.skipif(not (REAL / 'data' / 'fer2013_packed.npz').exists(), reason='the real FER2013 is not at hand')
@pytest.mark.parametrize('name', ['ferplus-1.9m', 'fer2013-1.9m'])
def test_the_shipped_weights_reach_what_their_card_says(name: str, tmp_path: pathlib.Path) -> None:
    arguments = [sys.executable, REAL / 'tools' / 'fer2013.py', 'csv', REAL / 'data' / 'fer2013_packed.npz', tmp_path / 'fer2013.csv']
    subprocess.run(arguments, check=True)
    out = tmp_path / 'measured'
    fields = [f'--config.data.path={tmp_path / "fer2013.csv"}', f'--config.data.prepared={tmp_path / "prepared"}']
    weights = load_weights(find_weights(name))
    if weights.config.data.votes:
        fields.append(f'--config.data.votes={REAL / "data" / "fer2013new.csv"}')
    code, _, err = run('evaluate', '--checkpoint', name, '--split', 'PrivateTest', '--out', str(out), *fields)
    assert code == 0, err
    said = weights.metadata['results']['PrivateTest, centre']
    measured = json.loads(next(out.rglob('result.json')).read_text())
    # Rounding may turn the one or other image that stood between two classes.
    assert abs(measured['correct'] - said['correct']) <= 2 and measured['count'] == said['count']


@pytest.mark.parametrize('path', RECORDS, ids=lambda path: f'{path.parent.parent.name}-{path.parent.name}')
def test_a_record_is_complete_and_adds_up(path: pathlib.Path) -> None:
    result = json.loads(path.read_text())
    assert result['environment']['code']['revision'] and not result['environment']['code']['dirty']
    assert (path.parent.parent / 'README.md').exists()
    assert result['environment']['packages']['jax'] and result['config']['seed'] == result['seed']
    # Records from before the field scored all three.
    tested = ('test_centre', 'test_ten') if result['config']['evaluation'].get('test', True) else ()
    for name in ('validation_centre', *tested):
        matrix = result[name]['confusion_matrix']
        right = sum(matrix[i][i] for i in range(len(matrix)))
        assert result[name]['count'] == sum(map(sum, matrix))
        assert result[name]['accuracy'] == pytest.approx(right / result[name]['count'])
