"""fer_jax/inference/demo.py: a photograph's answer, what is refused and how, and the page in a real browser."""

import http.client
import io
import json
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

pytest.importorskip('uvicorn', reason="needs pip install 'fer_jax[serve]'")
pytest.importorskip('starlette', reason="needs pip install 'fer_jax[serve]'")
pytest.importorskip('python_multipart', reason="needs pip install 'fer_jax[serve]'")
pytest.importorskip('cv2', reason="needs pip install 'fer_jax[serve]'")

from fer_jax.__main__ import main  # noqa: E402
from fer_jax.data.images import decode_face  # noqa: E402
from fer_jax.data.views import centre_crops  # noqa: E402
from fer_jax.inference import demo, service  # noqa: E402
from fer_jax.inference.classifier import Classifier, load  # noqa: E402
from fer_jax.inference.faces import Cut, Photo, cut  # noqa: E402
from fer_jax.inference.interface import Limits  # noqa: E402
from tests import browser  # noqa: E402
from tests.inference.serving import ask, bomb, image_file, refused, serving  # noqa: E402
from tests.tiny_weights import FER, write_weights  # noqa: E402

LARGEST = Limits().mebibytes << 20


def every_hundred(photo: Photo, in_file: float) -> list[Cut]:
    """For a detector: a face around every hundredth column, each one pixel wider and a tenth surer than the one before."""
    places = range(photo.shape[1] // 100)
    return [cut(photo, 100.0 * i + 50, 50.0, 20.0 + i)._replace(score=min(1.0, 0.5 + i / 10)) for i in places]


@pytest.fixture(scope='module')
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Classifier]:
    """The second is of other classes and without attention."""
    folder = tmp_path_factory.mktemp('weights')
    write_weights(folder / 'first.safetensors')
    write_weights(folder / 'second.safetensors', 1, ('awake', 'asleep'), attention='none')
    return [load(folder / f'{name}.safetensors') for name in ('first', 'second')]


@pytest.fixture(scope='module')
def port(models: list[Classifier]) -> Iterator[int]:
    served = service.Service(models[0], every_hundred)
    with serving(served, lambda: demo.pages(served, models)) as number:
        yield number


def test_a_photograph_is_answered(port):
    status, _, body = ask(port, 'POST', '/predict?faces=whole', image_file())
    assert status == 200
    told = json.loads(body)
    (face,) = told['faces']
    assert face['score'] is None, 'nobody looked for it'
    np.testing.assert_array_equal(face['crop'], centre_crops(decode_face(image_file())[None])[0])
    first, second = face['results']
    assert (first['checkpoint'], second['checkpoint']) == ('first', 'second')
    assert [name for name, _ in first['probabilities']] == list(FER)
    assert [name for name, _ in second['probabilities']] == ['awake', 'asleep']
    for each in face['results']:
        assert sum(share for _, share in each['probabilities']) == pytest.approx(1, abs=1e-5)
        assert np.shape(each['grad_cam']) == (20, 20)
    assert np.shape(first['attention']) == (40, 40) and second['attention'] is None
    assert (told['width'], told['height'], told['left_out']) == (60, 50, 0)


def test_the_largest_faces_are_answered_from_left_to_right(port):
    told = json.loads(ask(port, 'POST', '/predict', image_file(2600, 100))[2])
    assert len(told['faces']) == 24 and told['left_out'] == 2
    assert told['faces'][0]['box'] == [239, 39, 22, 22], 'the two smallest stand on the left'
    assert [face['box'][2] for face in told['faces']] == list(range(22, 46))
    assert [face['score'] for face in told['faces'][:4]] == pytest.approx([0.7, 0.8, 0.9, 1.0])
    assert json.loads(ask(port, 'POST', '/predict', image_file())[2])['faces'] == []


def test_the_page_runs_its_own_script_only(port):
    status, headers, body = ask(port, 'GET', '/')
    assert status == 200 and b'<script>' in body and b'http://' not in body and b'https://' not in body, 'nothing from elsewhere'
    policy = headers['content-security-policy']
    assert "default-src 'none'" in policy and 'unsafe' not in policy and "frame-ancestors 'none'" in policy
    assert headers['x-content-type-options'] == 'nosniff' and headers['cache-control'] == 'no-store'


def test_what_the_checkpoints_are(port):
    told = json.loads(ask(port, 'GET', '/checkpoints')[2])
    assert told['limit'] == 16 << 20
    assert [each['name'] for each in told['checkpoints']] == ['first', 'second']
    assert told['checkpoints'][1]['classes'] == ['awake', 'asleep']


