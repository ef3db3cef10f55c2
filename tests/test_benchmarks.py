"""The benchmarks' own arithmetic and parsing, on numbers and texts made by hand, and the turns that contenders take."""

import json
import os
import sys
import types

import numpy as np
import pytest

from benchmarks import growth, peers, roofline, serve_load, startup, time_to_accuracy, video
from benchmarks.record_run import record_run
from benchmarks.side_by_side import ROOT, Contender, race, ratio, record
from benchmarks.training_step import make_parser, parse, repeated
from fer_jax.core.allocator import CHOSEN_BY, settings
from launch import hlo

# As XLA prints it: a fusion named by its computation, a convolution whose metadata are lost, a gather, and a loop.
PROGRAM = """HloModule jit_chunk, is_scheduled=true, entry_computation_layout={(f32[100,4]{1,0})->f32[2,4]{1,0}}

%fused_computation.1 (param_0: f32[2,4]) -> f32[2,4] {
  %param_0 = f32[2,4]{1,0} parameter(0)
  ROOT %add.1 = f32[2,4]{1,0} add(%param_0, %param_0), metadata={op_name="jit(chunk)/jvp(FERNet)/block1/add" stack_frame_id=3}
}

%gathering (param_0.2: f32[100,4], param_1: s32[2]) -> f32[2,4] {
  %param_0.2 = f32[100,4]{1,0} parameter(0)
  %param_1 = s32[2]{0} parameter(1)
  ROOT %gather.1 = f32[2,4]{1,0} gather(%param_0.2, %param_1), offset_dims={1}
}

ENTRY %main (data.1: f32[100,4], rows.1: s32[2]) -> f32[2,4] {
  %data.1 = f32[100,4]{1,0} parameter(0), metadata={op_name="data"}
  %rows.1 = s32[2]{0} parameter(1), metadata={op_name="rows"}
  %gather_fusion = f32[2,4]{1,0} fusion(%data.1, %rows.1), kind=kLoop, calls=%gathering
  %while.2 = (s32[], f32[2,4]{1,0}, /*index=2*/pred[3]{0}) while(%tuple), condition=%c, body=%b
  %add_fusion = f32[2,4]{1,0} fusion(%gather_fusion), kind=kLoop, calls=%fused_computation.1
  %dynamic-update-slice.4 = f32[100,4]{1,0} dynamic-update-slice(%data.1, %gather_fusion, %zero, %zero)
  ROOT %convolution.9 = bf16[2,4]{1,0} convolution(%add_fusion, %add_fusion), dim_labels=bf_io->bf
}
"""


def test_ratio_is_the_median_of_the_rounds_own_ratios():
    rates = {'a': [10.0, 40.0, 6.0], 'b': [5.0, 10.0, 2.0]}
    assert ratio(rates, 'a', to='b') == {'median': 3.0, 'low': 2.5, 'high': 3.5}
    assert ratio({'a': [3.0], 'b': [2.0]}, 'a', to='b') == {'median': 1.5, 'low': 1.5, 'high': 1.5}


@pytest.fixture
def trivial(tmp_path):
    """The environment in which `trivial` is a module of contenders: `options['work']` a round, in a second by their own reckoning."""
    lines = (
        'from benchmarks.side_by_side import serve',
        'def make(name, options):',
        '    print("a library prints")',
        '    return lambda: (options["work"], 1.0), {"name": name}',
        'print(serve(make))',
    )
    (tmp_path / 'trivial.py').write_text('\n'.join(lines))
    return os.environ | {'PYTHONPATH': f'{tmp_path}{os.pathsep}{ROOT}'}


def test_contenders_take_turns(trivial, capsys):
    contenders = [Contender('trivial', name, {'work': work}, trivial) for name, work in (('slow', 2), ('fast', 6))]
    assert [contender.about for contender in contenders] == [{'name': 'slow'}, {'name': 'fast'}]
    assert race(contenders, 3) == {'slow': [2.0] * 3, 'fast': [6.0] * 3}
    assert capsys.readouterr().out.splitlines()[-1] == 'round 3/3: slow 2/s, fast 6/s'
    assert [contender.process.returncode for contender in contenders] == [0, 0]
    for contender in contenders:
        contender.process.stdout.close()


