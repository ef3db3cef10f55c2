"""fer_jax: facial-expression recognition with embedded attention and channel shuffle, in JAX and Flax."""

import importlib
from typing import Any

__version__ = '0.1.0'
__all__ = ['load', 'predict']


def __getattr__(name: str) -> Any:
    """`load` and `predict` bring JAX with them, so they come when they are first asked for."""
    if name in __all__:
        return getattr(importlib.import_module('fer_jax.inference.classifier'), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
