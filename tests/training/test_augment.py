"""Augmentation: each field by itself against NumPy or SciPy, and the draws' independence of how a batch is shared."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from fer_jax.core.fields import default_config
from fer_jax.data.views import CROP_SIDE, bilinear, normalise, resized
from fer_jax.training.augment import augment, augment_batch
from tests import reference

OFF = dict(crop=False, flip=False, rotate=0.0, scale=0.0, shift=0.0, brightness=0.0, contrast=0.0, erase=0.0, mixup=0.0)
RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (48, 48)).astype(np.uint8)
# Smooth, so that what interpolation does to it can be told; strictly increasing along both axes.
SMOOTH = (np.add.outer(2.0 * np.arange(48), 3.0 * np.arange(48)) + 5).astype(np.float32)


def options(**fields):
    config = default_config().augment
    config.update(OFF | fields)
    return config


def views(image, n, **fields):
    """n views of one image, each by a key of its own."""
    chosen = options(**fields)
    keys = jax.random.split(jax.random.key(1), n)
    return np.asarray(reference.jit(jax.vmap(lambda key: augment(jnp.asarray(image, jnp.float32), key, chosen)))(keys))


def test_all_off_is_the_centre_crop():
    batch = RNG.integers(0, 256, (3, 48, 48)).astype(np.uint8)
    out = reference.jit(lambda images: augment_batch(images, jax.random.key(0), jnp.arange(3), options()))(batch)
    assert out.dtype == jnp.float32
    np.testing.assert_array_equal(out, batch[:, 4:44, 4:44])


def test_the_flip_mirrors_left_and_right_half_of_the_time():
    centre = IMAGE[4:44, 4:44].astype(np.float32)
    out = views(IMAGE, 400, flip=True)
    plain, mirrored = ((out == each).all((1, 2)) for each in (centre, centre[:, ::-1]))
    assert (plain ^ mirrored).all()
    assert 140 < mirrored.sum() < 260  # 200 ± 6 standard deviations of 10


def test_crops_lie_at_all_81_places_alike():
    """A pixel that names its place: value = 48 · row + column. 81 cells of 100 expected: χ² of 80 degrees below 160."""
    places = np.arange(48 * 48, dtype=np.float32).reshape(48, 48)
    out = views(places, 8100, crop=True)
    rows, columns = np.divmod(out[:, 0, 0].astype(int), 48)
    np.testing.assert_array_equal(out[7], places[rows[7] : rows[7] + 40, columns[7] : columns[7] + 40])
    assert rows.min() == columns.min() == 0 and rows.max() == columns.max() == 8
    counts = np.bincount(rows * 9 + columns, minlength=81)
    assert ((counts - 100) ** 2 / 100).sum() < 160


def resampled(image, angle=0.0, zoom=1.0, shift=(0.0, 0.0)):
    """The centre crop's pixels looked up by SciPy: each seen from the centre, turned, divided by the zoom, shifted."""
    axis = np.arange(40) - 19.5
    rows, columns = np.meshgrid(axis, axis, indexing='ij')
    turned = np.cos(angle) * rows - np.sin(angle) * columns, np.sin(angle) * rows + np.cos(angle) * columns
    places = [part / zoom + 23.5 + move for part, move in zip(turned, shift, strict=True)]
    return ndimage.map_coordinates(image.astype(np.float64), places, order=1, mode='nearest')


def draws(n):
    """The uniform draws of the affine map for the keys of `views`: turn, zoom, down and right of each."""

    def one(key):
        return jax.random.uniform(jax.random.split(jax.random.split(key, 4)[0])[1], (4,), minval=-1.0)

    return np.asarray(reference.jit(jax.vmap(one))(jax.random.split(jax.random.key(1), n)))


@pytest.mark.parametrize('rotate', [10.0, 90.0])
def test_rotation(rotate):
    out = views(IMAGE, 5, rotate=rotate)
    for turn, view in zip(draws(5)[:, 0], out, strict=True):
        np.testing.assert_allclose(view, resampled(IMAGE, angle=np.deg2rad(rotate * turn)), atol=0.05)


