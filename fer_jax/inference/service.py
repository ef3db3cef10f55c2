"""The service: pictures in by HTTP, their faces out as JSON. `fer-jax serve` is this alone, `fer-jax demo` has a page before it.

It answers no page of a browser but its own: another site's page can neither ask it by a request of its own (Origin) nor, where it
listens on this computer only, by a name of its own that it lets point here (Host, DNS rebinding).
"""

import asyncio
import collections
import contextlib
import dataclasses
import ipaddress
import os
import socket
import time
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from fer_jax import __version__
from fer_jax.core.errors import InputError
from fer_jax.data.images import TooLarge
from fer_jax.data.schema import IMAGE_SIDE
from fer_jax.inference.classifier import Classifier, load, named
from fer_jax.inference.face import Face
from fer_jax.inference.faces import Detector
from fer_jax.inference.interface import Limits, document
from fer_jax.inference.output import FORMAT, VERSION
from fer_jax.inference.runtimes import BATCHES
from fer_jax.inference.sources import look

try:
    import uvicorn
    from python_multipart.multipart import FormParser, FormParserError, parse_options_header
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.datastructures import Headers, MutableHeaders
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route
    from starlette.types import ASGIApp, Message, Receive, Scope, Send
    from uvicorn.protocols.http.h11_impl import H11Protocol
except ImportError as error:
    raise InputError(f"serve and demo need {error.name}, which is not installed: pip install 'fer_jax[serve]'") from None

LATER = {'Retry-After': '1'}


@dataclasses.dataclass
class Job:
    """A picture that waits, and what comes of it."""

    name: str
    content: bytes
    detect: bool
    faces: list[Face] | None = None
    error: Exception | None = None

    @property
    def waits(self) -> bool:
        """Whether neither has come yet."""
        return self.faces is None and self.error is None


