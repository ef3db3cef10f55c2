"""Augmentation on the device: a pure function of one image and one key, vmapped over the batch."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int, UInt8
from ml_collections import ConfigDict

from fer_jax.data.views import CROP_SIDE, bilinear, grid


def augment_batch(
    images: UInt8[Array, 'batch height height'],
    key: Array,
    positions: Int[Array, ' batch'],
    options: ConfigDict,
    side: int = CROP_SIDE,
    mirrored: Bool[Array, ' batch'] | None = None,
) -> Float[Array, 'batch side side']:
    """Augments each image by a key of its own: `key` folded with the image's position in the global batch.

    So a device that holds part of the batch draws what it would draw holding all of it. Pixels stay on the scale 0..255.

    Args:
      side: of the views, which show as much of the face as one of CROP_SIDE does.
      mirrored: which images are; drawn by chance where None.
    """
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, positions)
    return jax.vmap(lambda *each: augment(*each[:2], options, side, *each[2:]))(images.astype(jnp.float32), keys, mirrored)


def augment(
    image: Float[Array, 'height height'], key: Array, options: ConfigDict, side: int = CROP_SIDE, mirrored: Bool[Array, ''] | None = None
) -> Float[Array, 'side side']:
    """One random view of `image`, as the fields of `config.augment` say."""
    geometry, flip, light, erase = jax.random.split(key, 4)
    view = sample(image, geometry, options, side)
    if options.flip:
        view = jnp.where(jax.random.bernoulli(flip) if mirrored is None else mirrored, view[:, ::-1], view)
    if options.brightness or options.contrast:
        brightness, contrast = jax.random.uniform(light, (2,), minval=-1.0)
        most_brightness, most_contrast = some(light, options.share, options.brightness, options.contrast)
        mean = view.mean()
        view = (view - mean) * (1 + most_contrast * contrast) + mean + 255 * most_brightness * brightness
    if options.erase:
        view = erase_rectangle(view, erase, options.erase)
    return view


def some(key: Array, share: float, *strengths: float) -> Sequence[float | Float[Array, '']]:
    """The strengths of kinds of augmentation for one image: each as it is with probability `share`, else 0.

    With all of them drawn they stay constants: what XLA compiles, and so each bit, is then as without a share.
    """
    if share == 1:
        return strengths
    drawn = jax.random.bernoulli(jax.random.fold_in(key, 1), share, (len(strengths),))
    return [jnp.where(one, strength, 0.0) for one, strength in zip(drawn, strengths, strict=True)]


def sample(image: Float[Array, 'height height'], key: Array, options: ConfigDict, side: int = CROP_SIDE) -> Float[Array, 'side side']:
    """A 40×40 crop at a random whole-pixel place, rotated, scaled and shifted about its centre in one bilinear sampling, at `side`².

    Places outside the image take its nearest edge pixel.
    """
    margin = image.shape[0] - CROP_SIDE
    crop_key, affine_key = jax.random.split(key)
    corner = jax.random.randint(crop_key, (2,), 0, margin + 1) if options.crop else jnp.full((2,), margin // 2)
    if side == CROP_SIDE and not (options.rotate or options.scale or options.shift):
        return jax.lax.dynamic_slice(image, corner, (CROP_SIDE, CROP_SIDE))
    turn, zoom, down, right = jax.random.uniform(affine_key, (4,), minval=-1.0)
    rotate, scale, shift = some(affine_key, options.share, options.rotate, options.scale, options.shift)
    angle = jnp.deg2rad(rotate * turn)
    rotation = jnp.array([[jnp.cos(angle), -jnp.sin(angle)], [jnp.sin(angle), jnp.cos(angle)]]) / (1 + scale * zoom)
    centre = corner + (CROP_SIDE - 1) / 2 + shift * CROP_SIDE * jnp.stack([down, right])
    return bilinear(image, jnp.tensordot(rotation, grid(side), 1) + centre[:, None, None])


def erase_rectangle(view: Float[Array, 'side side'], key: Array, probability: float) -> Float[Array, 'side side']:
    """With `probability`, sets a rectangle of 2 to 20 % of the area, aspect 1:3 to 3:1, to the mean (Zhong et al., 2020)."""
    side = view.shape[0]
    chance, area, aspect, down, right = jax.random.uniform(key, (5,))
    area = (0.02 + 0.18 * area) * side * side
    aspect = 3.0 ** (2 * aspect - 1)
    height, width = jnp.minimum(jnp.sqrt(area * aspect), side), jnp.minimum(jnp.sqrt(area / aspect), side)
    top, left = down * (side - height), right * (side - width)
    axis = jnp.arange(side) + 0.5  # a pixel is inside where its centre is; by its corner, the first row would never be
    inside = ((axis >= top) & (axis < top + height))[:, None] & ((axis >= left) & (axis < left + width))[None]
    return jnp.where(inside & (chance < probability), view.mean(), view)