@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')  # the pipes of what failed
def test_a_contender_that_fails_is_named():
    with pytest.raises(SystemExit, match='no-such ended with exit code 1'):
        Contender('tests.no_such_module', 'no-such', {})


def test_record(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['somewhere/growth.py', '--out', 'a folder'])
    record(tmp_path, {'seconds': 1.5}, {'cpu': 'any'})
    written = json.loads((tmp_path / 'measurement.json').read_text())
    assert written == {'command': "python -m benchmarks.growth --out 'a folder'", 'seconds': 1.5, 'environment': {'cpu': 'any'}}


def test_a_round_is_as_many_calls_as_fill_its_time(monkeypatch):
    now = [0.0]
    monkeypatch.setattr('time.perf_counter', lambda: now[0])

    def call():
        now[0] += 0.25
        return 0.0

    do_round = repeated(call, work=32, seconds=2.0)
    assert do_round() == (8 * 32, 2.0)
    assert do_round() == (8 * 32, 2.0)


def test_bytes_of_shapes():
    assert hlo.shape_bytes('f32[2,3]{1,0}') == 24
    assert hlo.shape_bytes('bf16[]') == 2
    assert hlo.shape_bytes('(s32[], u8[5]{0}, /*index=2*/pred[3]{0}, f8e4m3fn[7])') == 4 + 5 + 3 + 7
    assert hlo.shape_bytes('token[]') == 0


def test_instructions_of_a_program():
    program = hlo.instructions(PROGRAM)
    assert program['gather_fusion'] == hlo.Instruction('fusion', 'f32[2,4]', 32 + 32 + 8, '')  # of the data, what is taken
    assert program['add_fusion'] == hlo.Instruction('fusion', 'f32[2,4]', 32 + 32, 'jit(chunk)/jvp(FERNet)/block1/add')
    assert program['convolution.9'] == hlo.Instruction('convolution', 'bf16[2,4]', 16 + 2 * 32, 'jit(chunk)/jvp(FERNet)/block1/add')
    assert program['dynamic-update-slice.4'].bytes == 2 * 32
    assert (program['while.2'].opcode, program['while.2'].result) == ('while', '(s32[], f32[2,4], pred[3])')


@pytest.mark.parametrize(
    ('op_name', 'expected'),
    [
        ('jit(chunk)/shard_map/jvp(FERNet)/block6/block6.unit/dense_conv1/conv', 'block6/dense_conv1/conv forward'),
        ('jit(chunk)/transpose(jvp(FERNet))/head/conv_general_dilated', 'head/conv_general_dilated backward'),
        ('jit(chunk)/vmap()/vmap(jit(_threefry_fold_in))/key/while', 'augmentation/key'),
        ('jit(chunk)/shard_map/sqrt', 'rest of the step/sqrt'),
        ('', 'without a name'),
    ],
)
def test_layer(op_name, expected):
    assert roofline.layer(op_name) == expected


def event(name, start, end, **stats):
    return types.SimpleNamespace(name=name, start_ns=start, end_ns=end, stats=tuple(stats.items()))


def profile(**planes):
    made = [types.SimpleNamespace(name=name, lines=[types.SimpleNamespace(events=events)]) for name, events in planes.items()]
    return types.SimpleNamespace(planes=made)


def test_operations_last_until_they_are_done():
    events = [
        event('convolution.9', 0, 10, hlo_op='convolution.9', _p=7),
        event('add', 20, 50, hlo_op='add', _p=8),
        event('end: add', 49, 50, _c=8),
        event('end: convolution.9', 1000, 1001, _c=7),
        event('add', 60, 70, hlo_op='add'),
        event('Execute', 0, 2000),
    ]
    assert roofline.operation_times(profile(host=events)) == {'convolution.9': (pytest.approx(1e-6), 1), 'add': (pytest.approx(4e-8), 2)}


def test_where_a_device_has_events_the_hosts_are_left_out():
    planes = {'/device:GPU:0': [event('kernel', 0, 5, hlo_op='add')], '/host:CPU': [event('launch', 0, 900, hlo_op='add')]}
    assert roofline.operation_times(profile(**planes)) == {'add': (pytest.approx(5e-9), 1)}


