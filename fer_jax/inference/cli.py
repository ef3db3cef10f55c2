"""The commands `predict`, `explain`, `demo` and `serve`. JAX is imported when they run, so that --help does not wait for it."""

import contextlib
import pathlib
from argparse import ArgumentTypeError, Namespace
from collections.abc import Callable
from typing import TYPE_CHECKING

from fer_jax.core.command_line import CONFIG, OVERRIDES, Parser, add_split, add_views, add_weights, chosen_weights, refuse_overrides
from fer_jax.core.errors import InputError
from fer_jax.core.fields import BOUNDS, DETECT_EVERY, MIN_SCORE, SHIPPED, SMOOTH, default_config
from fer_jax.inference.interface import LIMITS, Limits

if TYPE_CHECKING:
    from fer_jax.inference.faces import Detector


def number(least: float, most: float) -> Callable[[str], float]:
    """The type of an argument that is a number from `least` to `most`."""

    def parse(text: str) -> float:
        with contextlib.suppress(ValueError):
            if least <= (value := float(text)) <= most:
                return value
        raise ArgumentTypeError(f'{text!r} is no number from {least:g} to {most:g}')

    return parse


def whole_number(least: int, most: int) -> Callable[[str], int]:
    """The type of an argument that is a whole number from `least` to `most`."""

    def parse(text: str) -> int:
        if text.isascii() and text.isdecimal() and len(text) < 20 and least <= int(text) <= most:
            return int(text)
        raise ArgumentTypeError(f'{text!r} is no whole number from {least:,} to {most:,}')

    return parse


def add_detector(parser: Parser, other: str = '') -> None:
    """What finds the faces, and which of them count; and `--no-detect`, where `other` says what it does."""
    how = parser.add_mutually_exclusive_group()
    what = 'what finds the faces: mtcnn, cascade, or the file of a YuNet model; default: %(default)s'
    how.add_argument('--detector', default='mtcnn', metavar='NAME', help=what)
    if other:
        how.add_argument('--no-detect', action='store_true', help=other)
    score = 'leave out faces that the detector is less sure of, 0 to 1; default: %(default)s'
    parser.add_argument('--min-score', type=float, default=MIN_SCORE, metavar='SHARE', help=score)
    parser.add_argument('--min-size', type=float, default=0.0, metavar='PIXELS', help='leave out faces that are smaller')


def add_megapixels(parser: Parser) -> None:
    """`--megapixels`: how large a picture may be."""
    most = 'millions of pixels that a picture may have; default: %(default)s'
    bounds = BOUNDS['data.megapixels']
    parser.add_argument('--megapixels', type=whole_number(*bounds), default=default_config().data.megapixels, metavar='N', help=most)


def add_service(parser: Parser) -> None:
    """`--port`, and the fields of Limits."""
    parser.add_argument('--port', type=int, default=8000, help='0 takes a free one; default: %(default)s')
    for name, (status, what) in LIMITS.items():
        kind = number(0.01, 3600.0) if name == 'seconds' else whole_number(1, 10**6)
        text = f'at most so many {what}, else {status}; default: %(default)s'
        parser.add_argument(f'--{name}', type=kind, default=getattr(Limits(), name), metavar='N', help=text)


def chosen_limits(options: Namespace) -> Limits:
    """What `add_service` was told."""
    return Limits(**{name: getattr(options, name) for name in LIMITS})


def chosen_detector(options: Namespace) -> 'Detector | None':
    """What finds the faces; None where each picture is one."""
    from fer_jax.inference import faces

    return None if getattr(options, 'no_detect', False) else faces.make_detector(options.detector, options.min_score, options.min_size)


