"""Whole runs as a user starts them: to the end, killed and resumed, refused, diverged; evaluated here and elsewhere."""

import json
import os
import pathlib
import re
import shutil
import signal
import time

import numpy as np
import orbax.checkpoint as ocp
import pytest

from fer_jax.core.config import load_config
from fer_jax.core.errors import InputError
from fer_jax.data.prepare import prepare
from fer_jax.runs.claims import holding
from tests import tiny
from tests.tiny import ROOT, command, run, start


def overrides(folder: pathlib.Path, **fields: str) -> list[str]:
    """The arguments of a tiny run with the paper's attention; `fields` as of tiny.overrides."""
    return tiny.overrides(folder, **{'network__attention': 'both'} | fields)


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp('runs')


@pytest.fixture(scope='module')
def finished(folder: pathlib.Path) -> pathlib.Path:
    """The workdir of a tiny run that nothing interrupted."""
    workdir = folder / 'finished'
    code, out, err = run('train', '--workdir', str(workdir), *overrides(folder, evaluation__figures='true'))
    assert code == 0, err
    assert 'accuracy' in out and 'precision' in out and str(workdir) in out
    return workdir


def parameters(workdir: pathlib.Path) -> dict[str, np.ndarray]:
    """Every array of the latest checkpoint, read by Orbax alone."""
    step = max(int(path.name) for path in (workdir / 'checkpoints' / 'latest').iterdir() if path.name.isdecimal())
    tree = ocp.StandardCheckpointer().restore((workdir / 'checkpoints' / 'latest' / str(step) / 'state').absolute())
    import jax

    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(tree)}


def assert_same_run(a: pathlib.Path, b: pathlib.Path) -> None:
    """Parameters, log and scores of two runs are equal to the last bit."""
    left, right = parameters(a), parameters(b)
    assert left.keys() == right.keys()
    for name in left:
        np.testing.assert_array_equal(left[name], right[name], err_msg=name)
    assert (a / 'metrics.jsonl').read_text() == (b / 'metrics.jsonl').read_text()
    ours, theirs = (json.loads((each / 'result.json').read_text()) for each in (a, b))
    for key in ('validation_centre', 'test_centre', 'test_ten', 'best_step', 'steps', 'parameters'):
        assert ours.get(key) == theirs.get(key), key


def test_a_run_leaves_all_its_files(finished: pathlib.Path) -> None:
    result = json.loads((finished / 'result.json').read_text())
    assert 0 <= result['test_centre']['accuracy'] <= 1
    assert result['test_centre']['count'] == sum(map(sum, result['test_centre']['confusion_matrix']))
    assert result['skipped'] == 0
    assert result['environment']['packages']['jax'] and result['config']['batch_size'] == 32
    for name in ('validation-centre', 'test-centre', 'test-ten'):
        files = {path.name for path in (finished / 'evaluations' / f'best-{name}').iterdir()}
        assert files >= {'result.json', 'predictions.csv', 'confusion_matrix.png', 'coverage.png', 'worst_mistakes.png'}
        assert ('attention_maps.png' in files) == (name != 'test-ten')
    lines = [json.loads(line) for line in (finished / 'metrics.jsonl').read_text().splitlines()]
    train = [line['step'] for line in lines if line['kind'] == 'train']
    assert train == sorted(set(train)) and train[-1] == result['steps']
    assert (finished / 'curves.png').exists() and not list(finished.rglob('*.tmp*'))


def test_the_best_checkpoint_is_the_best_validation_line(finished: pathlib.Path) -> None:
    lines = [json.loads(line) for line in (finished / 'metrics.jsonl').read_text().splitlines()]
    scores = [(line['accuracy'], -line['nll'], -line['step']) for line in lines if line['kind'] == 'validation']
    best_accuracy, _, minus_step = max(scores)
    result = json.loads((finished / 'result.json').read_text())
    assert result['best_step'] == -minus_step
    assert result['validation_centre']['accuracy'] == pytest.approx(best_accuracy)


