"""Several configurations × several seeds: each a run in a folder of its own, by as many processes and hosts as share the folder."""

import contextlib
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

from fer_jax import plan
from fer_jax.claims import Claim, acquire, end, folder_time, heartbeat, latest
from fer_jax.errors import Diverged, InputError, Interrupted
from fer_jax.plan import Failure, SweepRun
from fer_jax.train import train

POLL_SECONDS = 5.0  # between two looks at the runs that other processes have


def sweep(reference: str, overrides: dict[str, str], seeds: str, only: str, workdir: pathlib.Path | None, dry_run: bool) -> int:
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

    Returns:
      The exit code: 0 all runs are finished, 1 one failed, 2 all did because of wrong input.

    Raises:
      InputError: the file, a field, `seeds`, `only` or `workdir` is wrong.
      Interrupted: after SIGTERM or SIGINT; the same command goes on.
    """
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
            outcomes = work(runs, workdir / 'claims', stopped)
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


def work(runs: list[SweepRun], claims: pathlib.Path, stopped: Callable[[], bool]) -> dict[str, float | Failure]:
    """Runs what is free until every run is finished or failed, here or elsewhere; returns accuracy or failure by the runs' keys.

    Raises:
      Interrupted: after SIGTERM or SIGINT.
      KeyboardInterrupt: likewise, outside of a run's steps.
    """
    outcomes: dict[str, float | Failure] = {}
    began, pending, waited_for = folder_time(claims), runs, ''
    while pending:
        elsewhere: dict[str, Claim] = {}
        for run in pending:
            outcome = attempt(run, claims, began, stopped)
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


def attempt(run: SweepRun, claims: pathlib.Path, began: float, stopped: Callable[[], bool]) -> float | Failure | Claim:
    """Takes the run to its end if it is free: its accuracy, why it failed, or the claim of the process that has it."""
    if plan.is_finished(run):
        return plan.result(run)
    claim = latest(claims, run.key)
    if claim.record.get('state') == 'diverged' and claim.time > began:  # so it would again; what the input is may differ by host
        return Failure(str(claim.record.get('reason')), is_input=False)
    if run.config.parallel.cpu_devices != run.cpu_devices:
        reason = f'parallel.cpu_devices={run.config.parallel.cpu_devices}, but this process has {run.cpu_devices}'
        return Failure(f'{reason}; give it a process of its own, with --only {run.config.name}', is_input=True)
    path = acquire(claims, run.key)
    if path is None:
        return latest(claims, run.key)
    lost, state, outcome = threading.Event(), 'stopped', None
    try:
        with heartbeat(path, lost):
            if not plan.is_finished(run):  # by another process, since we looked
                print(f'{run.title}: {plan.progress(run)}', flush=True)
                gc.collect()  # the arrays and programs of the run before, which hang on one another in circles
                train(run.config, run.folder)
        outcome, state = plan.result(run), 'finished'
    except (Exception, KeyboardInterrupt) as error:
        if lost.is_set():
            print(f'{run.title}: another process has taken it over, for no sign of life came from this one', file=sys.stderr)
            return latest(claims, run.key)
        if isinstance(error, Interrupted | KeyboardInterrupt):
            raise
        outcome, state = failure_of(error), 'diverged' if isinstance(error, Diverged) else 'failed'
    finally:
        if lost.is_set():
            stopped()  # notes the signal that the heartbeat sent
        end(path, state, outcome.reason if isinstance(outcome, Failure) else '')
    return outcome


def failure_of(error: Exception) -> Failure:
    """What to tell of an error of one run; the traceback of one that nobody foresaw is printed."""
    if isinstance(error, InputError | Diverged | OSError):
        return Failure(str(error), isinstance(error, InputError))
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