def predict(parser: Parser) -> None:
    """Find the faces in pictures, videos and cameras, and say what each expresses."""
    what = 'pictures, videos, folders of both, or the number of a camera, from 0'
    parser.add_argument('sources', nargs='+', metavar='SOURCE', help=what)
    add_weights(parser)
    add_views(parser, 'face')
    add_detector(parser, 'each picture is one face')
    add_megapixels(parser)
    unsure = 'say `unsure` where the most probable class is less probable than this, 0 to 1; default: %(default)s'
    parser.add_argument('--min-confidence', type=number(0.0, 1.0), default=0.0, metavar='SHARE', help=unsure)
    parser.add_argument(
        '--every', type=whole_number(1, 10**9), default=1, metavar='N', help='of a video, look at one frame in N; default: 1'
    )
    seconds = 'of a video, look for faces so often, and follow them between; 0: in every frame; default: %(default)s'
    parser.add_argument('--detect-every', type=number(0.0, 3600.0), default=DETECT_EVERY, metavar='SECONDS', help=seconds)
    smooth = 'smooth the probabilities of a face in a video over so long; 0 leaves them as they are; default: %(default)s'
    parser.add_argument('--smooth', type=number(0.0, 3600.0), default=SMOOTH, metavar='SECONDS', help=smooth)
    parser.add_argument('--json', type=pathlib.Path, metavar='FILE', help='write the faces, as JSON')
    parser.add_argument('--jsonl', type=pathlib.Path, metavar='FILE', help='write the faces, a line of JSON each, as they are found')
    parser.add_argument('--csv', type=pathlib.Path, metavar='FILE', help='write the faces, a row each')
    where = 'folder for the pictures and videos with the faces drawn in'
    parser.add_argument('--annotated', type=pathlib.Path, metavar='DIR', help=where)
    over_time = 'folder for a picture of each video: the probabilities over time'
    parser.add_argument('--timeline', type=pathlib.Path, metavar='DIR', help=over_time)

    def run(options: Namespace) -> int:
        refuse_overrides(options, 'predictions take the weights as they are')
        source = chosen_weights(options)
        from fer_jax.inference.command import Manner, Outputs, predict_sources

        manner = Manner(options.min_confidence, options.every, options.detect_every, options.smooth, options.megapixels)
        outputs = Outputs(options.json, options.jsonl, options.csv, options.annotated, options.timeline)
        return predict_sources(options.sources, source, options.views, chosen_detector(options), manner, outputs)

    parser.set_defaults(run=run)


def explain(parser: Parser) -> None:
    """Show where a network looks, in photographs or in the classes of a data set."""
    parser.epilog = OVERRIDES
    parser.add_argument('photographs', nargs='*', metavar='IMAGE', help='none: the classes of the data that --config names')
    add_weights(parser)
    parser.add_argument('--label', metavar='NAME', help='the class to ask about; default: what each face is taken for, or all classes')
    parser.add_argument('--config', metavar=CONFIG, help='data whose classes are shown; default: those of the weights')
    add_split(parser)
    add_detector(parser, 'each photograph is one face')
    add_megapixels(parser)
    parser.add_argument('--out', type=pathlib.Path, required=True, help='folder of the pictures')

    def run(options: Namespace) -> int:
        source = chosen_weights(options)
        data = options.config or options.overrides
        if options.photographs and data:
            raise InputError('photographs and --config both say what is to be explained: give one of them')
        if not options.photographs and not data:
            which = '--config FILE (and --config.data.path=…) for the classes of a data set'
            raise InputError(f'nothing to explain: give photographs, or {which}')
        from fer_jax.inference.explain import explain_data, explain_photographs

        if data:
            explain_data(source, options.config, options.overrides, options.split, options.label, options.out)
            return 0
        detector = chosen_detector(options)
        return explain_photographs(source, options.photographs, options.label, options.out, detector, options.megapixels)

    parser.set_defaults(run=run)


def demo(parser: Parser) -> None:
    """Serve a page for photographs and the webcam, on this computer only."""
    add_service(parser)
    several = f'name or file of weights, or a run; several stand side by side; default: {SHIPPED}'
    parser.add_argument('--checkpoint', action='append', metavar='WEIGHTS', help=several)
    add_detector(parser)

    def run(options: Namespace) -> None:
        refuse_overrides(options, 'a demo takes the weights as they are')
        from fer_jax.inference.demo import show

        show(options.checkpoint or [SHIPPED], options.port, chosen_detector(options), chosen_limits(options))

    parser.set_defaults(run=run)


def serve(parser: Parser) -> None:
    """Answer programs by HTTP: pictures in, their faces out as JSON."""
    where = 'address of this computer to listen on, 0.0.0.0 for all; docs/serving.md first; default: %(default)s'
    parser.add_argument('--host', default='127.0.0.1', metavar='ADDRESS', help=where)
    add_service(parser)
    add_weights(parser)
    add_views(parser, 'face')
    add_detector(parser)

    def run(options: Namespace) -> None:
        refuse_overrides(options, 'a service takes the weights as they are')
        source = chosen_weights(options)
        from fer_jax.inference.service import serve

        # Two pictures at a time: one alone leaves OpenCV's threads waiting, and more want more memory.
        serve(source, options.views, options.host, options.port, [chosen_detector(options) for _ in range(2)], chosen_limits(options))

    parser.set_defaults(run=run)
