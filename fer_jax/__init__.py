"""fer_jax: facial-expression recognition with embedded attention and channel shuffle, in JAX and Flax."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fer_jax.inference.classifier import Classifier, load, predict
    from fer_jax.inference.face import Face

__version__ = '0.1.0'
__all__ = ['Classifier', 'Face', 'load', 'predict']


def __getattr__(name: str) -> Any:
    """The public names bring JAX with them, so they come when they are first asked for."""
    if name in __all__:
        return getattr(importlib.import_module('fer_jax.inference.classifier'), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
    return [*globals(), *__all__]
