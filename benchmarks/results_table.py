"""The tables in README and docs/, from the records under results/, and the model cards', from the shipped weights.

    python -m benchmarks.results_table        # rewrites what stands between the marks of each of PAGES

A record is a folder results/<claim>/<run>/ with the run's own result.json, or results/speed/<benchmark>/ with what that
benchmark measured; the tables say nothing that is not in one.
"""

import functools
import os
import pathlib
import statistics
from collections.abc import Callable, Container
from typing import Any

from fer_jax.core.files import read_json, write_atomic
from fer_jax.export.hub import measured
from fer_jax.report.tables import make_rows
from fer_jax.runs.records import find_runs, make_groups
from fer_jax.runs.weights import FOLDER, load_weights

ROOT = pathlib.Path(__file__).parent.parent
RESULTS = ROOT / 'results'
HEADER = [
    '| record | split | views | accuracy, % (95 % interval) | macro F1, % | seed | epochs | device | minutes |',
    '|---|---|---|---|---:|---:|---:|---|---:|',
]
SWEEPS_HEADER = [
    '| record | split | views | accuracy, % (95 % interval) | macro F1, % | pixels’ nearest neighbour, % | runs | epochs |',
    '|---|---|---|---|---:|---:|---|---:|',
]
SWEEPS = ('ckplus-random', 'ckplus-folds')
FAULTS_HEADER = ['| campaign | what is done | tried | did not hold | minutes |', '|---|---|---:|---:|---:|']
SPEED_HEADER = ['| record | measured | fer_jax | beside it | times as fast (quartiles) |', '|---|---|---:|---:|---|']
FACES_HEADER = [
    '| detector | drawn: found | false | photographs: found | false | ms, 640×480 | ms, 12 MP | accuracy, % | as drawn | as they stand |',
    '|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|',
]
# README's four rows: a record and one of its scorings.
HEADLINES = (
    ('ferplus-distilled/seed1', 'test_centre, strict majority'),
    ('ferplus-distilled/seed1', 'test_ten, strict majority'),
    ('fer2013-cpu-36/seed0', 'test_centre'),
    ('fer2013-cpu-36/seed0', 'test_ten'),
)


def link(title: str, path: pathlib.Path, page: pathlib.Path) -> str:
    """A link from a page to a file of the repository."""
    return f'[{title}]({pathlib.PurePath(os.path.relpath(path, page.parent)).as_posix()})'


def rows(page: pathlib.Path, wanted: Container[tuple[str, str]] | None = None) -> list[str]:
    """A line of the table for each scoring of each recorded run, or for those that are wanted."""
    lines = []
    for path in sorted(RESULTS.glob('*/*/result.json')):
        result = read_json(path)
        if 'test_centre' not in result:  # a step of a search, which has a table of its own
            continue
        name = path.parent.relative_to(RESULTS).as_posix()
        device = result['environment']['device']
        cpu = result['environment']['cpu'].replace('(R)', '').removesuffix(' Processor')
        trained_on = f'{device["count"]} × {device["kind"]}' + (f' ({cpu})' if device['platform'] == 'cpu' else '')
        for key, split, views in (
            ('validation_centre', 'validation', 'centre'),
            ('test_centre', 'test', 'centre'),
            ('test_ten', 'test', 'ten'),
        ):
            parts = {f'{key}, {part}': found for part, found in result[key].get('subsets', {}).items()}
            for scoring, summary in {key: result[key], **parts}.items():
                if (scoring != key) if wanted is None else ((name, scoring) not in wanted):
                    continue
                low, high = (100 * bound for bound in summary['accuracy_interval'])
                cells = [
                    link(name, path, page),
                    result['split_titles'][split] + scoring.removeprefix(key),
                    views,
                    f'{100 * summary["accuracy"]:.2f} ({low:.2f} to {high:.2f})',
                    f'{100 * summary["macro_f1"]:.1f}' if 'macro_f1' in summary else '',
                    str(result['seed']),
                    f'{result["config"]["epochs"]:g}',
                    trained_on,
                    f'{result["training_seconds"] / 60:.0f}',
                ]
                lines.append(f'| {" | ".join(cells)} |')
    return lines


def sweep_rows(page: pathlib.Path) -> list[str]:
    """A line of the table for each test scoring of each of SWEEPS: over the draws their mean, of folds all images, each tested once."""
    lines = []
    for name in SWEEPS:
        folder = RESULTS / name / 'runs'
        if not folder.exists():
            continue
        for row in make_rows(make_groups(find_runs([folder])[0])[0]):
            if row.split == 'test':
                low, high = (100 * bound for bound in row.seeds_interval or row.images_interval)
                cells = [
                    link(name, folder / 'sweep.json', page),
                    row.title,
                    row.views,
                    f'{100 * row.mean:.2f} ({low:.2f} to {min(high, 100):.2f})',
                    f'{100 * row.average("macro_f1"):.1f}',
                    f'{100 * row.nearest_neighbour:.1f}',
                    f'{len(row.accuracies)} draws' if row.over == 'draws' else f'{len(row.runs)} folds',
                    f'{row.runs[0].config.epochs:g}',
                ]
                lines.append(f'| {" | ".join(cells)} |')
    return lines


