"""fer_jax/inference/service.py: what programs are answered, in how many calls, what is refused and how, and what its document says."""

import base64
import contextlib
import dataclasses
import io
import json
import re
import socket
import threading
import time
from collections.abc import Iterator

import jsonschema
import numpy as np
import pytest
from PIL import Image

pytest.importorskip('uvicorn', reason="needs pip install 'fer_jax[serve]'")
pytest.importorskip('starlette', reason="needs pip install 'fer_jax[serve]'")
pytest.importorskip('python_multipart', reason="needs pip install 'fer_jax[serve]'")
pytest.importorskip('cv2', reason="needs pip install 'fer_jax[serve]'")

from prometheus_client.parser import text_string_to_metric_families  # noqa: E402

from fer_jax.__main__ import main, parse  # noqa: E402
from fer_jax.core.errors import InputError  # noqa: E402
from fer_jax.inference.classifier import Classifier, load, predict  # noqa: E402
from fer_jax.inference.faces import Cut, Photo, cut, make_detector  # noqa: E402
from fer_jax.inference.interface import LIMITS, REFUSALS, Limits  # noqa: E402
from fer_jax.inference.service import Job, Service, names_here  # noqa: E402
from tests import drawn  # noqa: E402
from tests.inference.serving import Answer, ask, bomb, form, image_file, refused, serving  # noqa: E402
from tests.tiny import ROOT  # noqa: E402
from tests.tiny_weights import FER, write_weights  # noqa: E402

OPENAPI = json.loads((ROOT / 'tests/schemas/openapi.json').read_text())


def two(photo: Photo, in_file: float = 1.0) -> list[Cut]:
    """For a detector: two faces in every picture."""
    return [cut(photo, 20.0, 20.0, 20.0 + i)._replace(score=0.5) for i in range(2)]


class Gate:
    """A detector that holds the first picture until it is let go."""

    def __init__(self) -> None:
        self.entered, self.open = threading.Event(), threading.Event()

    def __call__(self, photo: Photo, in_file: float) -> list[Cut]:
        self.entered.set()
        assert self.open.wait(600)
        return two(photo)


