"""How fast `predict` goes through a film of 1280×720, which part of it takes the time, and whether its memory stays flat.

    python -m benchmarks.video [--out results/speed/video] [--rounds 3] [--seconds 24] [--times 5] [--quick]

The film is drawn first, and thrown away at the end: faces of the photographs of tests/inference/photographs.py that are installed move,
turn and grow over a background that moves as well, one to three at once, in scenes of four seconds with cuts between.

Rounds are whole processes, `python -m fer_jax predict FILM --csv FACES`; what they take for a film of one frame is told apart. One more
pass, by Python's profiler, says which part takes how long. The long film is the same one so many `--times` over; memory is the resident
set of its process, looked at every half second. It grows by the median of the last third less that of the middle third: in the first it
takes what it goes on to use.
"""

import argparse
import cProfile
import csv
import os
import pathlib
import pstats
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from benchmarks.faces import background, middle
from benchmarks.serve_load import MIB, growth
from benchmarks.side_by_side import ROOT, record
from benchmarks.startup import as_installed, program
from fer_jax.__main__ import main as fer_jax
from fer_jax.core.fields import DETECT_EVERY, SHIPPED
from fer_jax.inference.annotate import video_writer
from fer_jax.inference.faces import make_detector
from fer_jax.runs.environment import environment
from tests.inference.photographs import PHOTOGRAPHS, read

GOAL = 25.0  # frames a second
HEIGHT, WIDTH, RATE = 720, 1280, 25
SCENE = 4  # seconds from one cut to the next
MOST_FACES = 3  # at once
SIDES = (80, 240)  # pixels of a face
AROUND = 0.9  # of a face's side is taken of the photograph to each side of its middle, so that its hair and chin come along
EACH = 0.5  # seconds from one look at the memory to the next
# Part → the functions whose time with all that they call is its own: the end of their file's name, and theirs; and the part that has
# them inside of it, of which they are taken away.
PARTS = {
    'decode': ((('~', "<method 'read' of 'cv2.VideoCapture' objects>"),), None),
    'follow': ((('motion.py', '__call__'),), None),
    'detect': ((('faces.py', 'detect'),), 'follow'),
    'cut out': ((('motion.py', 'cut'),), 'follow'),
    'network': ((('classifier.py', 'probabilities'),), None),
    'output': ((('display.py', 'show'), ('output.py', 'write')), None),
}
Frame = UInt8[np.ndarray, 'height width 3']
Head = Float[np.ndarray, 'height width 4']  # RGB times how much of it is drawn, and that


def heads() -> list[Head]:
    """The faces of the photographs that are installed, each with what is around it in an ellipse with soft edges."""
    detect, found = make_detector(min_score=0.95), []
    for photograph in PHOTOGRAPHS:
        picture = read(photograph) if photograph.people else None
        for face in detect(picture) if picture is not None else ():
            (x, y), reach = middle(face), AROUND * max(face.box[2:])
            rows, columns = (slice(max(0, round(at - reach)), round(at + reach)) for at in (y, x))
            part = picture[rows, columns]
            down, across = np.ogrid[-1 : 1 : part.shape[0] * 1j, -1 : 1 : part.shape[1] * 1j]
            mask = np.clip(6 * (1 - np.hypot(down, across)), 0, 1)[..., None].astype(np.float32)
            found.append(np.concatenate([part * mask, mask], -1))
    return found


def paste(picture: Frame, head: Head, x: float, y: float, side: float, angle: float) -> None:
    """Draws a head with its middle at (x, y), its longer side so many pixels, turned anticlockwise by `angle` degrees; it lies inside."""
    height, width = head.shape[:2]
    reach = round(0.75 * side)
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), angle, side / max(height, width))
    left, top = int(x) - reach, int(y) - reach
    matrix[:, 2] += x - left - width / 2, y - top - height / 2
    drawn = cv2.warpAffine(head, matrix, (2 * reach, 2 * reach), flags=cv2.INTER_LINEAR)
    spare = max(0, -left), max(0, -top)
    place = picture[max(0, top) : top + 2 * reach, max(0, left) : left + 2 * reach]
    drawn = drawn[spare[1] : spare[1] + place.shape[0], spare[0] : spare[0] + place.shape[1]]
    place[:] = np.rint(place * (1 - drawn[..., 3:]) + drawn[..., :3]).astype(np.uint8)


