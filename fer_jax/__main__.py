"""`python -m fer_jax <command>`: reads the arguments and calls the library; JAX is imported only by what needs it."""

import argparse
import pathlib
import sys
from collections.abc import Callable

from fer_jax.core.config import load_config
from fer_jax.core.errors import Diverged, InputError, Interrupted, NotSaved, ToldElsewhere, unknown
from fer_jax.core.fields import SHIPPED
from fer_jax.core.terminal import leave, tell_warnings

DESCRIPTION = 'Facial-expression recognition with embedded attention and channel shuffle.'
OVERRIDES = 'Any field of fer_jax/core/fields.py is set by --config.GROUP.FIELD=VALUE.'


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> None:
        raise InputError(f'{message} ({self.prog} --help lists what there is)')


def make_parser() -> argparse.ArgumentParser:
    """The commands and their arguments."""
    parser = Parser(prog='python -m fer_jax', description=DESCRIPTION, allow_abbrev=False)
    commands = parser.add_subparsers(dest='command', required=True, metavar='COMMAND', parser_class=Parser)

    def command(name: str, text: str, config: bool) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text, epilog=OVERRIDES, allow_abbrev=False)
        if config:
            sub.add_argument('--config', default='configs/toyfaces.py', metavar='FILE[:NAME=VALUE,…]', help='default: %(default)s')
        return sub

    train = command('train', 'Train a network, or go on with an unfinished run, and evaluate it.', config=True)
    train.add_argument('--workdir', type=pathlib.Path, help='folder of the run; default: runs/NAME-HASH, found again by the same command')
    how = 'off, auto (TPU pod, SLURM, Open MPI, Kubernetes), or HOST:PORT of process 0; default: %(default)s'
    train.add_argument('--distributed', default='off', metavar='HOW', help=f'one run by several processes: {how}')
    train.add_argument('--processes', type=int, metavar='N', help='how many there must be')
    train.add_argument('--process-id', type=int, metavar='K', help='number of this one from 0, where HOW is HOST:PORT')
    train.add_argument('--join-timeout', type=int, default=300, metavar='SECONDS', help='to wait for the others; default: %(default)s')
    evaluate = command('evaluate', 'Evaluate a checkpoint of a run, or weights.', config=False)
    evaluate.add_argument('--workdir', type=pathlib.Path, help='folder of the run; not for weights')
    which = 'best, latest or a step of a run, or else the name or file of weights; default: %(default)s'
    evaluate.add_argument('--checkpoint', default='best', help=which)
    evaluate.add_argument(
        '--config', metavar='FILE[:NAME=VALUE,…]', help='data to evaluate weights on; default: those they were trained on'
    )
    evaluate.add_argument('--out', type=pathlib.Path, help='folder for what weights score; default: runs/evaluations/NAME-SPLIT-VIEWS')
    evaluate.add_argument('--split', default='test', help="train, validation, test, or the data set's own name; default: %(default)s")
    evaluate.add_argument('--views', default='centre', choices=('centre', 'ten'), help='crops of each image; default: %(default)s')
    weights = command('weights', 'Write the best checkpoint of a finished run as one safetensors file.', config=False)
    weights.add_argument('--workdir', type=pathlib.Path, required=True, help='folder of the run')
    weights.add_argument('--out', type=pathlib.Path, required=True, help='the file, such as weights/NAME.safetensors')
    sweep = command('sweep', 'Train every configuration of a file with every seed, or go on with those that are unfinished.', config=True)
    sweep.add_argument('--seeds', required=True, help='such as 0-4 or 0,3,7-9')
    sweep.add_argument('--only', default='', metavar='NAME,NAME', help='these configurations of the file; default: all')
    where = 'folder of the runs, which several processes and hosts may share; default: runs/FILE-HASH, found again by the same command'
    sweep.add_argument('--workdir', type=pathlib.Path, help=where)
    at_once = 'seeds of a configuration in one program: fills an accelerator that one leaves idle; default: %(default)s'
    sweep.add_argument('--together', type=int, default=1, metavar='N', help=at_once)
    sweep.add_argument('--dry-run', action='store_true', help='only list the runs and how far each is')
    add_predict(command)
    add_explain(command)
    add_demo(command)
    add_export(command)
    report = command('report', 'Make tables, figures and one page of the runs in folders, with intervals and tests.', config=False)
    report.add_argument('--workdir', type=pathlib.Path, nargs='+', required=True, help='runs, sweeps, or folders with such below')
    report.add_argument('--out', type=pathlib.Path, help='folder of the files; default: report in the first --workdir')
    prepare = command('prepare', 'Prepare a data set and print its manifest.', config=True)
    for sub in (train, sweep, prepare):
        sub.add_argument('--skip-bad', action='store_true', help='leave out files that are no images instead of refusing the set')
    summary = command('summary', "Print the network as the paper's Table 1 does.", config=True)
    summary.add_argument('--parameters', action='store_true', help='list every parameter too')
    return parser


