"""The page before the service, on this computer: a photograph or the webcam in; faces, probabilities, and where the network looks, out."""

import base64
import hashlib
import pathlib
import re
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8

from fer_jax.data.schema import IMAGE_SIDE
from fer_jax.data.views import centre_crops
from fer_jax.evaluation.pictures import outermost
from fer_jax.inference.classifier import Classifier, load
from fer_jax.inference.explain import largest
from fer_jax.inference.faces import Detector
from fer_jax.inference.interface import Limits
from fer_jax.inference.saliency import grad_cam

# Starlette's names come by way of what says how to install it where it is not there.
from fer_jax.inference.service import JSONResponse, Request, Response, Route, Service, body, listen, run, run_in_threadpool
from fer_jax.inference.sources import look

PAGE = pathlib.Path(__file__).with_name('demo.html')


def pages(service: Service, models: Sequence[Classifier]) -> list[Route]:
    """The page at /, what it says of the checkpoints at /checkpoints, and photographs taken at /predict."""
    page = PAGE.read_text('utf-8')

    async def index(request: Request) -> Response:
        return Response(page, headers={'Content-Security-Policy': policy(page)}, media_type='text/html')

    async def checkpoints(request: Request) -> Response:
        return JSONResponse({'limit': service.limits.mebibytes << 20, 'checkpoints': [about(model) for model in models]})

    async def predict(request: Request) -> Response:
        content = await body(request, service.limits)
        detector = None if request.query_params.get('faces') == 'whole' else service.detector
        async with service.turn:
            return JSONResponse(await run_in_threadpool(answer, models, detector, content, service.limits.megapixels))

    return [Route('/', index), Route('/checkpoints', checkpoints), Route('/predict', predict, methods=['POST'])]


def policy(page: str) -> str:
    """The Content-Security-Policy by which the page runs its own script and style, and talks to nobody but this program."""

    def own(tag: str) -> str:
        (text,) = re.findall(f'<{tag}>(.*?)</{tag}>', page, re.DOTALL)
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    allowed = {'default-src': "'none'", 'script-src': own('script'), 'style-src': own('style'), 'connect-src': "'self'"}
    allowed |= {'img-src': 'data:', 'frame-ancestors': "'none'", 'base-uri': "'none'", 'form-action': "'none'"}
    return '; '.join(f'{what} {where}' for what, where in allowed.items())


def answer(models: Sequence[Classifier], detector: Detector | None, content: bytes, megapixels: int) -> dict[str, Any]:
    """What the page shows of a photograph's bytes: its size, and of each face its box, its crop and each model's results.

    Without a detector the photograph is one face. InputError where it is no image, or has more than so many pixels.
    """
    begin = time.monotonic()
    shot = look(content, detector, megapixels=megapixels)
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


def show(sources: Sequence[str], port: int, detector: Detector, limits: Limits) -> None:
    """`python -m fer_jax demo`: serves the page, with a model of each source side by side, and programs by the first, until Ctrl-C.

    InputError as of `load`, and of `listen`.
    """
    with listen(port) as listener:
        models = [load(source) for source in sources]
        for model in models:
            result(model, np.zeros((IMAGE_SIDE, IMAGE_SIDE), np.uint8))  # compiled now, so that the first photograph need not wait
        service = Service(models[0], detector, limits)
        run(service, listener, f'shows {", ".join(model.name for model in models)}', pages(service, models))
