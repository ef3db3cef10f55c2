"""Draws docs/faces.png: faces of ToyFaces' test split, two of each class, and what a run says of them.

    python -m fer_jax train --workdir runs/toyfaces
    python docs/faces.py runs/toyfaces

The first two of each class in the split's order are shown, whether they are taken for the right class or not.
"""

import pathlib
import sys

import matplotlib

matplotlib.use('agg')

import matplotlib.pyplot as plt
import numpy as np

from fer_jax import load, predict
from fer_jax.data import toyfaces

EACH = 2
RIGHT, WRONG = '#1a6b2f', '#b3261e'


def main(workdir: str) -> None:
    """Writes the picture beside this file."""
    source = toyfaces.read(8400, 0)
    test, names = source.splits['test'], source.class_names
    chosen = np.stack([np.flatnonzero(test.labels == label)[:EACH] for label in range(len(names))], axis=1)
    faces = predict(list(test.images[chosen.ravel()]), load(workdir), detect=False)
    figure, axes = plt.subplots(*chosen.shape, figsize=(10, 3.7), dpi=100, layout='constrained')
    for axis, place, face in zip(axes.flat, chosen.flat, faces, strict=True):
        truth = names[test.labels[place]]
        axis.imshow(test.images[place], cmap='gray', vmin=0, vmax=255)
        axis.set_title(f'{face.label} {face.probabilities[face.label]:.0%}', fontsize=11, color=RIGHT if face.label == truth else WRONG)
        axis.set_axis_off()
    figure.savefig(pathlib.Path(__file__).with_name('faces.png'))


if __name__ == '__main__':
    main(sys.argv[1])