def add_predict(command: Callable[..., argparse.ArgumentParser]) -> None:
    """The command `predict`."""
    sub = command('predict', 'Find the faces in pictures, videos and cameras, and say what each expresses.', config=False)
    sub.add_argument('sources', nargs='+', metavar='SOURCE', help='pictures, videos, folders of both, or the number of a camera, from 0')
    sub.add_argument('--checkpoint', metavar='WEIGHTS', help=f'name or file of weights, or a run; default: {SHIPPED}')
    sub.add_argument('--workdir', type=pathlib.Path, help='folder of a run, whose best checkpoint it is, in place of --checkpoint')
    sub.add_argument('--views', default='centre', choices=('centre', 'ten'), help='crops of each face; default: %(default)s')
    how = sub.add_mutually_exclusive_group()
    how.add_argument('--no-detect', action='store_true', help='each picture is one face')
    how.add_argument('--detector-model', type=pathlib.Path, metavar='FILE', help="find faces by this YuNet model, not OpenCV's cascade")
    sub.add_argument('--json', type=pathlib.Path, metavar='FILE', help='write the faces, as JSON')
    sub.add_argument('--csv', type=pathlib.Path, metavar='FILE', help='write the faces, a row each')
    sub.add_argument('--annotated', type=pathlib.Path, metavar='DIR', help='folder for the pictures and videos with the faces drawn in')


def add_explain(command: Callable[..., argparse.ArgumentParser]) -> None:
    """The command `explain`."""
    sub = command('explain', 'Show where a network looks, in photographs or in the classes of a data set.', config=False)
    sub.add_argument('photographs', nargs='*', metavar='IMAGE', help='none: the classes of the data that --config names')
    sub.add_argument('--checkpoint', metavar='WEIGHTS', help=f'name or file of weights, or a run; default: {SHIPPED}')
    sub.add_argument('--workdir', type=pathlib.Path, help='folder of a run, whose best checkpoint it is, in place of --checkpoint')
    sub.add_argument('--label', metavar='NAME', help='the class to ask about; default: what each face is taken for, or all classes')
    sub.add_argument('--config', metavar='FILE[:NAME=VALUE,…]', help='data whose classes are shown; default: those of the weights')
    sub.add_argument('--split', default='test', help="train, validation, test, or the data set's own name; default: %(default)s")
    how = sub.add_mutually_exclusive_group()
    how.add_argument('--no-detect', action='store_true', help='each photograph is one face')
    how.add_argument('--detector-model', type=pathlib.Path, metavar='FILE', help="find faces by this YuNet model, not OpenCV's cascade")
    sub.add_argument('--out', type=pathlib.Path, required=True, help='folder of the pictures')


def add_demo(command: Callable[..., argparse.ArgumentParser]) -> None:
    """The command `demo`."""
    sub = command('demo', 'Serve a page for photographs and the webcam, on this computer only.', config=False)
    sub.add_argument('--port', type=int, default=8000, help='0 takes a free one; default: %(default)s')
    several = f'name or file of weights, or a run; several stand side by side; default: {SHIPPED}'
    sub.add_argument('--checkpoint', action='append', metavar='WEIGHTS', help=several)
    sub.add_argument('--detector-model', type=pathlib.Path, metavar='FILE', help="find faces by this YuNet model, not OpenCV's cascade")


