"""fer_jax/report/command.py and what it is made of: the right numbers, a page that needs nothing else, clear words about bad folders."""

import csv
import html.parser
import json
import math
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

from fer_jax.core.errors import InputError
from fer_jax.evaluation.figures import faces_png
from fer_jax.report.command import report
from fer_jax.report.tables import PAPER_TABLE_2, PAPER_TABLE_3, compare, make_rows
from fer_jax.runs.records import find_runs, make_groups
from fer_jax.runs.workdir import stored_config
from tests.runs_like import NAMES, right, write_run, write_scoring

EMPTY_TAGS = {'meta', 'img', 'br'}


class Page(html.parser.HTMLParser):
    """Tags that match, the addresses that a page asks for, and its text."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.sources, self.links, self.tags, self.words = [], [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        given = dict(attributes)
        self.sources += [given[name] for name in ('src', 'srcset', 'data', 'poster') if name in given]
        self.links += [given['href']] if 'href' in given else []
        assert not any(name.startswith('on') or name == 'style' for name in given)
        assert tag != 'img' or given['alt']
        if tag not in EMPTY_TAGS:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != 'style':
            self.words.append(data)


def rows_of(*folders: pathlib.Path) -> list:
    runs, _ = find_runs(folders)
    return make_rows(make_groups(runs)[0])


def cells(markdown: str, first: str) -> list[str]:
    """The cells of the first line of a table that begins with `first`, without marks of bold."""
    line = next(line for line in markdown.splitlines() if line.startswith(f'| {first} |'))
    return [cell.strip().strip('*') for cell in line.strip('|').split('|')]


@pytest.fixture(scope='module')
def ablation(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Two of Table 2's networks with three seeds each, and one of neither the paper's names nor several seeds."""
    folder = tmp_path_factory.mktemp('ablation')
    for seed, count in enumerate((60, 62, 64)):
        write_run(folder / 'base' / f'seed{seed}', 'base', seed, count, parameters=1_644_219)
    for seed, count in enumerate((80, 82, 81)):
        write_run(folder / 'sa-base-g4-ca' / f'seed{seed}', 'sa-base-g4-ca', seed, count, parameters=1_906_382)
    write_run(folder / 'other' / 'seed0', 'other', 0, 99, validation=10)
    report([folder])
    return folder


def test_table_2_has_the_papers_column_and_our_numbers(ablation: pathlib.Path) -> None:
    table = (ablation / 'report' / 'table2.md').read_text()
    blocks = table.split('\n\n')
    ten = next(block for block in blocks if block.startswith('| network'))  # ten crops come first
    # 60, 62, 64 of 100: mean 62, sd 2, ± t(2) · 2 / √3 = 4.97; Wilson for 62 of 100 is 52.21 to 70.90; 62 - 69.82 = -7.82.
    assert cells(ten, 'Base') == ['Base', '69.82', '62.00', '2.00', '3', '57.03 to 66.97', '52.21 to 70.90', '-7.82', '1,644,219', '20']
    # 80, 82, 81: mean 81, sd 1, ± 2.48.
    best = cells(ten, 'SA + Base (g=4) + CA')
    assert best[1:6] == ['71.80', '81.00', '1.00', '3', '78.52 to 83.48'] and best[7:9] == ['+9.20', '1,906,382']
    assert cells(ten, 'Base (g=2)') == ['Base (g=2)', '69.23', *['–'] * 8]
    assert [paper for _, paper in PAPER_TABLE_2.values()] == [69.82, 70.27, 69.23, 70.30, 69.57, 70.97, 71.80]


def test_csv_has_a_row_for_each_group_split_and_views(ablation: pathlib.Path) -> None:
    rows = list(csv.DictReader((ablation / 'report' / 'report.csv').read_text().splitlines()))
    assert len(rows) == 3 * 3
    (row,) = [row for row in rows if (row['group'], row['split'], row['views']) == ('base', 'PrivateTest', 'ten')]
    assert (row['repetitions'], row['images'], float(row['accuracy'])) == ('3', '100', pytest.approx(0.62))
    assert float(row['standard_deviation']) == pytest.approx(0.02)
    assert float(row['seeds_low']) == pytest.approx(0.62 - 4.302653 * 0.02 / 3**0.5, abs=1e-6)
    other = [row for row in rows if row['group'] == 'other'][0]
    assert other['standard_deviation'] == other['seeds_low'] == other['one_nearest_neighbour'] == ''