class Service:
    """A network, a detector, and the pictures that wait for them.

    Args:
      detector: finds faces, in one thread at a time.
      beside: others of its kind, each of which looks at a picture of its own meanwhile.
      hold: seconds in which pictures that wait are looked at, before the faces of all are classified.
    """

    def __init__(
        self,
        model: Classifier,
        detector: Detector,
        limits: Limits = Limits(),  # noqa: B008
        beside: Sequence[Detector] = (),
        hold: float = 0.2,
    ):
        self.model, self.detector, self.limits, self.detectors, self.hold = model, detector, limits, (detector, *beside), hold
        self.threads = ThreadPoolExecutor(len(self.detectors))
        self.waiting: collections.deque[Job] = collections.deque()
        self.turn = asyncio.Lock()  # of who uses the detector and the network
        self.busy = 0  # requests
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.answers = Counter('fer_jax_requests', 'Requests answered', ['path', 'status'], registry=self.registry)
        self.times = Histogram('fer_jax_request_seconds', 'From head to answer', ['path'], registry=self.registry)
        self.calls = Histogram('fer_jax_call_faces', 'Faces classified in a call', buckets=(0, *BATCHES), registry=self.registry)
        Gauge('fer_jax_waiting_pictures', 'Pictures that wait', registry=self.registry).set_function(lambda: len(self.waiting))

    async def faces(self, request: Request) -> Response:
        """POST /v1/faces: what `predict --json` has of the pictures in a form or of a body that is one, and which could not be read.

        Where none could be, the request is refused by what is wrong with the first.
        """
        detect = {'true': True, 'false': False}.get(request.query_params.get('detect', 'true'))
        if detect is None or set(request.query_params) - {'detect'}:
            raise HTTPException(400, 'of parameters there are detect=true and detect=false')
        jobs = [Job(name, content, detect) for name, content in await pictures(request, self.limits)]
        await self.look_at(jobs)
        errors = [job.error for job in jobs if job.error]
        for error in errors:
            if len(errors) == len(jobs) or not isinstance(error, InputError):
                raise error
        told = [{'picture': job.name} | ({'error': str(job.error)} if job.error else {'faces': len(job.faces)}) for job in jobs]
        found = [face.to_dict() for job in jobs for face in job.faces or ()]
        return JSONResponse({'format': FORMAT, 'version': VERSION} | self.model.about() | {'faces': found, 'pictures': told})

    async def look_at(self, jobs: Sequence[Job]) -> None:
        """Returns when none waits any more. Whose turn it is looks at others' pictures, too. HTTPException where too many wait."""
        if len(self.waiting) >= self.limits.waiting:
            raise HTTPException(429, f'{len(self.waiting)} pictures wait already', LATER)
        self.waiting.extend(jobs)
        while any(job.waits for job in jobs):
            async with self.turn:
                if any(job.waits for job in jobs):
                    await run_in_threadpool(self.work)

    def work(self) -> None:
        """Looks at pictures that wait, as they came, for `hold` seconds or until a call is full, and classifies their faces in one call."""
        begin, looked = time.monotonic(), []

        def look_on(detector: Detector) -> None:
            while time.monotonic() - begin < self.hold and sum(len(shot.cuts) for _, shot in looked) < BATCHES[-1]:
                try:
                    job = self.waiting.popleft()
                except IndexError:
                    return
                try:
                    shot = look(job.content, detector if job.detect else None, job.name, self.limits.megapixels)
                    # Its pixels have been looked at, and take much memory.
                    looked.append((job, shot._replace(photo=np.zeros((0, 0, 3), np.uint8))))
                except InputError as error:
                    job.error = type(error)(str(error))  # without its traceback, which would keep the picture until garbage is collected
                except Exception as error:  # whatever it is, its request waits for it, and the others are not to
                    job.error = error

        list(self.threads.map(look_on, self.detectors))
        self.calls.observe(sum(len(shot.cuts) for _, shot in looked))
        try:
            for (job, _), (_, faces) in zip(looked, named([shot for _, shot in looked], self.model), strict=True):
                job.faces = faces
        except Exception as error:
            for job, _ in looked:
                job.error = RuntimeError(str(error))  # an InputError would pass for the pictures' fault

    async def about(self, request: Request) -> Response:
        """GET of the other paths of interface.document: whether it lives, its metrics, the document."""
        match request.url.path:
            case '/healthz':
                return JSONResponse({'status': 'ok', 'checkpoint': self.model.name, 'version': __version__})
            case '/metrics':
                return Response(generate_latest(self.registry), headers={'Content-Type': CONTENT_TYPE_LATEST})
        return JSONResponse(document(__version__, self.model.class_names))


def make_app(service: Service, hosts: Collection[str] | None, pages: Sequence[Route] = ()) -> ASGIApp:
    """The application; every error of it is JSON, {"error": one line}, by the codes of interface.REFUSALS.

    Args:
      hosts: the names with port by which it is asked; None where they cannot be known, for other computers ask.
      pages: what is added for pages of its own; without them no page may ask.
    """
    own = [Route(path, service.about) for path in ('/healthz', '/metrics', '/openapi.json')]
    routes = [Route('/v1/faces', service.faces, methods=['POST']), *own, *pages]
    app = Starlette(routes=routes, exception_handlers=dict.fromkeys((HTTPException, InputError, Exception), refusal))
    paths = {route.path for route in routes}
    origins = {f'http://{host}' for host in hosts or ()} if pages else set()
    fixed = {'x-content-type-options': 'nosniff', 'referrer-policy': 'no-referrer', 'cache-control': 'no-store'}
    fixed |= {'cross-origin-resource-policy': 'same-origin', 'cross-origin-opener-policy': 'same-origin'}

    async def guard(scope: Scope, receive: Receive, send: Send) -> None:
        headers, begin, posts, status = Headers(scope=scope), time.monotonic(), scope['method'] == 'POST', 500

        async def send_fixed(message: Message) -> None:
            nonlocal status
            if message['type'] == 'http.response.start':
                status = message['status']
                MutableHeaders(scope=message).update(fixed)
            await send(message)

        chosen = app
        if hosts is not None and ('host' not in headers or [host for host in headers.getlist('host') if host.lower() not in hosts]):
            chosen = JSONResponse({'error': f'this is {" or ".join(sorted(hosts))}, and no other host'}, 421)
        elif [origin for origin in headers.getlist('origin') if origin.lower() not in origins]:
            chosen = JSONResponse({'error': 'only the page of this program may ask it' if pages else 'no page may ask this program'}, 403)
        elif posts and service.busy >= service.limits.requests:
            chosen = JSONResponse({'error': f'{service.busy} requests are being answered already'}, 503, LATER)
        service.busy += posts
        try:
            await chosen(scope, receive, send_fixed)
        finally:
            service.busy -= posts
            path = scope['path'] if scope['path'] in paths else 'other'
            service.answers.labels(path, str(status)).inc()
            service.times.labels(path).observe(time.monotonic() - begin)

    return guard


