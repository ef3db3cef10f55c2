"""Weights of a network small enough for tests, as a file."""

import pathlib

import numpy as np

from fer_jax.core.config import load_config
from fer_jax.runs.weights import save_weights, shapes
from tests.tiny import ROOT

FER = ('angry', 'disgust', 'fear', 'happy', 'sad', 'surprise', 'neutral')


def write_weights(path: pathlib.Path, seed: int = 0, class_names: tuple[str, ...] = FER, **fields: str) -> pathlib.Path:
    """One block with drawn parameters, which keep about the size of what goes through; `fields` are of config.network."""
    chosen = {'blocks': '6', 'strides': '2', 'shuffle_groups': '2'} | fields
    config = load_config(str(ROOT / 'configs/toyfaces.py'), {f'network.{name}': text for name, text in chosen.items()})
    generator = np.random.default_rng(seed)
    variables = {}
    for name, shape in shapes(config.network, len(class_names)).items():
        values = generator.normal(size=shape) / np.prod(shape[:-1], initial=1.0) ** 0.5
        variables[name] = (np.ones(shape) if name.endswith('/var') else values).astype(np.float32)
    told = {'protocol': {'trained_on': 'Training'}, 'step': 1, 'seed': seed, 'content_sha256': 'ab' * 32}
    save_weights(path, variables, {'config': config.to_dict(), 'class_names': list(class_names), **told})
    return path
