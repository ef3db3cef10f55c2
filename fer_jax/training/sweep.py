"""Several configurations × several seeds: each a run in a folder of its own, by as many processes and hosts as share the folder."""

import contextlib
import ctypes
import gc
import os
import pathlib
import signal
import statistics
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator

from fer_jax.core.errors import Diverged, InputError, Interrupted, out_of_memory
from fer_jax.runs.claims import Claim, acquire, end, folder_time, heartbeat, latest
from fer_jax.training import plan
from fer_jax.training.plan import Failure, SweepRun
from fer_jax.training.replicas import train_together
from fer_jax.training.train import train

POLL_SECONDS = 5.0  # between two looks at the runs that other processes have


def sweep(
    reference: str, overrides: dict[str, str], seeds: str, only: str, workdir: pathlib.Path | None, dry_run: bool, together: int = 1
) -> int:
    """Runs every configuration of a file with every seed, in `workdir`/<name>/seed<k>/, and prints a table of their accuracies.

    Seed by seed, so that what is there before the end is whole rows of all variants. Finished runs are left as they are,
    unfinished ones go on, one that fails is told and the rest carried on. Other processes may do the same in the same folder, there or
    on other hosts: each run is claimed by one of them, and those of a process that is lost are taken over by the others.

    Args:
      reference, overrides: as of config.load_variants.
      seeds: such as `0-4` or `0,3,7-9`.
      only: names of the configurations to run, with commas between; all where empty.
      workdir: default_sweep_workdir where None.
      dry_run: only print the runs and how far each is.
      together: seeds of a configuration that are trained in one program, at most.

    Returns:
      The exit code: 0 all runs are finished, 1 one failed, 2 all did because of wrong input.

    Raises:
      InputError: the file, a field, `seeds`, `only` or `workdir` is wrong.
      Interrupted: after SIGTERM or SIGINT; the same command goes on.
    """
    if together < 1:
        raise InputError(f'--together {together}: one seed at a time is 1')
    variants = plan.name_variants(reference, overrides)
    workdir = workdir or plan.default_sweep_workdir(reference, variants)
    runs = plan.plan_runs(variants, plan.parse_seeds(seeds), only, workdir)
    if dry_run:
        for run in runs:
            print(f'{run.title}: {plan.standing(run, workdir / "claims")}')
        return 0
    order = {'config': reference, 'overrides': overrides, 'variants': list(variants), 'seeds': plan.parse_seeds(seeds)}
    plan.make_folder(workdir, order)
    print(f'sweep: {workdir}/, {len(runs)} runs')
    with stop_signals() as stopped:
        try:
            outcomes = work(runs, workdir / 'claims', stopped, together)
        except KeyboardInterrupt:
            raise Interrupted('stopped by a signal; the same command goes on') from None
    print(f'\n{table(runs, outcomes)}\n\nfor the report: python -m fer_jax report --workdir {workdir}')
    failures = [outcome for outcome in outcomes.values() if isinstance(outcome, Failure)]
    if not failures:
        return 0
    return 2 if len(failures) == len(outcomes) and all(failure.is_input for failure in failures) else 1


@contextlib.contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """Makes SIGTERM do what Ctrl-C does, and yields a function that says whether either came since it was last asked.

    A run that is at its end when a signal comes takes it, is scored, and ends as if none had come. So the signals are also taken
    from a pipe, to which Python writes each one's number whoever listens.
    """
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    os.set_blocking(writing, False)
    listening = signal.signal(signal.SIGTERM, signal.default_int_handler)
    pipe = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)

    def stopped() -> bool:
        try:
            return not {signal.SIGTERM, signal.SIGINT}.isdisjoint(os.read(reading, 4096))
        except BlockingIOError:
            return False

    try:
        yield stopped
    finally:
        signal.set_wakeup_fd(pipe)
        signal.signal(signal.SIGTERM, listening)
        os.close(reading)
        os.close(writing)


def work(runs: list[SweepRun], claims: pathlib.Path, stopped: Callable[[], bool], together: int = 1) -> dict[str, float | Failure]:
    """Runs what is free until every run is finished or failed, here or elsewhere; returns accuracy or failure by the runs' keys.

    Raises:
      Interrupted: after SIGTERM or SIGINT.
      KeyboardInterrupt: likewise, outside of a run's steps.
    """
    outcomes: dict[str, float | Failure] = {}
    began, pending, waited_for = folder_time(claims), runs, ''
    while pending:
        elsewhere: dict[str, Claim] = {}
        for group in plan.groups(pending, together):
            for run, outcome in zip(group, attempt(group, claims, began, stopped), strict=True):
                if isinstance(outcome, Claim):
                    elsewhere[run.key] = outcome
                else:
                    outcomes[run.key] = outcome
                    where = sys.stderr if isinstance(outcome, Failure) else sys.stdout
                    print(f'{run.title}: {plan.outcome_text(run, outcome)}', file=where, flush=True)
            if stopped() and len(outcomes) < len(runs):
                raise Interrupted('stopped by a signal; the same command goes on')
        took_some = len(elsewhere) < len(pending)
        pending = [run for run in pending if run.key in elsewhere]
        if pending and not took_some:
            waiting = waiting_text(elsewhere)
            if waiting != waited_for:
                print(waiting, flush=True)
            waited_for = waiting
            time.sleep(POLL_SECONDS)
    # What failed here may have been done elsewhere: on a host that has the data, or room on its disk.
    return outcomes | {run.key: plan.result(run) for run in runs if isinstance(outcomes[run.key], Failure) and plan.is_finished(run)}


