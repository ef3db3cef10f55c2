"""fer_jax/runs/hub.py: a folder of a model hub that comes by its address, from a server that stands in for one."""

import hashlib
import http.server
import json
import os
import pathlib
import subprocess
import sys
import threading

import pytest

from fer_jax.__main__ import main
from fer_jax.core.errors import InputError
from fer_jax.runs import hub
from fer_jax.runs.weights import load_weights, read_weights
from tests.tiny_weights import write_weights

# What each address gives: name, sha256 and class names of the weights, or the error; two of them, for what is in the cache.
ASK = """
import json, sys
from fer_jax.core.errors import InputError
from fer_jax.runs.weights import read_weights
for address in sys.argv[1:]:
    try:
        found = read_weights(address)
        print(json.dumps([found.name, found.sha256, found.class_names]))
    except InputError as error:
        print(json.dumps(str(error)))
"""


@pytest.fixture(scope='module')
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pathlib.Path]:
    """Two revisions, of other weights."""
    made = {}
    for seed, name in enumerate(('main', 'v1')):
        file = write_weights(tmp_path_factory.mktemp(name) / f'of-{name}.safetensors', seed)
        made[name] = file.parent / 'hub'
        assert main(['export', '--format', 'hub', '--checkpoint', str(file), '--out', str(made[name])]) == 0
    return made


class StandIn(http.server.BaseHTTPRequestHandler):
    """What huggingface_hub asks a hub for one file: HEAD and GET of /OWNER/NAME/resolve/REVISION/FILE."""

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        *_, owner, name, _, revision, file = self.path.split('/')
        folder = self.server.folders.get(self.server.commits.get(revision, revision))
        if (owner, name) not in (('someone', 'faces'), ('someone', 'large')):
            self.refuse('RepoNotFound')
        elif folder is None:
            self.refuse('RevisionNotFound')
        else:
            content = (folder / file).read_bytes()
            commit = next(commit for commit, title in self.server.commits.items() if self.server.folders[title] == folder)
            self.send_response(200)
            self.send_header('ETag', f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header('X-Repo-Commit', commit)
            self.send_header('Content-Length', str(len(content) if name == 'faces' else (1 << 30) + 1))
            self.end_headers()
            if self.command == 'GET':
                self.wfile.write(content)

    do_HEAD = do_GET

    def refuse(self, code: str) -> None:
        self.send_response(404)
        self.send_header('X-Error-Code', code)
        self.send_header('Content-Length', '0')
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        """Nothing."""


def ask(port: int, home: pathlib.Path, *addresses: str) -> list[list | str]:
    environment = os.environ | {'HF_ENDPOINT': f'http://127.0.0.1:{port}', 'HF_HOME': str(home), 'HF_HUB_DISABLE_TELEMETRY': '1'}
    result = subprocess.run([sys.executable, '-c', ASK, *addresses], env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.mark.slow
def test_weights_come_by_their_address(folders, tmp_path):
    pytest.importorskip('huggingface_hub', reason="needs pip install 'fer_jax[hub]'")
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), StandIn)
    server.folders, server.commits, server.asked = folders, {'a' * 40: 'main', 'b' * 40: 'v1'}, []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    expected = {name: load_weights(folder) for name, folder in folders.items()}
    known = {name: [each.name, each.sha256, list(each.class_names)] for name, each in expected.items()}
    addresses = ('hf://someone/faces', 'hf://someone/faces@v1', f'hf://someone/faces@{"b" * 40}')
    try:
        others = ('hf://someone/faces@v2', 'hf://nobody/faces', 'hf://someone/large')
        found = ask(server.server_port, tmp_path, *addresses, *others)
    finally:
        server.shutdown()
        server.server_close()
    assert found[:3] == [known['main'], known['v1'], known['v1']] and known['main'][0] == 'of-main'
    for address, message in zip(others, found[3:], strict=True):
        assert message.startswith(f'{address}: config.json cannot be had: ') and '\\n' not in message
    assert 'it has 1073741825 bytes' in found[5]
    assert {path.rpartition('/')[2] for path in server.asked} == {hub.CONFIG, hub.WEIGHTS}, 'nothing else is fetched'
    assert not any('large' in path and path.endswith(hub.WEIGHTS) for path in server.asked)
    # What was fetched once is there without the hub.
    assert ask(server.server_port, tmp_path, addresses[0]) == [known['main']]


@pytest.mark.parametrize(
    'address', ['hf://', 'hf://faces', 'hf://a/b/c', 'hf://a/b@', 'hf://../b', 'hf://a/b@../../c', 'hf://a/b c', 'hf://a/b\n']
)
def test_what_is_no_address(address):
    with pytest.raises(InputError, match='not an address; hf://OWNER/NAME and hf://OWNER/NAME@REVISION are'):
        hub.download(address)


def test_without_huggingface_hub_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
    with pytest.raises(InputError, match=r"hf://a/b needs huggingface_hub, which is not installed: pip install 'fer_jax\[hub\]'"):
        read_weights('hf://a/b')
