"""How a process starts: its virtual devices, and where its compiled programs are kept."""

import os
import signal
import subprocess
import sys

import pytest

from fer_jax.core import processes


@pytest.mark.parametrize(
    ('asked', 'told', 'cores', 'devices'),
    [(0, -1, 2, 2), (0, -1, 64, 8), (3, -1, 64, 3), (16, -1, 2, 16), (0, 3, 64, 3), (2, 3, 64, 2)],
)
def test_the_cpu_is_split_as_asked_or_told_or_by_its_cores(asked, told, cores, devices):
    assert processes.virtual_devices(asked, told, cores) == devices


def test_a_second_start_takes_what_the_first_compiled(tmp_path):
    """The first process leaves a program in the user's cache folder, the second adds none; a place that JAX was told stays."""
    code = 'import jax; from fer_jax.core import processes; processes.start(1); print(jax.config.jax_compilation_cache_dir);'
    code += 'jax.config.update("jax_persistent_cache_min_compile_time_secs", 0); jax.jit(lambda x: x + 1)(2.0)'
    variables = {name: text for name, text in os.environ.items() if name != 'JAX_COMPILATION_CACHE_DIR'}

    def cached(**more: str) -> tuple[str, set[str]]:
        command = [sys.executable, '-c', code]
        said = subprocess.run(command, env=variables | {'XDG_CACHE_HOME': str(tmp_path)} | more, check=True, capture_output=True, text=True)
        return said.stdout.strip(), {path.name for path in (tmp_path / 'fer_jax').rglob('*-cache')}

    place, first = cached()
    assert place.startswith(str(tmp_path / 'fer_jax')) and first
    assert cached() == (place, first)
    assert cached(JAX_COMPILATION_CACHE_DIR=str(tmp_path / 'told')) == (str(tmp_path / 'told'), first)


@pytest.mark.parametrize(('signals', 'seconds'), [([signal.SIGTERM], 0.01), ([signal.SIGINT, signal.SIGINT], 1000.0)])
def test_a_signal_that_the_main_thread_does_not_take_ends_the_process(signals, seconds, monkeypatch, capsys):
    """One after a while, a second at once."""
    monkeypatch.setattr(os, '_exit', sys.exit)
    reading, writing = os.pipe()
    os.write(writing, bytes(signals))
    with pytest.raises(SystemExit) as end:
        processes.watch(reading, -1, [], seconds)
    assert end.value.code == 75 and capsys.readouterr().err.startswith('stopped by a signal within a computation')
    os.close(reading)
    os.close(writing)


def test_signals_that_are_taken_end_nothing_and_reach_who_listened_before(monkeypatch):
    before, pipe = os.pipe()
    os.set_blocking(pipe, False)
    listening = signal.set_wakeup_fd(pipe)
    try:
        with processes.stop_signals() as stopped:
            assert not stopped()
            signal.raise_signal(signal.SIGTERM)
            assert stopped()
        assert signal.set_wakeup_fd(pipe) == pipe
    finally:
        signal.set_wakeup_fd(listening)
        os.close(pipe)
    assert os.read(before, 100) == bytes([signal.SIGTERM])
    os.close(before)