def test_limit():
    best = {'flops_per_second': 100.0, 'bytes_per_second': 10.0}
    assert roofline.limit(200.0, 10.0, best) == (2.0, 'arithmetic')
    assert roofline.limit(200.0, 50.0, best) == (5.0, 'memory')


def test_rows_of_operations():
    times = {'add_fusion': (2.0, 3.0), 'convolution.9': (3.0, 1.0), 'while.2': (9.0, 1.0), 'of another program': (1.0, 1.0)}
    rows = roofline.operation_rows(times, hlo.instructions(PROGRAM), devices=2)
    assert [(row['operation'], row['seconds'], row['bytes']) for row in rows] == [('convolution.9', 3.0, 160), ('add_fusion', 2.0, 384)]
    assert roofline.by_layer(rows) == {'block1 forward': {'seconds': 5.0, 'bytes': 544.0}}


def test_widths_stay_divisible_by_two_and_by_the_groups():
    assert growth.scaled_widths({}, 1.0) == {'network.stem': '8', 'network.blocks': '24,32,72,216,360,512'}
    assert growth.scaled_widths({}, 0.5) == {'network.stem': '4', 'network.blocks': '12,16,36,108,180,256'}
    assert growth.scaled_widths({'network.shuffle_groups': 'none'}, 0.25)['network.blocks'] == '6,8,18,54,90,128'


def test_growth_is_drawn():
    assert growth.growth_png({'1': [2.0, 3.0], '2': [4.0]}, 'devices', 'images per second', 'a title', (1.0, 2.0)).startswith(b'\x89PNG')


def test_import_times():
    text = 'import time: self [us] | cumulative | imported package\nimport time:       120 |        350 |   fer_jax.core.config\n'
    assert startup.import_times(text) == {'fer_jax.core.config': 0.00035}


def test_minutes_to_a_target():
    """58 % after one minute, 61 after two and 60 after three: 60 is passed at two, 65 never."""
    seen = [(60.0, 0.58), (120.0, 0.61), (180.0, 0.6)]
    assert time_to_accuracy.passed(seen, [58, 60, 65]) == {'58': 1.0, '60': 2.0, '65': None}
    runs = [{'60': 2.0, '65': None}, {'60': 3.0, '65': 9.0}]
    assert time_to_accuracy.mean(runs) == {'60': 2.5, '65': None}


def test_a_run_is_followed_to_its_target(tmp_path):
    """A line that is half written waits; what is no validation is passed over; the program is ended at the target."""
    log = tmp_path / 'log'
    lines = [{'kind': 'train'}, {'kind': 'validation', 'accuracy': 0.5}, {'kind': 'validation', 'accuracy': 0.7}]
    text = ''.join(json.dumps(line) + chr(10) for line in lines)
    program = f'import time; f = open({str(log)!r}, "w"); f.write({text!r} + "{{"); f.flush(); time.sleep(60)'
    seen = time_to_accuracy.follow([sys.executable, '-c', program], log, {}, 70)
    assert [accuracy for _, accuracy in seen] == [0.5, 0.7] and 0 < seen[-1][0] < 60
    with pytest.raises(SystemExit, match='ended with exit code 3'):
        time_to_accuracy.follow([sys.executable, '-c', 'raise SystemExit(3)'], tmp_path / 'none', {}, 70)


def test_the_peer_of_a_run_has_the_allocator_that_the_run_chooses(tmp_path):
    """Not what it was started with, where `train` would start itself again; but what somebody has chosen, both keep."""
    plain = {name: text for name, text in os.environ.items() if name not in CHOSEN_BY} | {'JAX_PLATFORMS': 'cpu'}
    cache = {'TORCHINDUCTOR_CACHE_DIR': str(tmp_path / 'cache')}
    # By their names: what jemalloc is told hangs on the memory that is free just then.
    assert time_to_accuracy.peer_environment(tmp_path, plain).keys() == {*plain, *settings(plain, 0), *cache}
    assert time_to_accuracy.peer_environment(tmp_path, plain | {'MALLOC_CONF': ''}) == plain | {'MALLOC_CONF': ''} | cache