def test_a_workdir_in_which_another_process_trains_is_refused(finished: pathlib.Path, folder: pathlib.Path) -> None:
    workdir = folder / 'taken'
    workdir.mkdir()
    shutil.copy(finished / 'config.json', workdir)
    with holding(workdir / 'claims', 'run', 'this test'):
        with pytest.raises(InputError, match=f'{workdir}: process {os.getpid()} on host .* is at work there'):
            command(['train', '--workdir', str(workdir), *overrides(folder)])
    assert not (workdir / 'metrics.jsonl').exists()


def test_a_finished_run_says_so(finished: pathlib.Path, folder: pathlib.Path, capsys: pytest.CaptureFixture) -> None:
    before = (finished / 'result.json').stat().st_mtime_ns
    command(['train', '--workdir', str(finished), *overrides(folder)])
    assert 'finished' in capsys.readouterr().out
    assert (finished / 'result.json').stat().st_mtime_ns == before


def test_another_configuration_is_refused_with_the_fields(finished: pathlib.Path, folder: pathlib.Path) -> None:
    with pytest.raises(InputError, match='optimizer.learning_rate: 0.01 → 0.02; seed: 0 → 7'):
        command(['train', '--workdir', str(finished), *overrides(folder, seed='7', optimizer__learning_rate='0.02')])


def test_a_folder_of_something_else_is_refused(folder: pathlib.Path) -> None:
    other = folder / 'other'
    other.mkdir()
    (other / 'thesis.txt').write_text('all of it')
    with pytest.raises(InputError, match='no run'):
        command(['train', '--workdir', str(other), *overrides(folder)])
    assert [path.name for path in other.iterdir()] == ['thesis.txt']


def kill_at(step: int, number: int, workdir: pathlib.Path, *arguments: str) -> tuple[int, str]:
    """Starts a run and sends it a signal once its log has come to `step`; returns exit code and standard error."""
    process = start('train', '--workdir', str(workdir), *arguments)
    log, deadline = workdir / 'metrics.jsonl', time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        seen = re.findall(r'"step": (\d+)', log.read_text()) if log.exists() else []
        if seen and int(seen[-1]) >= step:
            break
        time.sleep(0.002)
    process.send_signal(number)
    _, err = process.communicate(timeout=240)
    return process.returncode, err


@pytest.mark.slow
def test_stopped_then_killed_and_resumed_it_is_bitwise_the_same_run(finished: pathlib.Path, folder: pathlib.Path) -> None:
    """SIGTERM saves, and the same command goes on from there; kill -9 costs what came after the last checkpoint, and nothing else."""
    workdir = folder / 'stopped'
    code, err = kill_at(10, signal.SIGTERM, workdir, *overrides(folder))
    assert code == 75 and 'goes on from there' in err
    stopped_at = int(re.search(r'at step (\d+)', err)[1])
    before = (workdir / 'metrics.jsonl').read_text().count('\n')
    code, _ = kill_at(stopped_at + 8, signal.SIGKILL, workdir, *overrides(folder))
    assert code == -signal.SIGKILL and not (workdir / 'result.json').exists()
    assert (workdir / 'metrics.jsonl').read_text().count('\n') > before
    log = (workdir / 'logs' / 'process-0.log').read_text()
    assert f'resuming at step {stopped_at}' in log
    code, _, err = run('train', '--workdir', str(workdir), *overrides(folder))
    assert code == 0, err
    assert_same_run(finished, workdir)
    assert json.loads((workdir / 'result.json').read_text())['starts'] == 3


@pytest.mark.slow
def test_divergence_stops_with_the_steps_and_keeps_the_checkpoint(folder: pathlib.Path) -> None:
    workdir = folder / 'diverged'
    fields = {'optimizer__learning_rate': '100', 'optimizer__weight_decay': '10', 'optimizer__clip': 'none', 'epochs': '40'}
    arguments = overrides(folder, train__checkpoint_every_epochs='0.15', **fields)
    code, _, err = run('train', '--workdir', str(workdir), *arguments)
    told = re.search(
        r'the loss is (?:nan|inf|[0-9.e+]+, above train.loss_limit=100,) at step (\d+), seen when steps \d+ to \d+ were looked at;'
        r' the checkpoint of step (\d+) stands',
        err,
    )
    assert code == 1 and told and int(told[2]) < int(told[1]), err
    assert 'Traceback' not in err and not (workdir / 'result.json').exists()
    assert all(np.isfinite(value).all() for value in parameters(workdir).values())


