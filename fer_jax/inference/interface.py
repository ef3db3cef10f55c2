"""What the service promises to programs: its limits, its status codes, and its OpenAPI document. JAX is not needed to know it."""

from collections.abc import Sequence
from typing import Any, NamedTuple


class Limits(NamedTuple):
    """What a request is refused beyond. Each is an option of its name, and has a status code of its own."""

    megapixels: int = 50
    mebibytes: int = 16
    pictures: int = 64
    seconds: float = 20.0
    requests: int = 64
    waiting: int = 64


# Field of Limits → status code, and what it is the most of.
LIMITS = {
    'megapixels': (422, 'millions of pixels of a picture'),
    'mebibytes': (413, 'MiB of a request'),
    'pictures': (400, 'pictures of a request'),
    'seconds': (408, 'seconds for a request to arrive'),
    'requests': (503, 'requests at once, on their way or being answered'),
    'waiting': (429, 'pictures that wait when a request comes'),
}
REFUSALS = {status: f'more than --{name} {what}' for name, (status, what) in LIMITS.items()} | {
    400: 'a form or a parameter that cannot be read, or more than --pictures of a request',
    403: 'asked by a page that is not of this program',
    415: 'no picture that is read, or a damaged one',
    421: 'asked by a name that is not of this program',
    500: 'a fault of this program',
}
TEXT, WHOLE, NONE, SHARE = {'type': 'string'}, {'type': 'integer'}, {'type': 'null'}, {'type': 'number', 'minimum': 0, 'maximum': 1}


def record(**fields: dict[str, Any]) -> dict[str, Any]:
    """The schema of an object that has these fields, and later perhaps more."""
    return {'type': 'object', 'properties': fields, 'required': list(fields)}


def reply(description: str, kind: str, schema: dict[str, Any]) -> dict[str, Any]:
    """What OpenAPI has of an answer."""
    return {'description': description, 'content': {kind: {'schema': schema}}}


def document(version: str, classes: Sequence[str]) -> dict[str, Any]:
    """The OpenAPI document of the service with a network of these classes; `version` is the program's."""
    face = record(
        picture=TEXT | {'description': 'the name of its file in the form; empty of a body that is the picture'},
        **dict.fromkeys(('frame', 'time', 'track'), NONE | {'description': 'of videos only'}),
        box=record(**dict.fromkeys(('left', 'top', 'width', 'height'), WHOLE)) | {'description': 'in pixels, turned as its EXIF says'},
        score=SHARE | {'type': ['number', 'null'], 'description': 'how sure the detector is; null where it does not say'},
        label={'enum': list(classes)},
        confidence=SHARE,
        probabilities=record(**dict.fromkeys(classes, SHARE)),
    )
    faces = record(
        **dict.fromkeys(('format', 'checkpoint', 'sha256', 'views'), TEXT),
        version=WHOLE | {'description': 'another one where a field is taken away, renamed or given another meaning'},
        classes={'type': 'array', 'items': TEXT},
        faces={'type': 'array', 'items': {'$ref': '#/components/schemas/Face'}},
        pictures={'type': 'array', 'items': {'oneOf': [record(picture=TEXT, faces=WHOLE), record(picture=TEXT, error=TEXT)]}},
    )
    alive = record(status={'const': 'ok'}, checkpoint=TEXT, version=TEXT)
    gets = {
        '/healthz': reply('that it answers', 'application/json', alive),
        '/metrics': reply('for Prometheus', 'text/plain', TEXT),
        '/openapi.json': reply('this document', 'application/json', {'type': 'object'}),
    }
    picture = {'type': 'string', 'contentMediaType': 'application/octet-stream'}
    form = {'type': 'object', 'minProperties': 1, 'additionalProperties': picture}
    answers = {200: reply('of what could be read', 'application/json', {'$ref': '#/components/schemas/Faces'})}
    answers |= {each: reply(what, 'application/json', {'$ref': '#/components/schemas/Error'}) for each, what in REFUSALS.items()}
    ask = {
        'summary': 'The faces in pictures, and what each expresses',
        'parameters': [{'name': 'detect', 'in': 'query', 'schema': {'type': 'boolean'}, 'description': 'false: each picture is a face'}],
        'requestBody': {'required': True, 'content': {'multipart/form-data': {'schema': form}, '*/*': {'schema': picture}}},
        'responses': {str(status): told for status, told in answers.items()},
    }
    return {
        'openapi': '3.1.0',
        'info': {'title': 'fer_jax', 'version': version},
        'paths': {'/v1/faces': {'post': ask}} | {path: {'get': {'responses': {'200': told}}} for path, told in gets.items()},
        'components': {'schemas': {'Face': face, 'Faces': faces, 'Error': record(error=TEXT)}},
    }