def test_the_angle_is_found_again():
    """Independently of how the draw is made: on a plane, the slopes of the view tell the angle, which is uniform in ±10°."""
    out = views(SMOOTH, 200, rotate=10.0)
    down, right = np.gradient(out[:, 10:30, 10:30], axis=(1, 2))
    angles = np.rad2deg(np.arctan2(right.mean((1, 2)), down.mean((1, 2))) - np.arctan2(3.0, 2.0))
    assert -10.01 < angles.min() < -9 and 9 < angles.max() < 10.01
    assert abs(angles.mean()) < 2.5 and 4.5 < angles.std() < 7  # 10 / √3 = 5.8; the mean's standard error is 0.4
    np.testing.assert_allclose(np.hypot(down.mean((1, 2)), right.mean((1, 2))), np.hypot(2, 3), rtol=1e-3)


def test_scale():
    out = views(SMOOTH, 200, scale=0.25)
    slope = np.gradient(out[:, 15:25, 15:25], axis=1).mean((1, 2)) / 2.0
    zoom = 1 / slope  # enlarged by z, a slope is 1/z as steep
    assert 0.749 < zoom.min() < 0.78 and 1.22 < zoom.max() < 1.251
    centre = (out[:, 19, 19] + out[:, 20, 20]) / 2
    np.testing.assert_allclose(centre, (SMOOTH[23, 23] + SMOOTH[24, 24]) / 2, rtol=1e-4)
    np.testing.assert_allclose(out[3], resampled(SMOOTH, zoom=1 + 0.25 * draws(200)[3, 1]), atol=0.01)


def test_shift_and_the_nearest_edge():
    """±0.5 of 40 pixels is up to 20, of which only 4 lie inside the image: beyond, the edge is repeated."""
    out = views(IMAGE, 20, shift=0.5)
    for move, view in zip(draws(20)[:, 2:], out, strict=True):
        np.testing.assert_allclose(view, resampled(IMAGE, shift=20 * move), atol=0.05)


def test_bilinear_against_scipy():
    places = RNG.uniform(-5, 53, (2, 40, 40)).astype(np.float32)
    places[:, 0, :4] = [[0, 47, 47, 46.999], [0, 47, 0, 46]]
    expected = ndimage.map_coordinates(IMAGE.astype(np.float64), places, order=1, mode='nearest')
    np.testing.assert_allclose(bilinear(jnp.asarray(IMAGE, jnp.float32), jnp.asarray(places)), expected, atol=0.01)


def test_brightness():
    centre = IMAGE[4:44, 4:44].astype(np.float32)
    added = views(IMAGE, 300, brightness=0.2) - centre
    np.testing.assert_allclose(added, np.broadcast_to(added[:, :1, :1], added.shape), atol=1e-3)
    added = added[:, 0, 0]
    assert -51.01 < added.min() < -48 and 48 < added.max() < 51.01  # 0.2 · 255 = 51


def test_contrast_keeps_the_mean():
    centre = IMAGE[4:44, 4:44].astype(np.float64)
    out = views(IMAGE, 300, contrast=0.3)
    np.testing.assert_allclose(out.mean((1, 2)), centre.mean(), rtol=1e-4)
    factor = out.std((1, 2)) / centre.std()
    assert 0.699 < factor.min() < 0.72 and 1.28 < factor.max() < 1.301
    np.testing.assert_allclose(out[0] - centre.mean(), factor[0] * (centre - centre.mean()), atol=0.01)


@functools.cache
def erased(n, probability):
    """Which pixels are erased in n views, on a picture in which no pixel is its mean."""
    image = np.where(np.indices((48, 48)).sum(0) % 2, 0.0, 200.0)
    out = views(image, n, erase=probability)
    assert np.isin(out, [0, 100, 200]).all(), 'erased pixels have the mean'
    return out == 100


def test_erasing():
    """One whole rectangle of 2 to 20 % of the area and sides at most 3:1, but for the rounding of sides to pixels."""
    mask = erased(4000, 1.0)
    rows, columns = mask.any(2), mask.any(1)
    heights, widths = rows.sum(1), columns.sum(1)
    assert (mask == rows[:, :, None] & columns[:, None, :]).all()
    assert (np.ptp([each.nonzero()[0] for each in rows[:1]]) + 1) == heights[0]
    area = mask.sum((1, 2))
    assert (area >= (np.sqrt(32 * 3) - 1) * (np.sqrt(32 / 3) - 1)).all() and area.min() < 48
    assert area.max() <= (np.sqrt(320) + 1) ** 2 * 1.1 and area.max() > 280
    assert area.mean() == pytest.approx(0.11 * 1600, rel=0.04)  # half way between 2 and 20 %; one sigma is 1 %
    assert ((heights - 1) / (widths + 1) < 3).all() and ((widths - 1) / (heights + 1) < 3).all()
    assert (heights > widths).mean() == pytest.approx((heights < widths).mean(), abs=0.07)


