"""Compiling for TPUs that are not there: names of topologies, the model's arithmetic by hand, what is read off compiled programs."""

import importlib.util
import json
import os
import subprocess
import sys

import jax
import pytest

from fer_jax.core.config import load_config
from fer_jax.core.errors import InputError
from fer_jax.core.mesh import DATA, REPLICA
from fer_jax.model.baselines import make_any
from launch import hlo, pod, pod_table
from launch.chips import CHIPS, all_reduce_seconds, floor_seconds, parse_topology
from tests.tiny import ROOT

LIBTPU = importlib.util.find_spec('libtpu') is not None
# One block and no augmentation: a program that compiles in a second or two.
TINY = {
    'data.path': 'none',
    'network.stem': '4',
    'network.blocks': '8',
    'network.strides': '2',
    'network.attention': 'none',
    'network.batch_norm': 'device',
    'augment.crop': 'false',
    'augment.flip': 'false',
    'augment.rotate': '0',
    'augment.scale': '0',
    'augment.brightness': '0',
    'augment.contrast': '0',
    'batch_size': '8',
}
# As XLA prints it for a TPU: S(1) is the memory on the chip.
PROGRAM = """HloModule jit_chunk, is_scheduled=true, num_partitions=256

%fused_computation (param_0: f32[1000,8], param_1: s32[4]) -> f32[4,8] {
  %param_0 = f32[1000,8]{1,0:T(8,128)} parameter(0)
  %param_1 = s32[4]{0:T(128)} parameter(1)
  ROOT %gather.1 = f32[4,8]{1,0:T(8,128)S(1)} gather(%param_0, %param_1), offset_dims={1}
}

%region_1 (x: f32[], y: f32[]) -> f32[] {
  %x = f32[]{:T(128)} parameter(0)
  %y = f32[]{:T(128)} parameter(1)
  ROOT %add.9 = f32[]{:T(128)} add(%x, %y)
}

%body (state: (s32[], f32[250])) -> (s32[], f32[250]) {
  %state = (s32[]{:T(128)}, f32[250]{0:T(256)S(1)}) parameter(0)
  %value = f32[250]{0:T(256)S(1)} get-tuple-element(%state), index=1
  %psum.6 = f32[250]{0:T(1024)S(1)} all-reduce(%value), channel_id=1, replica_groups=[1,256]<=[256], to_apply=%region_1
  %double.1 = f32[250]{0:T(256)} add(%psum.6, %psum.6), backend_config={"window_config":{"estimated_cycles":"300"}}
  ROOT %next = (s32[]{:T(128)}, f32[250]{0:T(256)S(1)}) tuple(%count, %double.1)
}

%condition (state.1: (s32[], f32[250])) -> pred[] {
  %state.1 = (s32[]{:T(128)}, f32[250]{0:T(256)S(1)}) parameter(0)
  %count.1 = s32[]{:T(128)} get-tuple-element(%state.1), index=0
  %trips = s32[]{:T(128)} constant(50)
  ROOT %less = pred[]{:T(512)} compare(%count.1, %trips), direction=LT
}

ENTRY %main (data: f32[1000,8], rows: s32[4], weights: f32[250]) -> f32[250] {
  %data = f32[1000,8]{1,0:T(8,128)} parameter(0)
  %rows = s32[4]{0:T(128)} parameter(1)
  %weights = f32[250]{0:T(256)} parameter(2)
  %fusion = f32[4,8]{1,0:T(8,128)S(1)} fusion(%data, %rows), kind=kLoop, calls=%fused_computation, config={"estimated_cycles":"7000"}
  %copy-start.1 = (f32[250]{0:T(256)S(1)}, f32[250]{0:T(256)}, u32[]{:S(2)}) copy-start(%weights)
  %copy-done.1 = f32[250]{0:T(256)S(1)} copy-done(%copy-start.1)
  %slice-start.1 = ((f32[250]{0:T(256)}), f32[50]{0:T(256)S(1)}, s32[]{:S(2)}) slice-start(%weights), slice={[0:50]}
  %slice-done.1 = f32[50]{0:T(256)S(1)} slice-done(%slice-start.1)
  %tuple.1 = (s32[]{:T(128)}, f32[250]{0:T(256)S(1)}) tuple(%zero, %copy-done.1)
  %while.1 = (s32[]{:T(128)}, f32[250]{0:T(256)S(1)}) while(%tuple.1), condition=%condition, body=%body
  %all-reduce-start.2 = f32[8]{0:T(1024)} all-reduce-start(%copy-done.1), replica_groups={{0,1},{2,3}}, to_apply=%region_1
  %all-reduce-done.2 = f32[8]{0:T(1024)} all-reduce-done(%all-reduce-start.2)
  %all-gather.3 = bf16[6]{0} all-gather(%copy-done.1), replica_groups={}, dimensions={0}
  ROOT %multiply.1 = f32[250]{0:T(256)} multiply(%copy-done.1, %weights)
}
"""


