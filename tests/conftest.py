"""What every test runs under: the CPU as four devices, shapes checked at run time, long tests left out unless asked for."""

import os
import pathlib
import signal

ROOT = pathlib.Path(__file__).parent.parent
# Each file goes to one worker as a whole; begun last, the longest would be what all the others wait for.
LONGEST = (
    'test_faults.py',
    'test_distributed.py',
    'test_walkthrough.py',
    'test_baselines.py',
    'test_train.py',
    'test_step.py',
    'test_output.py',
    'test_sweep.py',
    'test_batches.py',
    'test_rollback.py',
    'test_replicas.py',
    'test_fernet.py',
    'test_cluster.py',
    'test_export.py',
    'test_toyfaces.py',
    'test_weights.py',
    'test_packaging.py',
)

# Before JAX is imported, and in the environment so that the programs that tests start have them too.
os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(ROOT / '.pytest_cache' / 'jax'))  # shared by the workers
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0')
os.environ['PYTHONPATH'] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get('PYTHONPATH'))))
os.environ['MPLBACKEND'] = 'agg'
# The programs that tests start are many: what the first of them has compiled of the sources serves the others.
os.environ['PYTHONPYCACHEPREFIX'] = str(ROOT / '.pytest_cache' / 'sources')
os.environ.pop('PYTHONDONTWRITEBYTECODE', None)

# Where a shell began the tests with &, Ctrl-C is ignored, and would be by every program that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import jax  # noqa: E402
import jaxtyping  # noqa: E402
import pytest  # noqa: E402

jax.config.update('jax_num_cpu_devices', 4)
# Before fer_jax is imported: every call of its functions has the types and array shapes of its signature checked.
jaxtyping.install_import_hook('fer_jax', 'beartype.beartype')


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption('--slow', action='store_true', help='run the long tests, and only those')


def pytest_configure(config: pytest.Config) -> None:
    """Leaves the long tests out, unless -m says otherwise or tests are named one by one."""
    named = any('::' in argument for argument in config.args)
    if config.getoption('--slow'):
        config.option.markexpr = 'slow'
    elif not config.option.markexpr and not named:
        config.option.markexpr = 'not slow'


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """`-n auto` is the cores this process may use, at most four: each worker holds a JAX of its own.

    And one more for the long tests, which often wait: for programs that they started, or for time to pass.
    """
    if 'PYTEST_XDIST_AUTO_NUM_WORKERS' in os.environ:
        return None
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    return min(cores, 4) + config.getoption('--slow')
