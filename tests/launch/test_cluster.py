"""Launching on a cluster: by a real SLURM on loopback, by stand-ins for its commands, and Kubernetes' manifests and image."""

import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import time

import jsonschema
import pytest
import yaml

from tests import slurm_loopback
from tests.tiny import ROOT, overrides

KUBERNETES = ROOT / 'launch/kubernetes'


# --- SLURM


@pytest.fixture(scope='module')
def slurm(tmp_path_factory):
    """A running SLURM: the environment for its commands, in which launch/ takes this Python for its own."""
    if reason := slurm_loopback.why_not():
        pytest.skip(reason)
    told = slurm_loopback.environment_of_this_python(tmp_path_factory.mktemp('slurm'))
    try:
        with slurm_loopback.cluster() as environment:
            yield environment | told | {'FER_JAX_ROOT': str(ROOT)}
    except slurm_loopback.NoSlurm as error:
        pytest.skip(str(error))


def wait_for_text(path: pathlib.Path, text: str) -> None:
    deadline = time.monotonic() + 500
    while not (path.exists() and text in path.read_text()):
        assert time.monotonic() < deadline, path.read_text() if path.exists() else path
        time.sleep(0.1)


@pytest.mark.slow
def test_slurm_trains_with_two_processes_and_goes_on_after_a_preemption(slurm, tmp_path):
    fields = overrides(tmp_path, parallel__cpu_devices='2', evaluation__test='false', train__log_every='1')
    arguments = [f'--chdir={tmp_path}', '--ntasks-per-node=2', str(ROOT / 'launch/slurm.sbatch')]
    job = slurm_loopback.submit(slurm, *arguments, '--workdir=run', *fields)
    wait_for_text(tmp_path / 'run/metrics.jsonl', '"step": 9')
    # What --signal sends before the time limit, and preemption at its beginning: to the processes, not to the script.
    slurm_loopback.output_of(slurm, 'scancel', '--signal=TERM', str(job))
    ended = slurm_loopback.wait_for_end(slurm, job, 500)
    text = (tmp_path / f'slurm-{job}.out').read_text()
    # On a machine with much else to do a process may be lost too: XLA's processes wait 30 s for one that compiles longer.
    assert (ended['JobState'], ended['ExitCode']) == ('COMPLETED', '0:0') and int(ended['Restarts']) >= 1, text
    stopped = int(re.search(r'stopped by a signal at step (\d+), which is saved', text)[1])
    assert f'resuming at step {stopped} of 42' in text and text.count('finished:') == 1
    assert re.search(r'ended with 75; back into the queue, restart \d+ of at most 20', text)
    result = json.loads((tmp_path / 'run/result.json').read_text())
    assert result['environment']['device']['processes'] == 2 and result['starts'] >= 2


@pytest.mark.slow
def test_a_slurm_array_shares_out_a_sweep(slurm, tmp_path):
    fields = overrides(tmp_path, parallel__cpu_devices='1', evaluation__test='false', epochs='1')
    config = ['--config', str(ROOT / 'configs/toyfaces.py'), '--seeds', '0-2', '--workdir', 'sweep']
    job = slurm_loopback.submit(slurm, f'--chdir={tmp_path}', '--array=0-1', str(ROOT / 'launch/slurm_sweep.sbatch'), *config, *fields)
    deadline = time.monotonic() + 500
    texts: list[str] = []
    while len(texts) < 2 or not all('for the report:' in text for text in texts):
        assert time.monotonic() < deadline, texts
        time.sleep(0.5)
        texts = [path.read_text() for path in sorted(tmp_path.glob(f'slurm-{job}_*.out'))]
    assert len(list((tmp_path / 'sweep').glob('*/seed*/result.json'))) == 3
    assert sum(text.count('finished:') for text in texts) == 3, 'nothing is run twice'


class Batch:
    """launch/slurm.sbatch with stand-ins for SLURM's commands."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        (folder / 'launch').mkdir()
        for name in ('slurm.sh', 'slurm.sbatch', 'slurm_sweep.sbatch'):
            shutil.copy(ROOT / 'launch' / name, folder / 'launch' / name)
        (folder / 'launch/setup.sh').write_text(f'venv={folder}/venv\nsetup() {{ :; }}\nsay() {{ echo "$*" >&2; }}\n')
        (folder / 'bin').mkdir()
        for name, text in {
            'srun': 'printf "%s\\n" "$@" >>"$LOG"; echo "cpus=${SRUN_CPUS_PER_TASK:-}" >>"$LOG"; exit "$CODE"',
            'scontrol': 'case $1 in show) echo "JobId=7 JobState=$STATE Reason=None" ;; *) echo "$@" >>"$LOG"; kill -TERM $PPID ;; esac',
            'sleep': 'exit 0',
        }.items():
            (folder / 'bin' / name).write_text(f'#!/bin/sh\n{text}\n')
            (folder / 'bin' / name).chmod(0o755)

    def run(self, script: str, code: int, state: str = 'RUNNING', **environment: str) -> tuple[int, list[str]]:
        """The script's exit code, and what it called."""
        log = self.folder / 'log'
        log.unlink(missing_ok=True)
        environment = {
            'PATH': f'{self.folder}/bin{os.pathsep}{os.environ["PATH"]}',
            'LOG': str(log),
            'CODE': str(code),
            'STATE': state,
            'SLURM_SUBMIT_DIR': str(self.folder),
            'SLURM_JOB_ID': '7',
            'SLURM_NTASKS': '4',
            **environment,
        }
        script = self.folder / 'launch' / script
        done = subprocess.run(['bash', script, '--config', 'a b'], env=environment, capture_output=True, text=True, timeout=60)
        return done.returncode, log.read_text().splitlines()


