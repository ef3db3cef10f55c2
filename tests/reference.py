"""The network's parts once more, in plain NumPy loops and float64, for the tests to compare with."""

import functools

import jax
import numpy as np

EPSILON = 1e-5  # flax's BatchNorm
# What runs once compiles two to three times as fast without the compiler's optimisations, and computes the same.
FAST_TO_COMPILE = {'xla_backend_optimization_level': 0}
jit = functools.partial(jax.jit, compiler_options=FAST_TO_COMPILE)


def convolution(images: np.ndarray, kernel: np.ndarray, stride: int = 1) -> np.ndarray:
    """A k×k convolution with padding k // 2; [k, k, 1, channels] of more than one image channel is depthwise."""
    images, kernel = images.astype(np.float64), kernel.astype(np.float64)
    batch, height, width, channels = images.shape
    k, inputs = kernel.shape[0], kernel.shape[2]
    padding = k // 2
    padded = np.zeros((batch, height + 2 * padding, width + 2 * padding, channels))
    padded[:, padding : padding + height, padding : padding + width] = images
    rows, columns = (height - 1) // stride + 1, (width - 1) // stride + 1
    out = np.zeros((batch, rows, columns, kernel.shape[3]))
    for row in range(rows):
        for column in range(columns):
            window = padded[:, row * stride : row * stride + k, column * stride : column * stride + k]
            if inputs == channels:
                out[:, row, column] = np.einsum('bijc,ijcf->bf', window, kernel)
            else:
                out[:, row, column] = np.einsum('bijc,ijc->bc', window, kernel[:, :, 0])
    return out


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def relu(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0, x, 0.0)


def batch_norm(x: np.ndarray, params: dict, statistics: dict) -> np.ndarray:
    """With the running statistics."""
    return (x - statistics['mean']) / np.sqrt(statistics['var'] + EPSILON) * params['scale'] + params['bias']


def shuffle(x: np.ndarray, groups: int) -> np.ndarray:
    """Channel g·n + i of `groups` groups of n goes to position i·groups + g."""
    size = x.shape[-1] // groups
    out = np.empty_like(x)
    for group in range(groups):
        for index in range(size):
            out[..., index * groups + group] = x[..., group * size + index]
    return out


def csp_block(
    x: np.ndarray, params: dict, statistics: dict, stride: int, groups: int | None, preactivation: bool, residual: bool
) -> np.ndarray:
    """The reconstruction of the paper's block, line by line as its description has it, with running statistics."""
    half = x.shape[-1] // 2
    a, b = x[..., :half], x[..., half:]

    def conv(x: np.ndarray, name: str, stride: int = 1) -> np.ndarray:
        return convolution(x, params[name]['kernel'], stride)

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        return batch_norm(x, params[name], statistics[name])

    if preactivation:
        y = conv(relu(norm(a, 'dense_conv1_bn')), 'dense_conv1')
        y = conv(relu(norm(y, 'dense_conv2_bn')), 'dense_conv2')
        a = a + y if residual else y
        for stage in ('depthwise1', 'depthwise2'):
            y = conv(relu(norm(b, f'{stage}_depth_bn')), f'{stage}_depth')
            y = conv(norm(y, f'{stage}_point_bn'), f'{stage}_point')
            b = b + y if residual else y
    else:
        y = relu(norm(conv(a, 'dense_conv1'), 'dense_conv1_bn'))
        y = norm(conv(y, 'dense_conv2'), 'dense_conv2_bn')
        a = relu(a + y if residual else y)
        for stage in ('depthwise1', 'depthwise2'):
            y = norm(conv(b, f'{stage}_depth'), f'{stage}_depth_bn')
            y = norm(conv(y, f'{stage}_point'), f'{stage}_point_bn')
            b = relu(b + y if residual else y)
    y = relu(norm(np.concatenate([a, b], axis=-1), 'concat_bn'))
    if groups is not None:
        y = shuffle(y, groups)
    y = relu(norm(conv(y, 'reduce'), 'reduce_bn'))
    y = norm(conv(y, 'spatial', stride), 'spatial_bn')
    y = relu(norm(conv(y, 'expand'), 'expand_bn'))
    return conv(y, 'fusion')
