"""launch/serve/Dockerfile: what is in the image of the service, who runs it, and that what it starts is a command."""

import contextlib
import http.server
import json
import re
import subprocess
import sys
import threading

import pytest

from fer_jax.__main__ import parse
from tests.launch.test_cluster import instructions
from tests.tiny import ROOT

STEPS = instructions(ROOT / 'launch/serve')


def test_what_it_copies_is_sent_to_the_builder_and_it_ends_as_a_user_that_is_not_root():
    shown = (ROOT / 'launch/serve/Dockerfile.dockerignore').read_text().splitlines()
    copied = [rest.split()[-2] for name, rest in STEPS if name == 'COPY' and not rest.startswith('--from=')]
    assert shown[0] == '*' and set(shown[1:]) == {*(f'!{source}' for source in copied), '**/__pycache__'}
    assert all((ROOT / source).exists() for source in copied)
    last = max(place for place, (name, _) in enumerate(STEPS) if name in ('RUN', 'COPY', 'USER'))
    assert STEPS[last][0] == 'USER' and int(STEPS[last][1]) > 0


def test_it_has_neither_tensorflow_nor_cuda():
    (install,) = (rest for name, rest in STEPS if name == 'RUN' and 'venv' in rest)
    locks = re.findall(r'-r (\S+)', install)
    assert locks == ['requirements/build.txt', 'requirements.txt', 'requirements/serve.txt']
    names = set(re.findall(r'^([a-z0-9._-]+)==', '\n'.join((ROOT / lock).read_text() for lock in locks), re.MULTILINE))
    assert {'jax', 'onnxruntime', 'starlette', 'uvicorn', 'python-multipart', 'prometheus-client'} <= names
    assert not [name for name in names if re.match(r'tensorflow(-cpu)?$|torch|nvidia-|jax-cuda', name)]
    assert all('--require-hashes' in part for part in install.split('&&') if 'pip install' in part)


def test_what_it_starts_is_a_command_and_its_health_is_asked_where_it_answers():
    said = {name: rest for name, rest in STEPS if name in ('ENTRYPOINT', 'HEALTHCHECK', 'EXPOSE')}
    options = parse(json.loads(said['ENTRYPOINT'])[3:])
    assert (options.command, options.host, options.port) == ('serve', '0.0.0.0', int(said['EXPOSE']))
    assert f"HTTPConnection('127.0.0.1', {options.port}," in said['HEALTHCHECK'] and "'/healthz'" in said['HEALTHCHECK']


@pytest.mark.parametrize('status', [200, 500, None])
def test_it_is_healthy_where_it_answers_so_also_where_there_is_a_proxy(status):
    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status if self.path == '/healthz' else 404)
            self.end_headers()

    (check,) = (rest.partition('CMD ')[2] for name, rest in STEPS if name == 'HEALTHCHECK')
    server = http.server.HTTPServer(('127.0.0.1', 0), Answer)
    with contextlib.closing(server.socket):
        if status:
            threading.Thread(target=server.handle_request, daemon=True).start()
        else:
            server.socket.close()  # nobody listens
        _, option, code = json.loads(check)
        assert ', 8000,' in code
        words = [sys.executable, option, code.replace(', 8000,', f', {server.server_port},')]
        ended = subprocess.run(words, env={'http_proxy': 'http://127.0.0.1:9'}, capture_output=True, timeout=60)
    assert (ended.returncode == 0) == (status == 200), ended.stderr