def add_export(command: Callable[..., argparse.ArgumentParser]) -> None:
    """The command `export`."""
    sub = command('export', 'Write a trained network as a file for another runtime, checked against JAX.', config=False)
    sub.add_argument('--format', required=True, choices=('onnx', 'stablehlo', 'litert'), help='of the file')
    sub.add_argument('--checkpoint', metavar='WEIGHTS', help=f'name or file of weights, or a run; default: {SHIPPED}')
    sub.add_argument('--workdir', type=pathlib.Path, help='folder of a run, whose best checkpoint it is, in place of --checkpoint')
    sub.add_argument('--out', type=pathlib.Path, required=True, help='the file')


def split_overrides(arguments: list[str]) -> tuple[list[str], dict[str, str]]:
    """The arguments without `--config.FIELD=VALUE` (or `--config.FIELD VALUE`), and those as field → text."""
    rest, overrides, queue = [], {}, list(arguments)
    while queue:
        argument = queue.pop(0)
        if not argument.startswith('--config.'):
            rest.append(argument)
            continue
        field, equals, text = argument.removeprefix('--config.').partition('=')
        if not equals:
            if not queue or queue[0].startswith('--'):
                raise InputError(f'--config.{field} has no value; write --config.{field}=…')
            text = queue.pop(0)
        overrides[field] = text
    return rest, overrides


def parse(arguments: list[str]) -> tuple[argparse.Namespace, dict[str, str]]:
    """The parsed arguments and the overrides.

    Raises:
      InputError: an argument that no command knows; the nearest known one is named.
    """
    parser = make_parser()
    rest, overrides = split_overrides(arguments)
    commands = parser._subparsers._group_actions[0].choices
    if rest and not rest[0].startswith('-') and rest[0] not in commands:
        raise unknown('command', rest[0], commands)
    options, extra = parser.parse_known_args(rest)
    if extra:
        known = [name for action in commands[options.command]._actions for name in action.option_strings]
        raise unknown('argument', extra[0], [*known, '--config.FIELD=VALUE'])
    return options, overrides


def evaluate(options: argparse.Namespace, overrides: dict[str, str]) -> None:
    """Evaluates a run's checkpoint with --workdir, weights without it."""
    from fer_jax.training.score import evaluate_run, evaluate_weights

    if options.workdir is None:
        if options.checkpoint in ('best', 'latest') or options.checkpoint.isdecimal():
            raise InputError(f'--checkpoint {options.checkpoint} of which run? Give its --workdir, or weights as --checkpoint')
        evaluate_weights(options.checkpoint, options.config, options.split, options.views, overrides, options.out)
        return
    for name in ('config', 'out'):
        if getattr(options, name) is not None:
            raise InputError(f'--{name} goes with weights; a run (--workdir) has its own')
    evaluate_run(options.workdir, options.checkpoint, options.split, options.views, overrides)


def explain(options: argparse.Namespace, overrides: dict[str, str]) -> int:
    """Explains photographs where there are any, or else the classes of a data set; returns the exit code."""
    from fer_jax.inference.explain import explain_data, explain_photographs
    from fer_jax.inference.faces import make_detector

    if options.workdir and options.checkpoint:
        raise InputError('--workdir and --checkpoint both name weights: give one of them')
    source = str(options.workdir or options.checkpoint or SHIPPED)
    if options.photographs:
        if options.config or overrides:
            raise InputError('photographs and --config both say what is to be explained: give one of them')
        detector = None if options.no_detect else make_detector(options.detector_model)
        return explain_photographs(source, options.photographs, options.label, options.out, detector)
    if not options.config and not overrides:
        raise InputError('nothing to explain: give photographs, or --config FILE (and --config.data.path=…) for the classes of a data set')
    explain_data(source, options.config, overrides, options.split, options.label, options.out)
    return 0