def test_answers_of_peers_are_scored_by_the_sets_own_classes():
    """Two of three angry faces found, the one of contempt not, which the peer does not know: recalls 2/3 and 0."""
    names = peers.positions(('anger', 'fearful', 'disgusted', 'surprised', 'contempt'))
    assert [peers.NAMES[place] for place in names] == ['angry', 'fear', 'disgust', 'surprise', 'contempt']
    angry, contempt, sad = peers.positions(('angry', 'contempt', 'sad'))
    found = peers.figures(np.array([angry, angry, angry, contempt]), np.array([angry, angry, sad, sad]))
    assert (found['count'], found['accuracy']) == (4, 0.5)
    assert found['recall'] == {'angry': pytest.approx(2 / 3), 'contempt': 0}
    assert found['balanced_accuracy'] == pytest.approx(1 / 3)


def test_a_load_is_summed_up():
    """Of 0, 1, … 100 ms half took at most 50 and 99 of 100 at most 99; memory that still warms up is no growth."""
    found = serve_load.summary([number / 1000 for number in range(101)], 10.0)
    assert found == {'answers': 101, 'answers_per_second': 10.1, 'p50_ms': pytest.approx(50), 'p99_ms': pytest.approx(99)}
    memory = serve_load.growth([100.0, 150.0, 190.0, 200.0, 201.0, 202.0, 203.0, 202.0, 207.0])
    assert (memory['begin'], memory['end'], memory['growth']) == (100, 207, 203 - 201)
    with pytest.raises(SystemExit, match='too few'):
        serve_load.summary([0.1], 10.0)


def test_the_parts_of_a_film_make_the_whole():
    """By what a profiler counts, (calls, calls, own seconds, seconds, by caller): looks are no following, nor is a cut that it asks for."""
    inside = {('x/motion.py', 52, 'followed'): (4, 4, 0.5, 1.0), ('x/faces.py', 173, 'cut_out'): (2, 2, 0.25, 0.5)}
    stats = {
        ('~', 0, "<method 'read' of 'cv2.VideoCapture' objects>"): (9, 9, 2.0, 2.0, {}),
        ('x/motion.py', 36, '__call__'): (9, 9, 0.0, 6.0, {}),
        ('x/linen/module.py', 7, '__call__'): (9, 9, 0.0, 70.0, {}),
        ('x/faces.py', 104, 'detect'): (2, 2, 0.0, 4.0, {}),
        ('x/faces.py', 199, 'cut'): (6, 6, 0.75, 1.5, inside),
        ('x/classifier.py', 53, 'probabilities'): (1, 1, 0.0, 0.5, {}),
        ('x/output.py', 60, 'write'): (9, 9, 0.125, 0.125, {}),
        ('x/display.py', 95, 'show'): (9, 9, 0.125, 0.125, {}),
    }
    found = video.parts(stats, 10.0)
    assert found == {'decode': 2.0, 'follow': 1.0, 'detect': 4.0, 'cut out': 1.0, 'network': 0.5, 'output': 0.25, 'rest': 1.25}


def test_a_film_has_its_heads_where_they_move_and_cuts_between_scenes():
    head = np.concatenate([np.full((40, 40, 3), 255.0), np.ones((40, 40, 1))], -1).astype(np.float32)
    frames = list(video.film([head], video.SCENE * video.RATE + 1))
    assert {frame.shape for frame in frames} == {(720, 1280, 3)} and frames[0].dtype == np.uint8
    whites = [(frame == 255).all(-1) for frame in frames]
    moved = [np.argwhere(white).mean(0) for white in whites[:2]]
    assert whites[0].sum() > (2 * video.AROUND * video.SIDES[0] * 0.8) ** 2, 'a square of at least the smallest side'
    assert 0 < np.abs(moved[1] - moved[0]).max() < 20
    apart = [np.abs(after.astype(int) - before).mean() for before, after in zip(frames[-3:], frames[-2:], strict=False)]
    assert apart[1] > 4 * apart[0], 'a cut'