def attempt(group: list[SweepRun], claims: pathlib.Path, began: float, stopped: Callable[[], bool]) -> list[float | Failure | Claim]:
    """Takes those of `group` that are free to their end: for each its accuracy, why it failed, or the claim of the process that has it."""
    outcomes, mine = {run.key: known(run, claims, began) for run in group}, {}
    for run in group:
        if outcomes[run.key] is None:
            if path := acquire(claims, run.key):
                mine[run.key] = path
            else:
                outcomes[run.key] = latest(claims, run.key)
    free = [run for run in group if run.key in mine]
    lost, states = threading.Event(), dict.fromkeys(mine, 'stopped')
    try:
        with contextlib.ExitStack() as beating:
            for path in mine.values():
                beating.enter_context(heartbeat(path, lost))
            errors = take_to_the_end(free) if free else {}
        for run in free:
            error = errors.get(run.key)
            outcomes[run.key] = failure_of(error) if error else plan.result(run)
            states[run.key] = 'diverged' if isinstance(error, Diverged) else 'failed' if error else 'finished'
    except (Exception, KeyboardInterrupt) as error:
        if lost.is_set():
            print(f'{free[0].title}: another process has taken it over, for no sign of life came from this one', file=sys.stderr)
            outcomes |= {run.key: latest(claims, run.key) for run in free}
        elif isinstance(error, Interrupted | KeyboardInterrupt):
            raise
        else:
            outcomes |= dict.fromkeys(mine, failure_of(error))
            states = dict.fromkeys(mine, 'diverged' if isinstance(error, Diverged) else 'failed')
    finally:
        if lost.is_set():
            stopped()  # notes the signal that the heartbeat sent
        for key, path in mine.items():
            end(path, states[key], outcomes[key].reason if isinstance(outcomes[key], Failure) else '')
    return list(outcomes.values())


def known(run: SweepRun, claims: pathlib.Path, began: float) -> float | Failure | None:
    """The outcome of a run that need not be taken up; None of one that may have to."""
    if plan.is_finished(run):
        return plan.result(run)
    claim = latest(claims, run.key)
    if claim.record.get('state') == 'diverged' and claim.time > began:  # so it would again; what the input is may differ by host
        return Failure(str(claim.record.get('reason')), is_input=False)
    if run.config.parallel.cpu_devices != run.cpu_devices:
        reason = f'parallel.cpu_devices={run.config.parallel.cpu_devices}, but this process has {run.cpu_devices}'
        return Failure(f'{reason}; give it a process of its own, with --only {run.config.name}', is_input=True)
    return None


def take_to_the_end(runs: list[SweepRun]) -> dict[str, Diverged | InputError]:
    """Trains and scores what is not finished of `runs`, which this process has claimed; by their keys, why some have no result.

    Raises:
      whatever train.train raises, of all of them.
    """
    left = [run for run in runs if not plan.is_finished(run)]  # another process may have been there since we looked
    for run in left:
        print(f'{run.title}: {plan.progress(run)}', flush=True)
    give_memory_back()
    if len(left) == 1:
        train(left[0].config, left[0].folder)
    elif left:
        errors = train_together([run.config for run in left], [run.folder for run in left])
        return {run.key: error for run, error in zip(left, errors, strict=True) if error}
    return {}


def give_memory_back() -> None:
    """Frees what the run before held: arrays and programs that hang on one another in circles, and the memory that they were in.

    The allocator that core/allocator chooses keeps all that it ever had, which from run to run is more and more.
    """
    gc.collect()
    process = ctypes.CDLL(None)
    if hasattr(process, 'mallctl'):  # jemalloc's; 4096 are all arenas
        process.mallctl(b'arena.4096.purge', None, None, None, ctypes.c_size_t(0))
    elif hasattr(process, 'malloc_trim'):  # glibc's
        process.malloc_trim(ctypes.c_size_t(0))


def failure_of(error: Exception) -> Failure:
    """What to tell of an error of one run; the traceback of one that nobody foresaw is printed. Memory may be short for this run alone."""
    if isinstance(error, InputError | Diverged | OSError):
        return Failure(str(error), isinstance(error, InputError))
    if not out_of_memory(error):
        traceback.print_exception(error)
    return Failure(f'{type(error).__name__}: {" ".join(str(error).split())[:300]}', is_input=False)


def waiting_text(elsewhere: dict[str, Claim]) -> str:
    """Whom this process waits for, in one line."""
    named = [f'{key} ({plan.holder(claim)})' for key, claim in list(elsewhere.items())[:3]]
    return f'waiting for {", ".join(named)}' + (f' and {len(elsewhere) - 3} more' if len(elsewhere) > 3 else '')


def table(runs: list[SweepRun], outcomes: dict[str, float | Failure]) -> str:
    """Mean and standard deviation of each variant's accuracy over its finished seeds, in percent."""
    rows = [('variant', 'seeds', 'split', 'accuracy, %', 'sd')]
    for name in dict.fromkeys(run.config.name for run in runs):
        own = [run for run in runs if run.config.name == name]
        done = [100 * outcomes[run.key] for run in own if not isinstance(outcomes[run.key], Failure)]
        mean = f'{statistics.mean(done):.2f}' if done else '–'
        deviation = f'{statistics.stdev(done):.2f}' if len(done) > 1 else '–'
        rows.append((name, f'{len(done)}/{len(own)}', plan.scored_split(own[0].config), mean, deviation))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return '\n'.join('  '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
