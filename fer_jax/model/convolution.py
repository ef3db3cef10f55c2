"""The network's convolutions, each in the form that XLA runs fastest: one for all backends, or one for the CPU and one for the rest.

What is chosen by the backend is chosen when the program is lowered for it, so a program compiled elsewhere gets its own.
"""

import functools
import itertools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike
from jaxtyping import Float

Images = Float[Array, 'batch height width channels']
Padded = Float[Array, 'batch padded_height padded_width channels']
Maps = Float[Array, 'batch rows columns features']
Kernel = Float[Array, 'k k inputs features']
Filters = Float[Array, 'k k 1 channels']
Size = tuple[int, int]  # rows and columns

# Up to so many pairs of an input and an output channel, shifted multiply-adds are faster on CPU than XLA's convolution:
# 20 times for the stem's 1·8, 5 times for 4·4, slower for 12·12.
FEW_PAIRS = 32
TRUNCATED_STD = 0.87962566  # of a unit normal cut off at ±2
# Fan-out keeps the variance of the gradients through fifty layers of ReLU (He et al., 2015, section 2.2).
KERNEL_INIT = nn.initializers.variance_scaling(2.0, 'fan_out', 'truncated_normal')
# The head has no batch norm behind it: fan-in keeps the first logits near the size of its input.
HEAD_INIT = nn.initializers.variance_scaling(1.0, 'fan_in', 'truncated_normal')