def test_the_page_needs_nothing_else(ablation: pathlib.Path) -> None:
    text = (ablation / 'report' / 'report.html').read_text()
    page = Page(text)
    assert page.tags.count('img') >= 4 and all(source.startswith('data:image/png;base64,') for source in page.sources)
    assert page.links and all(link.startswith('#') for link in page.links)
    assert not re.search(r'https?:|//[a-z]+\.|@import|url\(', re.sub(r'base64,[\w+/=]+', '', text))
    assert not {'script', 'link', 'iframe', 'object', 'base'} & set(page.tags)
    assert {link[1:] for link in page.links} == set(re.findall(r' id="([^"]+)"', text))


def test_the_number_seen_first_was_chosen_on_validation(ablation: pathlib.Path) -> None:
    # `other` has 99 % on the test split, but 10 % on validation, where sa-base-g4-ca has 81 %.
    page = Page((ablation / 'report' / 'report.html').read_text())
    assert next(words for words in page.words if words.endswith(' %')) == '81.00 %'


def test_the_number_seen_first_was_chosen_by_the_same_views(tmp_path: pathlib.Path) -> None:
    # On validation's centre crops `plain` has 70 % and `both` 60 %, whose ten crops, that `plain` was not scored by, have 75 %.
    write_run(tmp_path / 'plain', 'plain', 0, 80, validation=70)
    run = write_run(tmp_path / 'both', 'both', 0, 90, validation=60)
    write_scoring(run, stored_config(run), 'validation', 'ten', right(75), NAMES)
    report([tmp_path])
    page = Page((tmp_path / 'report' / 'report.html').read_text())
    assert next(words for words in page.words if words.endswith(' %')) == '80.00 %'
    assert any('of 2 configurations the best on PublicTest, not on PrivateTest' in words for words in page.words)


def test_the_number_seen_first_is_the_largest_of_those_it_was_chosen_among(tmp_path: pathlib.Path) -> None:
    for name, centre, ten in (('one', 60, 75), ('two', 70, 65)):  # not scored on the test
        run = write_run(tmp_path / name, name, 0, centre, splits=[('validation', 'centre')])
        write_scoring(run, stored_config(run), 'validation', 'ten', right(ten), NAMES)
    report([tmp_path])
    page = Page((tmp_path / 'report' / 'report.html').read_text())
    assert next(words for words in page.words if words.endswith(' %')) == '75.00 %'


def test_which_differences_are_real(ablation: pathlib.Path) -> None:
    family = [row for row in rows_of(ablation) if row.views == 'ten']
    verdicts = {(family[c.first].group.name, family[c.second].group.name): c for c in compare(family)}
    real = verdicts['base', 'sa-base-g4-ca']
    # On no image are fewer seeds of the second right, and on 22 more are; the seeds' accuracies are apart by 16 points at least.
    assert real.verdict == 'real' and real.difference == pytest.approx(-0.19)
    assert verdicts['base', 'other'].verdict == 'one seed' and verdicts['base', 'other'].p_seeds is None
    text = (ablation / 'report' / 'report.md').read_text()
    assert 'fer2013, PrivateTest, ten crops: 1 of 3 differences is real.' in text
    assert cells(text, '1. base')[2:] == ['', '-37.00?', '-19.00']  # by name: base, other, sa-base-g4-ca
    assert '**-19.00**' in text and '**-37.00' not in text


def test_seeds_that_scatter_make_no_difference_real(tmp_path: pathlib.Path) -> None:
    for seed, (one, two) in enumerate(((50, 60), (70, 80), (90, 99))):
        write_run(tmp_path / f'one{seed}', 'one', seed, one)
        write_run(tmp_path / f'two{seed}', 'two', seed, two)
    (comparison,) = compare([row for row in rows_of(tmp_path) if row.views == 'ten'])
    assert comparison.p_images < 1e-6 and comparison.p_seeds > 0.5 and comparison.verdict == 'not shown'


