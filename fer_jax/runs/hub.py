"""A model hub's folder of weights: what its files are called, and how one is downloaded by its address, hf://OWNER/NAME."""

import os
import pathlib
import re

from fer_jax.core.errors import InputError

SCHEME = 'hf://'
ADDRESS = re.compile(r'hf://([\w.-]+/[\w.-]+)(?:@([\w./-]+))?', re.ASCII)
# The names that hubs look for.
CONFIG, WEIGHTS, CARD = 'config.json', 'model.safetensors', 'README.md'
MODEL_TYPE = 'fer_jax'  # of CONFIG
MOST_BYTES = 1 << 30  # of a file that is downloaded


def download(address: str) -> pathlib.Path:
    """The folder of `hf://OWNER/NAME` or `hf://OWNER/NAME@REVISION` in huggingface_hub's cache, whose own settings and log-in hold.

    CONFIG and WEIGHTS are fetched where they are not there yet, both of one revision, and nothing else.

    Raises:
      InputError: no such address, or none that can be reached; a file that is not there or too large; no huggingface_hub.
    """
    match = ADDRESS.fullmatch(address)
    if match is None or '..' in address:
        raise InputError(f'{address}: not an address; {SCHEME}OWNER/NAME and {SCHEME}OWNER/NAME@REVISION are')
    try:
        from huggingface_hub import hf_hub_download
    except ImportError:
        raise InputError(f"{address} needs huggingface_hub, which is not installed: pip install 'fer_jax[hub]'") from None
    repository, revision = match.groups()
    folder = None
    for name in (CONFIG, WEIGHTS):
        try:
            size = hf_hub_download(repository, name, revision=revision, dry_run=True).file_size
            if not size or size > MOST_BYTES:
                raise ValueError(f'it says of itself that it has {size} bytes')
            folder = pathlib.Path(hf_hub_download(repository, name, revision=revision)).parent
        except Exception as error:  # its own, Python's, and those of the HTTP client, which is not always the same
            raise InputError(f'{address}: {name} cannot be had: {" ".join(str(error).split())[:300]}') from None
        revision = folder.name
    return folder


def check_name(name: str, where: str | os.PathLike) -> None:
    """Returns if weights can be called so; InputError if not, for results are written under their name."""
    if not name.isprintable() or name in ('', '.', '..') or set(name) & set('/\\'):
        raise InputError(f'{where}: weights cannot be called {name[:40]!r}, for no file can')
