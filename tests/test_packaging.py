"""One install: what the wheel and the sdist hold, and that what they install works from an empty folder."""

import importlib
import json
import os
import pathlib
import re
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile

import jax
import numpy as np
import pytest
from PIL import Image

import fer_jax
from fer_jax.core.fields import SHIPPED
from fer_jax.data.toyfaces import draw
from fer_jax.runs.weights import load_weights
from tests import tiny
from tests.tiny import ROOT

DATA_FILES = {'py.typed', 'inference/demo.html'} | {
    f'weights/{name}' for name in ('README.md', 'ferplus-1.9m.safetensors', 'fer2013-1.9m.safetensors')
}


def test_the_public_names_come_when_they_are_asked_for():
    code = (
        'import sys, fer_jax; assert "jax" not in sys.modules;from fer_jax import *; print(sorted(set(fer_jax.__all__) - set(globals())))'
    )
    result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=120)
    assert (result.returncode, result.stdout) == (0, '[]\n'), result.stderr
    assert set(fer_jax.__all__) <= set(dir(fer_jax))
    classifier = importlib.import_module('fer_jax.inference.classifier')
    assert all(getattr(fer_jax, name) is getattr(classifier, name) for name in ('load', 'predict', 'Classifier', 'Face'))
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        fer_jax.lode  # noqa: B018


def build(target: str, source: pathlib.Path, out: pathlib.Path) -> pathlib.Path:
    """Builds the wheel or the sdist of a folder, as pip does it, but with the hatchling that is here."""
    command = [sys.executable, '-m', 'hatchling', 'build', '-t', target, '-d', str(out)]
    subprocess.run(command, cwd=source, check=True, capture_output=True, timeout=300)
    (built,) = out.iterdir()
    return built


def build_and_install(folder: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path, pathlib.Path]:
    """The sdist, the wheel made of it, and a new environment that has the wheel, and its dependencies from this one."""
    sdist = build('sdist', ROOT, folder / 'sdist')
    assert not [*ROOT.glob('build'), *ROOT.glob('dist'), *ROOT.glob('*.egg-info')], 'building leaves nothing in the checkout'
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter='data')
    wheel = build('wheel', folder / sdist.name.removesuffix('.tar.gz'), folder / 'wheel')
    venv.create(folder / 'env', symlinks=True)
    python = folder / 'env' / 'bin' / 'python'
    purelib = subprocess.check_output([python, '-c', 'import sysconfig; print(sysconfig.get_path("purelib"))'], text=True).strip()
    pathlib.Path(purelib, 'dependencies.pth').write_text(sysconfig.get_path('purelib') + '\n')
    install = ['-m', 'pip', '--python', str(python), 'install', '--quiet', '--no-deps', '--no-index', str(wheel)]
    subprocess.run([sys.executable, *install], check=True, timeout=300)
    return sdist, wheel, python.parent


@pytest.fixture(scope='module')
def installed(tmp_path_factory: pytest.TempPathFactory) -> tuple[pathlib.Path, pathlib.Path, pathlib.Path]:
    return build_and_install(tmp_path_factory.mktemp('packaging'))


@pytest.fixture(scope='module')
def fer(installed, tmp_path_factory):
    """A function that runs an installed program in a folder that was empty, and gives exit code, output and errors."""
    folder = tmp_path_factory.mktemp('empty')
    environment = {name: text for name, text in os.environ.items() if name != 'PYTHONPATH'}

    def run(*arguments: str, program: tuple[str, ...] = ('fer-jax',)) -> tuple[int, str, str]:
        command = [installed[2] / program[0], *program[1:], *arguments]
        result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=1200)
        return result.returncode, result.stdout, result.stderr

    run.folder = folder
    return run


@pytest.fixture(scope='module')
def trained(fer) -> str:
    """What training printed, of eight steps of one block on drawn faces; the run lies in `run`."""
    fields = tiny.FIELDS | {'epochs': '1', 'network.blocks': '8', 'network.attention': 'both', 'evaluation.test': 'false'}
    code, out, err = fer('train', '--workdir', 'run', *(f'--config.{name}={text}' for name, text in fields.items()))
    assert code == 0, err
    return out


@pytest.mark.slow
def test_what_the_wheel_and_the_sdist_hold(installed):
    sdist, wheel, _ = installed
    tracked = subprocess.check_output(
        ['git', 'ls-files', '--cached', '--others', '--exclude-standard', 'fer_jax', 'configs'], cwd=ROOT, text=True
    ).split()
    assert {name.removeprefix('fer_jax/') for name in tracked} >= DATA_FILES
    wanted = {name if name.startswith('fer_jax/') else f'fer_jax/{name}' for name in tracked}
    with zipfile.ZipFile(wheel) as archive:
        about = {name for name in archive.namelist() if '.dist-info/' in name}
        assert set(archive.namelist()) - about == wanted
        assert any(name.endswith('/licenses/LICENSE') for name in about)
    with tarfile.open(sdist) as archive:
        held = {name.partition('/')[2] for name in archive.getnames()}
    assert {*tracked, 'LICENSE', 'README.md', 'pyproject.toml'} <= held
    assert not {name.partition('/')[0] for name in held} & {'results', 'tests', 'docs'}