def test_erasing_reaches_all_sides_alike():
    """Top and bottom row, left and right column are mirror images of one another: as often erased."""
    mask = erased(4000, 1.0)
    edges = [mask[:, side].any(1).sum() for side in (0, -1)] + [mask[:, :, side].any(1).sum() for side in (0, -1)]
    assert min(edges) > 40 and max(edges) - min(edges) < 6 * np.sqrt(2 * np.mean(edges)), edges


def test_erasing_has_its_probability():
    assert 170 < erased(1000, 0.25).any((1, 2)).sum() < 330  # 250 ± 6 standard deviations of 14


def test_views_do_not_depend_on_who_computes_them():
    """The view of an image follows from the key and its position in the global batch, not from the share it is computed in."""
    batch = jnp.asarray(RNG.integers(0, 256, (8, 48, 48)).astype(np.uint8))
    chosen = default_config().augment
    chosen.erase = 0.5
    function = reference.jit(lambda images, positions: augment_batch(images, jax.random.key(3), positions, chosen))
    whole = np.asarray(function(batch, jnp.arange(8)))
    np.testing.assert_array_equal(np.concatenate([function(batch[i : i + 4], jnp.arange(i, i + 4)) for i in (0, 4)]), whole)
    np.testing.assert_array_equal(function(batch[::-1], jnp.arange(8)[::-1]), whole[::-1])
    same = np.asarray(function(jnp.broadcast_to(batch[0], batch.shape), jnp.arange(8)))
    assert len({view.tobytes() for view in same}) == 8, 'each position has draws of its own'


def test_normalise():
    """0 → -2, 127.5 → 0, 255 → 2."""
    np.testing.assert_allclose(normalise(jnp.array([[0.0, 127.5, 255.0]])), [[[-2.0], [0.0], [2.0]]])
    pixels = normalise(jnp.asarray(IMAGE))
    assert pixels.shape == (48, 48, 1) and pixels.dtype == jnp.float32 and CROP_SIDE == 40


def test_each_kind_is_drawn_for_its_share_of_the_images():
    """Of 400 views brightness changes about a quarter, contrast another: none is changed by chance alone."""
    out = views(SMOOTH, 400, brightness=0.5, contrast=0.5, share=0.25)
    centre = SMOOTH[4:44, 4:44]
    brighter = np.abs(out.mean((1, 2)) - centre.mean()) > 1e-2
    steeper = np.abs(out.std((1, 2)) / centre.std() - 1) > 1e-4
    for changed in (brighter, steeper):
        assert 65 < changed.sum() < 135  # 100 ± 4 standard deviations of 8.7
    assert 8 < (brighter & steeper).sum() < 45  # independent: 25 ± 4 of 4.8
    turned = np.abs(views(SMOOTH, 400, rotate=30.0, share=0.25) - centre).max((1, 2)) > 1e-3
    assert 65 < turned.sum() < 135


@pytest.mark.parametrize('side', [20, 32])
def test_a_smaller_view_shows_as_much_of_the_face(side):
    """On a plane interpolation is exact: pixel i of a view of `side` lies at 3.5 + (i + ½) · 40 / side, as in a picture made smaller."""
    chosen = options()
    view = np.asarray(reference.jit(lambda image: augment(image, jax.random.key(0), chosen, side))(SMOOTH))
    places = 3.5 + (np.arange(side) + 0.5) * 40 / side
    np.testing.assert_allclose(view, 2 * places[:, None] + 3 * places + 5, rtol=1e-5)
    validated = resized(jnp.asarray(SMOOTH[None, 4:44, 4:44, None]), side)[0, ..., 0]
    np.testing.assert_allclose(validated, view, rtol=1e-5)
