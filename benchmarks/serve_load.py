"""The service under load: answers a second, how long they take, errors, and what its memory grows by.

    python -m benchmarks.serve_load [--out results/serve] [--clients 32] [--seconds 60] [--option=--detector=cascade …]

`fer-jax serve` is started on a free port of 127.0.0.1, and nothing is sent elsewhere. Clients ask it, each over one connection, with a
photograph in turn of pictures of 640×480 in which a drawn face stands, and ask again when they are answered. Time begins when each was
answered once. Its memory is read from /metrics every second; it grows by the median of the last third less that of the middle third: in
the first it takes what it goes on to use.
"""

import argparse
import collections
import http.client
import io
import pathlib
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.faces import scene
from benchmarks.side_by_side import ROOT, record
from fer_jax.data.toyfaces import draw
from fer_jax.runs.environment import environment

PICTURES = 28
PATIENCE = 120  # seconds for an answer
MIB = 2**20


def bodies() -> list[bytes]:
    """The pictures, as JPEG."""
    found = []
    for number, face in enumerate(draw(PICTURES, 0)[0]):
        buffer = io.BytesIO()
        Image.fromarray(scene(face, number)[0]).save(buffer, 'JPEG', quality=90)
        found.append(buffer.getvalue())
    return found


class Client(threading.Thread):
    """Asks until it is told to stop; `times` has the begin and the seconds of each answer, `errors` what came in place of one."""

    def __init__(self, port: int, pictures: Sequence[bytes], stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self.port, self.pictures, self.stop = port, pictures, stop
        self.times: list[tuple[float, float]] = []
        self.errors: collections.Counter[str] = collections.Counter()

    def run(self) -> None:
        connection = http.client.HTTPConnection('127.0.0.1', self.port, timeout=PATIENCE)
        number = 0
        while not self.stop.is_set():
            begin = time.perf_counter()
            try:
                connection.request('POST', '/v1/faces', self.pictures[number % len(self.pictures)])
                response = connection.getresponse()
                response.read()
                outcome = str(response.status)
            except (OSError, http.client.HTTPException) as error:
                outcome = type(error).__name__
                connection.close()
            if outcome == '200':
                self.times.append((begin, time.perf_counter() - begin))
            else:
                self.errors[outcome] += 1
            number += 1
        connection.close()


def samples(port: int) -> dict[str, float]:
    """What /metrics says, without labels."""
    connection = http.client.HTTPConnection('127.0.0.1', port, timeout=PATIENCE)
    connection.request('GET', '/metrics')
    text = connection.getresponse().read().decode()
    connection.close()
    return {each.name: each.value for found in text_string_to_metric_families(text) for each in found.samples if not each.labels}


def load(port: int, clients: int, seconds: float) -> dict[str, Any]:
    """What so many clients meet in so many seconds."""
    pictures, stop = bodies(), threading.Event()
    asking = [Client(port, pictures[number % PICTURES :] + pictures[: number % PICTURES], stop) for number in range(clients)]
    for each in asking:
        each.start()
    while not all(each.times or each.errors for each in asking):
        time.sleep(0.1)
    begin, memory = time.perf_counter(), []
    while time.perf_counter() - begin < seconds:
        time.sleep(min(1.0, seconds / 9))
        memory.append(samples(port)['process_resident_memory_bytes'] / MIB)
    taken = time.perf_counter() - begin
    stop.set()
    for each in asking:
        each.join()
    found = samples(port)
    times = [spent for each in asking for start, spent in each.times if begin <= start and start + spent <= begin + taken]
    errors = sum((each.errors for each in asking), collections.Counter())
    calls = {'calls': found['fer_jax_call_faces_count'], 'faces': found['fer_jax_call_faces_sum']}
    return {'clients': clients, 'seconds': taken, **summary(times, taken), 'errors': dict(errors), **calls, 'memory_mib': growth(memory)}


def summary(times: Sequence[float], seconds: float) -> dict[str, float]:
    """Answers a second, and the milliseconds within which half and 99 of 100 of them came."""
    if len(times) < 2:
        raise SystemExit('too few answers for a figure: give it more --seconds')
    cuts = statistics.quantiles(times, n=100, method='inclusive')
    return {'answers': len(times), 'answers_per_second': len(times) / seconds, 'p50_ms': 1e3 * cuts[49], 'p99_ms': 1e3 * cuts[98]}


def growth(memory: Sequence[float]) -> dict[str, Any]:
    """Of the memory at each look: the first and the last, and the median of the last third less that of the middle third."""
    third = max(1, len(memory) // 3)
    middle, last = statistics.median(memory[-2 * third : -third]), statistics.median(memory[-third:])
    return {'begin': memory[0], 'end': memory[-1], 'growth': last - middle, 'looks': list(memory)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument('--out', type=pathlib.Path, default=pathlib.Path('results/serve'), help='default: %(default)s')
    parser.add_argument('--clients', type=int, default=32, help='default: %(default)s')
    parser.add_argument('--seconds', type=float, default=60.0, help='default: %(default)s')
    parser.add_argument('--option', action='append', default=[], help='of fer-jax serve, as --option=--waiting=16')
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    command = ['-m', 'fer_jax', 'serve', '--port', '0', *options.option]
    server = subprocess.Popen([sys.executable, *command], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        said = server.stdout.readline()
        if not said.startswith('http://127.0.0.1:'):
            raise SystemExit(f'the service did not start on this computer: {said or server.wait()}')
        measured = load(int(said.split()[0].rpartition(':')[2]), options.clients, options.seconds)
        if server.poll() is not None:
            raise SystemExit(f'the service ended with exit code {server.returncode}')
    finally:
        server.send_signal(signal.SIGINT)
        server.wait()
    record(options.out, {'service': command, **measured}, environment())
    memory = measured['memory_mib']
    print(
        f'{measured["answers_per_second"]:.1f} answers/s, p50 {measured["p50_ms"]:.0f} ms, p99 {measured["p99_ms"]:.0f} ms, '
        f'errors {measured["errors"] or "none"}, memory {memory["begin"]:.0f} to {memory["end"]:.0f} MiB, growth {memory["growth"]:+.1f}'
    )


if __name__ == '__main__':
    main()
