"""Claims: one holder at a time, whoever comes at once; those of lost processes pass on, those of living ones do not."""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest

from fer_jax.core.errors import InputError
from fer_jax.runs import claims


def claim_of_another(folder: pathlib.Path, number: int = 1, age: float = 0.0, **fields: object) -> pathlib.Path:
    """A claim on 'base-seed0' as another host left it, its last heartbeat `age` seconds ago."""
    path = folder / f'base-seed0.{number}.json'
    record = {'host': 'elsewhere', 'process': 7, 'machine': 'another', 'state': 'running'} | fields
    path.write_text(json.dumps(record))
    os.utime(path, (time.time() - age,) * 2)
    return path


def dead_process() -> int:
    """The number of a process that was there and is not."""
    process = subprocess.Popen([sys.executable, '-c', ''])
    process.wait()
    return process.pid


def test_a_run_is_claimed_once(tmp_path):
    path = claims.acquire(tmp_path, 'base-seed0')
    assert path == tmp_path / 'base-seed0.1.json'
    record = json.loads(path.read_text())
    assert record['process'] == os.getpid() and record['host'] and record['state'] == 'running'
    assert claims.acquire(tmp_path, 'base-seed0') is None
    assert claims.acquire(tmp_path, 'base-seed01') and claims.acquire(tmp_path, 'base'), 'other runs, whose names begin alike'
    assert sorted(path.name for path in tmp_path.iterdir()) == ['base-seed0.1.json', 'base-seed01.1.json', 'base.1.json']


def test_an_ended_claim_is_free_at_once(tmp_path):
    claims.end(claims.acquire(tmp_path, 'base-seed0'), 'failed', 'no such file')
    assert claims.latest(tmp_path, 'base-seed0').record['reason'] == 'no such file'
    assert claims.acquire(tmp_path, 'base-seed0') == tmp_path / 'base-seed0.2.json'


@pytest.mark.parametrize(
    ('age', 'ours', 'gone', 'taken'),
    [
        (0, False, True, False),  # another host: its process numbers say nothing here
        (119 - 15, False, True, False),
        (121, False, True, True),
        (0, True, True, True),  # this host knows at once
        (0, True, False, False),
        (121, True, False, True),  # a living process that says nothing: its number may be another's by now
    ],
)
def test_who_is_taken_to_be_lost(tmp_path, age, ours, gone, taken):
    claim_of_another(tmp_path, age=age, machine=claims.machine() if ours else 'another', process=dead_process() if gone else os.getpid())
    assert claims.acquire(tmp_path, 'base-seed0') == (tmp_path / 'base-seed0.2.json' if taken else None)


@pytest.mark.parametrize('content', [b'', b'{"host": "els', b'[1]', b'\xff\xfe', b'{"process": "x", "machine": 1}', b'{"process": 1e99}'])
def test_a_claim_that_cannot_be_read_counts_by_its_age(tmp_path, content):
    path = tmp_path / 'base-seed0.3.json'
    path.write_bytes(content)
    assert claims.acquire(tmp_path, 'base-seed0') is None
    os.utime(path, (time.time() - 121,) * 2)
    assert claims.acquire(tmp_path, 'base-seed0') == tmp_path / 'base-seed0.4.json'