def test_p_over_images_is_mcnemars_and_holms(tmp_path: pathlib.Path) -> None:
    write_run(tmp_path / 'a', 'a', 0, right(59, first=0))
    write_run(tmp_path / 'b', 'b', 0, right(60, first=9))  # 9 that only a has, 10 that only b has
    write_run(tmp_path / 'c', 'c', 0, right(50, first=0))  # 9 that only a has
    family = [row for row in rows_of(tmp_path) if row.views == 'ten']
    by = {(family[c.first].group.name, family[c.second].group.name): c for c in compare(family)}
    # a and c: 2 / 2^9, times 3 comparisons; b and c: 19 against 9 of 28.
    assert by['a', 'c'].p_images == pytest.approx(3 * 2 / 2**9)
    tail = sum(math.comb(28, k) for k in range(10)) * 2 / 2**28
    assert by['b', 'c'].p_images == pytest.approx(2 * tail)
    assert by['a', 'b'].p_images == 1


def test_other_data_are_not_paired_and_that_is_said(tmp_path: pathlib.Path) -> None:
    write_run(tmp_path / 'a', 'one', 0, 60)
    write_run(tmp_path / 'b', 'two', 0, 90, content='other')
    report([tmp_path])
    text = (tmp_path / 'report' / 'report.md').read_text()
    assert 'Not paired: their data differ.' in text and '0 of 1 difference are real' in text
    assert cells(text, '1. one')[2:] == ['', '–']


def test_folds_of_two_data_sets_are_not_paired(tmp_path: pathlib.Path) -> None:
    for name, seed, content in (('one', 0, 'c0ffee'), ('one', 1, 'other'), ('two', 0, 'c0ffee')):
        for fold in range(2):
            fields = {'data.folds': '2', 'data.fold': str(fold)}
            write_run(tmp_path / f'{name}{seed}{fold}', f'{name}-fold{fold}', seed, 60, fields=fields, content=f'{content}{fold}')
    report([tmp_path])
    assert 'Not paired: the runs of one have different data.' in (tmp_path / 'report' / 'report.md').read_text()


def test_runs_of_one_name_on_other_data_are_groups_apart(tmp_path: pathlib.Path) -> None:
    for place, seed, count, content in (('a', 0, 60, 'c0ffee'), ('b', 1, 62, 'c0ffee'), ('c', 0, 90, '0123456789abcdef')):
        write_run(tmp_path / place, 'one', seed, count, content=content)
    groups, notes = make_groups(find_runs([tmp_path])[0])
    assert notes == []  # the third is not the first once more
    found = {row.group.title: row.accuracies for row in make_rows(groups) if row.views == 'ten'}
    assert found == {'one (data sha256=c0ffee)': [0.6, 0.62], 'one (data sha256=0123456789ab)': [0.9]}
    for draw in range(2):  # of which each has data of its own
        write_run(tmp_path / f'd{draw}', f'one-draw{draw}', 0, 80, fields={'data.split_seed': str(draw)}, content=str(draw))
    titles = [group.title for group in make_groups(find_runs([tmp_path])[0])[0]]
    assert titles == ['one (seeds, data sha256=c0ffee)', 'one (seeds, data sha256=0123456789ab)', 'one (draws)']


def test_configurations_of_one_name_are_groups_apart(tmp_path: pathlib.Path) -> None:
    for seed in range(2):
        write_run(tmp_path / f'a{seed}', 'fer2013', seed, 60, fields={'epochs': '20', 'data.path': f'moved{seed}'})
        write_run(tmp_path / f'b{seed}', 'fer2013', seed, 70, fields={'epochs': '60'})
    found = {row.group.title: row.accuracies for row in rows_of(tmp_path) if row.views == 'ten'}
    assert found == {'fer2013 (epochs=20.0)': [0.6, 0.6], 'fer2013 (epochs=60.0)': [0.7, 0.7]}


