"""docs/walkthrough.ipynb: its cells do what they say, one after the other."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from tests.tiny import ROOT

NOTEBOOK = ROOT / 'docs' / 'walkthrough.ipynb'
# Half of the faces, two blocks in place of the paper's six, and for each run of the sweep one epoch and no pictures, which nobody looks at.
SMALLER = {
    "'data.toyfaces_images': '4200'": "'data.toyfaces_images': '2100', 'network.blocks': '24,48', 'network.strides': '2,2'",
    'config.epochs = 6.0': 'config.epochs, config.evaluation.figures = 1.0, False',
}
# As Jupyter does it, without Jupyter: the cells in one namespace, from the notebook's folder.
RUN = """
import json, sys

names = {'__name__': '__main__'}
for cell in json.load(open(sys.argv[1]))['cells']:
    if cell['cell_type'] == 'code':
        source = ''.join(cell['source'])
        for text, smaller in json.loads(sys.argv[2]).items():
            source = source.replace(text, smaller)
        exec(compile(source, cell['id'], 'exec'), names)
assert names['result']['steps'] == json.loads(names['workdir'].joinpath('result.json').read_text())['steps']
assert abs(names['probabilities'].sum(-1) - 1).max() < 1e-5
print(f"accuracy {names['result']['test_ten']['accuracy']:.3f}")
"""


def test_its_outputs_are_there_and_small() -> None:
    cells = json.loads(NOTEBOOK.read_text('utf-8'))['cells']
    code = [cell for cell in cells if cell['cell_type'] == 'code']
    assert len(code) > 10 and all(cell['outputs'] or 'import' in ''.join(cell['source']) for cell in code)
    assert NOTEBOOK.stat().st_size < 1 << 20
    assert not any(output['output_type'] == 'error' for cell in code for output in cell['outputs'])


@pytest.mark.slow
def test_the_whole_way(tmp_path: pathlib.Path) -> None:
    environment = os.environ | {'JAX_PLATFORMS': 'cpu', 'TMPDIR': str(tmp_path)}
    command = [sys.executable, '-W', 'ignore', '-c', RUN, str(NOTEBOOK), json.dumps(SMALLER)]
    assert all(json.dumps(text)[1:-1] in NOTEBOOK.read_text('utf-8') for text in SMALLER)
    process = subprocess.run(command, cwd=ROOT / 'docs', env=environment, capture_output=True, text=True, timeout=1200)
    assert process.returncode == 0, process.stderr[-3000:]
    # Of seven classes by chance a seventh, by networks of two blocks like these two to three times that.
    assert float(process.stdout.rsplit('accuracy ', 1)[1]) > 0.25
