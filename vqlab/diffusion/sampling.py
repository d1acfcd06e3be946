"""What the samplers of all processes share: one scan over steps, with noise drawn or given."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def scan_steps(
    step: Callable[[Array, Any, Array | None], Array],
    noise: Float[Array, "B ... C"],
    values: Any,
    *,
    key: jax.Array,
    is_random: bool,
    temperature: float | Array,
    step_noise: Float[Array, "N B ... C"] | None,
    trajectory: bool,
) -> Array | tuple[Array, Array]:
    """x after x = step(x, values of step i, noise of step i) for i = 0..N-1, from x = `noise`.

    `values` holds an array [N, ...] or several. The noise, times `temperature`, is `step_noise`
    or drawn from `key`, and None where the sampler is not random. See `Process.sample`.
    """
    num_steps = len(jax.tree.leaves(values)[0])
    if step_noise is not None and step_noise.shape != (num_steps, *noise.shape):
        raise ValueError(
            f"step_noise {step_noise.shape} must be {(num_steps, *noise.shape)}: a noise like "
            "the first for each step"
        )

    def body(x, inputs):
        i, values, given = inputs
        drawn = None
        if is_random:
            drawn = (
                jax.random.normal(jax.random.fold_in(key, i), x.shape) if given is None else given
            )
            drawn = temperature * drawn
        x = step(x, values, drawn)
        return x, (x if trajectory else None)

    given = step_noise if is_random else None
    x_0, states = jax.lax.scan(
        body, noise.astype(jnp.float32), (jnp.arange(num_steps), values, given)
    )
    return (x_0, states) if trajectory else x_0