def test_the_same_run_twice_counts_once(tmp_path: pathlib.Path) -> None:
    write_run(tmp_path / 'a', 'one', 3, 60)
    write_run(tmp_path / 'b', 'one', 3, 60)
    groups, notes = make_groups(find_runs([tmp_path])[0])
    assert len(groups[0].units) == 1
    assert notes == [f'{tmp_path / "b"}: the same run as {tmp_path / "a"}, counted once']
    assert len(find_runs([tmp_path / 'a', tmp_path])[0]) == 2  # a folder given twice is read once


def test_folds_are_one_accuracy_over_all_images(tmp_path: pathlib.Path) -> None:
    nearest = {'count': 100, 'correct': 40, 'accuracy': 0.4, 'accuracy_interval': [0.3, 0.5], 'train_images': 9}
    for fold, (images, good) in enumerate(((50, 40), (100, 50), (150, 60))):
        run = write_run(
            tmp_path / f'ckplus-fold{fold}' / 'seed0', f'ckplus-fold{fold}', 0, right(good, images), dataset='ckplus',
            fields={'data.folds': '3', 'data.fold': str(fold)}, content=f'fold{fold}', more={'one_nearest_neighbour': nearest},
        )  # fmt: skip
        for path in [run / 'result.json', *run.glob('evaluations/*/result.json')]:  # each fold's test has a title of its own
            path.write_text(path.read_text().replace('"PrivateTest"', f'"CK+ (fold {fold} of 3)"'))
    (row,) = [row for row in rows_of(tmp_path) if row.views == 'ten']
    assert row.group.title == 'ckplus' and row.images == 300
    assert row.accuracies == [pytest.approx(0.5)]  # 150 of 300; the mean of the folds' accuracies would be 0.567
    assert row.units[0].summary['calibration_error'] == pytest.approx(0.3)  # always 0.8 sure, right half of the time
    report([tmp_path])
    text = (tmp_path / 'report' / 'report.md').read_text()
    assert cells(text, 'ours: ckplus')[1:] == [
        '–',
        '50.00',
        '1,500,000',
        'CK+ (3 folds), ten crops, 3 folds, 1 seed; 1-NN on raw pixels 40.00 %',
    ]
    assert 'nearest neighbour on raw pixels, for comparison: 40.00 %' in text


def test_folds_wait_for_one_another(tmp_path: pathlib.Path) -> None:
    for seed, fold in ((0, 0), (0, 1), (1, 0)):
        write_run(tmp_path / f'{seed}{fold}', f'x-fold{fold}', seed, 60, fields={'data.folds': '2', 'data.fold': str(fold)})
    groups, notes = make_groups(find_runs([tmp_path])[0])
    assert [len(unit) for unit in groups[0].units] == [2]
    assert notes == ['x, seed 1: 1 of 2 folds are finished; left out until all are']


def test_draws_make_one_row_and_are_not_paired(tmp_path: pathlib.Path) -> None:
    for draw in range(3):
        for start, count in (('scratch', 90 + draw), ('weights', 95 + draw)):
            fields = {'data.split_seed': str(draw), 'init_from': 'none' if start == 'scratch' else 'fer2013-1.9m'}
            write_run(
                tmp_path / f'{start}{draw}', f'ckplus-random-draw{draw}', 0, count, fields=fields, content=str(draw), dataset='ckplus'
            )
    family = [row for row in rows_of(tmp_path) if row.views == 'ten']
    titles = {row.group.title: row.mean for row in family}
    assert titles == {
        'ckplus-random (init_from=None)': pytest.approx(0.91), 'ckplus-random (init_from=fer2013-1.9m)': pytest.approx(0.96),
    }  # fmt: skip
    (comparison,) = compare(family)
    assert comparison.verdict == 'not paired' and 'draws share images' in comparison.reason


def test_draws_and_seeds_of_one_name_are_two_rows(tmp_path: pathlib.Path) -> None:
    write_run(tmp_path / 'one', 'x', 0, 60)
    for draw in range(2):
        write_run(tmp_path / f'draw{draw}', f'x-draw{draw}', 0, 90, fields={'data.split_seed': str(draw)}, content=str(draw))
    for folders in (['one', 'draw0', 'draw1'], ['draw0', 'draw1', 'one']):
        groups, _ = make_groups(find_runs([tmp_path / folder for folder in folders])[0])
        assert {group.title: len(group.units) for group in groups} == {'x (seeds)': 1, 'x (draws)': 2}


