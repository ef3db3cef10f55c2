"""The command line as a whole: the list of commands, overrides, errors in one line, and what it says of itself."""

import jax
import pytest

from fer_jax import __version__
from fer_jax.__main__ import COMMANDS, main, parse
from fer_jax.core.command_line import Parser, add_weights, chosen_weights, split_overrides
from fer_jax.core.errors import InputError
from fer_jax.core.fields import SHIPPED

# What takes no field of the configuration, with the arguments that it must have.
FIXED = {'weights': '--workdir x --out y', 'predict': 'a.png', 'demo': '', 'serve': '', 'report': '--workdir x'}
DATA = {'data.path': 'fer2013.csv', 'data.skip_bad': 'true'}


@pytest.mark.parametrize('command', COMMANDS, ids=lambda command: command.__name__)
def test_each_command_says_what_it_does(command, capsys):
    with pytest.raises(SystemExit) as end:
        main([command.__name__, '--help'])
    out = ' '.join(capsys.readouterr().out.split())
    assert end.value.code == 0
    assert command.__doc__ in out and ('--config.GROUP.FIELD=VALUE' in out) == (command.__name__ not in FIXED)


@pytest.mark.parametrize('command', FIXED)
def test_commands_without_fields_refuse_them(command, capsys):
    assert main([command, *FIXED[command].split(), '--config.seed=3']) == 2
    assert capsys.readouterr().err.startswith('error: --config.seed: ')


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ('', 'required: COMMAND'),
        ('summery', "unknown command 'summery': did you mean 'summary'?"),
        ('train --workdri x', "unknown argument '--workdri': did you mean '--workdir'?"),
        ('train --work x', "unknown argument '--work': did you mean '--workdir'?"),
        ('train --processes two', "--processes: invalid int value: 'two'"),
        ('sweep', 'required: --seeds (python -m fer_jax sweep --help lists what there is)'),
        ('train --config.sede=3', "unknown config field 'sede': did you mean 'seed'?"),
        ('train --config.seed', '--config.seed has no value; write --config.seed=…'),
        ('train --config.seed --workdir x', '--config.seed has no value'),
        ('train --config fer2014', '--config fer2014: no such file'),
        ('train --config fer2013', 'fer2013 needs the path'),
        ('train --config toyfaces:atention=none', "unknown config argument 'atention': did you mean 'attention'?"),
        ('evaluate', '--checkpoint best of which run?'),
        ('evaluate --checkpoint 300', '--checkpoint 300 of which run?'),
        ('evaluate --workdir x --out y', '--out goes with weights'),
        ('predict a.png --config.seed=3', '--config.seed: predictions take the weights as they are'),
        ('predict a.png --workdir x --checkpoint y', '--workdir and --checkpoint both name weights'),
        ('predict a.png --no-detect --detector y', 'not allowed with argument'),
        ('explain --out x', 'nothing to explain'),
        ('weights --workdir x --out y --config.seed=3', '--config.seed: weights are written'),
    ],
)
def test_bad_input_is_one_line(arguments, message, capsys):
    assert main(arguments.split()) == 2
    out, err = capsys.readouterr()
    assert out == '' and err.startswith('error: ') and err.count('\n') == 1 and message in err


def test_overrides_stand_anywhere_and_the_last_one_counts():
    arguments = ['--config.seed=1', 'train', '--config.data.path', 'a b', '--workdir', 'x', '--config.name=a=b', '--config.seed=2']
    assert split_overrides(arguments) == (['train', '--workdir', 'x'], {'seed': '2', 'data.path': 'a b', 'name': 'a=b'})


@pytest.mark.parametrize('command', ['train', 'sweep --seeds 0', 'prepare'])
def test_skip_bad_is_short_for_an_override(command):
    assert parse([*command.split(), '--skip-bad', '--config.data.path=fer2013.csv']).overrides == DATA
    assert parse(command.split()).overrides == {}


def test_the_weights_that_are_meant():
    parser = Parser()
    add_weights(parser)
    chosen = [chosen_weights(parser.parse_args(text.split())) for text in ('', '--checkpoint a', '--workdir runs/b')]
    assert chosen == [SHIPPED, 'a', 'runs/b']
    with pytest.raises(InputError, match='give one of them'):
        chosen_weights(parser.parse_args(['--checkpoint', 'a', '--workdir', 'b']))


def test_the_version_names_the_code_and_the_devices(capsys):
    with pytest.raises(SystemExit) as end:
        main(['--version'])
    first, second = capsys.readouterr().out.splitlines()
    assert end.value.code == 0 and first.startswith(f'fer_jax {__version__}')
    assert second.startswith(f'JAX {jax.__version__} on 4 × cpu, Python 3.')


def test_summary_needs_no_data_and_has_the_papers_strides(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(['summary']) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line]
    assert [line[0] for line in lines[3:9]] == ['8,40,40', '24,40,40', '32,20,20', '72,10,10', '216,5,5', '360,3,3']
    assert lines[13][:2] == ['total', '1,906,382']
    assert list(tmp_path.iterdir()) == []