@pytest.mark.slow
def test_the_version(fer):
    code, out, err = fer('--version')
    assert code == 0, err
    assert out.splitlines()[0] == f'fer_jax {fer_jax.__version__}', 'no checkout, so no revision'
    assert out.splitlines()[1].startswith(f'JAX {jax.__version__} on 1 × cpu')
    assert fer('--version', program=('python', '-m', 'fer_jax')) == (0, out, err), 'the script is the same program'


@pytest.mark.slow
def test_bad_input_is_one_line_in_the_script_too(fer):
    for program in (('fer-jax',), ('python', '-m', 'fer_jax')):
        code, out, err = fer('train', '--config.sede=3', program=program)
        assert (code, out, err) == (2, '', "error: unknown config field 'sede': did you mean 'seed'?\n")


@pytest.mark.slow
def test_summary(fer):
    code, out, err = fer('summary')
    assert code == 0, err
    assert re.search(r'^32,20,20 +CSP_BLOCK +12,864 ', out, re.MULTILINE) and '1,906,382' in out


@pytest.mark.slow
def test_configurations_that_load_others(fer):
    code, out, err = fer('sweep', '--config', 'ckplus_folds', '--seeds', '0', '--dry-run', '--config.data.path=nowhere')
    assert code == 0 and out.count('not begun') == 10, err


@pytest.mark.slow
def test_training_and_evaluation(fer, trained):
    result = json.loads((fer.folder / 'run' / 'result.json').read_text())
    assert 5 <= result['steps'] <= 10 and result['environment']['code'] == {'revision': '', 'dirty': False}
    assert trained.startswith('run: run\n') and (fer.folder / 'data').is_dir()
    code, out, err = fer('evaluate', '--workdir', 'run', '--split', 'validation')
    assert code == 0, err
    (record,) = (fer.folder / 'run' / 'evaluations').glob('best-*/result.json')
    again = json.loads(record.read_text())
    assert again['confusion_matrix'] == result['validation_centre']['confusion_matrix']
    assert f'{100 * again["accuracy"]:.2f}' in out


@pytest.mark.slow
def test_the_shipped_weights_without_their_data(fer):
    code, out, err = fer('evaluate', '--checkpoint', SHIPPED)
    assert code == 2 and out == '' and err.startswith('error: ') and err.count('\n') == 1 and 'fer2013' in err


@pytest.mark.slow
def test_prediction_by_command_and_from_python(fer):
    pytest.importorskip('cv2', reason="needs pip install 'fer_jax[predict]'")
    faces, _, _ = draw(1, 0)
    Image.fromarray(faces[0]).save(fer.folder / 'face.png')
    code, out, err = fer('predict', 'face.png', '--no-detect', '--json', 'found.json')
    assert code == 0, err
    found = json.loads((fer.folder / 'found.json').read_text())
    (face,) = found['faces']
    weights = load_weights(ROOT / 'fer_jax' / 'weights' / f'{SHIPPED}.safetensors')
    assert (found['checkpoint'], found['sha256'], tuple(found['classes'])) == (SHIPPED, weights.sha256, weights.class_names)
    assert sum(face['probabilities'].values()) == pytest.approx(1, abs=1e-4) and face['label'] in out
    code = (
        'import fer_jax, json; from fer_jax import Face, load, predict; (face,) = predict("face.png", load(), detect=False);'
        'assert isinstance(face, Face) and "site-packages" in fer_jax.__file__; print(json.dumps(face.probabilities))'
    )
    code, out, err = fer('-c', code, program=('python',))
    assert code == 0, err
    assert json.loads(out) == pytest.approx(face['probabilities'], abs=1e-5)


@pytest.mark.slow
def test_export(fer, trained):
    runtime = pytest.importorskip('onnxruntime', reason="needs pip install 'fer_jax[export]'")
    code, out, err = fer('export', '--workdir', 'run', '--format', 'onnx', '--out', 'fer.onnx')
    assert code == 0, err
    assert 'largest difference from JAX' in out
    session = runtime.InferenceSession(fer.folder / 'fer.onnx', providers=['CPUExecutionProvider'])
    (given,) = session.get_inputs()
    _, probabilities = session.run(None, {given.name: draw(3, 0)[0]})
    assert probabilities.shape == (3, 7) and np.allclose(probabilities.sum(1), 1, atol=1e-5)