def test_seeds_of_one_draw_are_no_more_draws(tmp_path: pathlib.Path) -> None:
    for draw, seed, count in ((0, 0, 90), (0, 1, 94), (1, 0, 98)):
        nearest = {'count': 100, 'correct': 40 + 20 * draw, 'accuracy': 0.4 + 0.2 * draw}
        write_run(
            tmp_path / f'{draw}{seed}', f'ckplus-random-draw{draw}', seed, count, dataset='ckplus', content=str(draw),
            fields={'data.split_seed': str(draw)}, more={'one_nearest_neighbour': nearest},
        )  # fmt: skip
    (row,) = [row for row in rows_of(tmp_path) if row.views == 'ten']
    # The first draw's seeds have 0.92 together, so the mean is 0.95, where that over three runs would be 0.94.
    assert row.accuracies == [pytest.approx(0.92), pytest.approx(0.98)] and row.mean == pytest.approx(0.95)
    assert row.average('accuracy') == pytest.approx(0.95) and row.nearest_neighbour == pytest.approx(0.5)
    # sd 0.06 / √2; Student's interval of two has t(1) = 12.706 · 0.03 on either side.
    assert row.deviation == pytest.approx(0.06 / 2**0.5) and row.images == 100
    assert row.seeds_interval == (pytest.approx(0.95 - 12.7062 * 0.03, abs=1e-5), pytest.approx(0.95 + 12.7062 * 0.03, abs=1e-5))
    report([tmp_path])
    text = (tmp_path / 'report' / 'report.md').read_text()
    assert 'ckplus-random: 1,500,000 parameters, 2 draws, 3 runs, sd 4.24' in text
    # Of the 15 angry images, 0, 7, … 98, the runs find 13, 14 and 14: of the draws 90.0 and 93.3 %, whose sd is 3.33 / √2.
    assert cells(text, 'angry')[2] == '91.7 ± 2.4'
    with open(tmp_path / 'report' / 'report.csv') as file:
        (line,) = [line for line in csv.DictReader(file) if line['views'] == 'ten']
    assert (line['repeated_over'], line['repetitions'], float(line['accuracy'])) == ('draws', '2', pytest.approx(0.95))


def test_table_3_stands_below_the_papers(ablation: pathlib.Path) -> None:
    text = (ablation / 'report' / 'report.md').read_text()
    assert cells(text, 'the paper') == ['the paper', '71.80', '99.66', '1,906,382', '']
    assert cells(text, 'ours: base') == ['ours: base', '62.00 ± 2.00', '–', '1,644,219', 'PrivateTest, ten crops, 3 seeds']
    assert [row[3] for row in PAPER_TABLE_3] == [11372271, 2464032, 3962328, 1825465, 5935271, 7151502, 1906382]


def test_other_data_have_no_paper_beside(tmp_path: pathlib.Path) -> None:
    write_run(tmp_path / 'a', 'base', 0, 60, dataset='toyfaces')
    report([tmp_path])
    text = (tmp_path / 'report' / 'report.md').read_text()
    assert cells(text, 'Base')[7] == '–' and 'not on FER2013' in text and 'Table 3' not in text


def test_what_is_not_finished_is_listed(tmp_path: pathlib.Path) -> None:
    write_run(tmp_path / 'base' / 'seed0', 'base', 0, 60)
    for seed in (1, 2):
        (write_run(tmp_path / 'base' / f'seed{seed}', 'base', seed, 60) / 'result.json').unlink()
    with open(tmp_path / 'base' / 'seed1' / 'metrics.jsonl', 'a') as file:
        file.write('{"step": 110, "kind": "tra')  # torn by a kill
    (tmp_path / 'claims').mkdir()
    failed = {'host': 'node', 'process': 1, 'machine': '', 'state': 'diverged', 'reason': 'the loss is nan at step 7'}
    (tmp_path / 'claims' / 'base-seed2.1.json').write_text(json.dumps(failed))
    (tmp_path / 'sweep.json').write_text(json.dumps({'config': 'x', 'overrides': {}, 'variants': ['base'], 'seeds': [0, 1, 2, 3]}))
    report([tmp_path], tmp_path / 'page')
    text = (tmp_path / 'page' / 'report.md').read_text()
    assert '1 finished run in 1 group; 3 runs not finished.' in text
    assert f'{tmp_path / "base" / "seed1"}: unfinished, at epoch 10.0 of 20' in text
    assert f'{tmp_path / "base" / "seed2"}: unfinished, at epoch 10.0 of 20, failed: the loss is nan at step 7' in text
    assert f'{tmp_path / "base" / "seed3"}: not begun' in text


