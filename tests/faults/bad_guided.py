"""Inputs led by coverage: libFuzzer, through Atheris, changes the seeds of a reader and keeps what makes it take another way.

    python -m tests.faults.bad_guided READER FOLDER RUNS SEED

reads RUNS inputs in FOLDER/input and ends with an error at the first that is neither read nor refused in one line; that one is
then FOLDER/crash-…, slow-… or oom-….
"""

import importlib.util
import os
import pathlib
import re
import subprocess
import sys
import warnings

from tests.faults.bad_worker import MOST_MEMORY, MOST_SECONDS, unclear
from tests.faults.findings import Findings

ROOT = pathlib.Path(__file__).parent.parent.parent

BASE_MEMORY = 1 << 29  # bytes that the process has before it reads anything
# What of other libraries is Python and looks at the bytes itself.
INSTRUMENTED = ['fer_jax', 'tarfile', 'zipfile', 'csv', 'json', 'PIL', 'ml_collections']


def guided(folder: pathlib.Path, findings: Findings, runs: int, seed: int) -> None:
    """Notes what became of `runs` inputs of each reader of a single file; nothing where Atheris is not installed (extra `fuzz`)."""
    if runs and importlib.util.find_spec('atheris') is None:
        findings.told['led by coverage'] = 'none: Atheris is not installed'
        return
    for reader in single_file_readers() if runs else ():
        place = folder / f'guided-{len(list(folder.iterdir()))}'
        place.mkdir()
        command = [sys.executable, '-W', 'ignore', '-m', 'tests.faults.bad_guided', reader, str(place), str(runs), str(seed + 1)]
        process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, errors='replace')
        done = re.search(r'Done (\d+) runs', process.stderr)
        counts = re.findall(r'^#(\d+)\s', process.stderr, re.MULTILINE)
        count = int(done[1] if done else counts[-1] if counts else 0)
        findings.tried += count
        findings.told['inputs'].setdefault(reader, {})['led by coverage'] = count
        why = process.stderr.partition('=== Uncaught Python exception: ===')[2][:2000] or process.stderr[-2000:]
        findings.check(process.returncode == 0 and count >= runs, f'{reader}, led by coverage: after {count}: {why}')


def single_file_readers() -> list[str]:
    """The readers whose seeds are one file each."""
    from tests.faults.bad_readers import READERS

    return [name for name, reader in READERS.items() if all(len(files) == 1 for files in reader.seeds())]


def main() -> None:
    """Reads inputs until there were enough or one is wrong; it does not return, for libFuzzer ends the process."""
    import atheris

    with atheris.instrument_imports(include=INSTRUMENTED):  # nothing of these may have been imported before
        from fer_jax.core.errors import InputError
        from tests.faults.bad_readers import READERS

    name, folder, runs, seed = sys.argv[1], pathlib.Path(sys.argv[2]), sys.argv[3], sys.argv[4]
    reader = READERS[name]
    seeds = reader.seeds()
    source, corpus = folder / 'input', folder / 'corpus'
    for place in (source, corpus):
        place.mkdir()
    for number, files in enumerate(seeds):
        (corpus / f'{number}').write_bytes(*files.values())
    path = source / next(iter(seeds[0]))
    read = reader.within or (lambda place: reader.read(place, place))
    with atheris.instrument_imports(include=INSTRUMENTED):  # what a reader imports when it is called
        for files in seeds:
            path.write_bytes(*files.values())
            read(source)

    def read_one(content: bytes) -> None:
        path.write_bytes(content)
        try:
            with warnings.catch_warnings(action='ignore'):
                read(source)
        except InputError as error:
            if why := unclear(str(error)):
                raise AssertionError(why) from None

    limits = [f'-timeout={MOST_SECONDS}', f'-rss_limit_mb={MOST_MEMORY + BASE_MEMORY >> 20}']
    atheris.Setup([sys.argv[0], f'-runs={runs}', f'-seed={seed}', *limits, f'-artifact_prefix={folder}{os.sep}', str(corpus)], read_one)
    atheris.Fuzz()


if __name__ == '__main__':
    main()