def film(faces: Sequence[Head], frames: int) -> Iterator[Frame]:
    """The frames, one by one."""
    for number in range(frames):
        scene, turn = divmod(number, SCENE * RATE)
        if turn == 0:
            generator = np.random.default_rng(scene)
            wide = background(generator, HEIGHT, WIDTH + 2 * SCENE * RATE)
            cast = generator.integers(len(faces), size=1 + scene % MOST_FACES)
            side, sway = generator.uniform(*SIDES, len(cast)), generator.uniform(0, 2 * np.pi, (len(cast), 4))
        picture, when = wide[:, 2 * turn : 2 * turn + WIDTH].copy(), turn / RATE
        for place, who in enumerate(cast):
            across, down, near, turned = np.sin(np.array([1.5, 1.1, 0.9, 1.3]) * when + sway[place])
            x, y = WIDTH * (place + 0.5 + 0.15 * across) / len(cast), HEIGHT * (0.5 + 0.15 * down)
            paste(picture, faces[who], x, y, 2 * AROUND * side[place] * (1 + 0.15 * near), 12 * turned)
        yield picture


def repeats(path: pathlib.Path, times: int) -> Iterator[Frame]:
    """The frames of a film, so many times over."""
    for _ in range(times):
        capture = cv2.VideoCapture(str(path))
        while (frame := capture.read()[1]) is not None:
            yield frame[..., ::-1]
        capture.release()


def write_film(path: pathlib.Path, frames: Iterable[Frame]) -> None:
    """Frames as a film, MPEG-4."""
    with video_writer(path, RATE, (WIDTH, HEIGHT)) as write:
        for frame in frames:
            write(frame)


def command(path: pathlib.Path) -> list[str]:
    """The arguments of `fer-jax` that look at a film."""
    return ['predict', str(path), '--csv', str(path.with_suffix('.csv'))]