def test_it_listens_on_this_computer_only():
    with service.listen(0) as listener:
        assert listener.getsockname()[0] == '127.0.0.1'
        assert main(['demo', '--port', str(listener.getsockname()[1])]) == 2


@pytest.mark.parametrize('number', [-1, 65536, 10**20])
def test_no_port(number, capsys):
    assert main(['demo', '--port', str(number)]) == 2
    error = capsys.readouterr().err
    assert str(number) in error and error.count('\n') == 1


@pytest.mark.parametrize(
    'host', ['evil.example', 'evil.example:{port}', '127.0.0.1', '127.0.0.1:1', 'localhost', '127.0.0.1.nip.io:{port}', '']
)
@pytest.mark.parametrize('path', ['/', '/predict'])
def test_another_host_is_refused(port, host, path):
    method = 'POST' if path == '/predict' else 'GET'
    status, told = refused(ask(port, method, path, image_file() if method == 'POST' else None, Host=host.format(port=port)))
    assert status == 421 and 'no other host' in told


@pytest.mark.parametrize(
    'origin', ['http://evil.example', 'https://127.0.0.1:{port}', 'http://127.0.0.1:1', 'http://localhost', 'null', '']
)
def test_another_origin_is_refused(port, origin):
    assert refused(ask(port, 'POST', '/predict', image_file(), Origin=origin.format(port=port)))[0] == 403
    status, headers, _ = ask(port, 'OPTIONS', '/predict', Origin='http://evil.example', Access_Control_Request_Method='POST')
    assert status == 403 and not any(name.startswith('access-control') for name in headers)


def test_its_own_origins_are_not(port):
    for name in ('localhost', '127.0.0.1'):
        status, _, _ = ask(port, 'POST', '/predict?faces=whole', image_file(), Origin=f'http://{name}:{port}', Host=f'{name}:{port}')
        assert status == 200


@pytest.mark.parametrize(
    ('content', 'status', 'told'),
    [
        (b'', 415, 'empty'),
        (b'GIF89a', 415, ''),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', 415, 'not an image'),
        (b'%!PS-Adobe-3.0 EPSF-3.0\n', 415, 'not an image'),
        (b'\x80\x04\x95\x00', 415, 'not an image'),
        (image_file()[:-400], 415, 'damaged'),
        (bomb(50_000, 50_000), 422, 'decompression bomb'),
        (bomb(2**31 - 1, 2**31 - 1), 422, ''),
        (bytes(LARGEST + 1), 413, 'larger than 16 MiB'),
    ],
    ids=['empty', 'stub', 'svg', 'eps', 'pickle', 'cut', 'bomb', 'larger bomb', 'large'],
)
def test_hostile_files_are_refused_in_a_line(port, content, status, told):
    found, text = refused(ask(port, 'POST', '/predict', content))
    assert found == status and told in text
    assert ask(port, 'GET', '/checkpoints')[0] == 200, 'and it goes on'


def test_a_body_without_a_length_is_measured(port):
    """Chunked, so that no Content-Length says how much is coming."""
    connection = http.client.HTTPConnection('127.0.0.1', port, timeout=600)
    connection.request(
        'POST', '/predict', (bytes(1 << 20) for _ in range(18)), encode_chunked=True, headers={'Transfer-Encoding': 'chunked'}
    )
    response = connection.getresponse()
    assert response.status == 413 and 'larger' in json.loads(response.read())['error']
    connection.close()


@pytest.mark.parametrize(
    ('method', 'path', 'status'),
    [('GET', '/nothing', 404), ('GET', '/../../etc/passwd', 404), ('GET', '/predict', 405), ('DELETE', '/', 405)],
)
def test_other_requests_are_refused(port, method, path, status):
    assert refused(ask(port, method, path))[0] == status


def test_a_fault_of_its_own_is_told_without_its_words(models):
    def fail(photo: Photo, in_file: float) -> list[Cut]:
        raise RuntimeError('a secret\nof several lines')

    served = service.Service(models[0], fail)
    with serving(served, lambda: demo.pages(served, models)) as port:
        assert refused(ask(port, 'POST', '/predict', image_file())) == (500, 'the program failed: RuntimeError')


# --- In a browser


@pytest.fixture(scope='module')
def page(port, tmp_path_factory) -> Iterator[browser.Page]:
    if browser.CHROMIUM is None:
        pytest.skip('no Chromium on PATH')
    flags = ['--use-fake-device-for-media-stream', '--use-fake-ui-for-media-stream', '--host-resolver-rules=MAP evil.example 127.0.0.1']
    with browser.open_page(tmp_path_factory.mktemp('browser'), (1000, 900), *flags) as page:
        page.call('Page.navigate', url=f'http://127.0.0.1:{port}/')
        page.wait('document.getElementById("about")?.textContent.includes("first")')
        yield page
        assert not page.complaints