@pytest.fixture
def batch(tmp_path):
    return Batch(tmp_path)


def test_the_batch_scripts_run_a_step_on_all_tasks(batch):
    code, called = batch.run('slurm.sbatch', 0, SLURM_CPUS_PER_TASK='5')
    python = [f'{batch.folder}/venv/bin/python', '-P', '-m', 'fer_jax']
    assert code == 0 and called == [
        '--kill-on-bad-exit=0',
        '--wait=0',
        *python,
        *('train', '--distributed=auto', '--processes=4', '--config', 'a b'),
        'cpus=5',
    ]
    assert batch.run('slurm_sweep.sbatch', 0) == (0, [*python, 'sweep', '--config', 'a b', 'cpus='])


@pytest.mark.parametrize('script', ['slurm.sbatch', 'slurm_sweep.sbatch'])
@pytest.mark.parametrize(
    ('code', 'environment', 'requeued'),
    [
        (75, {}, True),
        (137, {'SLURM_RESTART_COUNT': '19'}, True),
        (75, {'SLURM_RESTART_COUNT': '20'}, False),
        (75, {'SLURM_RESTART_COUNT': '2', 'FER_JAX_REQUEUES': '2'}, False),
        (1, {}, False),
        (2, {}, False),
        (75, {'state': 'CANCELLED'}, False),
        (75, {'state': 'COMPLETING'}, False),
    ],
    ids=str,
)
def test_a_job_goes_back_into_the_queue_only_where_it_would_go_on(batch, script, code, environment, requeued):
    ended, called = batch.run(script, code, **environment)
    assert ended == code and ('requeue 7' in called) == requeued


@pytest.mark.slow
def test_a_slurm_job_that_is_cancelled_stays_so(slurm, batch):
    """Its processes end with 75 too, and SLURM itself would requeue it all the same."""
    python = batch.folder / 'venv/bin/python'
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\ntrap "exit 75" TERM\necho started\nwhile :; do sleep 0.1; done\n')
    python.chmod(0o755)
    arguments = [f'--chdir={batch.folder}', str(batch.folder / 'launch/slurm.sbatch')]
    job = slurm_loopback.submit(slurm | {'FER_JAX_ROOT': str(batch.folder)}, *arguments)
    log = batch.folder / f'slurm-{job}.out'
    wait_for_text(log, 'started')
    slurm_loopback.output_of(slurm, 'scancel', str(job))
    ended = slurm_loopback.wait_for_end(slurm, job)
    assert (ended['JobState'], ended['Restarts']) == ('CANCELLED', '0')
    assert 'Exited with exit code 75' in log.read_text() and 'back into the queue' not in log.read_text()


# --- Kubernetes