def predict(options: argparse.Namespace, overrides: dict[str, str]) -> int:
    """Predicts the faces of all sources; returns the exit code."""
    from fer_jax.inference.command import Outputs, predict_sources

    if overrides:
        raise InputError(f'--config.{next(iter(overrides))}: predictions take the weights as they are')
    if options.workdir and options.checkpoint:
        raise InputError('--workdir and --checkpoint both name weights: give one of them')
    source = str(options.workdir or options.checkpoint or SHIPPED)
    outputs = Outputs(options.json, options.csv, options.annotated)
    return predict_sources(options.sources, source, options.views, not options.no_detect, options.detector_model, outputs)


def export(options: argparse.Namespace, overrides: dict[str, str]) -> None:
    """Exports weights or a run."""
    from fer_jax.export.command import export

    if options.workdir and options.checkpoint:
        raise InputError('--workdir and --checkpoint both name weights: give one of them')
    export(options.format, str(options.workdir or options.checkpoint or SHIPPED), options.out, overrides)


def run(options: argparse.Namespace, overrides: dict[str, str]) -> int:
    """Runs one command; returns the exit code."""
    if options.command == 'evaluate':
        evaluate(options, overrides)
        return 0
    if options.command == 'weights':
        from fer_jax.runs.weights import export_weights

        if overrides:
            raise InputError(f'--config.{next(iter(overrides))}: weights are written as the run made them')
        export_weights(options.workdir, options.out)
        return 0
    if options.command == 'explain':
        return explain(options, overrides)
    if options.command == 'export':
        export(options, overrides)
        return 0
    if options.command == 'predict':
        return predict(options, overrides)
    if options.command == 'demo':
        from fer_jax.inference.demo import serve
        from fer_jax.inference.faces import make_detector

        if overrides:
            raise InputError(f'--config.{next(iter(overrides))}: a demo takes the weights as they are')
        serve(options.checkpoint or [SHIPPED], options.port, make_detector(options.detector_model))
        return 0
    if options.command == 'report':
        from fer_jax.report.command import report

        if overrides:
            raise InputError(f'--config.{next(iter(overrides))}: a report takes the runs as they are')
        report(options.workdir, options.out)
        return 0
    skip_bad = {'data.skip_bad': 'true'} if getattr(options, 'skip_bad', False) else {}
    if options.command == 'sweep':
        from fer_jax.training.sweep import sweep

        chosen = (options.seeds, options.only, options.workdir, options.dry_run, options.together)
        return sweep(options.config, overrides | skip_bad, *chosen)
    config = load_config(options.config, overrides | skip_bad)
    match options.command:
        case 'train':
            from fer_jax.core import processes
            from fer_jax.training.train import train

            processes.start(config.parallel.cpu_devices)
            processes.connect(options.distributed, options.processes, options.process_id, options.join_timeout)
            train(config, options.workdir)
        case 'prepare':
            from fer_jax.data.manifest import describe
            from fer_jax.data.prepare import prepare

            print(describe(prepare(config.data)))
        case 'summary':
            from fer_jax.model.summary import parameter_table, summary

            print(summary(config))
            if options.parameters:
                print('\n' + parameter_table(config))
    return 0


def tell(text: str) -> None:
    """Prints how a run ended; where several processes end in the same way, the lead does."""
    from fer_jax.core.processes import is_lead

    if is_lead():
        print(text, file=sys.stderr)


def main(arguments: list[str] | None = None) -> int:
    """Exit code: 0 done, 1 the run failed, 2 the input is wrong, 75 stopped by a signal and to be resumed."""
    try:
        options, overrides = parse(sys.argv[1:] if arguments is None else arguments)
        tell_warnings(options.command)
        return run(options, overrides)
    except ToldElsewhere:
        return 2
    except InputError as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    except Diverged as error:
        tell(f'diverged: {error}; try a smaller optimizer.learning_rate, or train.rollbacks')
        return 1
    except NotSaved as error:
        tell(f'error: {error}; make it writable and give the same command, which goes on from there')
        return 1
    except Interrupted as error:
        tell(str(error))
        return 75
    except OSError as error:  # a disk that fills or a folder that goes away while a run writes
        print(f'error: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('stopped', file=sys.stderr)
        return 130


if __name__ == '__main__':
    leave(main())
