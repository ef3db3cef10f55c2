"""The program with numbers that go wrong at a step: `python -m tests.faults.inject KIND STEP TIMES train …`.

KIND is one of POISONS; it strikes after STEP has been taken, until the run has been rolled back TIMES times.
"""

import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fer_jax.__main__ import main
from fer_jax.core.terminal import leave
from fer_jax.training import loop

POISONS: dict[str, Callable[[Any, dict[str, Any]], tuple[Any, dict[str, Any]]]] = {
    'nan-loss': lambda state, metrics: (state, scaled_loss(metrics, jnp.nan)),
    'infinite-loss': lambda state, metrics: (state, scaled_loss(metrics, jnp.inf)),
    'nan-parameters': lambda state, metrics: (scaled(state, 'variables', jnp.nan), metrics),
    'nan-moments': lambda state, metrics: (scaled(state, 'optimizer', jnp.nan), metrics),
    'explosion': lambda state, metrics: (scaled(state, 'variables', 1e4), metrics),
}


def scaled_loss(metrics: dict[str, Any], factor: float) -> dict[str, Any]:
    """`metrics` with their losses times `factor`."""
    return metrics | {'loss': jax.jit(lambda loss: loss * factor)(metrics['loss'])}


def scaled(state: Any, part: str, factor: float) -> Any:
    """`state` with all floating numbers of one field times `factor`."""
    times = jax.jit(lambda tree: jax.tree.map(lambda x: x * factor if jnp.issubdtype(x.dtype, jnp.floating) else x, tree))
    return state.replace(**{part: times(getattr(state, part))})


def poison(kind: str, step: int, times: int) -> None:
    """From now on every Loop's steps go wrong so."""
    compile_rightly = loop.Loop.compile

    def compile_wrongly(self: loop.Loop, *arguments: Any) -> Callable:
        chunk = compile_rightly(self, *arguments)

        def call(state: Any, data: Any) -> tuple[Any, dict[str, Any]]:
            before = int(state.step)
            state, metrics = chunk(state, data)
            strikes = before < step <= int(state.step) and self.history.rollbacks < times
            return POISONS[kind](state, metrics) if strikes else (state, metrics)

        return call

    loop.Loop.compile = compile_wrongly


if __name__ == '__main__':
    poison(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
    leave(main(sys.argv[4:]))
