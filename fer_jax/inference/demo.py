"""A web page on this computer: a photograph or the webcam in; faces, probabilities, and where the network looks, out.

It answers programs on this computer only, and of pages in its browser only its own: another site's page can neither ask it
by a request of its own (Origin), nor by a name of its own that it lets point here (Host, DNS rebinding).
"""

import asyncio
import base64
import contextlib
import hashlib
import os
import pathlib
import re
import socket
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8

from fer_jax.core.errors import InputError
from fer_jax.data.views import centre_crops
from fer_jax.evaluation.pictures import outermost
from fer_jax.inference.classifier import Classifier, load
from fer_jax.inference.explain import largest
from fer_jax.inference.faces import Detector
from fer_jax.inference.saliency import grad_cam
from fer_jax.inference.sources import look

try:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.datastructures import Headers, MutableHeaders
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import HTMLResponse, JSONResponse, Response
    from starlette.routing import Route
    from starlette.types import ASGIApp, Message, Receive, Scope, Send
except ImportError as error:
    raise InputError(f"demo needs {error.name}, which is not installed: pip install 'fer_jax[demo]'") from None

ADDRESS = '127.0.0.1'
MOST_BYTES = 16 << 20  # of a photograph
MOST_SECONDS = 20  # for it to arrive
MOST_CONNECTIONS = 32
PAGE = pathlib.Path(__file__).with_name('demo.html')


def make_app(models: Sequence[Classifier], detector: Detector, port: int) -> ASGIApp:
    """The application: the page at /, what it says of the checkpoints at /checkpoints, and photographs taken at /predict.

    Every error is JSON, {"error": one line}: 413 too large, 415 no image, 408 too slow, 421 another Host, 403 another Origin.
    """
    page = PAGE.read_text('utf-8')
    one_at_a_time = asyncio.Lock()

    async def index(request: Request) -> Response:
        return HTMLResponse(page, headers={'Content-Security-Policy': policy(page)})

    async def checkpoints(request: Request) -> Response:
        return JSONResponse({'limit': MOST_BYTES, 'checkpoints': [about(model) for model in models]})

    async def predict(request: Request) -> Response:
        content = await body(request)
        detect = request.query_params.get('faces') != 'whole'
        async with one_at_a_time:
            return JSONResponse(await run_in_threadpool(answer, models, detector if detect else None, content))

    app = Starlette(
        routes=[Route('/', index), Route('/checkpoints', checkpoints), Route('/predict', predict, methods=['POST'])],
        exception_handlers=dict.fromkeys((HTTPException, InputError, Exception), refusal),
    )
    return guarded(app, {f'{name}:{port}' for name in (ADDRESS, 'localhost')})


def guarded(app: ASGIApp, authorities: set[str]) -> ASGIApp:
    """`app` for requests to one of `authorities` (host:port) that come from no page or from its own; every answer is for it alone."""
    origins = {f'http://{authority}' for authority in authorities}
    fixed = {'x-content-type-options': 'nosniff', 'referrer-policy': 'no-referrer', 'cache-control': 'no-store'}
    fixed |= {'cross-origin-resource-policy': 'same-origin', 'cross-origin-opener-policy': 'same-origin'}

    async def guard(scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)

        async def send_fixed(message: Message) -> None:
            if message['type'] == 'http.response.start':
                MutableHeaders(scope=message).update(fixed)
            await send(message)

        chosen = app
        if [host for host in headers.getlist('host') if host.lower() not in authorities] or 'host' not in headers:
            chosen = JSONResponse({'error': f'this is {" or ".join(sorted(authorities))}, and no other host'}, 421)
        elif [origin for origin in headers.getlist('origin') if origin.lower() not in origins]:
            chosen = JSONResponse({'error': 'only the page of this program may ask it'}, 403)
        await chosen(scope, receive, send_fixed)

    return guard


def policy(page: str) -> str:
    """The Content-Security-Policy by which the page runs its own script and style, and talks to nobody but this program."""

    def own(tag: str) -> str:
        (text,) = re.findall(f'<{tag}>(.*?)</{tag}>', page, re.DOTALL)
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    allowed = {'default-src': "'none'", 'script-src': own('script'), 'style-src': own('style'), 'connect-src': "'self'"}
    allowed |= {'img-src': 'data:', 'frame-ancestors': "'none'", 'base-uri': "'none'", 'form-action': "'none'"}
    return '; '.join(f'{what} {where}' for what, where in allowed.items())