def test_common_arguments(tmp_path):
    arguments = ['--quick', '--out', str(tmp_path / 'a/b'), '--config.batch_size=64']
    options, overrides = parse(make_parser('What it measures.', 'name', rounds=9), arguments)
    assert (options.rounds, overrides) == (2, {'batch_size': '64'})
    assert options.out.is_dir()


def test_a_record_names_no_folder_and_shows_no_face(tmp_path):
    run = tmp_path / 'run'
    (run / 'evaluations' / 'best-test-centre').mkdir(parents=True)
    (run / 'checkpoints').mkdir()
    told = {'path': '/home/ann/faces/fer2013.csv', 'few': ['a, b from /tmp/x y/z', 'train/3 of 4'], 'url': 'https://a.org/b', 'n': 0.5}
    for name in ('config.json', 'environment.json', 'result.json', 'evaluations/best-test-centre/result.json'):
        (run / name).write_text(json.dumps(told))
    for name in ('metrics.jsonl', 'curves.png', 'evaluations/best-test-centre/worst_mistakes.png', 'checkpoints/x'):
        (run / name).write_text('x')
    record_run(run, tmp_path / 'record')
    names = {path.relative_to(tmp_path / 'record').as_posix() for path in (tmp_path / 'record').rglob('*') if path.is_file()}
    jsons = {'config.json', 'environment.json', 'result.json', 'evaluations/best-test-centre/result.json'}
    assert names == jsons | {'metrics.jsonl', 'curves.png'}
    for name in jsons:
        found = json.loads((tmp_path / 'record' / name).read_text())
        assert found == {'path': 'fer2013.csv', 'few': ['a, b from x y/z', 'train/3 of 4'], 'url': 'https://a.org/b', 'n': 0.5}
    with pytest.raises(FileExistsError):
        record_run(run, tmp_path / 'record')


def test_a_run_without_figures_is_recorded_whole(tmp_path):
    run = tmp_path / 'run'
    (run / 'evaluations' / 'best-test-centre').mkdir(parents=True)
    for name in ('config.json', 'environment.json', 'result.json', 'metrics.jsonl', 'evaluations/best-test-centre/result.json'):
        (run / name).write_text('{}')
    record_run(run, tmp_path / 'record')
    names = {path.name for path in (tmp_path / 'record').rglob('*') if path.is_file()}
    assert names == {'config.json', 'environment.json', 'result.json', 'metrics.jsonl'}
    assert (tmp_path / 'record/evaluations/best-test-centre/result.json').exists()


def test_the_record_of_a_sweep_has_of_each_run_what_made_it_and_what_it_scored(tmp_path):
    run = tmp_path / 's' / 'a' / 'seed0'
    (run / 'evaluations' / 'best-test-ten').mkdir(parents=True)
    for name in ('config.json', 'environment.json', 'result.json', 'evaluations/best-test-ten/result.json'):
        (run / name).write_text('{}')
    for name in ('metrics.jsonl', 'curves.png', 'evaluations/best-test-ten/predictions.csv'):
        (run / name).write_text('x')
    (tmp_path / 's' / 'sweep.json').write_text(json.dumps({'overrides': {'data.path': '/home/ann/CK+48'}}))
    record_run(tmp_path / 's', tmp_path / 'record')
    names = {path.relative_to(tmp_path / 'record').as_posix() for path in (tmp_path / 'record').rglob('*') if path.is_file()}
    assert names == {'sweep.json', *(f'a/seed0/{name}' for name in ('config.json', 'environment.json', 'metrics.jsonl', 'result.json'))}
    assert json.loads((tmp_path / 'record' / 'sweep.json').read_text()) == {'overrides': {'data.path': 'CK+48'}}


def test_a_measurements_command_names_no_folder_of_its_machine(tmp_path, monkeypatch):
    monkeypatch.setattr('sys.argv', ['/somewhere/benchmarks/peers.py', '--fer2013', 'data/fer2013.csv', '--out', str(tmp_path)])
    record(tmp_path, {}, {})
    command = json.loads((tmp_path / 'measurement.json').read_text())['command']
    assert command == f'python -m benchmarks.peers --fer2013 data/fer2013.csv --out {tmp_path.name}'