def test_only_unfinished_runs_make_a_page_too(tmp_path: pathlib.Path) -> None:
    (write_run(tmp_path / 'a', 'base', 0, 60) / 'result.json').unlink()
    report([tmp_path])
    assert f'{tmp_path / "a"}: unfinished, at epoch 10.0 of 20' in Page((tmp_path / 'report' / 'report.html').read_text()).words


def test_text_of_the_data_stays_text(tmp_path: pathlib.Path) -> None:
    evil = '<img src=x onerror=alert(1)>'
    write_run(tmp_path / 'a', evil, 0, 60, class_names=('<script>alert(2)</script>', 'a|b', '$x^', '"quoted" & co'))
    report([tmp_path])
    page = Page((tmp_path / 'report' / 'report.html').read_text())
    assert 'script' not in page.tags and all(source.startswith('data:') for source in page.sources)
    assert any(evil in words for words in page.words) and '<script>alert(2)</script>' in page.words
    markdown = (tmp_path / 'report' / 'report.md').read_text()
    assert not re.search(r'(?<!\\)<', markdown)
    (line,) = [line for line in markdown.splitlines() if line.startswith('| a')]
    assert len(re.findall(r'(?<!\\)\|', line)) == 6


def test_the_scorings_pictures_are_shown(tmp_path: pathlib.Path) -> None:
    run = write_run(tmp_path / 'a', 'base', 0, 60)
    picture = faces_png(np.zeros((1, 48, 48), np.uint8), ['x'], 'mistakes')
    (run / 'evaluations' / 'best-PrivateTest-ten' / 'worst_mistakes.png').write_bytes(picture)
    (run / 'evaluations' / 'best-PrivateTest-centre' / 'attention_maps.png').write_bytes(b'no picture')
    report([tmp_path])
    text = (tmp_path / 'report' / 'report.html').read_text()
    assert 'surest of' in text and 'Spatial attention' not in text


def test_a_run_without_predictions_is_reported(tmp_path: pathlib.Path) -> None:
    for name in ('one', 'two'):
        for path in write_run(tmp_path / name, name, 0, 60).rglob('predictions.csv'):
            path.unlink()
    report([tmp_path])
    assert 'predictions.csv of one is missing' in (tmp_path / 'report' / 'report.md').read_text()


def edit(path: pathlib.Path, **changes: object) -> None:
    """Changes fields of a JSON file; None takes one away."""
    record = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in record.items() if value is not None}))


def test_a_run_whose_scorings_were_not_kept_is_reported_from_its_result(tmp_path: pathlib.Path) -> None:
    run = write_run(tmp_path / 'a', 'base', 0, 60)
    scored = {name: json.loads((run / 'evaluations' / f'best-{folder}' / 'result.json').read_text()) for name, folder in KEPT.items()}
    edit(run / 'result.json', **{name: {key: value for key, value in each.items() if key != 'protocol'} for name, each in scored.items()})
    shutil.rmtree(run / 'evaluations')
    (validation, centre, ten) = rows_of(tmp_path)
    assert [(row.title, row.views, row.mean, row.images) for row in (centre, ten)] == [
        ('PrivateTest', 'centre', 0.6, 100),
        ('PrivateTest', 'ten', 0.6, 100),
    ]
    # 90 of 100 steps, of 20 epochs.
    assert validation.title == 'PublicTest' and validation.protocol['epoch'] == pytest.approx(18)
    report([tmp_path])
    text = (tmp_path / 'report' / 'report.md').read_text()
    assert 'trained on Training (duplicates of test images left in) for 20 epochs; checkpoint chosen on PublicTest' in text


