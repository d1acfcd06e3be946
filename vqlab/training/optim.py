"""Optimizers: a gradient transformation per player, from plain numbers."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import optax

SCHEDULES = ("cosine", "constant")
OPTIMIZERS = ("adamw", "sgd")


def build_schedule(
    name: str, learning_rate: float, *, warmup_steps: int, num_steps: int
) -> optax.Schedule:
    """Linear warm-up from 0, then cosine to 0 or constant.

    Args:
      name: "cosine" or "constant".
      learning_rate: peak learning rate.
      warmup_steps: length of the linear warm-up, in steps; at most `num_steps`.
      num_steps: length of the run, in steps.
    """
    if name not in SCHEDULES:
        raise ValueError(f"unknown schedule {name!r}; known: {', '.join(SCHEDULES)}")
    if not 0 <= warmup_steps <= num_steps:
        raise ValueError(f"{warmup_steps} warm-up steps do not lie within 0..{num_steps} steps")
    if name == "cosine":
        return optax.warmup_cosine_decay_schedule(
            0.0, learning_rate, warmup_steps, max(num_steps, warmup_steps + 1)
        )
    # Not optax.warmup_constant_schedule: with no steps of warm-up its rate stays 0.
    warmup = optax.linear_schedule(0.0, learning_rate, warmup_steps)
    return optax.join_schedules([warmup, optax.constant_schedule(learning_rate)], [warmup_steps])


def current_rate(schedule: optax.Schedule, opt_state) -> jax.Array:
    """The learning rate of the next update of an optimizer of `build_optimizer`, a scalar.

    The optimizer's own count tells it, as steps that were skipped are no updates.
    """

    def is_of_schedule(path, value) -> bool:
        del value
        return getattr(path[-1], "tuple_name", "") == "ScaleByScheduleState"

    count = optax.tree.get(opt_state, "count", filtering=is_of_schedule)
    return jnp.asarray(schedule(count), jnp.float32)


# Never decayed, whatever their rank: a stack of layers has biases and scales of two axes.
NOT_DECAYED = ("bias", "scale", "codebook")


def decays(params):
    """True where weight decay applies: matrices and kernels, not biases, scales or codebooks."""

    def decide(path, leaf):
        return leaf.ndim >= 2 and path[-1].key not in NOT_DECAYED

    return jax.tree_util.tree_map_with_path(decide, params)


def build_optimizer(
    name: str,
    *,
    learning_rate: float,
    num_steps: int,
    schedule: str = "cosine",
    warmup_steps: int = 0,
    b1: float = 0.9,
    b2: float = 0.95,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    clip_norm: float = 0.0,
    frozen: str = "",
) -> optax.GradientTransformation:
    """AdamW (or plain SGD) behind a clip of the global gradient norm (0: no clip).

    Parameters whose whole path, as in "encoder/blocks/mlp/fc1/kernel", matches the regular
    expression `frozen` stay as they are: no update, no decay, no state, no part in the norm.
    """
    if name not in OPTIMIZERS:
        raise ValueError(f"unknown optimizer {name!r}; known: {', '.join(OPTIMIZERS)}")
    rate = build_schedule(schedule, learning_rate, warmup_steps=warmup_steps, num_steps=num_steps)
    if name == "sgd":
        rule = optax.sgd(rate)
    else:
        rule = optax.adamw(rate, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay, mask=decays)
    if clip_norm > 0:
        rule = optax.chain(optax.clip_by_global_norm(clip_norm), rule)
    return _all_but(frozen, rule) if frozen else rule


def _all_but(pattern: str, rule: optax.GradientTransformation) -> optax.GradientTransformation:
    """`rule` for the parameters whose path does not match, nothing for those whose path does."""
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"frozen={pattern!r} is no regular expression: {error}") from error

    def label(path, leaf) -> str:
        del leaf
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return "frozen" if compiled.fullmatch(name) else "trained"

    def labels(params):
        made = jax.tree_util.tree_map_with_path(label, params)
        if "frozen" not in jax.tree.leaves(made):
            raise ValueError(f"frozen={pattern!r} matches the path of no parameter")
        return made

    return optax.partition({"trained": rule, "frozen": optax.set_to_zero()}, labels)