def status_of(page: browser.Page) -> str:
    return page.evaluate('document.getElementById("status").textContent')


@pytest.mark.slow
def test_a_photograph_is_chosen_and_its_result_is_seen(page, tmp_path):
    (tmp_path / 'face.png').write_bytes(image_file())
    page.evaluate('document.getElementById("find").checked = false')
    page.choose('#file', tmp_path / 'face.png')
    page.wait('document.querySelectorAll(".result").length === 2')
    assert page.evaluate('[...document.querySelectorAll(".result h4")].map(each => each.textContent)') == ['first', 'second']
    bars = page.evaluate(
        '[...document.querySelectorAll("[role=meter]")].map(each => [each.ariaLabel, +each.ariaValueNow, each.firstChild.offsetWidth])'
    )
    assert [name for name, _, _ in bars] == [*FER, 'awake', 'asleep']
    assert sum(share for _, share, _ in bars[:7]) == pytest.approx(100, abs=0.5)
    widest = max(bars[:7], key=lambda bar: bar[1])
    assert widest[2] == max(bar[2] for bar in bars[:7]) > 20, 'the policy of the page lets the bars have their widths'
    assert status_of(page).startswith('1 face')
    with Image.open(io.BytesIO(page.screenshot())) as seen:
        assert len(seen.convert('RGB').getcolors(1 << 20)) > 500, 'the face and its map are painted'


@pytest.mark.slow
def test_every_face_has_a_card(page, tmp_path):
    (tmp_path / 'faces.png').write_bytes(image_file(300, 100))
    (tmp_path / 'none.png').write_bytes(image_file())
    page.evaluate('document.getElementById("find").checked = true')
    page.choose('#file', tmp_path / 'faces.png')
    page.wait('document.querySelectorAll(".face").length === 3')
    assert page.evaluate('[...document.querySelectorAll(".face h3")].map(each => each.textContent)') == [
        f'Face {i}, score 0.{i + 4}0' for i in (1, 2, 3)
    ]
    page.choose('#file', tmp_path / 'none.png')
    page.wait('document.getElementById("status").textContent.startsWith("No face found")')
    page.evaluate('document.getElementById("find").click()')
    page.wait('document.querySelectorAll(".face").length === 1')


@pytest.mark.slow
def test_several_photographs_and_only_faces_of_some_score(page, tmp_path):
    files = [tmp_path / name for name in ('three.png', 'bad.png', 'two.png')]
    for file, content in zip(files, (image_file(300, 100), b'no picture', image_file(200, 100)), strict=True):
        file.write_bytes(content)
    page.evaluate('document.getElementById("find").checked = true')
    page.choose('#file', *files)
    page.wait('document.querySelectorAll(".shot").length === 3')
    assert page.evaluate('[...document.querySelectorAll(".shot > h2")].map(each => each.textContent)') == [file.name for file in files]
    assert page.evaluate('[...document.querySelectorAll(".shot")].map(each => each.querySelectorAll(".face").length)') == [3, 0, 2]
    assert status_of(page).startswith('5 faces in 2 photographs, ') and 'bad.png: not an image' in status_of(page)
    page.evaluate('(() => { const s = document.getElementById("score"); s.value = 0.55; s.dispatchEvent(new Event("input")); })()')
    assert page.evaluate('[...document.querySelectorAll(".face h3")].map(each => each.textContent)') == [
        f'Face {i}, score 0.{i + 4}0' for i in (2, 3, 2)
    ]
    assert status_of(page).startswith('3 faces in 2 photographs, 2 of less score hidden')
    page.evaluate('(() => { const s = document.getElementById("score"); s.value = 0; s.dispatchEvent(new Event("input")); })()')
    page.evaluate('document.getElementById("find").checked = false')


@pytest.mark.slow
def test_a_hostile_file_is_refused_in_words(page, tmp_path):
    (tmp_path / 'face.png').write_bytes(image_file())
    page.choose('#file', tmp_path / 'face.png')
    page.wait('document.querySelectorAll(".result").length === 2')
    for name, content, told in (
        ('page.png', b'<script>alert(1)</script>', 'not an image'),
        ('bomb.png', bomb(50_000, 50_000), 'decompression bomb'),
        ('large.png', bytes(LARGEST + 1), 'at most 16 are taken'),
    ):
        (tmp_path / name).write_bytes(content)
        page.choose('#file', tmp_path / name)
        page.wait(f'document.getElementById("status").textContent.includes("{told}")')
        assert page.evaluate('document.getElementById("status").className') == 'bad'
        assert page.evaluate('document.querySelectorAll(".result").length') == 0, 'no result of an earlier photograph stands'