@pytest.fixture(scope='module')
def command():
    """launch/compile_pod.py as a module."""
    spec = importlib.util.spec_from_file_location('compile_pod', ROOT / 'launch' / 'compile_pod.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(('text', 'shape', 'chips'), [('v5e:16x16', (16, 16), 256), ('v6e:1x1', (1, 1), 1), ('v4:4x4x8', (4, 4, 8), 128)])
def test_a_topology_is_read(text, shape, chips):
    topology = parse_topology(text)
    assert topology.shape == shape and topology.chips == chips and topology.name == text and topology.chip.name == text.partition(':')[0]


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('v9:2x2', "unknown TPU 'v9'"),
        ('v5e', 'a v5e pod is a grid of 2 axes, such as v5e:4x4'),
        ('v5e:4x4x4', 'grid of 2 axes'),
        ('v5p:4x4', 'a v5p pod is a grid of 3 axes, such as v5p:4x4x4'),
        ('v5e:0x4', 'grid of 2 axes'),
        ('v5e:-4x4', 'grid of 2 axes'),
        ('v5e:4x', 'grid of 2 axes'),
        ('v5e:1000x1000', '1000000 chips; the largest v5e pod has 256'),
    ],
)
def test_a_topology_that_does_not_exist_is_told(text, message):
    with pytest.raises(InputError) as error:
        parse_topology(text)
    assert message in str(error.value) and '\n' not in str(error.value)


@pytest.mark.parametrize(
    ('topology', 'payload', 'microseconds'),
    [
        ('v5e:1x1', 9.6e6, 0.0),
        # Two rings of 16 at 90 GB/s: 15/16 of 9.6 MB take 100 µs; of the 0.6 MB left 6.25 µs, less than 8 hops; there and back.
        ('v5e:16x16', 9.6e6, 2 * (100 + 8)),
        # 4 is no ring on a v5e, so one direction, 45 GB/s: 3/4 of 3.6 MB take 60 µs, of 0.9 MB 15 µs.
        ('v5e:4x4', 3.6e6, 2 * (60 + 15)),
        # On a v5p it is one, at 180 GB/s: 3/4 of 7.2 MB take 30 µs, of 1.8 MB 7.5 µs, of 0.45 MB 1.875 µs, less than 2 hops.
        ('v5p:4x4x4', 7.2e6, 2 * (30 + 7.5 + 2)),
        ('v5p:2x2x1', 0.0, 2 * (1 + 1)),
    ],
)
def test_an_all_reduce_by_hand(topology, payload, microseconds):
    assert all_reduce_seconds(parse_topology(topology), payload) == pytest.approx(1e-6 * microseconds, rel=1e-9)


def test_an_estimate_by_hand():
    chip = CHIPS['v5e']  # 197 TFLOP/s, 819 GB/s, 1.5 GHz
    assert floor_seconds(chip, 394e9, 819e6) == (pytest.approx(2e-3), 'arithmetic')
    # 0.1 ms of arithmetic, 1 ms of memory, 2 ms of cycles, and two all-reduces of 0.216 ms.
    topology, messages = parse_topology('v5e:16x16'), [hlo.Collective('all-reduce', 9_600_000, 256, 2)]
    guess = pod.estimate(topology, 32_768, 19.7e9, 819e6, 3e6, messages)
    assert guess['floor_set_by'] == 'memory' and guess['floor_seconds'] == pytest.approx(1e-3)
    assert guess['work_seconds'] == pytest.approx(2e-3) and guess['step_seconds'] == pytest.approx(2.432e-3)
    assert guess['share_of_work'] == pytest.approx(2 / 2.432) and guess['share_of_work_at_the_floor'] == pytest.approx(1 / 1.432)
    assert guess['images_per_second'] == pytest.approx(32_768 / 2.432e-3)
    # Fewer cycles than the floor lasts: the floor.
    assert pod.estimate(topology, 1, 19.7e9, 819e6, 0.0, [])['step_seconds'] == pytest.approx(1e-3)
    with pytest.raises(ValueError, match='no time for all-gather'):
        pod.estimate(topology, 1, 1.0, 1.0, 1.0, [hlo.Collective('all-gather', 8, 256, 1)])


def test_collectives_of_a_programs_text():
    assert sorted(hlo.collectives(PROGRAM), key=lambda each: each.bytes) == [
        hlo.Collective('all-gather', 12, 256, 1),
        hlo.Collective('all-reduce', 32, 2, 1),
        hlo.Collective('all-reduce', 1000, 256, 50),
    ]


def test_memory_traffic_and_cycles_of_a_programs_text():
    # fusion: 128 B of the data, 16 of the rows, its result stays on the chip; the copy in: 1000; of the slice 200; all-reduce-start:
    # 32 out; all-gather: 12 out; multiply: 1000 in and 1000 out; and 50 times 1000 out of the loop and the 9 of its question.
    assert hlo.memory_traffic(PROGRAM) == (128 + 16) + 1000 + 200 + 32 + 12 + 2000 + 50 * 1009
    assert hlo.estimated_cycles(PROGRAM) == 7000 + 50 * 300


def tiny_job(replicas: int, **fields: str) -> pod.Job:
    return pod.Job(load_config(str(ROOT / 'configs' / 'toyfaces.py'), TINY | fields), replicas, 64, 7, 1)


