"""Variables for tests, without the second per parameter that compiling random draws takes."""

import jax
import jax.numpy as jnp
import numpy as np


def filled(init, *args, seed: int = 0):
    """What init(key, *args) makes, with NumPy's draws.

    Kernels have PyTorch's default scale, `scale` and `var` are near one, `bias` and `mean` small,
    the codebook normal, counters and usage empty.
    """
    rng = np.random.default_rng(seed)

    def fill(path, leaf):
        name = path[-1].key
        if name in ("count", "usage_ema"):
            return jnp.zeros(leaf.shape, leaf.dtype)
        if name == "recent_indices":
            return jnp.full(leaf.shape, -1, leaf.dtype)
        if name == "ema_counts":
            return jnp.ones(leaf.shape, leaf.dtype)
        draw = rng.standard_normal(leaf.shape)
        if name == "kernel":
            draw /= np.sqrt(3 * np.prod(leaf.shape[:-1]))
        elif name in ("scale", "var"):
            draw = 1 + 0.1 * np.abs(draw)
        elif name in ("bias", "mean"):
            draw *= 0.1
        return jnp.asarray(draw, leaf.dtype)

    return jax.tree_util.tree_map_with_path(fill, jax.eval_shape(init, jax.random.key(0), *args))


def zeros(init, *args):
    """What init(key, *args) makes, all zero."""
    shapes = jax.eval_shape(init, jax.random.key(0), *args)
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
