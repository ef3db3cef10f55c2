"""What a process runs on and with: what environment.json and every result say of it."""

import functools
import importlib.metadata
import pathlib
import platform
import subprocess
from typing import Any

PACKAGES = (
    'jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'tensorflow-datasets', 'array_record', 'ml_collections', 'clu', 'grain', 'numpy'
)  # fmt: skip


def environment() -> dict[str, Any]:
    """What this process runs on and with: Python, platform, CPU, devices, package versions and the code's revision."""
    import jax  # late, for it takes seconds: a sweep that only asks whose a folder is starts without it

    from fer_jax.core.processes import cpu_says

    devices = jax.devices()
    return {
        'python': platform.python_version(),
        'platform': platform.platform(),
        'cpu': cpu_says('model name').rpartition(': ')[2],
        'device': {
            'platform': devices[0].platform,
            'kind': devices[0].device_kind,
            'count': len(devices),
            'processes': jax.process_count(),
        },
        'packages': {name: version for name in PACKAGES if (version := package_version(name))},
        'code': own_revision(),
    }


@functools.cache  # what lay there as this process started; and every scoring asks
def own_revision() -> dict[str, Any]:
    """`code_revision` of this package."""
    return code_revision(pathlib.Path(__file__).parent.parent)


def package_version(name: str) -> str:
    """The installed version, '' where there is none."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ''


def code_revision(package: pathlib.Path) -> dict[str, Any]:
    """{'revision', 'dirty'} of the git checkout that tracks `package`; '' and False where none does, as when installed by pip."""

    def git(*arguments: str) -> str:
        command = ['git', '-C', str(package), *arguments]
        return subprocess.run(command, capture_output=True, timeout=10, check=True).stdout.decode(errors='replace').strip()

    try:
        git('ls-files', '--error-unmatch', '__init__.py')  # a checkout around a virtual environment is not this code's
        return {'revision': git('rev-parse', 'HEAD'), 'dirty': bool(git('--no-optional-locks', 'status', '--porcelain', '-uno'))}
    except (OSError, subprocess.SubprocessError):
        return {'revision': '', 'dirty': False}
