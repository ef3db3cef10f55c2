"""The commands `predict`, `explain` and `demo`. JAX is imported when they run, so that --help does not wait for it."""

import pathlib
from argparse import Namespace

from fer_jax.core.command_line import CONFIG, Parser, add_split, add_views, add_weights, chosen_weights, refuse_overrides
from fer_jax.core.errors import InputError
from fer_jax.core.fields import SHIPPED, default_config

YUNET = "find faces by this YuNet model, not OpenCV's cascade"


def add_faces(parser: Parser, of_what: str) -> None:
    """`--no-detect` and `--detector-model`: where the faces are."""
    how = parser.add_mutually_exclusive_group()
    how.add_argument('--no-detect', action='store_true', help=f'each {of_what} is one face')
    how.add_argument('--detector-model', type=pathlib.Path, metavar='FILE', help=YUNET)
    most = f'millions of pixels that a {of_what} may have; default: %(default)s'
    parser.add_argument('--megapixels', type=int, default=default_config().data.megapixels, metavar='N', help=most)


def predict(parser: Parser) -> None:
    """Find the faces in pictures, videos and cameras, and say what each expresses."""
    what = 'pictures, videos, folders of both, or the number of a camera, from 0'
    parser.add_argument('sources', nargs='+', metavar='SOURCE', help=what)
    add_weights(parser)
    add_views(parser, 'face')
    add_faces(parser, 'picture')
    parser.add_argument('--json', type=pathlib.Path, metavar='FILE', help='write the faces, as JSON')
    parser.add_argument('--csv', type=pathlib.Path, metavar='FILE', help='write the faces, a row each')
    where = 'folder for the pictures and videos with the faces drawn in'
    parser.add_argument('--annotated', type=pathlib.Path, metavar='DIR', help=where)

    def run(options: Namespace) -> int:
        refuse_overrides(options, 'predictions take the weights as they are')
        source = chosen_weights(options)
        from fer_jax.inference.command import predict_sources
        from fer_jax.inference.faces import make_detector

        detector = None if options.no_detect else make_detector(options.detector_model)
        files = (options.json, options.csv, options.annotated)
        return predict_sources(options.sources, source, options.views, detector, *files, options.megapixels)

    parser.set_defaults(run=run)


def explain(parser: Parser) -> None:
    """Show where a network looks, in photographs or in the classes of a data set."""
    parser.add_argument('photographs', nargs='*', metavar='IMAGE', help='none: the classes of the data that --config names')
    add_weights(parser)
    parser.add_argument('--label', metavar='NAME', help='the class to ask about; default: what each face is taken for, or all classes')
    parser.add_argument('--config', metavar=CONFIG, help='data whose classes are shown; default: those of the weights')
    add_split(parser)
    add_faces(parser, 'photograph')
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
        from fer_jax.inference.faces import make_detector

        if data:
            explain_data(source, options.config, options.overrides, options.split, options.label, options.out)
            return 0
        detector = None if options.no_detect else make_detector(options.detector_model)
        return explain_photographs(source, options.photographs, options.label, options.out, detector, options.megapixels)

    parser.set_defaults(run=run)


def demo(parser: Parser) -> None:
    """Serve a page for photographs and the webcam, on this computer only."""
    parser.add_argument('--port', type=int, default=8000, help='0 takes a free one; default: %(default)s')
    several = f'name or file of weights, or a run; several stand side by side; default: {SHIPPED}'
    parser.add_argument('--checkpoint', action='append', metavar='WEIGHTS', help=several)
    parser.add_argument('--detector-model', type=pathlib.Path, metavar='FILE', help=YUNET)

    def run(options: Namespace) -> None:
        refuse_overrides(options, 'a demo takes the weights as they are')
        from fer_jax.inference.demo import serve
        from fer_jax.inference.faces import make_detector

        serve(options.checkpoint or [SHIPPED], options.port, make_detector(options.detector_model))

    parser.set_defaults(run=run)