@pytest.mark.slow
def test_a_photograph_is_dropped_and_the_overlay_chosen(page):
    """The drop is a DataTransfer of the page's own: a file as a user drops it."""
    content = list(image_file(form='JPEG'))
    page.evaluate(
        f"""(() => {{
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array({content})], 'face.jpg', {{type: 'image/jpeg'}}));
            document.getElementById('find').checked = false;
            document.getElementById('drop').dispatchEvent(new DragEvent('drop', {{dataTransfer: data, bubbles: true, cancelable: true}}));
        }})()"""
    )
    page.wait('document.querySelectorAll(".result").length === 2')
    pixels = []
    for overlay in ('attention', 'grad_cam', ''):
        page.evaluate(
            f'(() => {{ const o = document.getElementById("overlay"); o.value = "{overlay}"; o.dispatchEvent(new Event("change")); }})()'
        )
        pixels.append(page.evaluate('[...document.querySelectorAll(".result canvas")].map(each => each.toDataURL())'))
        notes = page.evaluate('document.querySelectorAll(".result .quiet").length')
        assert notes == (1 if overlay == 'attention' else 0), 'the second network has no attention, and the page says so'
    assert len({first for first, _ in pixels}) == 3
    assert pixels[0][1] == pixels[2][1] != pixels[1][1]


@pytest.mark.slow
def test_the_webcam_is_watched_until_it_is_stopped(page):
    """Chromium's own moving test picture stands for the webcam."""
    page.evaluate('document.getElementById("find").checked = false')
    page.evaluate('document.getElementById("webcam").click()')
    page.wait('document.querySelectorAll(".result").length === 2 && document.querySelector(".stage").width === 640')
    first = page.evaluate('document.querySelector(".stage").toDataURL()')
    page.wait(f'document.querySelector(".stage").toDataURL() !== "{first}"')
    page.evaluate('window.watched = stream')
    page.evaluate('document.getElementById("webcam").click()')
    assert page.evaluate('window.watched.getTracks().every(track => track.readyState === "ended")')
    assert page.evaluate('document.getElementById("webcam").getAttribute("aria-pressed")') == 'false'


@pytest.mark.slow
def test_a_webcam_that_is_stopped_or_left_while_it_starts_does_not_stay_on(page, tmp_path):
    """Each stream that the browser gives is kept in `opened`."""
    page.evaluate(
        """(() => {
            window.opened = [];
            const devices = navigator.mediaDevices, open = devices.getUserMedia.bind(devices);
            devices.getUserMedia = async wanted => { const given = await open(wanted); opened.push(given); return given; };
            document.getElementById('find').checked = false;
        })()"""
    )
    live = 'opened.filter(each => each.getTracks().some(track => track.readyState === "live")).length'
    button = 'document.getElementById("webcam")'

    page.evaluate(f'{button}.click(); {button}.click()')
    assert page.evaluate(f'{button}.textContent') == 'Start the webcam'
    page.wait('opened.length === 1')
    assert page.evaluate(live) == 0
    page.evaluate(f'{button}.click(); {button}.click(); {button}.click()')
    page.wait('opened.length === 3 && document.querySelector(".stage")?.width === 640')
    assert page.evaluate(f'[{live}, {button}.getAttribute("aria-pressed")]') == [1, 'true']
    page.evaluate(f'{button}.click()')
    assert page.evaluate(live) == 0

    (tmp_path / 'face.png').write_bytes(image_file())
    page.evaluate(f'{button}.click()')
    page.choose('#file', tmp_path / 'face.png')
    page.wait('opened.length === 4 && document.querySelector(".stage")?.width === 60')
    assert page.evaluate(live) == 0 and page.evaluate('stream') is None, 'so the photograph stays'


@pytest.mark.slow
def test_another_sites_page_learns_nothing(page, port):
    """A page under another name of this computer, as DNS rebinding makes one, and a page of another origin."""
    page.call('Page.navigate', url=f'http://evil.example:{port}/')
    page.wait('document.body?.innerText.includes("no other host")')
    for path, method in (('/checkpoints', 'GET'), ('/predict', 'POST')):
        asked = f"fetch('http://127.0.0.1:{port}{path}', {{method: '{method}'}}).then(answer => answer.status, error => error.name)"
        assert page.evaluate(asked) == 'TypeError', 'the browser gives it no answer'
    page.complaints.clear()  # the browser's words about that
