"""The network's convolutions, each in the form that XLA runs fastest."""

import functools
import itertools

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float

Images = Float[Array, 'batch height width channels']


def convolve(images: Images, kernel: Float[Array, 'k k inputs features'], stride: int = 1) -> Float[Array, 'batch rows columns features']:
    """A dense k×k convolution, k odd, with padding k // 2."""
    if kernel.shape[0] == 1 and stride == 1:
        pixels = images.reshape(-1, images.shape[-1])
        return multiply(pixels, kernel[0, 0]).reshape(*images.shape[:-1], kernel.shape[-1])
    padding = kernel.shape[0] // 2
    return lax.conv_general_dilated(images, kernel, (stride, stride), ((padding, padding),) * 2, dimension_numbers=('NHWC', 'HWIO', 'NHWC'))


@jax.custom_vjp
def multiply(rows: Float[Array, 'rows inputs'], weights: Float[Array, 'inputs features']) -> Float[Array, 'rows features']:
    """The matrix product, whose gradients need no transposed copy of the many rows."""
    return rows @ weights


def multiply_backward(saved: tuple[Array, Array], gradient: Float[Array, 'rows features']) -> tuple[Array, Array]:
    """JAX's own gradient to the weights is (gradientᵀ · rows)ᵀ, for which XLA on CPU writes the gradient out transposed."""
    rows, weights = saved
    return lax.dot_general(gradient, weights, (((1,), (1,)), ((), ()))), lax.dot_general(rows, gradient, (((0,), (0,)), ((), ())))


multiply.defvjp(lambda rows, weights: (rows @ weights, (rows, weights)), multiply_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve_depthwise(
    images: Images, kernel: Float[Array, 'k k 1 channels'], stride: int = 1
) -> Float[Array, 'batch rows columns channels']:
    """A k×k convolution with one filter a channel, k odd, padding k // 2, as k² shifted multiply-adds.

    XLA fuses them into one pass over the images; on CPU that is several times as fast as its grouped convolution.
    """
    height, width = images.shape[1:3]
    padding = kernel.shape[0] // 2
    padded = jnp.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    return weighted_shifts(padded, kernel, (-(-height // stride), -(-width // stride)), stride)


def weighted_shifts(
    padded: Images, kernel: Float[Array, 'k k 1 channels'], size: tuple[int, int], stride: int
) -> Float[Array, 'batch rows columns channels']:
    """The sum over the kernel's places of the shifted images times the weight there, `size` rows and columns."""
    places = itertools.product(range(kernel.shape[0]), repeat=2)
    return sum(shift(padded, down, right, size, stride) * kernel[down, right, 0] for down, right in places)


def shift(padded: Images, down: int, right: int, size: tuple[int, int], stride: int) -> Float[Array, 'batch rows columns channels']:
    """Every `stride`-th place of `padded` from (down, right) on, `size` rows and columns of them."""
    end = (padded.shape[0], down + (size[0] - 1) * stride + 1, right + (size[1] - 1) * stride + 1, padded.shape[3])
    return lax.slice(padded, (0, down, right, 0), end, (1, stride, stride, 1))


def depthwise_forward(images: Images, kernel: Array, stride: int) -> tuple[Array, tuple[Array, Array]]:
    return convolve_depthwise(images, kernel, stride), (images, kernel)


def depthwise_backward(stride: int, saved: tuple[Array, Array], gradient: Images) -> tuple[Array, Array]:
    """The gradients as the forward pass is written: left to itself JAX makes k² padded images and adds them up.

    To the images it is the convolution of the gradient, spread out by the stride, with the kernel turned by 180°.
    """
    images, kernel = saved
    height, width = images.shape[1:3]
    size, padding = gradient.shape[1:3], kernel.shape[0] // 2
    spread = [(padding, padding + side - 1 - (places - 1) * stride, stride - 1) for side, places in zip((height, width), size, strict=True)]
    zero = jnp.zeros((), gradient.dtype)
    padded = lax.pad(gradient, zero, ((0, 0, 0), *spread, (0, 0, 0)))
    to_images = weighted_shifts(padded, kernel[::-1, ::-1], (height, width), 1)
    around = jnp.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    places = itertools.product(range(kernel.shape[0]), repeat=2)
    sums = [(shift(around, down, right, size, stride) * gradient).sum((0, 1, 2), dtype=jnp.float32) for down, right in places]
    return to_images, jnp.stack(sums).reshape(kernel.shape).astype(kernel.dtype)


convolve_depthwise.defvjp(depthwise_forward, depthwise_backward)