def speed_rows(page: pathlib.Path) -> list[str]:
    """A line of the table for each comparison of each recorded benchmark."""
    lines = []

    def add(name: str, *cells: str) -> None:
        lines.append(f'| {link(name, RESULTS / "speed" / name / "measurement.json", page)} | {" | ".join(cells)} |')

    def compare(name: str, what: str, found: dict[str, Any], own: str, unit: str = 'images/s') -> None:
        medians = {contender: statistics.median(rates) for contender, rates in found['images_per_second'].items()}
        for contender, times in found[f'{own.replace(" ", "_")}_times_as_fast_as'].items():
            spread = '{median:.2f} ({low:.2f} to {high:.2f})'.format(**times)
            add(name, what, f'{medians[own]:.0f} {unit}', f'{contender}: {medians[contender]:.0f} {unit}', spread)

    measured = {path.parent.name: read_json(path) for path in sorted((RESULTS / 'speed').glob('*/measurement.json'))}
    if found := measured.get('train_throughput'):
        compare('train_throughput', f'training step, batch {found["batch_size"]}, {found["dtype"]}', found, 'fer_jax')
    for batch, found in measured.get('inference', {}).get('batches', {}).items():
        compare('inference', f'probabilities of {batch} face{"s" * (batch != "1")}', found, 'fer_jax')
    if found := measured.get('input_cost'):
        rates, cost = found['images_per_second'], found['input_cost_per_cent']
        whole, fixed = (statistics.median(rates[name]) for name in ('whole', 'fixed'))
        spread = f'input costs {cost["median"]:.1f} % ({cost["low"]:.1f} to {cost["high"]:.1f})'
        add('input_cost', 'training step with its input', f'{whole:.0f} images/s', f'on one fixed batch: {fixed:.0f} images/s', spread)
    if found := measured.get('stream'):
        rates, cost = found['images_per_second'], found['input_cost_per_cent']
        streamed, fixed = (statistics.median(rates[name]) for name in ('streamed', 'fixed'))
        spread = f'streaming costs {cost["median"]:.1f} % ({cost["low"]:.1f} to {cost["high"]:.1f})'
        what = f'training step streamed from {found["faces"]:,} faces'
        add('stream', what, f'{streamed:.0f} images/s', f'on one fixed batch: {fixed:.0f} images/s', spread)
    if found := measured.get('replicas'):
        rates = found['images_per_second']
        one = statistics.median(rates['1'])
        for count, times in found['times_as_fast_as_one'].items():
            spread = '{median:.2f} ({low:.2f} to {high:.2f})'.format(**times)
            add(
                'replicas',
                f'{count} seeds in one program',
                f'{statistics.median(rates[count]):.0f} images/s',
                f'one seed: {one:.0f} images/s',
                spread,
            )
    add_programs(measured, add)
    return lines


def add_programs(measured: dict[str, Any], add: Callable[..., None]) -> None:
    """The lines of benchmarks that time whole programs: of the fleet, from the shell on, of a film, and how near a limit a step is."""
    for name, cost in measured.get('fleet_overhead', {}).get('overhead_per_cent', {}).items():
        rates = {each: statistics.median(found) for each, found in measured['fleet_overhead']['photographs_per_second'].items()}
        spread = f'the fleet costs {cost["median"]:.1f} % ({cost["low"]:.1f} to {cost["high"]:.1f})'
        add(
            'fleet_overhead',
            f'faces by Ray, {name}',
            f'{rates[name]:.1f} photographs/s',
            f'predict: {rates["predict"]:.1f} photographs/s',
            spread,
        )
    if found := measured.get('fleet_engines'):
        rates = found['photographs_per_second']
        own = rates['ray tasks']
        for engine, rate in rates.items():
            if engine != 'ray tasks':
                what = 'faces by Ray, the whole command without its start'
                add('fleet_engines', what, f'{own:.1f} photographs/s', f'{engine}: {rate:.1f} photographs/s', f'{own / rate:.2f}')
    if found := measured.get('startup'):
        add('startup', '`--help`', f'{found["help_seconds"]:.2f} s', '', '')
        cold, warm = (f'{found[kind]["total"]:.1f} s' for kind in ('cold', 'warm'))
        add('startup', 'first training step, programs in the cache', warm, f'empty cache: {cold}', '')
    for what, title in (('first_label', 'from the shell to the first label'), ('explain', 'from the shell to three explanations')):
        if found := measured.get('first_label', {}).get('seconds', {}).get(what):
            add('first_label', f'{title}, warm', f'{found["median"]:.2f} s', f'no programs kept: {found["cold"]:.1f} s', '')
    if found := measured.get('video'):
        rates, long = found['frames_per_second'], found['long']
        memory = f'{long["frames"]:,} frames: {long["mebibytes"]["growth"]:+.1f} MiB'
        add('video', 'film of 1280×720', f'{min(rates):.0f} to {max(rates):.0f} frames/s', memory, '')
    if found := measured.get('roofline'):
        times = f'{found["per_cent_of_limit"]:.0f} % of the limit, set by {found["bound"]}'
        add('roofline', 'training step', f'{1e3 * found["step_seconds"]:.0f} ms', f'limit: {1e3 * found["limit_seconds"]:.0f} ms', times)