KEPT = {'validation_centre': 'PublicTest-centre', 'test_centre': 'PrivateTest-centre', 'test_ten': 'PrivateTest-ten'}
COMMITTED = sorted(path for path in (pathlib.Path(__file__).parent.parent.parent / 'results').iterdir() if path.is_dir())


MANY = ('ablation-cpu', 'baselines-cpu', 'ckplus-folds', 'ckplus-random', 'recipe')  # have runs whose pages take seconds


@pytest.mark.parametrize(
    'folder',
    [pytest.param(folder, marks=pytest.mark.slow if folder.name in MANY else ()) for folder in COMMITTED],
    ids=lambda folder: folder.name,
)
def test_the_committed_records_are_reported(folder: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture) -> None:
    from fer_jax.__main__ import main

    runs = [json.loads(path.with_name('result.json').read_text()) for path in folder.rglob('config.json')]
    code = main(['report', '--workdir', str(folder), '--out', str(tmp_path / 'out')])
    if not runs:  # measurements of other kinds, which a README beside them tells
        assert code == 2 and not (tmp_path / 'out').exists()
        assert re.fullmatch(rf'error: --workdir {folder}: no run there.* says {folder}/README.md\n', capsys.readouterr().err)
        return
    assert code == 0
    Page((tmp_path / 'out' / 'report.html').read_text())
    rows = list(csv.DictReader((tmp_path / 'out' / 'report.csv').read_text().splitlines()))
    for split, views, name in (('PublicTest', 'centre', 'validation_centre'), ('PrivateTest', 'ten', 'test_ten')):
        told = sum(
            int(row['repetitions']) * float(row['accuracy'])
            for row in rows
            if (row['split'], row['views'], row['part']) == (split, views, '')
        )
        kept = sum(run[name]['accuracy'] for run in runs if name in run and run['split_titles'][name.partition('_')[0]] == split)
        assert told == pytest.approx(kept)


def add_part(run: pathlib.Path, count: int, correct: int) -> None:
    part = {'count': count, 'correct': correct, 'accuracy': correct / count, 'accuracy_interval': [0.0, 1.0]}
    edit(scoring(run), subsets={'strict majority': part})


def test_parts_of_a_split_stand_beside_the_whole(tmp_path: pathlib.Path) -> None:
    for seed, correct in enumerate((60, 70)):
        add_part(write_run(tmp_path / f'a{seed}', 'one', seed, 50), 80, correct)
    write_run(tmp_path / 'b', 'two', 0, 55)
    report([tmp_path])
    rows = list(csv.DictReader((tmp_path / 'report' / 'report.csv').read_text().splitlines()))
    (part,) = [row for row in rows if row['part']]
    # 60 and 70 of 80: mean 0.8125, sd 0.125 / sqrt(2); the whole keeps its own.
    assert (part['group'], part['split'], part['part'], part['views'], part['images']) == (
        'one', 'PrivateTest', 'strict majority', 'ten', '80',
    )  # fmt: skip
    assert float(part['accuracy']) == 0.8125 and float(part['standard_deviation']) == pytest.approx(0.125 / 2**0.5)
    assert part['macro_f1'] == part['nll'] == part['one_nearest_neighbour'] == ''
    text = (tmp_path / 'report' / 'report.md').read_text()
    header = next(line for line in text.splitlines() if line.startswith('| group')).split(' | ')
    place = header.index('strict majority, %')
    assert cells(text, '**one**')[place] == '81.25' and cells(text, '**two**')[place] == '–'
    assert cells(text, 'one | PrivateTest, strict majority')[3:6] == ['2 seeds', '81.25', '8.84']
    page = Page((tmp_path / 'report' / 'report.html').read_text())
    assert 'strict majority, %' in page.words and '81.25' in page.words


def test_parts_of_folds_are_pooled(tmp_path: pathlib.Path) -> None:
    for fold, correct in enumerate((10, 40)):
        fields = {'data.folds': '2', 'data.fold': str(fold)}
        add_part(write_run(tmp_path / f'f{fold}', f'x-fold{fold}', 0, 60, fields=fields, content=f'fold{fold}'), 20 + 40 * fold, correct)
    (row,) = [row for row in rows_of(tmp_path) if row.views == 'ten']
    (part,) = row.parts
    assert (part.images, part.mean) == (80, 50 / 80)


