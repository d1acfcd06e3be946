import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vqlab.diffusion.flow import Flow
from vqlab.models.diffusion_mlp import DiffusionMLP

KEY = jax.random.key(0)
X_T, T = jax.random.normal(KEY, (3, 4)), jnp.array([1.0, 50.0, 900.0])
CONDITION = jax.random.normal(jax.random.key(1), (3, 5))


def model(**changes):
    return DiffusionMLP(**{"out_channels": 8, "width": 16, "depth": 2, **changes})


def filled(model):
    """Parameters of which none is zero."""
    params = jax.eval_shape(model.init, KEY, X_T, T, CONDITION)["params"]
    rng = np.random.default_rng(0)
    return {
        "params": jax.tree.map(lambda x: 0.3 * rng.normal(size=x.shape).astype(np.float32), params)
    }


def test_an_untrained_head_predicts_zero():
    output, _ = jax.jit(model().init_with_output)(KEY, X_T, T, CONDITION)
    assert output.shape == (3, 8) and (output == 0).all()


@pytest.mark.parametrize("conditioning", ["concat", "adaln"])
def test_every_sample_answers_to_its_own_token_time_and_condition(conditioning):
    head = model(conditioning=conditioning)
    variables = filled(head)
    apply = jax.jit(head.apply)
    output = apply(variables, X_T, T, CONDITION)
    for changed in (
        (X_T.at[1].add(1), T, CONDITION),
        (X_T, T.at[1].add(10), CONDITION),
        (X_T, T, CONDITION.at[1].add(1)),
    ):
        moved = np.abs(apply(variables, *changed) - output).max(axis=1)
        assert moved[1] > 1e-3 and moved[0] < 1e-5 and moved[2] < 1e-5


def test_concat_widens_the_layers_that_see_the_condition():
    shapes = {
        name: jax.tree.map(jnp.shape, filled(model(conditioning=name))["params"])
        for name in ("concat", "adaln")
    }
    assert shapes["concat"]["block0"]["fc1"]["kernel"] == (32, 16)
    assert shapes["adaln"]["block0"]["fc1"]["kernel"] == (16, 16)
    assert shapes["concat"]["final_linear"]["kernel"] == (32, 8)
    assert shapes["adaln"]["final_linear"]["kernel"] == (16, 8)


def test_published_sizes_of_the_heads():
    """Numbers of parameters of the released heads (12 blocks of 1536, condition 1024)."""
    inputs = jnp.zeros((1, 16)), jnp.zeros(1), jnp.zeros((1, 1024))
    for conditioning, channels, expected in (
        ("concat", Flow().output_channels(16), 179_125_264),
        ("adaln", 32, 150_813_728),
    ):
        head = DiffusionMLP(channels, 1536, 12, conditioning)
        shapes = jax.eval_shape(head.init, KEY, *inputs)
        assert sum(x.size for x in jax.tree.leaves(shapes)) == expected


def test_a_half_precision_head_answers_in_float32_close_to_the_full_one():
    variables = filled(model())
    full = jax.jit(model().apply)(variables, X_T, T, CONDITION)
    half = jax.jit(model(dtype="bfloat16").apply)(variables, X_T, T, CONDITION)
    assert half.dtype == jnp.float32
    np.testing.assert_allclose(half, full, atol=0.05 * np.abs(full).max())


def test_an_unknown_conditioning_is_refused():
    with pytest.raises(ValueError, match=r"unknown conditioning 'film'; choose from \['concat'"):
        model(conditioning="film").init(KEY, X_T, T, CONDITION)