def fault_rows(page: pathlib.Path) -> list[str]:
    """A line of the table for each recorded campaign of faults."""
    lines = []
    for path in sorted((RESULTS / 'faults').glob('*.json')):
        found = read_json(path)
        name = link(found['campaign'], path, page)
        lines.append(f'| {name} | {found["what"].rstrip(".")} | {found["tried"]:,} | {len(found["wrong"])} | {found["seconds"] / 60:.0f} |')
    return lines


def face_rows(page: pathlib.Path) -> list[str]:
    """A line of the table for each detector."""
    lines = []
    for name, found in read_json(RESULTS / 'faces/measurement.json')['detectors'].items():
        drawn, photographs = found['drawn'], found['photographs'].values()
        seen = f'{sum(each["found"] for each in photographs)} of {sum(each["faces"] for each in photographs)}'
        false = f'{sum(len(each["false"]) for each in photographs)} in {len(photographs)}'
        accuracies = (f'{100 * drawn[key]:.1f}' for key in ('accuracy', 'accuracy_as_drawn', 'accuracy_as_they_stand'))
        times = (f'{each:.0f}' for each in found['milliseconds'].values())
        row = (name, f'{drawn["found"]} of {drawn["faces"]}', drawn['false'], seen, false, *times, *accuracies)
        lines.append(f'| {" | ".join(map(str, row))} |')
    return lines


def card_lines(name: str, page: pathlib.Path) -> list[str]:
    """The measured part of the model card of fer_jax/weights/`name`.safetensors, from what the file says of itself."""
    path = FOLDER / f'{name}.safetensors'
    return measured(load_weights(path), path.name, path.stat().st_size)


def peer_rows() -> list[str]:
    """A line of the table for each network of results/peers; one that says so where that was not measured."""
    path = RESULTS / 'peers' / 'measurement.json'
    if not path.exists():
        return ['Not measured yet.']
    peers = read_json(path)['peers']
    titles = list(next(iter(peers.values()))['sets'])
    lines = [f'| network | bytes | ms a face | {" | ".join(titles)} |', f'|---|---:|---:|{"---:|" * len(titles)}']
    for name, found in peers.items():
        shares = [f'{100 * each["accuracy"]:.2f} / {100 * each["balanced_accuracy"]:.1f}' for each in found['sets'].values()]
        lines.append(
            f'| {name}, chosen on {found["chosen_on"]} | {found["bytes"]:,} | {found["milliseconds"]:.2f} | {" | ".join(shares)} |'
        )
    return lines


def photograph_rows() -> list[str]:
    """A line of the table for each face of results/peers' photographs, with what each network says."""
    path = RESULTS / 'peers' / 'measurement.json'
    people = read_json(path)['photographs'] if path.exists() else []
    if not people:
        return ['Not measured yet.']
    names = list(people[0]['said'])
    lines = [f'| face | shows | {" | ".join(names)} |', f'|---|---|{"---|" * len(names)}']
    for person in people:
        said = (f'{label} {100 * sure:.0f} %' for label, sure in (person['said'][name] for name in names))
        place = f'{person["picture"].rpartition("/")[2]} at {person["x"]}, {person["y"]}'
        lines.append(f'| {place} | {person["shows"]} | {" | ".join(said)} |')
    return lines


def between(text: str, name: str, lines: list[str]) -> str:
    """`text` with `lines` in place of what stands between the marks of that name."""
    begin, end = f'<!-- {name}: written by benchmarks/results_table.py -->', f'<!-- end of {name} -->'
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    table = '\n'.join(lines)
    return f'{before}{begin}\n\n{table}\n\n{end}{after}'


# Page → the parts of it that are written here, by the name of their marks.
PAGES: dict[str, dict[str, Callable[[pathlib.Path], list[str]]]] = {
    'README.md': {'results': lambda page: HEADER + rows(page, HEADLINES)},
    'docs/results.md': {
        'results': lambda page: HEADER + rows(page),
        'sweeps': lambda page: SWEEPS_HEADER + sweep_rows(page),
        'speed': lambda page: SPEED_HEADER + speed_rows(page),
    },
    'docs/predict.md': {'faces': lambda page: FACES_HEADER + face_rows(page)},
    'docs/faults.md': {'faults': lambda page: FAULTS_HEADER + fault_rows(page)},
    'docs/others.md': {'peers': lambda page: peer_rows(), 'photographs': lambda page: photograph_rows()},
    'fer_jax/weights/README.md': {path.stem: functools.partial(card_lines, path.stem) for path in sorted(FOLDER.glob('*.safetensors'))},
}


def renewed(name: str) -> str:
    """The text of a page with its tables made anew."""
    page = ROOT / name
    text = page.read_text('utf-8')
    for part, make in PAGES[name].items():
        text = between(text, part, make(page))
    return text


if __name__ == '__main__':
    for name in PAGES:
        write_atomic(ROOT / name, renewed(name))
