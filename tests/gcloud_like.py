"""A stand-in for gcloud, as far as launch/tpu_pod.sh uses it; the workers of its pods are folders, and it fails when told to.

Run as a program. The folder POD holds what Google would: `states`, the request's next ones, of which the last stays; worker0 and
worker1, the workers' home folders; `faults`, each for one call that has its first word in it; and `calls`, the log.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

POD = pathlib.Path(os.environ.get('POD', ''))


def fail(text: str, code: int = 1) -> None:
    print(f'ERROR: (gcloud.compute.tpus) {text}', file=sys.stderr)
    sys.exit(code)


def read(name: str) -> list:
    return json.loads((POD / name).read_text())


def write(name: str, values: list) -> None:
    (POD / name).write_text(json.dumps(values))


def parse(arguments: list[str]) -> tuple[list[str], dict[str, str]]:
    """The words, and the options."""
    words = [argument for argument in arguments if not argument.startswith('--')]
    options = {argument[2:].partition('=')[0]: argument.partition('=')[2] for argument in arguments if argument.startswith('--')}
    return words, options


def take_fault(called: str) -> list:
    """The first fault that is for this call, which is its only one; else a list of nothing."""
    faults = read('faults')
    fault = next((each for each in faults if each[0] in called), ['', ''])
    write('faults', [each for each in faults if each is not fault])
    return fault


def queued(verb: str, fault: list) -> None:
    states = read('states')
    if verb == 'create':
        if states:
            fail('ALREADY_EXISTS: Resource already exists')
        write('states', fault[2] if fault[1] == 'states' else ['WAITING_FOR_RESOURCES', 'PROVISIONING', 'ACTIVE'])
        for number in range(2):
            (POD / f'worker{number}').mkdir(exist_ok=True)
    elif not states:
        fail('NOT_FOUND: Resource not found')
    elif verb == 'describe':
        print(states[0])
        write('states', states[1:] or states)
    else:
        write('states', [])


def ssh(workers: list[pathlib.Path], command: str, fault: list) -> None:
    if not workers:
        fail('could not SSH into the instance', 255)
    running = [subprocess.Popen(['bash', '-c', command], cwd=worker, env=os.environ | {'HOME': str(worker)}) for worker in workers]
    if fault[1]:
        while not all((worker / name).exists() for worker in workers for name in ('started', '.fer_jax_pod/process')):
            time.sleep(0.02)
        for process in running:
            process.kill()
        if fault[1] == 'preempted':
            preempt(workers)
        fail('Connection closed by remote host', 255)
    if any([process.wait() for process in running]):
        fail('Command execution failed', 255)


def preempt(workers: list[pathlib.Path]) -> None:
    """The workers and all that runs on them are gone."""
    write('states', ['SUSPENDED'])
    for worker in workers:
        subprocess.run(['kill', '-9', (worker / '.fer_jax_pod/process').read_text().strip()])
        while not (worker / '.fer_jax_pod/exit').exists():
            time.sleep(0.02)
        shutil.rmtree(worker)


def main() -> None:
    words, options = parse(sys.argv[3:])
    assert sys.argv[1:3] == ['compute', 'tpus'] and options['zone'] == 'us-west4-a' and 'quiet' in options
    with open(POD / 'calls', 'a') as log:
        log.write(json.dumps([' '.join(words[:2]), options]) + '\n')
    fault = take_fault(f'{" ".join(words[:2])} {options.get("command", "")}')
    if fault[1] == 'text':
        fail(fault[2])
    workers = sorted(path for path in POD.glob('worker*') if options.get('worker', 'all') in ('all', path.name[-1]))
    if words[0] == 'queued-resources':
        queued(words[1], fault)
    elif words[1] == 'scp':
        for worker in workers:
            shutil.copy(words[2], worker / words[3].partition(':')[2])
    else:
        ssh(workers, options['command'], fault)


if __name__ == '__main__':
    main()
