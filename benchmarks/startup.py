"""How long the program takes to answer, and to its first finished training step.

    python -m benchmarks.startup [--out results/speed/startup] [--rounds 5] [--quick] [--config.FIELD=VALUE …]

Timed are whole processes, as a user starts them. `python -m fer_jax --help` must not import JAX. `python -m fer_jax train`
on ToyFaces, prepared before, is followed by what it writes: the line that names the run ends the reading of the data, the
line that it is compiling ends the making of the state, the first line of metrics.jsonl ends the first call of the training
step (one step on CPU, 50 elsewhere), and the second line tells how long a call takes. A cold start has an empty compilation
cache, a warm one that of the cold start before it. JAX_COMPILATION_CACHE_DIR tells the program where.
"""

import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from typing import IO, Any

from benchmarks.side_by_side import ROOT, record
from benchmarks.training_step import environment, make_parser, parse

GOAL = 0.5  # seconds to --help
PARTS = ('imports', 'data', 'state', 'compilation', 'first_call', 'total')
POLL = 0.002  # seconds between looks at metrics.jsonl


def program(*arguments: str) -> list[str]:
    """The command line of a Python of this environment."""
    return [sys.executable, '-W', 'ignore', *arguments]


def as_installed() -> dict[str, str]:
    """This process's environment variables, without the one that keeps Python from writing bytecode, which pip leaves to a user."""
    return {name: value for name, value in os.environ.items() if name != 'PYTHONDONTWRITEBYTECODE'}


def wall(*arguments: str) -> float:
    """Seconds that a Python process with these arguments takes; its output is dropped."""
    started = time.perf_counter()
    subprocess.run(program(*arguments), cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - started


def import_times(text: str) -> dict[str, float]:
    """Module → seconds of its import and all that it imports, from what `python -X importtime` writes."""
    lines = re.findall(r'^import time:\s+\d+ \|\s+(\d+) \|\s+(\S+)$', text, re.MULTILINE)
    return {module: int(microseconds) / 1e6 for microseconds, module in lines}


def help_imports() -> tuple[float, bool]:
    """Seconds of imports of `python -m fer_jax --help`, its interpreter's own included, and whether JAX is among them."""
    command = program('-X', 'importtime', '-m', 'fer_jax', '--help')
    text = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stderr
    own = sum(int(each) for each in re.findall(r'^import time:\s+(\d+) \|', text, re.MULTILINE))
    return own / 1e6, bool({'jax', 'jaxlib'} & set(import_times(text)))


def follow(stream: IO[str], seen: list[tuple[float, str]]) -> None:
    """Notes when each line of a stream came, to its end."""
    for line in stream:
        seen.append((time.perf_counter(), line))


def first_steps(fields: dict[str, str], cache: pathlib.Path) -> dict[str, float]:
    """Seconds of each of PARTS of one start of a run, which is ended after two steps.

    Imports are not apart from the data in what a run says: 'data' is first what both take.
    """
    with tempfile.TemporaryDirectory() as folder:
        workdir = pathlib.Path(folder) / 'run'
        command = program(
            '-m', 'fer_jax', 'train', '--workdir', str(workdir), *(f'--config.{name}={text}' for name, text in fields.items())
        )
        variables = os.environ | {'JAX_COMPILATION_CACHE_DIR': str(cache), 'PYTHONUNBUFFERED': '1'}
        started = time.perf_counter()
        process = subprocess.Popen(command, cwd=ROOT, env=variables, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        said: list[tuple[float, str]] = []
        reader = threading.Thread(target=follow, args=(process.stdout, said))
        reader.start()
        steps: list[float] = []
        metrics = workdir / 'metrics.jsonl'
        while len(steps) < 2 and process.poll() is None:
            written = metrics.read_bytes().count(b'\n') if metrics.exists() else 0
            steps += [time.perf_counter()] * (written - len(steps))
            time.sleep(POLL)
        process.kill()
        process.wait()
        reader.join()
    if len(steps) < 2:
        raise SystemExit('the run ended before its second step:\n' + ''.join(line for _, line in said))

    def when(start: str) -> float:
        return next(moment for moment, line in said if line.startswith(start)) - started

    named, compiling, first = when('run:'), when('compiling'), steps[0] - started
    step = steps[1] - steps[0]
    return {
        'data': named,
        'state': compiling - named,
        'compilation': first - compiling - step,
        'first_call': step,
        'total': first,
    }


def starts(fields: dict[str, str], rounds: int, imports: float) -> dict[str, list[dict[str, float]]]:
    """The parts of `rounds` cold and warm starts, in turns; each warm one has the cache that the cold one before it filled."""
    found: dict[str, list[dict[str, float]]] = {'cold': [], 'warm': []}
    for number in range(rounds):
        with tempfile.TemporaryDirectory() as cache:
            for kind, runs in found.items():
                parts = first_steps(fields, pathlib.Path(cache))
                runs.append({'imports': imports} | parts | {'data': parts['data'] - imports})
                print(f'round {number + 1}/{rounds}, {kind}: {parts["total"]:.1f} s to the first step', flush=True)
            if not any(pathlib.Path(cache).iterdir()):
                print('nothing was cached: the program overrides JAX_COMPILATION_CACHE_DIR, or compiles in too little time', flush=True)
    return found


def medians(runs: list[dict[str, float]]) -> dict[str, float]:
    """The median of each part."""
    return {part: statistics.median(run[part] for run in runs) for part in PARTS}


def report(measured: dict[str, Any]) -> str:
    """The table that is printed."""
    verdict = 'met' if measured['help_seconds'] < GOAL and not measured['help_imports_jax'] else 'missed'
    lines = [
        f'--help: {measured["help_seconds"]:.3f} s (imports {measured["help_import_seconds"]:.3f} s, JAX'
        f' {"among" if measured["help_imports_jax"] else "not among"} them); goal under {GOAL} s without JAX: {verdict}',
        f'{"seconds to the first step":<26} {"cold":>8} {"warm":>8}',
    ]
    lines += [f'{part:<26} {measured["cold"][part]:>8.2f} {measured["warm"][part]:>8.2f}' for part in PARTS]
    return '\n'.join(lines)


def main() -> None:
    options, overrides = parse(make_parser(__doc__, 'startup', rounds=5))
    helps = [wall('-m', 'fer_jax', '--help') for _ in range(options.rounds)]
    import_seconds, with_jax = help_imports()
    with tempfile.TemporaryDirectory() as prepared:
        fields = {'data.prepared': prepared, 'train.log_every': '1'} | overrides
        print('preparing ToyFaces', flush=True)
        wall('-m', 'fer_jax', 'prepare', *(f'--config.{name}={text}' for name, text in fields.items()))
        imports = statistics.median(wall('-c', 'import fer_jax.training.train') for _ in range(options.rounds))
        runs = starts(fields, options.rounds, imports)
    measured = {
        'help_seconds': statistics.median(helps),
        'help_seconds_of_rounds': helps,
        'help_import_seconds': import_seconds,
        'help_imports_jax': with_jax,
        'goal_help_seconds': GOAL,
        'cold': medians(runs['cold']),
        'warm': medians(runs['warm']),
        'runs': runs,
    }
    record(options.out, measured, environment())
    print(report(measured))


if __name__ == '__main__':
    main()