@pytest.mark.parametrize('stale', [False, True])
def test_of_many_at_once_one_wins(tmp_path, monkeypatch, stale):
    """Ten times twenty that have all seen the run free before the first of them claims it."""
    barrier, folder_time = threading.Barrier(20), claims.folder_time

    def after_all_have_looked(folder: pathlib.Path) -> float:
        barrier.wait()
        return folder_time(folder)

    monkeypatch.setattr(claims, 'folder_time', after_all_have_looked)
    for number in range(10):
        run, won = f'base-seed{number}', []
        if stale:
            claim_of_another(tmp_path, age=500).rename(tmp_path / f'{run}.1.json')
        threads = [threading.Thread(target=lambda run=run, won=won: won.append(claims.acquire(tmp_path, run))) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 20 and [path.name for path in won if path] == [f'{run}.{2 if stale else 1}.json']


def test_the_heartbeat_keeps_a_claim_alive(tmp_path):
    path, lost = claims.acquire(tmp_path, 'base-seed0'), threading.Event()
    with claims.heartbeat(path, lost, 0.02):
        os.utime(path, (0, 0))
        deadline = time.monotonic() + 10
        while path.stat().st_mtime == 0 and time.monotonic() < deadline:
            time.sleep(0.01)
    assert time.time() - path.stat().st_mtime < 60 and not lost.is_set()
    os.utime(path, (0, 0))
    time.sleep(0.1)
    assert path.stat().st_mtime == 0, 'it beats after its end'


@pytest.mark.parametrize('how', ['taken over', 'deleted'])
def test_who_was_taken_over_is_told(tmp_path, how):
    path, lost = claims.acquire(tmp_path, 'base-seed0'), threading.Event()
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), claims.heartbeat(path, lost, 0.02):
            if how == 'deleted':
                path.unlink()
            else:
                os.utime(path, (0, 0))
                claim_of_another(tmp_path, number=2)
            time.sleep(10)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert lost.is_set()
    with contextlib.suppress(FileNotFoundError):
        assert path.stat().st_mtime == 0 or how == 'deleted', 'it renewed a claim that it had lost'


def test_the_time_is_that_of_the_folder(tmp_path):
    assert abs(claims.folder_time(tmp_path) - time.time()) < 5 and not list(tmp_path.iterdir())


def test_no_claim_and_no_folder(tmp_path):
    for folder in (tmp_path, tmp_path / 'nowhere'):
        assert claims.latest(folder, 'base-seed0') == (0, {}, 0.0)


# --- A folder for one


def test_one_that_is_just_being_written_is_named_all_the_same(tmp_path):
    """Found by a campaign: of sixteen processes at one instant one was told of "process None"."""
    path = tmp_path / 'run.1.json'
    path.touch()
    writing = threading.Timer(0.3, lambda: path.write_text(json.dumps(claims.record('running'))))
    writing.start()
    try:
        with pytest.raises(InputError, match=rf'process {os.getpid()} on host'), claims.holding(tmp_path, 'run', 'runs/x'):
            pass
    finally:
        writing.join()


def test_a_second_process_is_refused_by_number_and_host(tmp_path):
    with claims.holding(tmp_path / 'claims', 'run', 'runs/x'):
        message = rf'^runs/x: process {os.getpid()} on host \S+ is at work there; wait for its end, stop it, or choose another --workdir$'
        with pytest.raises(InputError, match=message), claims.holding(tmp_path / 'claims', 'run', 'runs/x'):
            pass
    with claims.holding(tmp_path / 'claims', 'run', 'runs/x'):
        pass


def test_what_a_killed_process_of_this_machine_held_is_free_at_once(tmp_path):
    claim_of_another(tmp_path, machine=claims.machine(), process=dead_process())
    with claims.holding(tmp_path, 'base-seed0', 'runs/x'):
        assert claims.latest(tmp_path, 'base-seed0').number == 2


def test_another_hosts_is_waited_for_until_it_is_lost_or_gives_a_sign_of_life(tmp_path, capsys):
    path, looks = claim_of_another(tmp_path, age=claims.STALE_SECONDS - 5), []

    def sleep(seconds: float) -> None:
        looks.append(seconds)
        os.utime(path, (time.time() - (0 if alive else claims.STALE_SECONDS + 1),) * 2)

    alive, there = True, (tmp_path, 'base-seed0', 'runs/x', sleep)
    with pytest.raises(InputError, match='process 7 on host elsewhere is at work there'), claims.holding(*there):
        pass
    os.utime(path, (time.time() - claims.STALE_SECONDS + 5,) * 2)
    alive = False
    with claims.holding(*there):
        assert claims.latest(tmp_path, 'base-seed0').number == 2
    assert len(looks) == 2
    assert capsys.readouterr().err.count('waiting up to 120 s for a sign of life of process 7 on host elsewhere') == 2