def depthwise_init(key: Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> Float[Array, 'k k 1 channels']:
    """He's normal draw for depthwise filters, whose fan is k²: no sum runs over channels."""
    std = (2.0 / (shape[0] * shape[1])) ** 0.5
    return std * jax.random.truncated_normal(key, -2.0, 2.0, shape, dtype) / TRUNCATED_STD


def channel_shuffle(x: Float[Array, '*shape channels'], groups: int) -> Float[Array, '*shape channels']:
    """Deals the channels of `groups` consecutive groups out in turn (ShuffleNet, Zhang et al., 2018).

    Channel g·n + i goes to position i·groups + g, where n = channels / groups. `channel_shuffle(·, channels // groups)`
    is its inverse, and one group the identity.
    """
    split = x.reshape(*x.shape[:-1], groups, x.shape[-1] // groups)
    return jnp.swapaxes(split, -1, -2).reshape(x.shape)


class Convolution(nn.Module):
    """A k×k convolution with padding k // 2; `depthwise` has one filter a channel.

    `shuffle_groups` puts a channel shuffle before it. The shuffle is done to the kernel, turned round: that gives the same
    sums, and a kernel's rows are few where the maps' channels would have to be copied.
    """

    features: int
    size: int = 3
    stride: int = 1
    depthwise: bool = False
    bias: bool = False
    shuffle_groups: int | None = None
    kernel_init: Callable[..., Array] = KERNEL_INIT
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Images) -> Float[Array, 'batch out_height out_width features']:
        shape = (self.size, self.size, 1 if self.depthwise else x.shape[-1], self.features)
        kernel = self.param('kernel', depthwise_init if self.depthwise else self.kernel_init, shape)
        if self.shuffle_groups is not None:
            inverse = x.shape[-1] // self.shuffle_groups
            kernel = channel_shuffle(kernel.swapaxes(2, 3), inverse).swapaxes(2, 3)
        function = convolve_depthwise if self.depthwise else convolve
        y = function(x.astype(self.dtype), kernel.astype(self.dtype), self.stride)
        if self.bias:
            y = y + self.param('bias', nn.initializers.zeros_init(), (self.features,)).astype(self.dtype)
        return y


def convolve(images: Images, kernel: Kernel, stride: int = 1) -> Maps:
    """A dense k×k convolution, k odd, with padding k // 2."""
    size, _, inputs, features = kernel.shape
    if stride == 1 and size == 1:
        pixels = images.reshape(-1, inputs)
        return multiply(pixels, kernel[0, 0]).reshape(*images.shape[:-1], features)
    if stride == 1 and inputs * features <= FEW_PAIRS:
        return convolve_few(images, kernel)
    return convolve_many(images, kernel, stride)


def convolve_many(images: Images, kernel: Kernel, stride: int = 1) -> Maps:
    """XLA's own convolution."""
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


@jax.custom_vjp
def convolve_few(images: Images, kernel: Kernel) -> Maps:
    """`convolve_many` of stride 1 between few channels."""
    return lax.platform_dependent(images, kernel, cpu=sum_of_shifts, default=convolve_many)


def sum_of_shifts(images: Images, kernel: Kernel) -> Maps:
    """The convolution as k²·inputs shifted multiply-adds, which XLA fuses into one pass over the images."""
    (height, width), channels = images.shape[1:3], images.shape[3]
    padded = pad(images, kernel.shape[0] // 2)
    terms = (
        shift(padded, down, right, (height, width))[..., channel : channel + 1] * kernel[down, right, channel]
        for down, right in places(kernel.shape[0])
        for channel in range(channels)
    )
    return sum(terms)


def sum_of_shifts_by_image(images: Images, kernel: Kernel) -> Maps:
    """The same in a loop over the images, for where XLA would else fuse it into a concatenation, which does it value by value."""
    return lax.map(lambda image: sum_of_shifts(image[None], kernel)[0], images)


def few_backward(saved: tuple[Array, Array], gradient: Maps) -> tuple[Array, Array]:
    """To the images it is the convolution with the kernel turned by 180° and transposed; to the kernel XLA's own is fast."""
    images, kernel = saved
    turned = kernel[::-1, ::-1].swapaxes(2, 3)
    to_images = lax.platform_dependent(gradient, turned, cpu=sum_of_shifts_by_image, default=convolve_many)
    (to_kernel,) = jax.linear_transpose(lambda kernel: convolve_many(images, kernel), kernel)(gradient)
    return to_images, to_kernel


convolve_few.defvjp(lambda images, kernel: (convolve_few(images, kernel), (images, kernel)), few_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve_depthwise(images: Images, kernel: Filters, stride: int = 1) -> Maps:
    """A k×k convolution with one filter a channel, k odd, padding k // 2, as k² shifted multiply-adds.

    XLA fuses them into one pass over the images; on CPU that is several times as fast as its grouped convolution.
    """
    height, width = images.shape[1:3]
    return weighted_shifts(pad(images, kernel.shape[0] // 2), kernel, (-(-height // stride), -(-width // stride)), stride)


def weighted_shifts(padded: Padded, kernel: Filters, size: Size, stride: int) -> Maps:
    """The sum over the kernel's places of the shifted images times the weight there, `size` rows and columns, summed in float32."""
    terms = (
        shift(padded, down, right, size, stride).astype(jnp.float32) * kernel[down, right, 0] for down, right in places(kernel.shape[0])
    )
    return sum(terms).astype(padded.dtype)


def places(size: int) -> list[tuple[int, int]]:
    """The (row, column) pairs of a kernel."""
    return list(itertools.product(range(size), repeat=2))


def pad(images: Images, padding: int) -> Padded:
    """The images with `padding` zeros on each side."""
    return jnp.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))


def shift(padded: Padded, down: int, right: int, size: Size, stride: int = 1) -> Maps:
    """Every `stride`-th place of `padded` from (down, right) on, `size` rows and columns of them."""
    end = (padded.shape[0], down + (size[0] - 1) * stride + 1, right + (size[1] - 1) * stride + 1, padded.shape[3])
    return lax.slice(padded, (0, down, right, 0), end, (1, stride, stride, 1))


def spread(gradient: Maps, size: Size, stride: int, padding: int = 0) -> Padded:
    """The gradient at every `stride`-th place of maps of `size`, zero between, and `padding` zeros around them."""
    edges = [
        (padding, padding + side - 1 - (count - 1) * stride, stride - 1) for side, count in zip(size, gradient.shape[1:3], strict=True)
    ]
    return lax.pad(gradient, jnp.zeros((), gradient.dtype), ((0, 0, 0), *edges, (0, 0, 0)))


def depthwise_backward(stride: int, saved: tuple[Array, Array], gradient: Maps) -> tuple[Array, Array]:
    """The gradients as the forward pass is written: left to itself JAX makes k² padded images and adds them up.

    To the images it is the convolution of the gradient, spread out by the stride, with the kernel turned by 180°.
    """
    images, kernel = saved
    size = images.shape[1:3]
    to_images = weighted_shifts(spread(gradient, size, stride, kernel.shape[0] // 2), kernel[::-1, ::-1], size, 1)
    forms = {'cpu': filters_by_image, 'default': filters_by_place}
    forms = {name: functools.partial(form, size=kernel.shape[0], stride=stride) for name, form in forms.items()}
    return to_images, lax.platform_dependent(images, gradient, **forms).astype(kernel.dtype)


def filters_by_place(images: Images, gradient: Maps, size: int, stride: int) -> Filters:
    """The depthwise filters' gradient: for each place of the filters the sum of images, shifted there, times gradient."""
    padded = pad(images, size // 2)
    shifts = (shift(padded, down, right, gradient.shape[1:3], stride) for down, right in places(size))
    sums = [(shifted * gradient).sum((0, 1, 2), dtype=jnp.float32) for shifted in shifts]
    return jnp.stack(sums).reshape(size, size, 1, -1)


def filters_by_image(images: Images, gradient: Maps, size: int, stride: int) -> Filters:
    """The same, image by image, so that an image's shifted copies and the k² sums stay in a core's cache.

    A row's columns and channels lie on one axis: whatever the channels, a shift is one long row for the vector unit.
    """
    _, height, width, channels = images.shape
    rows = spread(gradient, (height, width), stride).reshape(-1, height, width * channels)

    def add_image(sums: list[Array], pair: tuple[Array, Array]) -> tuple[list[Array], None]:
        image, gradient = pair
        padded = pad(image[None], size // 2).reshape(height + size - 1, -1).astype(jnp.float32)
        shifts = (padded[down : down + height, right * channels : (right + width) * channels] for down, right in places(size))
        return [total + shifted * gradient for total, shifted in zip(sums, shifts, strict=True)], None

    zeros = [jnp.zeros((height, width * channels))] * size**2
    sums, _ = lax.scan(add_image, zeros, (images, rows))
    return jnp.stack(sums).reshape(size, size, -1, channels).sum(2, keepdims=True)


convolve_depthwise.defvjp(lambda images, kernel, stride: (convolve_depthwise(images, kernel, stride), (images, kernel)), depthwise_backward)
