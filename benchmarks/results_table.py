"""README's table of results, from the records under results/.

    python -m benchmarks.results_table        # rewrites README.md between its two marks

A record is a folder results/<claim>/<run>/ with the run's own result.json; the table says nothing that is not in one.
"""

import pathlib

from fer_jax.files import read_json, write_atomic

ROOT = pathlib.Path(__file__).parent.parent
BEGIN, END = '<!-- results: written by benchmarks/results_table.py -->', '<!-- end of results -->'
HEADER = '| record | split | views | accuracy, % (95 % interval) | macro F1, % | seed | epochs | device | minutes |'


def rows() -> list[str]:
    """A line of the table for each scoring of each recorded run."""
    lines = []
    for path in sorted((ROOT / 'results').glob('*/*/result.json')):
        result = read_json(path)
        device = result['environment']['device']
        trained_on = f'{device["count"]} × {device["kind"]}' + (f' ({result["environment"]["cpu"]})' if device['platform'] == 'cpu' else '')
        for key, split, views in (
            ('validation_centre', 'validation', 'centre'),
            ('test_centre', 'test', 'centre'),
            ('test_ten', 'test', 'ten'),
        ):
            summary = result[key]
            low, high = (100 * bound for bound in summary['accuracy_interval'])
            cells = [
                f'[{path.parent.relative_to(ROOT / "results")}]({path.parent.relative_to(ROOT)})',
                result['split_titles'][split],
                views,
                f'{100 * summary["accuracy"]:.2f} ({low:.2f} to {high:.2f})',
                f'{100 * summary["macro_f1"]:.1f}',
                str(result['seed']),
                f'{result["config"]["epochs"]:g}',
                trained_on,
                f'{result["training_seconds"] / 60:.0f}',
            ]
            lines.append(f'| {" | ".join(cells)} |')
    return lines


def with_table(readme: str) -> str:
    """`readme` with the table between its marks made anew."""
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    table = '\n'.join([HEADER, '|---|---|---|---|---:|---:|---:|---|---:|', *rows()])
    return f'{before}{BEGIN}\n\n{table}\n\n{END}{after}'


if __name__ == '__main__':
    write_atomic(ROOT / 'README.md', with_table((ROOT / 'README.md').read_text()))
