"""Metrics on their way to the log."""

import jax.numpy as jnp
import numpy as np
import pytest

from vqlab.training.window import Diverged, MetricWindow, scalars


def test_vectors_become_one_name_a_group():
    metrics = {"a": jnp.float32(1), "u": np.array([2.0, 3.0])}
    assert scalars(metrics) == {"a": 1, "u_g0": 2, "u_g1": 3}


def test_means_are_of_the_finite_steps_since_the_last_time():
    window = MetricWindow(max_skipped=1)
    for step, value in enumerate([1.0, np.inf, 3.0], start=1):
        window.push(step, {"x": np.array([value, 0.0])})
    window.drain()
    assert window.skipped == [(2, "x_g0 is inf")]
    assert window.means() == {"x_g0": 2.0, "x_g1": 0.0, "skipped": 1.0}
    assert window.means() == {"skipped": 0.0}


def test_too_many_in_a_row_are_named():
    window = MetricWindow(max_skipped=1)
    for step, value in enumerate([np.nan, 1.0, np.nan], start=1):
        window.push(step, {"x": value})
    window.push(4, {"x": np.nan})
    with pytest.raises(Diverged, match="x is nan at step 4, the 2. in a row") as raised:
        window.drain()
    assert raised.value.step == 4
