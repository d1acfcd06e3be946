"""Schedules, weight decay and clipping."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vqlab.training.optim import build_optimizer, build_schedule, current_rate, decays


def test_warm_up_is_linear_and_cosine_ends_at_zero():
    rate = build_schedule("cosine", 1.0, warmup_steps=10, num_steps=110)
    np.testing.assert_allclose([rate(0), rate(5), rate(10)], [0.0, 0.5, 1.0], atol=1e-6)
    # Half way down the cosine, and its end.
    np.testing.assert_allclose([rate(60), rate(110)], [0.5, 0.0], atol=1e-6)


def test_constant_stays():
    rate = build_schedule("constant", 0.3, warmup_steps=0, num_steps=5)
    np.testing.assert_allclose([rate(0), rate(1000)], 0.3, rtol=1e-6)
    rate = build_schedule("constant", 0.3, warmup_steps=2, num_steps=5)
    np.testing.assert_allclose([rate(0), rate(1), rate(2), rate(9)], [0, 0.15, 0.3, 0.3])


def test_warm_up_may_take_no_step_or_all():
    rate = build_schedule("cosine", 0.3, warmup_steps=0, num_steps=4)
    np.testing.assert_allclose([rate(0), rate(2), rate(4)], [0.3, 0.15, 0.0], atol=1e-7)
    rate = build_schedule("cosine", 0.3, warmup_steps=4, num_steps=4)
    np.testing.assert_allclose([rate(0), rate(2), rate(4)], [0.0, 0.15, 0.3], atol=1e-7)


def test_weight_decay_spares_biases_scales_and_codebooks():
    params = {
        "conv": {"kernel": jnp.zeros((3, 3, 1, 1)), "bias": jnp.zeros(1)},
        "quantizer": {"codebook": jnp.zeros((2, 4, 3))},
    }
    expected = {"conv": {"kernel": True, "bias": False}, "quantizer": {"codebook": False}}
    assert decays(params) == expected


def test_clip_bounds_the_global_norm():
    optimizer = build_optimizer(
        "sgd", learning_rate=1.0, num_steps=1, schedule="constant", clip_norm=1.0
    )
    params = {"w": jnp.zeros(2)}
    updates, _ = optimizer.update({"w": jnp.array([3.0, 4.0])}, optimizer.init(params), params)
    np.testing.assert_allclose(updates["w"], [-0.6, -0.8], rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "adam"}, "unknown optimizer 'adam'; known: adamw, sgd"),
        ({"name": "sgd", "schedule": "step"}, "unknown schedule 'step'"),
        ({"name": "sgd", "warmup_steps": 9}, "9 warm-up steps do not lie within 0..5"),
    ],
)
def test_wrong_settings_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        build_optimizer(learning_rate=1.0, num_steps=5, **arguments)


def test_what_is_frozen_has_no_update_no_decay_and_no_state():
    params = {"encoder": {"kernel": jnp.ones((2, 2))}, "decoder": {"kernel": jnp.ones((2, 2))}}
    settings = {"learning_rate": 0.1, "num_steps": 1, "schedule": "constant"}
    settings |= {"weight_decay": 1.0, "clip_norm": 1.0}
    optimizer = build_optimizer("adamw", frozen="encoder/.*", **settings)
    state = optimizer.init(params)
    updates, _ = optimizer.update(params, state, params)
    assert not updates["encoder"]["kernel"].any() and updates["decoder"]["kernel"].all()
    # The norm that is clipped is of what is trained: the same update without the frozen part.
    alone = {"decoder": params["decoder"]}
    plain = build_optimizer("adamw", **settings)
    expected, _ = plain.update(alone, plain.init(alone), alone)
    np.testing.assert_array_equal(updates["decoder"]["kernel"], expected["decoder"]["kernel"])
    moments = [x for x in jax.tree.leaves(state) if x.ndim]
    assert len(moments) == 2  # both of Adam's, of one kernel
    rate = build_schedule("constant", 0.1, warmup_steps=0, num_steps=1)
    assert float(current_rate(rate, state)) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("pattern", "message"), [("(", "is no regular expression"), ("encoder", "of no parameter")]
)
def test_what_to_freeze_has_to_be_there(pattern, message):
    with pytest.raises(ValueError, match=message):
        optimizer = build_optimizer("sgd", learning_rate=0.1, num_steps=1, frozen=pattern)
        optimizer.init({"encoder": {"kernel": jnp.ones(1)}})
