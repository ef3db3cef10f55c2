"""What is printed survives any encoding, a reader that is gone and a full disk."""

import contextlib
import errno
import io
import os
import subprocess
import sys

import pytest

from fer_jax.core.terminal import forgiving, leave, reader_is_gone


@pytest.mark.parametrize(
    ('encoding', 'expected'),
    [
        ('ascii', rb'-> 3 x 4, 5 - 6 ... caf\xe9 \u8868 \udce9'),
        ('cp1252', b'-> 3 \xd7 4, 5 \x96 6 \x85 caf\xe9 \\u8868 \\udce9'),
        ('utf-8', 'b→ 3 × 4, 5 – 6 … café 表 '.encode()[1:] + rb'\udce9'),
    ],
)
def test_any_encoding_says_what_it_can(encoding, expected):
    bottom = io.BytesIO()
    stream = forgiving(io.TextIOWrapper(bottom, encoding))
    print('→ 3 × 4, 5 – 6 … café 表 \udce9', end='', file=stream, flush=True)
    assert bottom.getvalue() == expected and stream.encoding == encoding


def test_a_reader_that_is_gone_is_no_error():
    reading, writing = os.pipe()
    with contextlib.suppress(BrokenPipeError), forgiving(os.fdopen(writing, 'w')) as stream, contextlib.redirect_stdout(stream):
        print('one')
        assert not reader_is_gone()
        assert os.read(reading, 100) == b'one\n'
        os.close(reading)
        print('two')
        assert reader_is_gone()
        assert stream.lost.errno == errno.EPIPE
        with pytest.raises(SystemExit) as end:
            leave(0)
        assert end.value.code == 0


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='no /dev/full')
@pytest.mark.parametrize(('code', 'left_with'), [(0, 1), (75, 75)])
def test_a_full_disk_below_the_output_is_told_at_the_end(code, left_with, capsys):
    with contextlib.suppress(OSError), forgiving(open('/dev/full', 'w')) as stream, contextlib.redirect_stdout(stream):
        print('one', flush=True)
        with pytest.raises(SystemExit) as end:
            leave(code)
        assert end.value.code == left_with
    told = 'error: some of what was printed is lost (No space left on device); files that were written are whole\n'
    assert capsys.readouterr().err == told


DROPPED = """
import signal, time
from fer_jax.core.terminal import tell_warnings

class Dropping:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)

tell_warnings('serve')
try:
    Dropping()
    time.sleep(30)
except KeyboardInterrupt:
    print('heeded')
"""


def test_an_interrupt_that_python_drops_is_heeded_a_moment_later():
    done = subprocess.run([sys.executable, '-c', DROPPED], capture_output=True, text=True, timeout=25)
    assert (done.stdout, done.stderr) == ('heeded\n', '')
