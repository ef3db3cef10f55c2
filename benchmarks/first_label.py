"""From the shell to the first label of a photograph, and to the explanations of three: whole processes, as a user starts them.

    python -m benchmarks.first_label [--out results/speed/first_label] [--rounds 5] [--quick]

Drawn faces in photographs of 640×480. A cold start has an empty cache of compiled programs, the warm ones after it have what it kept,
and all have Python's bytecode but perhaps the cold one; files are in the system's cache in both. The first label is there when its line is.
"""

import argparse
import pathlib
import statistics
import subprocess
import tempfile
import time
from typing import Any

from PIL import Image

from benchmarks.faces import scene
from benchmarks.side_by_side import ROOT, record
from benchmarks.startup import as_installed, program
from fer_jax.core.fields import SHIPPED
from fer_jax.data.toyfaces import draw
from fer_jax.runs.environment import environment

PICTURES = 3
GOALS = {'first_label': 2.0, 'explain': 8.0}  # seconds, warm


def photographs(folder: pathlib.Path) -> list[str]:
    """Files of PICTURES photographs with a drawn face in each."""
    paths = [folder / f'{number}.jpg' for number in range(PICTURES)]
    for number, (path, face) in enumerate(zip(paths, draw(PICTURES, 0)[0], strict=True)):
        Image.fromarray(scene(face, number)[0]).save(path, quality=90)
    return list(map(str, paths))


def seconds_until(arguments: list[str], begins: str, cache: pathlib.Path) -> float:
    """What `python -m fer_jax` takes until it writes a line that begins so, and holds a label in per cent.

    Raises:
      SystemExit: it ended without one.
    """
    begin = time.perf_counter()
    variables = as_installed() | {'JAX_COMPILATION_CACHE_DIR': str(cache)}
    command = program('-m', 'fer_jax', *arguments)
    with subprocess.Popen(command, cwd=ROOT, env=variables, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        for line in process.stdout:
            if line.startswith(begins) and '%' in line:
                took = time.perf_counter() - begin
                process.stdout.read()
                return took
    raise SystemExit(f'no label from {" ".join(command)}: exit code {process.returncode}')


def seconds(arguments: list[str], cache: pathlib.Path) -> float:
    """What `python -m fer_jax` takes from its start to its end."""
    begin = time.perf_counter()
    variables = as_installed() | {'JAX_COMPILATION_CACHE_DIR': str(cache)}
    subprocess.run(program('-m', 'fer_jax', *arguments), cwd=ROOT, env=variables, check=True, capture_output=True)
    return time.perf_counter() - begin


def measure(rounds: int) -> dict[str, Any]:
    """Of each of GOALS the seconds of a cold start, and of the warm ones."""
    with tempfile.TemporaryDirectory() as folder:
        pictures, found = photographs(pathlib.Path(folder)), {}
        for what, goal in GOALS.items():
            cache = pathlib.Path(folder) / what
            out = pathlib.Path(folder) / 'explained'
            times = [
                seconds_until(['predict', pictures[0]], pictures[0], cache)
                if what == 'first_label'
                else seconds(['explain', *pictures, '--out', str(out)], cache)
                for _ in range(1 + rounds)
            ]
            found[what] = {'cold': times[0], 'warm': times[1:], 'median': statistics.median(times[1:]), 'goal': goal}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument('--out', type=pathlib.Path, default=pathlib.Path('results/speed/first_label'), help='default: %(default)s')
    parser.add_argument('--rounds', type=int, default=5, help='warm ones; default: %(default)s')
    parser.add_argument('--quick', action='store_true', help='one round')
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    measured = measure(1 if options.quick else options.rounds)
    record(options.out, {'weights': SHIPPED, 'pictures': PICTURES, 'seconds': measured}, environment())
    for what, found in measured.items():
        verdict = 'met' if found['median'] < found['goal'] else 'missed'
        print(f'{what}: {found["median"]:.2f} s warm (goal under {found["goal"]:g}: {verdict}), {found["cold"]:.2f} s cold')


if __name__ == '__main__':
    main()
