"""README says what the records say, and each record says how it came about."""

import json
import pathlib

import pytest

from benchmarks.results_table import ROOT, with_table

RECORDS = sorted((ROOT / 'results').glob('*/*/result.json'))


def test_readme_agrees_with_the_records() -> None:
    readme = (ROOT / 'README.md').read_text()
    assert with_table(readme) == readme, 'run python -m benchmarks.results_table'


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
