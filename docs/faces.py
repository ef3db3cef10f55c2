"""Draws docs/faces.png: faces of ToyFaces' test split, two of each class, and what a recorded run said of them.

    python docs/faces.py

The first two of each class in the split's order are shown, whether they were taken for the right class (green) or not (red).
"""

import pathlib
import sys

import matplotlib

matplotlib.use('agg')

import matplotlib.pyplot as plt
import numpy as np

ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from fer_jax.data import toyfaces  # noqa: E402 (it is found only now)
from fer_jax.data.predictions import read_predictions  # noqa: E402

RECORD = ROOT / 'results/toyfaces/seed0/evaluations/best-test-centre/predictions.csv'
EACH = 2
RIGHT, WRONG = '#1a6b2f', '#b3261e'


def main() -> None:
    """Writes the picture beside this file."""
    source = toyfaces.read(8400, 0)
    test, names = source.splits['test'], source.class_names
    labels, probabilities = read_predictions(RECORD, names)
    assert np.array_equal(labels, test.labels), 'the record is of other faces'
    chosen = np.stack([np.flatnonzero(labels == label)[:EACH] for label in range(len(names))], axis=1)
    figure, axes = plt.subplots(*chosen.shape, figsize=(10, 3.4), dpi=100, layout='constrained')
    for axis, place in zip(axes.flat, chosen.flat, strict=True):
        said = probabilities[place].argmax()
        axis.imshow(test.images[place], cmap='gray', vmin=0, vmax=255)
        colour = RIGHT if said == labels[place] else WRONG
        axis.set_title(f'{names[said]} {probabilities[place, said]:.0%}', fontsize=12, color=colour)
        axis.set_axis_off()
    figure.savefig(pathlib.Path(__file__).with_name('faces.png'))


if __name__ == '__main__':
    main()