@pytest.fixture(scope='module')
def model(tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    return load(write_weights(tmp_path_factory.mktemp('weights') / 'tiny.safetensors'))


@pytest.fixture(scope='module')
def port(model: Classifier) -> Iterator[int]:
    with serving(Service(model, two)) as number:
        yield number


def counted(model: Classifier) -> tuple[Classifier, list[int]]:
    """The same, and the faces of each call of its network."""
    calls: list[int] = []

    def run(faces: np.ndarray) -> np.ndarray:
        calls.append(len(faces))
        return model.run(faces)

    return dataclasses.replace(model, run=run), calls


def post(port: int, body: bytes, query: str = '', **headers: str) -> Answer:
    return ask(port, 'POST', f'/v1/faces{query}', body, **headers)


@contextlib.contextmanager
def asking(port: int, *bodies: bytes) -> Iterator[list[Answer]]:
    """Requests that are sent at once; their answers are there when the block has ended."""
    answers: list[Answer] = []
    threads = [threading.Thread(target=lambda body=body: answers.append(post(port, body))) for body in bodies]
    for thread in threads:
        thread.start()
    yield answers
    for thread in threads:
        thread.join(600)


def wait_until(condition) -> None:
    end = time.monotonic() + 600
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def picture(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, 'PNG')
    return buffer.getvalue()


# --- What is answered


def test_a_body_and_a_form_are_answered_as_predict_has_it(model):
    """Found by the cascade: two faces in the first picture, none in the second, which is plain."""
    pictures = [drawn.photo(200, 400, [(20, 40, 120), (240, 30, 140)]), np.full((60, 80, 3), 90, np.uint8)]
    of_first = [face.to_dict() for face in predict(pictures[0], model, detector='cascade')]
    assert len(of_first) == 2 and {face['label'] for face in of_first} <= set(FER)
    whole = [face.to_dict() for face in predict(pictures, model, detect=False)]
    with serving(Service(model, make_detector('cascade'))) as port:
        status, headers, body = post(port, picture(pictures[0]), Content_Type='image/png')
        files = form(('first.png', picture(pictures[0])), ('zweites ♥.png', picture(pictures[1])))
        several = json.loads(post(port, **files)[2])
        uncut = json.loads(post(port, query='?detect=false', **files)[2])
    assert (status, headers['content-type'], headers['cache-control']) == (200, 'application/json', 'no-store')
    about = {'format': 'fer_jax faces', 'version': 1, 'checkpoint': 'tiny', 'sha256': model.sha256, 'views': 'centre', 'classes': list(FER)}
    assert json.loads(body) == about | {'faces': of_first, 'pictures': [{'picture': '', 'faces': 2}]}
    assert several['faces'] == [face | {'picture': 'first.png'} for face in of_first]
    assert several['pictures'] == [{'picture': 'first.png', 'faces': 2}, {'picture': 'zweites ♥.png', 'faces': 0}]
    names = ('first.png', 'zweites ♥.png')
    assert uncut['faces'] == [face | {'picture': name} for face, name in zip(whole, names, strict=True)]


def test_one_picture_of_a_form_that_cannot_be_read_is_named_and_the_rest_carried_on(port):
    files = form(('a.png', image_file()), ('b.png', b'no picture'), ('a.png', image_file()), ('c.png', bomb(50_000, 50_000)))
    status, _, body = post(port, **files)
    assert status == 200
    told = json.loads(body)
    assert [face['picture'] for face in told['faces']] == ['a.png'] * 4
    assert [each.get('faces') for each in told['pictures']] == [2, None, 2, None]
    assert told['pictures'][1]['error'].startswith('not an image') and 'decompression bomb' in told['pictures'][3]['error']
    status, text = refused(post(port, **form(('b.png', b'no picture'), ('c.png', bomb(50_000, 50_000)))))
    assert status == 415 and text.startswith('not an image'), 'where none can be read, the first says why'


def test_pictures_that_wait_are_classified_in_one_call(model):
    counting, calls = counted(model)
    served = Service(counting, two, hold=600.0)  # however slow this machine is
    jobs = [Job('first', image_file(), True), Job('bad', b'', True), Job('second', image_file(70), True)]
    served.waiting.extend(jobs)
    served.work()
    assert calls == [4], 'two faces of each picture'
    assert [len(job.faces or ()) for job in jobs] == [2, 0, 2] and str(jobs[1].error) == 'empty file'
    served.waiting.extend(Job(str(number), image_file(), False) for number in range(70))
    served.work()
    assert calls == [4, 64] and len(served.waiting) == 6, 'no more than a call of the network takes'


def test_each_detector_looks_at_a_picture_of_its_own_at_the_same_time(model):
    together = threading.Barrier(2)  # which nobody passes alone

    def waits_for_another(photo: Photo, in_file: float) -> list[Cut]:
        together.wait(600)
        return two(photo)

    counting, calls = counted(model)
    served = Service(counting, waits_for_another, Limits(), [waits_for_another])
    jobs = [Job(str(number), image_file(70 + number), True) for number in range(2)]
    served.waiting.extend(jobs)
    served.work()
    assert [[face.picture for face in job.faces] for job in jobs] == [['0', '0'], ['1', '1']] and calls == [4]


def test_requests_that_wait_are_classified_in_one_call(model):
    counting, calls = counted(model)
    gate = Gate()
    served = Service(counting, gate, hold=600.0)
    with serving(served) as port:
        with asking(port, image_file()) as first:
            assert gate.entered.wait(600)
            with asking(port, image_file(70), image_file(80), image_file(90)) as others:
                wait_until(lambda: len(served.waiting) == 3)
                gate.open.set()
    assert [status for status, _, _ in [*first, *others]] == [200] * 4
    assert calls == [8]
    np.testing.assert_equal({len(json.loads(body)['faces']) for _, _, body in others}, {2})


def test_health_and_metrics(model):
    with serving(Service(model, two)) as port:
        assert json.loads(ask(port, 'GET', '/healthz')[2])['status'] == 'ok'
        post(port, **form(('a.png', image_file()), ('b.png', image_file())))
        post(port, b'')
        ask(port, 'GET', '/secret')
        _, headers, body = ask(port, 'GET', '/metrics')
    assert headers['content-type'].startswith('text/plain')
    samples = {
        (each.name, *each.labels.values()): each.value for found in text_string_to_metric_families(body.decode()) for each in found.samples
    }
    assert samples['fer_jax_requests_total', '/v1/faces', '200'] == 1 and samples['fer_jax_requests_total', '/v1/faces', '415'] == 1
    assert samples['fer_jax_requests_total', 'other', '404'] == 1, 'an address that a stranger makes up has no line of its own'
    assert samples['fer_jax_call_faces_sum',] == 4 and samples['fer_jax_request_seconds_count', '/v1/faces'] == 2
    assert samples['fer_jax_waiting_pictures',] == 0 and samples['process_resident_memory_bytes',] > 1e7


# --- What its document says


def test_the_openapi_document_is_one_and_answers_are_as_it_says(port):
    document = json.loads(ask(port, 'GET', '/openapi.json')[2])
    jsonschema.Draft202012Validator(OPENAPI).validate(document)
    schemas = document['components']['schemas']
    for schema in schemas.values():
        jsonschema.Draft202012Validator.check_schema(schema)

    def check(name: str, value: object) -> None:
        jsonschema.Draft202012Validator({'$ref': f'#/components/schemas/{name}', 'components': document['components']}).validate(value)

    told = json.loads(post(port, **form(('a.png', image_file()), ('b.png', b'')))[2])
    check('Faces', told)
    assert set(told) == set(schemas['Faces']['required']) and set(told['faces'][0]) == set(schemas['Face']['required'])
    check('Error', json.loads(post(port, b'')[2]))
    with pytest.raises(jsonschema.ValidationError):
        check('Face', told['faces'][0] | {'label': 'hungry'})
    answers = document['paths']['/v1/faces']['post']['responses']
    assert set(answers) == {'200', *map(str, REFUSALS)}
    for path in set(document['paths']) - {'/v1/faces'}:
        assert ask(port, 'GET', path)[0] == 200


def test_the_page_about_it_has_every_limit_and_every_code():
    page = (ROOT / 'docs/serving.md').read_text('utf-8')
    rows = re.findall(r'^\| `--(\w+)` \| (\S+) \| (\d+) \|', page, re.MULTILINE)
    assert rows == [(name, f'{getattr(Limits(), name):g}', str(status)) for name, (status, _) in LIMITS.items()]
    assert set(re.findall(r'\b[45]\d\d\b', page)) >= set(map(str, REFUSALS))


# --- What is refused


@pytest.mark.parametrize(
    ('limits', 'sent', 'status', 'told'),
    [
        ({'mebibytes': 1}, {'body': bytes((1 << 20) + 1)}, 413, 'larger than 1 MiB'),
        ({'megapixels': 1}, {'body': image_file(1100, 1000, 'JPEG')}, 422, '1100×1000 pixels'),
        ({'pictures': 2}, form(*[('a.png', image_file())] * 3), 400, 'more than 2 pictures'),
    ],
    ids=['bytes', 'pixels', 'pictures'],
)
def test_limits_of_a_request(model, limits, sent, status, told):
    with serving(Service(model, two, Limits(**limits))) as port:
        found, text = refused(post(port, **sent))
        assert found == status and told in text
        assert post(port, image_file())[0] == 200


@pytest.mark.parametrize('sent', ['POST /v1/faces HTTP/1.1\r\nHost: {host}\r\nContent-Length: 100\r\n\r\nab', 'POST /v1/faces HT', ''])
def test_a_request_that_does_not_come_is_not_waited_for(model, sent):
    with serving(Service(model, two, Limits(seconds=0.2))) as port:
        with socket.create_connection(('127.0.0.1', port), timeout=600) as connection:
            connection.sendall(sent.format(host=f'127.0.0.1:{port}').encode())
            told = b''.join(iter(lambda: connection.recv(1000), b''))
        head, _, body = told.partition(b'\r\n\r\n')
        assert head.startswith(b'HTTP/1.1 408 ') and json.loads(body) == {'error': 'did not arrive in 0.2 seconds'}
        assert ask(port, 'GET', '/healthz')[0] == 200


def test_too_many_requests_at_once_are_told_to_come_again(model):
    with serving(Service(model, two, Limits(requests=1))) as port:
        with socket.create_connection(('127.0.0.1', port), timeout=600) as slow:
            slow.sendall(f'POST /v1/faces HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: 100\r\n\r\nab'.encode())
            answer = post(port, b'')
            while answer[0] == 415:  # the head of the slow one has not been read yet
                answer = post(port, b'')
            assert refused(answer)[0] == 503 and answer[1]['retry-after'] == '1'
            assert ask(port, 'GET', '/healthz')[0] == ask(port, 'GET', '/metrics')[0] == 200, 'whoever watches is answered'
        wait_until(lambda: post(port, image_file())[0] == 200)


def test_where_too_many_pictures_wait_others_are_told_to_come_again(model):
    gate = Gate()
    served = Service(model, gate, Limits(waiting=1))
    with serving(served) as port:
        with asking(port, image_file()) as first:
            assert gate.entered.wait(600)
            with asking(port, image_file()) as second:
                wait_until(lambda: len(served.waiting) == 1)
                answer = post(port, image_file())
                gate.open.set()
    assert refused(answer) == (429, '1 pictures wait already') and answer[1]['retry-after'] == '1'
    assert first[0][0] == second[0][0] == 200


FIELD = b'--B\r\nContent-Disposition: form-data; name="a"\r\n\r\nx\r\n--B--\r\n'
BASE64 = b'--B\r\nContent-Disposition: form-data; name="a"; filename="a"\r\nContent-Transfer-Encoding: base64\r\n\r\n'


@pytest.mark.parametrize(
    ('sent', 'status'),
    [
        ({'body': b''}, 415),
        ({'body': image_file()[:-400]}, 415),
        ({'body': image_file(form='JPEG')[:300]}, 415),
        ({'body': b'<svg xmlns="http://www.w3.org/2000/svg"/>', 'Content_Type': 'image/svg+xml'}, 415),
        ({'body': b'{"image": "x"}', 'Content_Type': 'application/json'}, 415),
        ({'body': bomb(50_000, 50_000)}, 422),
        ({'body': bomb(2**31 - 1, 2**31 - 1)}, 422),
        ({'body': b'', 'Content_Type': 'multipart/form-data'}, 400),
        ({'body': b'--B--\r\n', 'Content_Type': 'multipart/form-data; boundary=B'}, 400),
        ({'body': b'', 'Content_Type': 'multipart/form-data; boundary=' + 300 * 'B'}, 400),
        ({'body': b'', 'Content_Type': 'multipart/form-data; boundary="\xe9"'}, 400),
        (form(('a.png', image_file())) | {'body': form(('a.png', image_file()))['body'][:-30]}, 400),
        ({'body': b'--B\r\n\r\nx\r\n--B--\r\n', 'Content_Type': 'multipart/form-data; boundary=B'}, 400),
        ({'body': BASE64 + b'!!!!\r\n--B--\r\n', 'Content_Type': 'multipart/form-data; boundary=B'}, 415),
        ({'body': FIELD, 'Content_Type': 'multipart/form-data; boundary=B'}, 400),
        (form(*[(f'{number}.png', image_file(1, 1)) for number in range(10_000)]), 400),
        ({'body': image_file(), 'query': '?detect=maybe'}, 400),
        ({'body': image_file(), 'query': '?detekt=true'}, 400),
    ],
    ids=[
        'empty', 'cut PNG', 'cut JPEG', 'SVG', 'JSON', 'bomb', 'larger bomb', 'no boundary', 'no parts', 'long boundary', 'odd boundary',
        'cut form', 'no name', 'no base64', 'field', '10,000', 'parameter', 'unknown parameter',
    ],
)  # fmt: skip
def test_hostile_requests_are_refused_in_a_line(port, sent, status):
    assert refused(post(port, **sent))[0] == status
    assert ask(port, 'GET', '/healthz')[0] == 200


def test_a_picture_in_base64_is_a_picture(port):
    body = BASE64 + base64.b64encode(image_file()) + b'\r\n--B--\r\n'
    assert post(port, body, Content_Type='multipart/form-data; boundary=B')[0] == 200


@pytest.mark.parametrize(
    'sent',
    [
        b'\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03',
        b'POST /v1/faces HTTP/1.1\r\nHost: {host}\r\nContent-Length: -1\r\n\r\n',
        b'POST /v1/faces HTTP/1.1\r\nHost: {host}\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab',
        b'POST /v1/faces HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n',
        b'GET / HTTP/1.1\r\n' + b'X: ' + bytes(70_000),
    ],
    ids=['TLS', 'length', 'two lengths', 'chunks', 'long head'],
)
def test_what_is_no_http_is_refused_in_a_line(port, sent):
    with socket.create_connection(('127.0.0.1', port), timeout=600) as connection:
        connection.sendall(sent.replace(b'{host}', f'127.0.0.1:{port}'.encode()))
        told = b''
        with contextlib.suppress(ConnectionResetError):
            while part := connection.recv(10_000):
                told += part
    assert told.startswith(b'HTTP/1.1 400 ') and list(json.loads(told.partition(b'\r\n\r\n')[2])) == ['error']
    assert ask(port, 'GET', '/healthz')[0] == 200


def test_a_fault_of_the_network_is_told_as_one_and_the_next_request_is_answered(model):
    answers = iter([np.full((2, 7), np.nan, np.float32)])
    failing = dataclasses.replace(model, run=lambda faces: next(answers, None) if answers.__length_hint__() else model.run(faces))
    with serving(Service(failing, two)) as port:
        assert refused(post(port, image_file())) == (500, 'the program failed: RuntimeError')
        assert post(port, image_file())[0] == 200


@pytest.mark.slow
def test_ten_thousand_tiny_images_are_looked_at_where_that_many_are_allowed(model):
    files = form(*[(f'{number}.png', image_file(1, 1)) for number in range(10_000)])
    with serving(Service(model, two, Limits(pictures=10_000))) as port:
        told = json.loads(post(port, query='?detect=false', **files)[2])
        assert ask(port, 'GET', '/healthz')[0] == 200
    assert len(told['faces']) == 10_000 and told['faces'][-1]['picture'] == '9999.png'


# --- Who may ask


def test_no_page_may_ask_and_no_other_name_on_this_computer(port):
    for origin in (f'http://127.0.0.1:{port}', 'http://evil.example', 'null'):
        assert refused(post(port, image_file(), Origin=origin))[0] == 403
    for host in ('evil.example', f'evil.example:{port}', '127.0.0.1', ''):
        assert refused(post(port, image_file(), Host=host))[0] == 421
    assert post(port, image_file(), Host=f'localhost:{port}')[0] == 200


def test_on_other_addresses_any_name_may_ask_and_still_no_page(model):
    with serving(Service(model, two), everywhere=True) as port:
        assert post(port, image_file(), Host='faces.example')[0] == 200
        assert refused(post(port, image_file(), Host='faces.example', Origin='http://faces.example'))[0] == 403


@pytest.mark.parametrize('host', ['no.such.host.invalid', '203.0.113.7', '::ffff:', 70 * 'x'])
def test_no_address(host, capsys):
    assert main(['serve', '--host', host, '--port', '0']) == 2
    error = capsys.readouterr().err
    assert host in error and error.count('\n') == 1


@pytest.mark.parametrize('option', ['--mebibytes=0', '--seconds=0', '--seconds=nan', '--waiting=many', '--config.seed=1'])
def test_no_limit(option, capsys):
    assert main(['serve', option]) == 2
    assert capsys.readouterr().err.count('\n') == 1


def test_each_limit_is_an_option() -> None:
    options = parse(['serve', *(f'--{name}={place}' for place, name in enumerate(Limits._fields, 2))])
    assert [getattr(options, name) for name in Limits._fields] == list(range(2, 2 + len(Limits._fields)))
    with pytest.raises(InputError, match="--waiting: '0' is no whole number from 1 to"):
        parse(['serve', '--waiting=0'])


def test_what_the_service_may_be_called():
    assert names_here('127.0.0.1', 8000) == {'127.0.0.1:8000', 'localhost:8000'}
    assert names_here('::1', 80) == {'[::1]:80', 'localhost:80', '[::1]', 'localhost'}  # a client leaves out what is the usual port
    assert names_here('0.0.0.0', 80) is None