def strict(schema: object) -> object:
    """The schema with no properties but those that it names: Kubernetes drops others, and nobody sees a misspelt one."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    names = {'properties': {name: strict(each) for name, each in schema['properties'].items()}} if 'properties' in schema else {}
    rest = {key: strict(each) for key, each in schema.items() if key != 'properties'}
    return rest | names | ({'additionalProperties': False} if names else {})


@pytest.fixture(scope='module')
def jobset():
    return jsonschema.Draft202012Validator(strict(json.loads((ROOT / 'tests/schemas/jobset.json').read_text())))


MANIFESTS = sorted(KUBERNETES.glob('*.yaml'))


@pytest.mark.parametrize('path', MANIFESTS, ids=lambda path: path.name)
def test_manifests_are_valid(path, jobset):
    manifest = yaml.safe_load(path.read_text())
    assert (manifest['apiVersion'], manifest['kind']) == ('jobset.x-k8s.io/v1alpha2', 'JobSet')
    jobset.validate(manifest)
    (container,) = pod_of(manifest)['containers']
    container['argz'] = []
    with pytest.raises(jsonschema.ValidationError, match='argz'):
        jobset.validate(manifest)


def job_of(manifest: dict) -> dict:
    (replicated,) = manifest['spec']['replicatedJobs']
    assert replicated['replicas'] == 1, 'JAX takes the processes of one job for all'
    return replicated['template']['spec']


def pod_of(manifest: dict) -> dict:
    return job_of(manifest)['template']['spec']


@pytest.mark.parametrize('path', MANIFESTS, ids=lambda path: path.name)
def test_pods_find_each_other_and_know_their_number(path):
    manifest = yaml.safe_load(path.read_text())
    job, pod = job_of(manifest), pod_of(manifest)
    (container,) = pod['containers']
    arguments = dict(argument.removeprefix('--').split('=', 1) for argument in container['args'])
    name, replicated = manifest['metadata']['name'], manifest['spec']['replicatedJobs'][0]['name']
    host, port = arguments['distributed'].split(':')
    assert host == f'{name}-{replicated}-0-0.{name}' and 'subdomain' not in manifest['spec']['network']
    assert manifest['spec']['network']['enableDNSHostnames'] and manifest['spec']['network']['publishNotReadyAddresses']
    assert int(port) == container['ports'][0]['containerPort']
    assert job['completionMode'] == 'Indexed' and job['parallelism'] == job['completions'] == int(arguments['processes'])
    (number,) = (each for each in container['env'] if each['name'] == 'PROCESS_ID')
    assert number['valueFrom']['fieldRef']['fieldPath'] == "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    assert arguments['process-id'] == '$(PROCESS_ID)'
    (mount,) = container['volumeMounts']
    assert arguments['workdir'].startswith(mount['mountPath'] + '/')


@pytest.mark.parametrize('path', MANIFESTS, ids=lambda path: path.name)
def test_pods_start_again_but_not_after_wrong_input(path):
    manifest = yaml.safe_load(path.read_text())
    job, policy = job_of(manifest), manifest['spec']['failurePolicy']
    # A pod for itself never starts again: it would find the others of the last start, or none.
    assert job['backoffLimit'] == 0 and pod_of(manifest)['restartPolicy'] == 'Never' and policy['maxRestarts'] > 0
    (rule,) = job['podFailurePolicy']['rules']
    assert (rule['action'], rule['onExitCodes']['operator'], rule['onExitCodes']['values']) == ('FailJob', 'In', [2])
    assert rule['onExitCodes']['containerName'] == pod_of(manifest)['containers'][0]['name']
    assert [(rule['action'], rule['onJobFailureReasons']) for rule in policy['rules']] == [('FailJobSet', ['PodFailurePolicy'])]


def test_the_gpu_manifest_differs_in_gpus_only():
    cpu, gpu = (yaml.safe_load((KUBERNETES / name).read_text()) for name in ('jobset.yaml', 'jobset-gpu.yaml'))
    (container,) = pod_of(gpu)['containers']
    assert container['resources']['requests'].pop('nvidia.com/gpu', None) is None
    assert container['resources']['limits'].pop('nvidia.com/gpu') == 8
    assert pod_of(gpu).pop('tolerations')[0]['key'] == 'nvidia.com/gpu'
    (other,) = pod_of(cpu)['containers']
    for name in ('image', 'resources'):
        assert container.pop(name) != other.pop(name)
    assert cpu == gpu


def instructions(folder: pathlib.Path = KUBERNETES) -> list[tuple[str, str]]:
    text = re.sub(r'^#.*\n', '', (folder / 'Dockerfile').read_text(), flags=re.MULTILINE).replace('\\\n', ' ')
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line.strip()]


@pytest.mark.slow
def test_the_image_holds_what_its_command_needs(tmp_path):
    """Its COPY instructions, done here: with them the installation runs and training starts."""
    image, shown = tmp_path / 'image', (KUBERNETES / 'Dockerfile.dockerignore').read_text().splitlines()
    image.mkdir()
    for name, rest in instructions():
        if name == 'COPY':
            source, target = rest.split()
            assert shown[0] == '*' and f'!{source.partition("/")[0]}' in shown, f'{source} is not sent to the builder'
            target = image / target / pathlib.Path(source).name if target.endswith('/') else image / target
            target.parent.mkdir(exist_ok=True)
            (shutil.copytree if (ROOT / source).is_dir() else shutil.copy)(ROOT / source, target)
    (run,) = (rest for name, rest in instructions() if name == 'RUN' and 'setup.sh' in rest)
    assert "bash -c 'set -eu; . launch/setup.sh; setup run'" in run, 'pins and hashes are held by setup.sh'
    environment = os.environ | slurm_loopback.environment_of_this_python(tmp_path) | {'PYTHONPATH': ''}
    subprocess.run(shlex.split(run.partition('&&')[0]), cwd=image, env=environment, check=True, timeout=60)
    (command,) = (json.loads(rest) for name, rest in instructions() if name == 'ENTRYPOINT')
    script = image / command[0].removeprefix('/opt/fer_jax/')
    config = f'--config={image}/configs/toyfaces.py'
    done = subprocess.run(
        [script, config, '--distributed=here'], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stderr) == (2, 'error: --distributed=here is none of off, auto and HOST:PORT\n')


def test_the_image_offers_the_accelerators_that_there_are_locks_for():
    (stated,) = re.findall(r'# ACCELERATOR is (.*?)\.', (KUBERNETES / 'Dockerfile').read_text())
    names = re.findall(r'\w+', stated.replace(' or ', ' '))
    assert set(names) - {'cpu'} == {path.stem for path in (ROOT / 'requirements').glob('*.txt')} - {
        'apps',
        'build',
        'dev',
        'docs',
        'fleet',
        'fuzz',
        'serve',
    }