def seconds(path: pathlib.Path, memory: list[float] | None = None) -> float:
    """What a process takes to look at a film; every EACH seconds its resident set, in MiB, is added to `memory`."""
    begin = time.perf_counter()
    line = program('-m', 'fer_jax', *command(path))
    process = subprocess.Popen(line, cwd=ROOT, env=as_installed(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        if memory is None:
            process.wait()
        else:
            memory.append(resident(process.pid))
            time.sleep(EACH)
    if process.returncode:
        raise SystemExit(f'predict ended with exit code {process.returncode}')
    return time.perf_counter() - begin


def resident(process: int) -> float:
    """The resident set of a process, in MiB; 0 where it has ended."""
    try:
        pages = pathlib.Path(f'/proc/{process}/statm').read_text().split()[1]
    except OSError:
        return 0.0
    return int(pages) * os.sysconf('SC_PAGE_SIZE') / MIB


def parts(stats: dict[tuple[str, int, str], tuple], total: float) -> dict[str, float]:
    """Seconds of each of PARTS, and of the rest, of what a profiler counted."""

    def taken(file: str, name: str) -> float:
        return sum(each[3] for (path, _, called), each in stats.items() if called == name and path.endswith(file))

    def called_from(file: str, name: str) -> float:
        """Of `name`, only what functions of that file call."""
        return sum(
            times[3]
            for (_, _, called), each in stats.items()
            if called == name
            for (path, _, _), times in each[4].items()
            if path.endswith(file)
        )

    found = {part: sum((called_from if part == 'cut out' else taken)(*each) for each in whole) for part, (whole, _) in PARTS.items()}
    for part, (_, around) in PARTS.items():
        if around:
            found[around] -= found[part]
    return found | {'rest': total - sum(found.values())}


def faces_in(path: pathlib.Path) -> dict[str, int]:
    """How many rows, and how many tracks, a table of faces has."""
    with path.open(newline='') as file:
        rows = list(csv.DictReader(file))
    return {'rows': len(rows), 'tracks': len({row['track'] for row in rows})}


def measure(folder: pathlib.Path, options: argparse.Namespace) -> dict[str, Any]:
    """All that is recorded."""
    frames = round(options.seconds * RATE)
    short, long, single = (folder / f'{name}.mp4' for name in ('film', 'long', 'frame'))
    faces = heads()
    write_film(short, film(faces, frames))
    write_film(single, film(faces, 1))
    write_film(long, repeats(short, options.times))
    seconds(single)  # for the files' sake, and the programs that JAX keeps
    starts, rounds = [], []
    for number in range(options.rounds):
        starts.append(seconds(single))
        rounds.append(seconds(short))
        print(f'round {number + 1}/{options.rounds}: {frames / rounds[-1]:.1f} frames/s, {starts[-1]:.2f} s of a single frame', flush=True)
    profiler = cProfile.Profile()
    begin = time.perf_counter(), time.process_time()
    profiler.runcall(fer_jax, command(short))
    whole, processor = time.perf_counter() - begin[0], time.process_time() - begin[1]
    memory: list[float] = []
    took = seconds(long, memory)
    rates = [frames / each for each in rounds]
    return {
        'film': {'size': [WIDTH, HEIGHT], 'rate': RATE, 'frames': frames, 'bytes': short.stat().st_size, 'heads': len(faces)},
        'found': faces_in(short.with_suffix('.csv')),
        'detect_every': DETECT_EVERY,
        'frames_per_second': rates,
        'frames_per_second_without_start': [frames / (each - start) for each, start in zip(rounds, starts, strict=True)],
        'seconds_of_one_frame': starts,
        'goal_frames_per_second': GOAL,
        'milliseconds_a_frame': {part: 1000 * each / frames for part, each in parts(pstats.Stats(profiler).stats, whole).items()},
        'processor_milliseconds_a_frame': 1000 * processor / frames,
        'long': {
            'frames': frames * options.times,
            'frames_per_second': frames * options.times / took,
            'mebibytes': growth([round(each, 1) for each in memory if each]),  # 0 is of a process that has just ended
        },
    }


def report(measured: dict[str, Any]) -> str:
    """What is printed."""
    rate, long = statistics.median(measured['frames_per_second']), measured['long']
    lines = [f'{rate:.1f} frames/s (goal {GOAL:.0f}: {"met" if rate >= GOAL else "missed"})', f'{"part":<10} {"ms a frame":>10}']
    lines += [f'{part:<10} {each:>10.2f}' for part, each in measured['milliseconds_a_frame'].items()]
    grown = f'{long["mebibytes"]["growth"]:+.1f} MiB from the middle third of {long["frames"]:,} frames to the last'
    return '\n'.join([*lines, f'memory: {max(long["mebibytes"]["looks"]):.0f} MiB at most, {grown}'])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument('--out', type=pathlib.Path, default=pathlib.Path('results/speed/video'), help='default: %(default)s')
    parser.add_argument('--rounds', type=int, default=3, help='default: %(default)s')
    parser.add_argument('--seconds', type=float, default=24.0, help='of the film; default: %(default)s')
    parser.add_argument('--times', type=int, default=5, help='the film in the long one; default: %(default)s')
    parser.add_argument('--quick', action='store_true', help='a small trial: other numbers, the same way')
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds, options.times = 1, 4.0, 2
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        measured = measure(pathlib.Path(folder), options)
    record(options.out, {'weights': SHIPPED, 'cores': cv2.getNumberOfCPUs()} | measured, environment())
    print(report(measured))


if __name__ == '__main__':
    main()