@pytest.mark.slow
def test_evaluate_repeats_the_runs_own_score_elsewhere(finished: pathlib.Path, folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    copy = tmp_path / 'copy'
    shutil.copytree(finished, copy)
    where = [f'--config.data.prepared={tmp_path / "prepared"}', '--config.evaluation.figures=false']
    code, out, err = run('evaluate', '--workdir', str(copy), '--split', 'test', '--views', 'ten', *where)
    assert code == 0, err
    assert sorted(path.name for path in (copy / 'evaluations' / 'best-test-ten').iterdir()) == ['predictions.csv', 'result.json']
    scored = json.loads((copy / 'evaluations' / 'best-test-ten' / 'result.json').read_text())
    result = json.loads((finished / 'result.json').read_text())
    assert {key: scored[key] for key in result['test_ten']} == result['test_ten']


def test_evaluate_refuses_in_one_line(finished: pathlib.Path, tmp_path: pathlib.Path) -> None:
    for arguments, word in (
        (['--workdir', str(tmp_path)], 'no run there'),
        (['--workdir', str(finished), '--checkpoint', '99999'], "no checkpoint '99999'"),
        (['--workdir', str(finished), '--split', 'PublicTest'], 'unknown split'),
        (['--workdir', str(finished), '--config.seed=3'], 'seed'),
        (['--workdir', str(finished), '--vews', 'ten'], "did you mean '--views'"),
    ):
        with pytest.raises(InputError, match=word) as error:
            command(['evaluate', *arguments])
        assert '\n' not in str(error.value)


def test_data_of_another_content_are_refused(finished: pathlib.Path, folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    copy = tmp_path / 'copy'
    shutil.copytree(finished, copy)
    config = json.loads((copy / 'config.json').read_text())
    config['data']['toyfaces_images'] = 700
    (copy / 'config.json').write_text(json.dumps(config))
    with pytest.raises(InputError, match='not the data'):
        command(['evaluate', '--workdir', str(copy), f'--config.data.prepared={folder / "prepared"}'])


@pytest.mark.filterwarnings('ignore::fer_jax.core.errors.DataWarning')
def test_a_run_on_other_data_is_no_more_of_it(finished: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture) -> None:
    """One that is finished is not taken for the answer; one that is not is not gone on with, and its config.json stays as it was."""
    other = {}
    for place, name in enumerate(('one', 'two')):
        rows = [
            f'{number % 7},{" ".join([str(number + 50 * place)] * 2304)},{usage}'
            for number in range(70)
            for usage in ('Training', 'PublicTest', 'PrivateTest')
        ]
        other[name] = tmp_path / f'{name}.csv'
        other[name].write_text('\n'.join(['emotion,pixels,Usage', *rows]))
    arguments = overrides(tmp_path, data__dataset='fer2013')
    workdir = tmp_path / 'run'
    shutil.copytree(finished, workdir)
    config = json.loads((finished / 'config.json').read_text())
    config['data'] |= {'dataset': 'fer2013', 'path': str(other['one']), 'prepared': str(tmp_path / 'prepared')}
    (workdir / 'config.json').write_text(json.dumps(config))
    fields = dict(argument.removeprefix('--config.').split('=', 1) for argument in arguments)
    content = prepare(load_config(str(ROOT / 'configs' / 'toyfaces.py'), fields | {'data.path': str(other['one'])}).data)['content_sha256']
    result = json.loads((finished / 'result.json').read_text())
    (workdir / 'result.json').write_text(json.dumps(result | {'content_sha256': content}))
    command(['train', '--workdir', str(workdir), *arguments, f'--config.data.path={other["one"]}'])
    assert 'this run is finished' in capsys.readouterr().out
    with pytest.raises(InputError, match='fer2013: these are not the data that the run was trained on'):
        command(['train', '--workdir', str(workdir), *arguments, f'--config.data.path={other["two"]}'])
    (workdir / 'result.json').unlink()
    with pytest.raises(InputError, match='fer2013: these are not the data that the run was trained on'):  # but ToyFaces
        command(['train', '--workdir', str(workdir), *arguments, f'--config.data.path={other["two"]}'])
    assert json.loads((workdir / 'config.json').read_text())['data']['path'] == str(other['one'])


@pytest.mark.slow
def test_a_run_of_many_parts(folder: pathlib.Path) -> None:
    """Views that grow, windows, the mean of the last steps, ten crops: kills in two of its parts change no bit of what it leaves."""
    parts = {
        'augment__early_side': '16', 'augment__early_share': '0.4',
        'augment__alternate': 'true',
        'augment__mixup': '0.2', 'augment__mix_from': '0.4', 'augment__mix_to': '0.7',  # from one switch to another: a program less each
        'optimizer__sam': '0.05', 'optimizer__sam_from': '0.7',
        'optimizer__ema': '0', 'optimizer__average_from': '0.6',
        'evaluation__ten_from': '0.6', 'evaluation__test': 'false',
        'network__blocks': '8', 'network__attention': 'none',
    }  # fmt: skip
    arguments = overrides(folder, train__checkpoint_every_epochs='0.5', **parts)
    for step in (10, 33):  # of 42
        code, _ = kill_at(step, signal.SIGKILL, folder / 'parts-killed', *arguments)
        assert code == -signal.SIGKILL
    for name, traced in (('parts', ['--config.train.profile=20:22']), ('parts-killed', [])):
        code, _, err = run('train', '--workdir', str(folder / name), *arguments, *traced)
        assert code == 0, err
    assert len(list((folder / 'parts' / 'profile').rglob('*.xplane.pb'))) == 1
    assert_same_run(folder / 'parts', folder / 'parts-killed')
    result = json.loads((folder / 'parts' / 'result.json').read_text())
    assert result['best_step'] > 0.6 * result['steps']
    lines = [json.loads(line) for line in (folder / 'parts' / 'metrics.jsonl').read_text().splitlines()]
    by_ten = {line['step']: line['accuracy'] for line in lines if line['kind'] == 'validation' and line['step'] > 0.6 * result['steps']}
    assert result['validation_ten']['accuracy'] == pytest.approx(max(by_ten.values()))
    left = parameters(folder / 'parts')
    means = [name for name in left if name.startswith("['average']") and 'mean' in name]
    assert any(np.abs(left[name] - left[name.replace('average', 'variables')]).max() > 1e-3 for name in means), 'of their own'


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore::fer_jax.core.errors.DataWarning')
def test_votes_teach_a_second_head_that_is_not_kept(tmp_path: pathlib.Path) -> None:
    """The checkpoint has both heads; the weights, their parameters and what they score are those of the first."""
    draws = np.random.default_rng(0)
    faces, votes = ['emotion,pixels,Usage'], ['Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF']
    for number in range(140):
        usage = ('Training', 'PublicTest', 'PrivateTest')[number // 7 % 5 % 3]
        faces.append(f'{number % 7},{" ".join(map(str, draws.integers(0, 256, 2304)))},{usage}')
        votes.append(f'{usage},,{",".join(map(str, draws.multinomial(10, [0.1] * 10)))}')
    (tmp_path / 'fer2013.csv').write_text('\n'.join(faces))
    (tmp_path / 'votes.csv').write_text('\n'.join(votes))
    fields = {'epochs': '1', 'data__path': str(tmp_path / 'fer2013.csv'), 'data__votes': str(tmp_path / 'votes.csv')}
    arguments = overrides(tmp_path, data__dataset='fer2013', data__votes_head='0.5', **fields)
    code, _, err = run('train', '--workdir', str(tmp_path / 'run'), *arguments)
    assert code == 0, err
    head = parameters(tmp_path / 'run')["['variables']['params']['head']['bias']"]
    result = json.loads((tmp_path / 'run' / 'result.json').read_text())
    assert head.shape == (14,)
    file = str(tmp_path / 'w.safetensors')
    code, out, err = run('weights', '--workdir', str(tmp_path / 'run'), '--out', file)
    assert code == 0 and f'{result["parameters"]:,} parameters' in out, err
    code, _, err = run('evaluate', '--checkpoint', file, '--out', str(tmp_path / 'again'), *arguments[-6:])
    assert code == 0, err
    again = json.loads((tmp_path / 'again' / 'result.json').read_text())
    assert again['confusion_matrix'] == result['test_centre']['confusion_matrix']
