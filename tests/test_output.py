"""Every command where its output is of another encoding than UTF-8, and a run whose output nobody reads."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests.tiny import ROOT, overrides, run, start

pytestmark = pytest.mark.slow
COMMANDS = re.findall(r'^\| `(\w+)` \|', (ROOT / 'README.md').read_text('utf-8'), re.MULTILINE)
FIELDS = {'epochs': '1', 'network__blocks': '8', 'network__attention': 'both', 'parallel__cpu_devices': '1'}

# Commands one after the other, each what `python -m fer_jax` does with its arguments, in one process: its start is the most of a command.
# After each command its exit code stands, between form feeds, on both streams.
EACH = """
import json, sys
from fer_jax.__main__ import main
from fer_jax.core.terminal import forgive_output

forgive_output()
for arguments in json.loads(sys.argv[1]):
    code = main(arguments)
    for stream in (sys.stdout, sys.stderr):
        print(f'\\f{code}\\f', end='', file=stream, flush=True)
"""


def arguments(folder: pathlib.Path) -> dict[str, list[str]]:
    """Each command's, in an order in which each has what it needs; files with names that neither ASCII nor cp1252 has."""
    workdir, picture = str(folder / 'Läufe → 表'), str(folder / 'Gesicht × 表.png')
    fields, weights = overrides(folder, **FIELDS), str(folder / 'é.safetensors')
    Image.fromarray(np.arange(48 * 48, dtype=np.uint8).reshape(48, 48)).save(picture)
    return {
        'prepare': fields,
        'summary': [],
        'train': ['--workdir', workdir, *fields],
        'evaluate': ['--workdir', workdir],
        'weights': ['--workdir', workdir, '--out', weights],
        'report': ['--workdir', workdir],
        'export': ['--workdir', workdir, '--format', 'stablehlo', '--out', str(folder / 'é.stablehlo')],
        'predict': [picture, '--no-detect', '--checkpoint', weights],
        'explain': [picture, '--no-detect', '--checkpoint', weights, '--out', str(folder / 'explained')],
        'sweep': ['--seeds', '0', '--workdir', str(folder / 'sweep'), *fields, '--config.evaluation.test=false'],
    }


@pytest.mark.parametrize('environment', ['PYTHONIOENCODING=ascii', 'PYTHONIOENCODING=cp1252'])
def test_every_command_of_the_readme_in_another_encoding(environment: str, tmp_path: pathlib.Path) -> None:
    variables = dict(pair.split('=') for pair in environment.split())
    known = arguments(tmp_path)
    assert sorted([*known, 'demo', 'serve']) == sorted(COMMANDS)
    listed = json.dumps([[command, *given] for command, given in known.items()])
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', EACH, listed],
        env=os.environ | variables | {'JAX_NUM_CPU_DEVICES': '1'},
        capture_output=True,
        encoding='latin-1',
        timeout=600,
    )
    outs, errs = (re.findall(r'([^\f]*)\f(\w+)\f', text) for text in (done.stdout, done.stderr))
    assert len(outs) == len(errs) == len(known), done.stderr
    for command, (out, code), (err, _) in zip(known, outs, errs, strict=True):
        assert code == '0' and 'Traceback' not in err and 'Error' not in err, (command, err)
        assert out and (environment != 'PYTHONIOENCODING=ascii' or out.isascii()), (command, out)
    result = json.loads((tmp_path / 'Läufe → 表' / 'result.json').read_text('utf-8'))
    assert result['test_ten']['count'] > 0
    for command, does in (('demo', 'shows'), ('serve', 'answers with')):
        process = start(command, '--port', '0', '--checkpoint', str(tmp_path / 'é.safetensors'), environment=variables, encoding='latin-1')
        try:
            assert re.match(rf'http://127\.0\.0\.1:\d+ {does}', process.stdout.readline())
        finally:
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=60)
        assert 'Traceback' not in err


def test_a_run_and_a_prediction_in_a_plain_locale(tmp_path: pathlib.Path) -> None:
    known = arguments(tmp_path)
    for command in ('train', 'weights', 'predict'):
        code, out, err = run(command, *known[command], environment={'LC_ALL': 'C'}, encoding='latin-1')
        assert code == 0 and out and 'Traceback' not in err and 'Error' not in err, (command, err)


def test_a_run_whose_output_is_cut_off_has_its_result(tmp_path: pathlib.Path) -> None:
    process = start('train', '--workdir', str(tmp_path / 'run'), *overrides(tmp_path, **FIELDS))
    with process:
        assert process.stdout.readline().startswith('run: ')
        process.stdout.close()  # as `| head -1` does
        err = process.stderr.read()
        assert process.wait(300) == 0 and 'Traceback' not in err and 'Error' not in err
    assert (tmp_path / 'run' / 'result.json').exists()


@pytest.mark.skipif(not pathlib.Path('/dev/full').exists(), reason='no /dev/full')
def test_a_run_with_a_full_disk_below_its_log_has_its_result(tmp_path: pathlib.Path) -> None:
    with open('/dev/full', 'w') as full:
        process = start('train', '--workdir', str(tmp_path / 'run'), *overrides(tmp_path, **FIELDS), to=full)
        assert process.wait(300) == 0
    assert (tmp_path / 'run' / 'result.json').exists()