@pytest.mark.slow
def test_one_run_sends_one_message_of_all_gradients_statistics_and_metrics():
    job = tiny_job(0)
    compiled = pod.compile_job(job, pod.make_mesh(jax.devices(), 0))
    variables = jax.eval_shape(
        lambda: make_any(job.config.network, 7, None).init(jax.random.key(0), jax.numpy.zeros((1, 40, 40, 1)), train=False)
    )
    numbers = sum(leaf.size for leaf in jax.tree.leaves(variables)) + 2  # the loss and the accuracy
    assert hlo.collectives(compiled.as_text()) == [hlo.Collective('all-reduce', 4 * numbers, 4, 1)]
    plan = pod.memory(compiled)
    assert plan['arguments'] > 64 * 48 * 48 and plan['all'] >= plan['arguments'] + plan['temporaries']


@pytest.mark.slow
def test_replicas_send_nothing():
    mesh = pod.make_mesh(jax.devices(), 4)
    assert dict(mesh.shape) == {REPLICA: 4, DATA: 1}
    assert hlo.collectives(pod.compile_job(tiny_job(4), mesh).as_text()) == []


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--topology', 'v7:2x2'], "unknown TPU 'v7'"),
        (['--topology', 'v5e:2x2', '--config.batch_size=6'], 'batch_size 6 does not divide over 4 chips; a multiple of 4 would'),
        (['--topology', 'v5e:2x2', '--replicas', '6'], '--replicas 6 do not divide over 4 chips'),
        (['--topology', 'v5e:2x2', '--replicas=-4'], '--replicas must be at least 1'),
        (['--topology', 'v5e:2x2', '--images-per-chip', '0'], '--images-per-chip must be at least 1'),
        (['--topology', 'v5e:2x2', '--config.network.groups=3'], 'groups'),
        (['--topology', 'v5e:2x2', '--config', 'no.py'], 'no such file'),
        ([], '--topology'),
        pytest.param(
            ['--topology', 'v5e:2x2'], 'libtpu', marks=pytest.mark.skipif(LIBTPU, reason='libtpu is installed, so its absence is not told')
        ),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(command, monkeypatch, capsys, arguments, message):
    monkeypatch.setattr(os, 'environ', dict(os.environ))
    assert command.main(arguments) == 2
    out, err = capsys.readouterr()
    assert message in err and err.startswith('error: ') and err.count('\n') == 1 and not out


def test_the_tables_are_those_of_the_records():
    readme = (pod_table.FOLDER / 'README.md').read_text()
    assert pod_table.with_tables(readme, pod_table.read_records()) == readme, 'run python -m launch.pod_table --only-table'


@pytest.mark.parametrize('record', pod_table.read_records(), ids=lambda record: record['command'].partition('--topology ')[2])
def test_a_record_keeps_what_the_project_promises(record):
    kinds = [each['kind'] for each in record['collectives'] for _ in range(each['times'])]
    assert record['memory_bytes']['all'] < record['chip']['hbm_bytes']
    if record['replicas'] or record['chips'] == 1:
        assert kinds == []
    elif record['batch_norm'] == 'device':
        assert kinds.count('all-reduce') == len(kinds) <= 2
        assert all(each['chips'] == record['chips'] for each in record['collectives'])
    if pod_table.is_weak(record) and record['chips'] == 256:
        assert record['estimate']['share_of_work'] >= 0.9
        if one := pod_table.alone(pod_table.read_records(), record['chip']['name']):
            assert one['estimate']['step_seconds'] / record['estimate']['step_seconds'] >= 0.9


@pytest.mark.slow
@pytest.mark.skipif(not LIBTPU, reason="libtpu is not installed (pip install '.[tpu]')")
def test_a_tiny_network_is_compiled_for_four_chips(tmp_path):
    fields = TINY | {'batch_size': '32', 'train.steps_per_call': '2'}
    script = [sys.executable, '-W', 'ignore', str(ROOT / 'launch' / 'compile_pod.py'), '--topology', 'v5e:2x2', '--out', str(tmp_path)]
    arguments = ['--config', 'configs/toyfaces.py', '--images', '64', *(f'--config.{name}={text}' for name, text in fields.items())]
    done = subprocess.run([*script, *arguments], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert 'v5e:2x2: 4 chip(s), one run of batch 32, 8 images a chip' in done.stdout and not done.stderr
    (path,) = tmp_path.iterdir()
    record = json.loads(path.read_text())
    (message,) = record['collectives']
    assert (message['kind'], message['chips'], message['times']) == ('all-reduce', 4, 1) and message['bytes'] < 1e5
    assert path.name == 'v5e-2x2-batch32-steps2.json' and record['libtpu'] and record['chips'] == 4
    # 64 faces of 48×48 bytes and their targets at least; of 16 GB nearly nothing.
    assert 64 * 48 * 48 < record['memory_bytes']['arguments'] < record['memory_bytes']['all'] < 1e9
    assert record['flops'] > 1e6 and record['estimated_cycles'] > 1e3
