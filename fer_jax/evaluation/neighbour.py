"""The nearest neighbour on raw pixels: what a split's accuracy is worth when the same face, or the same film, stands on both sides."""

from typing import Any

import numpy as np
from jaxtyping import Int32, UInt8

from fer_jax.data.schema import Faces
from fer_jax.evaluation.scores import share_correct

MOST_TRAIN_IMAGES = 20_000  # beyond it the n × m distances take minutes, and say little: such sets are not films of a few subjects
BLOCK = 256  # images looked up at once: 41 MB of distances beside 369 MB of pixels, with the most of train images


def one_nearest_neighbour(train: Faces, test: Faces) -> dict[str, Any]:
    """Accuracy on `test` of the label of the nearest train image: Euclidean distance of the whole 48×48 pixels, as they are.

    Train is what the network learns from, and nothing else: validation images are not looked up.

    Returns:
      count, correct, accuracy (in 0..1), accuracy_interval (Wilson's, 95 %), train_images.
    """
    predictions = train.labels[nearest(train.images[:], test.images)]  # [:] as they may not be in memory yet
    return share_correct(int((predictions == test.labels).sum()), len(test)) | {'train_images': len(train)}


def nearest(
    known: UInt8[np.ndarray, 'n height width'], images: UInt8[np.ndarray, 'm height width'], block: int = BLOCK
) -> Int32[np.ndarray, 'm']:
    """The position in `known` of the image nearest to each of `images`, the first of them at a tie."""
    # In float64 the sums over pixels are whole numbers far below 2^53, so that ties are ties; uint8 would wrap around.
    rows = known.reshape(len(known), -1).astype(np.float64)
    squares = np.einsum('np,np->n', rows, rows)
    positions = np.zeros(len(images), np.int32)
    for start in range(0, len(images), block):
        part = images[start : start + block]
        # An image's own square is the same for all that it is compared with, and left out.
        positions[start : start + block] = (squares - 2 * part.reshape(len(part), -1).astype(np.float64) @ rows.T).argmin(1)
    return positions
