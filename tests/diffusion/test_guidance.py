import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vqlab.diffusion.ddpm import DDPM
from vqlab.diffusion.flow import Flow
from vqlab.diffusion.guidance import Guidance, guide, guided_denoiser

CONDITIONAL, UNCONDITIONAL = (
    jax.random.normal(jax.random.key(seed), (3, 4, 4, 6)) for seed in (0, 1)
)


def bits(x):
    return np.asarray(x).view(np.int32)


@pytest.mark.parametrize("scale", [1.0, 0.0])
@pytest.mark.parametrize("is_traced", [False, True])
def test_scale_1_is_the_conditional_and_0_the_unconditional_bit_for_bit(scale, is_traced):
    conditional = CONDITIONAL.at[0, 0, 0, 0].set(-0.0)
    unconditional = UNCONDITIONAL.at[0, 0, 0, :2].set(jnp.array([1e30, -0.0]))
    function = lambda scale: guide(conditional, unconditional, scale, 3)  # noqa: E731
    guided = jax.jit(function)(scale) if is_traced else function(scale)
    expected = conditional if scale else unconditional
    assert (bits(guided)[..., :3] == bits(expected)[..., :3]).all()
    assert (bits(guided)[..., 3:] == bits(conditional)[..., 3:]).all()


def test_guidance_goes_beyond_the_conditional_and_spares_the_variance():
    guided = guide(CONDITIONAL, UNCONDITIONAL, 3.0, 3)
    expected = UNCONDITIONAL + 3 * (CONDITIONAL - UNCONDITIONAL)
    np.testing.assert_allclose(guided[..., :3], expected[..., :3], rtol=1e-5)
    assert (guided[..., 3:] == CONDITIONAL[..., 3:]).all()


def test_every_sample_can_have_its_own_scale():
    guided = guide(CONDITIONAL, UNCONDITIONAL, jnp.array([1.0, 0.0, 2.0]), 6)
    assert (guided[0] == CONDITIONAL[0]).all() and (guided[1] == UNCONDITIONAL[1]).all()
    assert (guided[2] != CONDITIONAL[2]).all()


@pytest.mark.parametrize(
    "schedule, expected",
    [
        ("constant", [5, 5, 5, 5]),
        ("linear", [1, 2, 4, 5]),
        ("cosine", [1, 1 + 2 * (1 - math.sqrt(0.5)), 1 + 2 * (1 + math.sqrt(0.5)), 5]),
        ("interval", [1, 5, 5, 1]),
    ],
)
def test_schedules_over_the_way_to_data(schedule, expected):
    levels = jnp.array([1.0, 0.75, 0.25, 0.0])
    guidance = Guidance(5.0, schedule, (0.2, 0.8))
    np.testing.assert_allclose(guidance.scale_at(levels), expected, rtol=1e-6)
    assert (Guidance(1.0, schedule).scale_at(levels) == 1).all()


def test_guidance_is_off_at_scale_1_alone():
    assert Guidance().is_off and Guidance(1.0, "linear").is_off
    assert not Guidance(0.0).is_off and not Guidance(jnp.float32(1.0)).is_off


@pytest.mark.parametrize("process", [DDPM(), Flow()], ids=["ddpm", "flow"])
def test_a_sampler_with_guidance(process):
    """Scale 1 and 0 sample as each half alone does; another scale compiles nothing new."""
    traced = []

    def half(x_t, t, shift):
        repeats = process.output_channels(1)
        return jnp.tile(jnp.sin(x_t + shift), (1, 1, repeats))

    def predict(x_t, t):
        traced.append(t)
        assert x_t.shape == (4, 5, 2) and t.shape == (4,)
        shift = jnp.array([1.0, 1.0, -1.0, -1.0]).reshape(4, 1, 1)
        return half(x_t, t, shift)

    noise, key = jax.random.normal(jax.random.key(0), (2, 5, 2)), jax.random.key(1)

    def sample(denoise):
        return process.sample(denoise, noise, key=key, num_steps=4)

    guided = jax.jit(lambda guidance: sample(guided_denoiser(predict, process, guidance, 2)))
    for scale, shift in ((1.0, 1.0), (0.0, -1.0)):
        variance_from = 1.0 if isinstance(process, DDPM) else shift

        def alone(x_t, t, shift=shift, variance_from=variance_from):
            variance = half(x_t, t, variance_from)[..., 2:]
            return jnp.concatenate([half(x_t, t, shift)[..., :2], variance], axis=-1)

        np.testing.assert_allclose(
            guided(Guidance(scale)), jax.jit(lambda alone=alone: sample(alone))(), atol=1e-5
        )
    assert np.isfinite(guided(Guidance(4.0))).all() and len(traced) == 1


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((-1.0,), "guidance_scale=-1.0 must be finite and at least 0"),
        ((math.nan,), "guidance_scale=nan must be finite"),
        ((math.inf,), "guidance_scale=inf must be finite"),
        ((2.0, "quadratic"), "unknown guidance schedule 'quadratic'; choose from"),
        ((2.0, "interval", (0.8, 0.2)), r"guidance_interval=\(0.8, 0.2\) must be two ascending"),
        ((2.0, "interval", (0.2, 1.2)), r"guidance_interval=\(0.2, 1.2\) must be two ascending"),
    ],
)
def test_settings_that_do_not_exist_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Guidance(*arguments)
