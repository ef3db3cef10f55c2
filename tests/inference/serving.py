"""The service on a port of this computer, in a thread; pictures to send, and what sends them."""

import contextlib
import http.client
import io
import json
import struct
import threading
import zlib
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image

from fer_jax.inference import service
from fer_jax.inference.service import Route, Service

Answer = tuple[int, dict[str, str], bytes]


@contextlib.contextmanager
def serving(served: Service, make_pages: Callable[[], list[Route]] = list, everywhere: bool = False) -> Iterator[int]:
    """Its port; `everywhere` as if it listened for other computers."""
    with service.listen(0) as listener:
        number = listener.getsockname()[1]
        hosts = None if everywhere else {f'127.0.0.1:{number}', f'localhost:{number}'}
        server = service.make_server(service.make_app(served, hosts, make_pages()), served.limits)
        thread = threading.Thread(target=server.run, kwargs={'sockets': [listener]})
        thread.start()
        try:
            yield number
        finally:
            server.should_exit = True
            thread.join(600)
        assert not thread.is_alive()


def image_file(width=60, height=50, form='PNG', mode='RGB', **options) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, form, **options)
    return buffer.getvalue()


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says it has so many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))

    header = struct.pack('>IIBBBBB', width, height, 8, 0, 0, 0, 0)
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', zlib.compress(bytes(100_000))) + chunk(b'IEND', b'')


def form(*files: tuple[str, bytes], boundary: str = 'X-X-X') -> dict[str, object]:
    """The body of a form with these files, and the header that goes with it, as arguments of `ask`."""
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n\r\n'.encode() + content + b'\r\n'
        for name, content in files
    ]
    return {'body': b''.join([*parts, f'--{boundary}--\r\n'.encode()]), 'Content_Type': f'multipart/form-data; boundary={boundary}'}


def ask(port: int, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
    """Status, headers (lower case) and body of one request; `headers` with _ for the hyphens."""
    connection = http.client.HTTPConnection('127.0.0.1', port, timeout=600)
    connection.request(method, path, body, {name.replace('_', '-'): value for name, value in headers.items()})
    response = connection.getresponse()
    found = response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
    connection.close()
    return found


def refused(answer: Answer) -> tuple[int, str]:
    """Status and message of an error, which is one line of JSON."""
    status, headers, body = answer
    assert headers['content-type'] == 'application/json'
    told = json.loads(body)
    assert list(told) == ['error'] and '\n' not in told['error'] and len(told['error']) < 300
    return status, told['error']
