"""fer_jax: facial-expression recognition with embedded attention and channel shuffle, in JAX and Flax."""

__version__ = '0.1.0'