BREAKS = {
    'result.json: not JSON': lambda run: (run / 'result.json').write_text('{"accuracy": 0.'),
    'result.json: has no field parameters': lambda run: edit(run / 'result.json', parameters=None),
    'result.json: field seed is "0"': lambda run: edit(run / 'result.json', seed='0'),
    'result.json: has no field environment.device': lambda run: edit(run / 'result.json', environment={'python': '3', 'cpu': ''}),
    'result.json: field protocol is': lambda run: edit(scoring(run), protocol=[]),
    'result.json: field nll is NaN': lambda run: edit(scoring(run), nll=float('nan')),
    'result.json: field confusion_matrix is not 7 rows': lambda run: edit(scoring(run), confusion_matrix=[[1]]),
    'result.json: field subsets.strict majority says 90 of 80': lambda run: add_part(run, 80, 90),
    'result.json: has no field subsets.x.count': lambda run: edit(scoring(run), subsets={'x': {}}),
    'result.json: field count is 99': lambda run: edit(scoring(run), count=99),
    'predictions.csv, line 1: no predictions': lambda run: scoring(run).with_name('predictions.csv').write_text('a,b\n'),
    'predictions.csv, line 3: not the row of image 1': lambda run: change_line(
        scoring(run).with_name('predictions.csv'), 3, '1,happy,nobody,1,0,0,0,0,0,0'
    ),
    'predictions.csv: 99 images, but count': lambda run: change_line(scoring(run).with_name('predictions.csv'), 101, ''),
    'config.json: .*unknown config field': lambda run: edit(run / 'config.json', colour='red'),
    'config.json: no configuration': lambda run: (run / 'config.json').write_text('[]'),
    'finished, but without evaluations': lambda run: [path.unlink() for path in run.rglob('evaluations/*/result.json')],
}


def scoring(run: pathlib.Path) -> pathlib.Path:
    return run / 'evaluations' / 'best-PrivateTest-ten' / 'result.json'


def change_line(path: pathlib.Path, number: int, text: str) -> None:
    lines = path.read_text().splitlines()
    lines[number - 1 : number] = [text] if text else []
    path.write_text('\n'.join(lines) + '\n')


@pytest.mark.parametrize('message', BREAKS)
def test_a_broken_file_is_named_with_its_field(tmp_path: pathlib.Path, message: str) -> None:
    BREAKS[message](write_run(tmp_path / 'a'))
    with pytest.raises(InputError, match=message) as error:
        report([tmp_path])
    assert '\n' not in str(error.value) and str(tmp_path / 'a') in str(error.value)
    assert not (tmp_path / 'report').exists()


def test_no_run_below(tmp_path: pathlib.Path) -> None:
    with pytest.raises(InputError, match='no run there, nor below'):
        report([tmp_path])
    with pytest.raises(InputError, match='no such folder'):
        report([tmp_path / 'missing'])


def test_the_command_loads_no_jax(tmp_path: pathlib.Path) -> None:
    write_run(tmp_path / 'a', 'base', 0, 60)
    code = (
        'import sys; from fer_jax.__main__ import main; code = main(sys.argv[1:]);'
        'print({"jax", "jaxlib", "flax", "tensorflow_datasets"} & set(sys.modules)); sys.exit(code)'
    )
    command = [sys.executable, '-c', code, 'report', '--workdir', str(tmp_path), '--out', str(tmp_path / 'out')]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert 'base: PrivateTest, ten crops: 60.00 % (1 seed)' in result.stdout and result.stdout.endswith('set()\n')
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == [
        'accuracy.png',
        'report.csv',
        'report.html',
        'report.md',
        'table2.md',
    ]


def test_the_command_tells_bad_input_in_one_line(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture) -> None:
    from fer_jax.__main__ import main

    assert main(['report', '--workdir', str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith('error: --workdir')
    assert main(['report', '--workdir', str(tmp_path), '--config.seed=3']) == 2
    assert 'takes the runs as they are' in capsys.readouterr().err