async def body(request: Request, limits: Limits) -> bytes:
    """The request's body.

    Raises:
      HTTPException: it is larger than allowed (what is more is read and dropped, or the sender would not see the answer), or does
        not arrive in time.
    """
    parts, size = [], 0
    try:
        async with asyncio.timeout(limits.seconds):
            async for part in request.stream():
                size += len(part)
                if size <= limits.mebibytes << 20:
                    parts.append(part)
    except TimeoutError:
        raise HTTPException(408, f'did not arrive in {limits.seconds:g} seconds') from None
    except ClientDisconnect:
        raise HTTPException(400, 'the connection was closed') from None
    if size > limits.mebibytes << 20:
        raise HTTPException(413, f'larger than {limits.mebibytes} MiB')
    return b''.join(parts)


async def pictures(request: Request, limits: Limits) -> list[tuple[str, bytes]]:
    """Name and content of each picture in a form, or of the one that the body is; HTTPException as of `body`, or of a form that is none."""
    content = await body(request, limits)
    kind, parameters = parse_options_header(request.headers.get('content-type'))
    if kind != b'multipart/form-data':  # curl --data-binary, for one, says that a picture is a form of another kind
        return [('', content)]
    return await run_in_threadpool(parts_of, content, parameters.get(b'boundary'), limits.pictures)


def parts_of(content: bytes, boundary: bytes | None, most: int) -> list[tuple[str, bytes]]:
    """Name and content of each file in a form; HTTPException 400 where it is damaged, or has none, more than `most`, or fields."""
    found: list[tuple[str, bytes]] = []
    ends: list[bool] = []

    def take(part: Any) -> None:
        if not hasattr(part, 'file_object'):
            raise FormParserError('a part has no file name')
        if len(found) == most:
            raise FormParserError(f'more than {most} pictures')
        found.append((part.file_name.decode(errors='replace'), part.file_object.getvalue()))

    try:
        options = {'MAX_MEMORY_FILE_SIZE': float('inf')}  # a photograph is not to lie on a disk
        form = FormParser('multipart/form-data', take, take, lambda: ends.append(True), boundary, config=options)
        form.write(content)
    except (FormParserError, ValueError) as error:
        raise HTTPException(400, str(InputError(f'not a form that is read: {error}'))) from None
    if not found or not ends:
        raise HTTPException(400, 'the form breaks off' if not ends else 'the form has no picture')
    return found


def refusal(request: Request, error: Exception) -> Response:
    """The answer to a request or a picture that is refused; a fault of this program is told as one, and the terminal has the traceback."""
    if isinstance(error, HTTPException):
        return JSONResponse({'error': error.detail}, error.status_code, error.headers)
    if isinstance(error, InputError):
        return JSONResponse({'error': str(error)}, 422 if isinstance(error, TooLarge) else 415)
    return JSONResponse({'error': f'the program failed: {type(error).__name__}'}, 500)