async def body(request: Request) -> bytes:
    """The request's body.

    Raises:
      HTTPException: it is larger than MOST_BYTES (what is more is read and dropped, or the sender would not see the answer),
        empty, or does not arrive in MOST_SECONDS.
    """
    parts, size = [], 0
    try:
        async with asyncio.timeout(MOST_SECONDS):
            async for part in request.stream():
                size += len(part)
                if size <= MOST_BYTES:
                    parts.append(part)
    except TimeoutError:
        raise HTTPException(408, f'the photograph did not arrive in {MOST_SECONDS} seconds') from None
    except ClientDisconnect:
        raise HTTPException(400, 'the connection was closed') from None
    if size > MOST_BYTES:
        raise HTTPException(413, f'larger than {MOST_BYTES >> 20} MiB')
    return b''.join(parts)


def refusal(request: Request, error: Exception) -> Response:
    """The answer to a request or a picture that is refused; a fault of this program is told as one, and the terminal has the traceback."""
    match error:
        case HTTPException():
            return JSONResponse({'error': error.detail}, error.status_code, error.headers)
        case InputError():
            return JSONResponse({'error': str(error)}, 415)
    return JSONResponse({'error': f'the program failed: {type(error).__name__}'}, 500)


def answer(models: Sequence[Classifier], detector: Detector | None, content: bytes) -> dict[str, Any]:
    """What the page shows of a photograph's bytes: its size, and of each face its box, its crop and each model's results.

    Without a detector the photograph is one face. InputError where it is no image.
    """
    begin = time.monotonic()
    shot = look(content, detector)
    faces = [
        {
            'box': each.box,
            'score': each.score,
            'crop': centre_crops(each.pixels[None])[0].tolist(),
            'results': [result(model, each.pixels) for model in models],
        }
        for each in largest(shot.cuts)
    ]
    taken = round(1000 * (time.monotonic() - begin))
    height, width = shot.photo.shape[:2]
    return {'width': width, 'height': height, 'faces': faces, 'left_out': len(shot.cuts) - len(faces), 'milliseconds': taken}


def result(model: Classifier, face: UInt8[np.ndarray, '48 48']) -> dict[str, Any]:
    """One model's probabilities of a face by class, and its maps, as JSON has them; attention is None where it has none."""
    _, cams, sown = jax.device_get(grad_cam(model.network, model.variables, centre_crops(face[None])))
    maps, _ = outermost(sown)
    (probabilities,) = model.probabilities(face[None]).tolist()
    return {
        'checkpoint': model.name,
        'probabilities': list(zip(model.class_names, probabilities, strict=True)),
        'attention': None if maps is None else np.round(maps[0].astype(float), 3).tolist(),
        'grad_cam': cams[0].tolist(),
    }


def about(model: Classifier) -> dict[str, Any]:
    """What the page says of a model."""
    parameters = sum(value.size for value in jax.tree.leaves(model.variables['params']))
    return {'name': model.name, 'parameters': parameters, 'classes': model.class_names}


def listen(port: int) -> socket.socket:
    """A socket on ADDRESS that accepts connections; port 0 takes a free one, and InputError says why another cannot be had."""
    try:
        if 0 <= port < 1 << 16:
            return socket.create_server((ADDRESS, port))
        reason = 'no port'
    except OSError as error:
        reason = os.strerror(error.errno)
    raise InputError(f'--port {port}: {reason}; choose another, or 0 for any that is free')


def make_server(app: ASGIApp) -> uvicorn.Server:
    """uvicorn, for `app` alone; its `run(sockets=[…])` returns when it was told to stop."""
    options = {'ws': 'none', 'lifespan': 'off', 'access_log': False, 'log_level': 'error', 'server_header': False}
    return uvicorn.Server(uvicorn.Config(app, http='h11', limit_concurrency=MOST_CONNECTIONS, timeout_graceful_shutdown=2, **options))


def serve(sources: Sequence[str], port: int, detector: Detector) -> None:
    """`python -m fer_jax demo`: serves the page until Ctrl-C.

    Args:
      sources: of the models that stand side by side, as of weights.find_weights.

    Raises:
      InputError: weights that are not there, or a port that is not free.
    """
    with listen(port) as listener:
        models = [load(source) for source in sources]
        for model in models:
            result(model, np.zeros((48, 48), np.uint8))  # compiled now, so that the first photograph need not wait
        port = listener.getsockname()[1]
        print(f'http://{ADDRESS}:{port} shows {", ".join(model.name for model in models)}; Ctrl-C ends it', flush=True)
        with contextlib.suppress(KeyboardInterrupt):  # uvicorn has stopped by then
            make_server(make_app(models, detector, port)).run(sockets=[listener])
