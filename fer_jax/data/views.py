"""Pixels as the network takes them: the crops of a face, and their range."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Shaped, UInt8

from fer_jax.data.schema import IMAGE_SIDE

CROP_SIDE = 40  # the network's input, out of images of 48×48
MARGIN = (IMAGE_SIDE - CROP_SIDE) // 2  # of the centre crop
MEAN, SCALE = 127.5, 63.75  # of the normalised pixels
VIEWS = {'centre': 1, 'ten': 10}  # name → views of each image


def normalise(images: Float[Array, '*batch height width'] | UInt8[Array, '*batch height width']) -> Float[Array, '*batch height width 1']:
    """Pixels 0..255 → about -2..2, with a channel axis. Constants, not a set's mean: a checkpoint needs no data set."""
    return (images.astype(jnp.float32)[..., None] - MEAN) / SCALE


def bilinear(image: Float[Array, 'height width'], places: Float[Array, '2 rows columns']) -> Float[Array, 'rows columns']:
    """`image` at fractional (row, column) places; outside it, its nearest edge."""
    height, width = image.shape
    rows, columns = jnp.clip(places[0], 0, height - 1), jnp.clip(places[1], 0, width - 1)
    top, left = jnp.minimum(rows.astype(jnp.int32), height - 2), jnp.minimum(columns.astype(jnp.int32), width - 2)
    down, right = rows - top, columns - left
    flat, index = image.reshape(-1), top * width + left
    upper = flat[index] * (1 - right) + flat[index + 1] * right
    lower = flat[index + width] * (1 - right) + flat[index + width + 1] * right
    return upper * (1 - down) + lower * down


def grid(side: int) -> Float[Array, '2 side side']:
    """The (row, column) places, from the middle of a view, of `side`² points that lie evenly over all of it."""
    axis = (jnp.arange(side) - (side - 1) / 2) * (CROP_SIDE / side)
    return jnp.stack(jnp.meshgrid(axis, axis, indexing='ij'))


def resized(views: Float[Array, 'batch crop crop 1'], side: int) -> Float[Array, 'batch side side 1']:
    """The views by bilinear sampling at `side`², as training.augment takes them."""
    if side == CROP_SIDE:
        return views
    places = grid(side) + (CROP_SIDE - 1) / 2
    return jax.vmap(lambda view: bilinear(view, places))(views[..., 0])[..., None]


def centre_crops(images: UInt8[np.ndarray, '*batch height width']) -> UInt8[np.ndarray, '*batch crop crop']:
    """What the network sees of each image where nothing is drawn by chance, still as NumPy's pixels."""
    inside = slice(MARGIN, MARGIN + CROP_SIDE)
    return images[..., inside, inside]


def crops(images: Shaped[Array, 'batch height width'], views: str) -> Shaped[Array, 'views batch crop crop']:
    """The 40×40 views of each image: `centre` is one crop; `ten` the four corners and the centre, then their mirror images.

    The corners come as top left, top right, bottom left, bottom right.
    """
    bottom, right = images.shape[1] - CROP_SIDE, images.shape[2] - CROP_SIDE
    middle = (bottom // 2, right // 2)
    places = [middle] if views == 'centre' else [(0, 0), (0, right), (bottom, 0), (bottom, right), middle]
    found = jnp.stack([images[:, y : y + CROP_SIDE, x : x + CROP_SIDE] for y, x in places])
    return found if views == 'centre' else jnp.concatenate([found, found[..., ::-1]])
