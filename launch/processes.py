"""Runs `python -m fer_jax train` as several processes on this host, and starts all again when one is lost; see processes.sh."""

import argparse
import os
import signal
import socket
import subprocess
import sys
import time

DONE, FAILED, WRONG_INPUT, STOPPED = 0, 1, 2, 75  # exit codes of fer_jax
POLL_SECONDS = 0.1
# For the others to see by themselves that one is gone, which takes them up to fer_jax.core.processes.LOST_SECONDS, and to say so.
PATIENCE_SECONDS = float(os.environ.get('FER_JAX_PATIENCE', 120))


def parse(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """The launcher's own options, and the arguments for training."""
    parser = argparse.ArgumentParser(
        prog='launch/processes.sh',
        description='Trains one run by several processes on this host. Other arguments go to `python -m fer_jax train`.',
        allow_abbrev=False,
    )
    parser.add_argument('--processes', type=int, required=True, metavar='N', help='how many')
    text = 'how often to start all again after they were stopped or one was lost; default: %(default)s'
    parser.add_argument('--restarts', type=int, default=0, metavar='R', help=text)
    options, training = parser.parse_known_args(arguments)
    if options.processes < 1 or options.restarts < 0:
        parser.error('--processes is 1 or more, --restarts 0 or more')
    for name in ('--distributed', '--process-id'):
        if any(argument == name or argument.startswith(f'{name}=') for argument in training):
            parser.error(f'{name} is what this launcher gives each process')
    return options, training


def shares(processes: int) -> list[dict[str, str]]:
    """What each process's environment says of the devices that are its own: GPUs where there are any, else virtual CPU devices.

    Raises:
      SystemExit: the GPUs do not divide over the processes.
    """
    gpus = [] if os.environ.get('JAX_PLATFORMS') == 'cpu' else visible_gpus()
    if gpus and len(gpus) % processes:
        print(f'error: {len(gpus)} GPU(s) do not divide over {processes} processes', file=sys.stderr)
        raise SystemExit(WRONG_INPUT)
    if gpus:
        each = len(gpus) // processes
        return [{'CUDA_VISIBLE_DEVICES': ','.join(gpus[k * each : (k + 1) * each])} for k in range(processes)]
    if 'JAX_NUM_CPU_DEVICES' in os.environ:
        return [{}] * processes
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    # A power of two, for all the devices together have to divide the batch.
    devices = 1 << max(1, min(cores // processes, 8)).bit_length() - 1
    return [{'JAX_NUM_CPU_DEVICES': str(devices)}] * processes


def visible_gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES calls the GPUs that this process may use."""
    named = os.environ.get('CUDA_VISIBLE_DEVICES')
    if named is not None:
        return [name for name in named.split(',') if name and name != '-1']
    try:
        listed = subprocess.run(['nvidia-smi', '-L'], capture_output=True, text=True, timeout=60).stdout
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [str(number) for number, _ in enumerate(line for line in listed.splitlines() if line.startswith('GPU '))]


def start(processes: int, training: list[str]) -> list[subprocess.Popen]:
    """The processes of one run. Each in a session of its own: a Ctrl-C at the terminal comes to the launcher alone."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        address = f'127.0.0.1:{probe.getsockname()[1]}'
    command = [sys.executable, '-P', '-m', 'fer_jax', 'train', *training, f'--distributed={address}', f'--processes={processes}']
    return [
        subprocess.Popen(
            [*command, f'--process-id={process}'],
            stdin=subprocess.DEVNULL,
            stdout=None if process == 0 else sys.stderr,
            env=os.environ | share,
            start_new_session=True,
        )
        for process, share in enumerate(shares(processes))
    ]


def attend(processes: list[subprocess.Popen], signals: list[int], patience: float = PATIENCE_SECONDS) -> list[int]:
    """Waits for all of them, and returns their exit codes, in which -N stands for signal N.

    The first of `signals` is passed on to one process, the second kills all. They are killed too when they do not end by
    themselves within `patience` seconds after one of them has failed or stopped: one that is frozen heeds nothing else.
    """
    passed, deadline, told = 0, float('inf'), False
    while running := [process for process in processes if process.poll() is None]:
        if len(signals) > passed:
            passed = len(signals)
            if passed == 1:
                running[0].send_signal(signal.SIGTERM)
            else:
                deadline = 0
        ended = [process.returncode for process in processes if process.returncode not in (None, DONE, STOPPED)]
        if any(process.returncode == STOPPED for process in processes):
            deadline = min(deadline, time.monotonic() + patience)
        if ended and not told:
            told = True
            # One that dies of what was passed on had not joined the others yet: they would wait for it in vain.
            deadline = min(deadline, time.monotonic() + (0 if passed and -signal.SIGTERM in ended else patience))
            if ended[0] < 0 and not passed:
                # Before a stack trace of JAX's C++, which is how those end that wait in it for the lost one to join.
                lost = [process.returncode for process in processes].index(ended[0])
                print(f'fer_jax: process {lost} was killed by signal {-ended[0]}; the others end with it', file=sys.stderr)
        if time.monotonic() >= deadline:
            for process in running:
                process.kill()
        time.sleep(POLL_SECONDS)
    return [process.returncode for process in processes]


def is_temporary(codes: list[int]) -> bool:
    """Whether the same command would go on: some were stopped or lost. Where all fail by themselves they would do so again."""
    return WRONG_INPUT not in codes and any(code == STOPPED or code < 0 or code >= 128 for code in codes)


def exit_code(codes: list[int]) -> int:
    """The launcher's, of those of its processes."""
    for code in (WRONG_INPUT, FAILED):
        if code in codes:
            return code
    return DONE if not any(codes) else STOPPED


def main() -> int:
    options, training = parse(sys.argv[1:])
    signals: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup makes it
            signal.signal(number, lambda number, frame: signals.append(number))
    restarts = 0
    while True:
        codes = attend(start(options.processes, training), signals)
        if signals or not is_temporary(codes) or restarts == options.restarts:
            return exit_code(codes)
        restarts += 1
        ended = ', '.join(map(str, codes))
        print(f'fer_jax: the processes ended with {ended}; restart {restarts} of at most {options.restarts}', file=sys.stderr)


if __name__ == '__main__':
    sys.exit(main())