def impatient(seconds: float) -> type[H11Protocol]:
    """uvicorn's protocol, which waits for ever for a request's head, with an end to that; what it refuses itself is JSON, too."""

    class Impatient(H11Protocol):
        def connection_made(self, transport: Any) -> None:  # asyncio's, or uvloop's, which is no subclass of it
            super().connection_made(transport)
            self.end = self.loop.call_later(seconds, self.give_up)

        def connection_lost(self, error: Exception | None) -> None:
            self.end.cancel()
            super().connection_lost(error)

        def on_response_complete(self) -> None:
            self.end.cancel()
            self.end = self.loop.call_later(seconds, self.give_up)
            super().on_response_complete()

        def give_up(self) -> None:
            if self.cycle is None:
                self.refuse('408 Request Timeout', f'did not arrive in {seconds:g} seconds')
            elif self.cycle.response_complete:
                self.transport.close()

        def send_400_response(self, message: str) -> None:
            self.refuse('400 Bad Request', 'no request of HTTP')

        def refuse(self, status: str, text: str) -> None:
            told = JSONResponse({'error': text}).body.decode()
            head = f'HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(told)}\r\nConnection: close\r\n\r\n'
            self.transport.write((head + told).encode())
            self.transport.close()

    return Impatient


def listen(port: int, host: str = '127.0.0.1') -> socket.socket:
    """A socket that accepts connections; port 0 takes a free one, and InputError says why what is asked for cannot be had."""
    try:
        if 0 <= port < 1 << 16:
            return socket.create_server((host, port), family=socket.AF_INET6 if ':' in host else socket.AF_INET)
        reason = 'no port'
    except (OSError, UnicodeError) as error:
        reason = os.strerror(error.errno) if getattr(error, 'errno', 0) > 0 else 'no such address'
    raise InputError(f'--host {host} --port {port}: {reason}; choose another, and port 0 for any that is free')


def make_server(app: ASGIApp, limits: Limits) -> uvicorn.Server:
    """uvicorn, for `app` alone; its `run(sockets=[…])` returns when it was told to stop."""
    options = {'ws': 'none', 'lifespan': 'off', 'access_log': False, 'log_level': 'error', 'server_header': False, 'proxy_headers': False}
    return uvicorn.Server(uvicorn.Config(app, http=impatient(limits.seconds), timeout_graceful_shutdown=5, **options))


def names_here(address: str, port: int) -> set[str] | None:
    """What a client on this computer may call the service in Host and Origin; None for an address that others reach too."""
    if not ipaddress.ip_address(address).is_loopback:
        return None
    names = {f'[{address}]' if ':' in address else address, 'localhost'}
    return {f'{name}:{port}' for name in names} | (names if port == 80 else set())  # which clients leave out


def run(service: Service, listener: socket.socket, what: str, pages: Sequence[Route] = ()) -> None:
    """Says where the service is and `what` it does, and answers until Ctrl-C."""
    address, port = listener.getsockname()[:2]
    print(f'http://{f"[{address}]" if ":" in address else address}:{port} {what}; Ctrl-C ends it', flush=True)
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn has stopped by then
        make_server(make_app(service, names_here(address, port), pages), service.limits).run(sockets=[listener])


def serve(source: str, views: str, host: str, port: int, detectors: Sequence[Detector], limits: Limits) -> None:
    """`python -m fer_jax serve`: answers programs until Ctrl-C. InputError as of `load`, and of `listen`."""
    with listen(port, host) as listener:
        model = load(source, views)
        for size in BATCHES:  # compiled now, so that the first request need not wait
            model.probabilities(np.zeros((size, IMAGE_SIDE, IMAGE_SIDE), np.uint8))
        run(Service(model, detectors[0], limits, detectors[1:]), listener, f'answers with {model.name}')
