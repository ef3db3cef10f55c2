"""Full, read-only and failing disks while a run writes: it says so, keeps what it had, stops or goes on, and ends with the same bits."""

import contextlib
import errno
import functools
import json
import os
import pathlib
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator

from tests.faults.findings import Findings
from tests.faults.runs import arrays, differences, different_arrays, end, left_behind, saved_steps, uninterrupted
from tests.tiny import ROOT, overrides, run, start

# Many short epochs, each with its checkpoint, all of which the reference keeps.
FIELDS = {'epochs': '16', 'train__log_every': '2', 'train__keep_checkpoints': '100', 'evaluation__test': 'false'}
SMALL = {'epochs': '8'}
PER_EPOCH = 7  # steps
ERRORS = {'full': errno.ENOSPC, 'read-only': errno.EROFS, 'failing': errno.EIO}


def campaign(folder: pathlib.Path, seed: int, small: bool) -> Findings:
    """Lets the disk fail below a workdir, or below its checkpoints alone, from a step on that is drawn, until the run has noticed."""
    findings, draws, fields = Findings(), random.Random(seed), FIELDS | (SMALL if small else {})
    steps = PER_EPOCH * int(fields['epochs'])
    reference = uninterrupted(folder, **fields)
    library = compiled(folder)
    if library is None:
        findings.told['left out'] = 'failing disks by a preloaded library, for want of a C compiler'
    kinds = [(what, below, choice) for what in ERRORS for below in ('checkpoints/', '') for choice in ('stop', 'go_on')]
    for number, (what, below, choice) in enumerate([('full', 'checkpoints/', 'go_on')] if small else kinds * 3):
        workdir, step = folder / f'run-{number}', draws.randrange(steps // 4, steps // 2)
        if library:
            environment = {'LD_PRELOAD': library, 'FAILING_BELOW': f'{workdir}/{below}', 'FAILING_SWITCH': str(folder / 'switch')}
            findings.count(f'{what} disk below {below or "the workdir"}, {choice}')
            fault = functools.partial(failing, folder / 'switch', ERRORS[what])
            attempt(findings, reference, workdir, fields | {'train__on_failed_save': choice}, step, fault, environment)
            shutil.rmtree(workdir, ignore_errors=True)
    for choice in ('stop',) if small else ('stop', 'go_on') * 2:
        with small_disk(folder / 'disk') as disk:
            if disk is None:
                findings.told['left out, too'] = 'a small file system, which this user may not mount'
                break
            findings.count(f'small file system, {choice}')
            step, fault = draws.randrange(steps // 4, steps // 2), functools.partial(filled, disk)
            attempt(findings, reference, disk / 'run', fields | {'train__on_failed_save': choice}, step, fault, {})
    return findings


def attempt(
    findings: Findings,
    reference: pathlib.Path,
    workdir: pathlib.Path,
    fields: dict[str, str],
    step: int,
    fault: Callable[[], contextlib.AbstractContextManager],
    environment: dict[str, str],
) -> None:
    """One run under a fault that begins when its log has come to `step`, and what holds of it then and in the end."""
    arguments, choice = ['train', '--workdir', str(workdir), *overrides(reference.parent, **fields)], fields['train__on_failed_save']
    name = f'{workdir.name}, {choice}, from step {step}, {environment.get("FAILING_BELOW", "full")}'
    told = reference.parent / f'{workdir.name}.err'
    with open(told, 'w') as stream:
        process = start(*arguments, to=stream, environment=environment, cwd=ROOT)
        until(lambda: reached(workdir, step), process)
        before = saved_steps(workdir)
        with fault():
            until(lambda: 'could not be' in told.read_text() and (choice == 'go_on' or process.poll() is not None), process)
            if choice == 'stop':
                code, _ = end(process)
                stopped_rightly(findings, reference, workdir, name, code, told.read_text(), before)
        code, _ = end(process)
    if choice == 'stop':
        code, _, err = run(*arguments)
        findings.check(code == 0, f'{name}: the same command on a healed disk ended with {code}: {err}')
    else:
        err = told.read_text()
        findings.check(code == 0 and 'going on' in err and 'Traceback' not in err, f'{name}: it ended with {code}: {err}')
        with contextlib.suppress(FileNotFoundError):
            failed = json.loads((workdir / 'result.json').read_text())['failed_saves']
            findings.check(
                failed == err.count('; going on'), f'{name}: {failed} failed saves in result.json, {err.count("; going on")} told'
            )
    findings.wrong += [f'{name}: {each}' for each in differences(workdir, reference)]


def stopped_rightly(
    findings: Findings, reference: pathlib.Path, workdir: pathlib.Path, name: str, code: int, err: str, before: list[int]
) -> None:
    """Notes what does not hold of a run that its disk has ended."""
    findings.check(code == 1 and 'Traceback' not in err, f'{name}: it ended with {code}: {err}')
    last = err.splitlines()[-1]
    findings.check(last.startswith('error: ') and 'could not be' in last and 'same command' in last, f'{name}: it said {last!r}')
    standing = saved_steps(workdir)
    findings.check(set(before) <= set(standing), f'{name}: of the checkpoints {before} only {standing} stand')
    for step in standing:
        different = different_arrays(arrays(workdir, step), arrays(reference, step))
        findings.check(not different, lambda step=step, different=different: f'{name}: checkpoint {step}: {different[:3]} differ')
    findings.check(not [each for each in left_behind(workdir) if 'orbax' in each], lambda: f'{name}: left {left_behind(workdir)}')


def until(holds: Callable[[], bool], process: subprocess.Popen, seconds: float = 240) -> None:
    """Returns when `holds()`, or when the process has ended or the time is over, which what is looked at afterwards shows."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None and not holds():
        time.sleep(0.005)


def reached(workdir: pathlib.Path, step: int) -> bool:
    """Whether the log of the run has come to `step`."""
    path = workdir / 'metrics.jsonl'
    whole = path.read_text().splitlines(keepends=True) if path.exists() else []
    return any(json.loads(line)['step'] >= step for line in whole if line.endswith('\n'))


def compiled(folder: pathlib.Path) -> str | None:
    """The library of failing_disk.c; None without a C compiler."""
    compiler = shutil.which('cc') or shutil.which('gcc')
    if compiler is None:
        return None
    library = folder / 'failing_disk.so'
    source = pathlib.Path(__file__).with_name('failing_disk.c')
    subprocess.run([compiler, '-shared', '-fPIC', '-O2', '-o', str(library), str(source), '-ldl'], check=True)
    return str(library)


@contextlib.contextmanager
def failing(switch: pathlib.Path, number: int) -> Iterator[None]:
    """Meanwhile writes fail with the error of this number."""
    aside = switch.with_suffix('.new')
    aside.write_text(str(number))
    os.replace(aside, switch)
    try:
        yield
    finally:
        switch.unlink()


@contextlib.contextmanager
def small_disk(folder: pathlib.Path) -> Iterator[pathlib.Path | None]:
    """A file system of 96 MB in memory; None where this user may not mount one."""
    folder.mkdir(exist_ok=True)
    if subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=96m', 'none', str(folder)], capture_output=True).returncode:
        yield None
        return
    try:
        yield folder
    finally:
        subprocess.run(['umount', str(folder)], check=True)


@contextlib.contextmanager
def filled(disk: pathlib.Path) -> Iterator[None]:
    """Meanwhile the file system has no byte left."""
    filler = disk / 'filler'
    with open(filler, 'wb', buffering=0) as file, contextlib.suppress(OSError):
        for size in (1 << 20, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while file.write(bytes(size)):
                    pass
    try:
        yield
    finally:
        filler.unlink()
