import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vqlab.diffusion.ddpm import DDPM

KEY = jax.random.key(0)
X_0, NOISE = (jax.random.normal(jax.random.key(seed), (3, 4, 2)) for seed in (1, 2))
T = jnp.array([0, 300, 999])


def test_the_variance_lies_between_the_posterior_and_beta():
    process = DDPM()
    tables = process.tables()
    for value, expected in {
        -1.0: tables.posterior_log_variance_clipped,
        1.0: np.log(tables.betas),
    }.items():
        output = jnp.concatenate([NOISE, jnp.full_like(NOISE, value)], axis=-1)
        reverse = process.reverse(output, X_0, T)
        np.testing.assert_allclose(reverse.log_variance[:, 0, 0], expected[T], rtol=1e-5)


def test_fixed_variances():
    tables = DDPM().tables()
    large, small = (
        DDPM(learned_variance=False, fixed_variance=name).reverse(NOISE, X_0, T).log_variance
        for name in ("large", "small")
    )
    np.testing.assert_allclose(large[1:, 0, 0], np.log(tables.betas[T[1:]]), rtol=1e-5)
    np.testing.assert_allclose(
        small[:, 0, 0], tables.posterior_log_variance_clipped[np.asarray(T)], rtol=1e-5
    )
    assert (large[0] == small[0]).all()


def test_the_bound_trains_the_variance_and_the_error_the_prediction():
    process = DDPM()
    output = jax.random.normal(KEY, (3, 4, 4))

    def totals(output):
        losses = process.losses(output, X_0, NOISE, T)
        return losses["vb"].sum(), losses["mse"].sum()

    vb, mse = jax.jit(jax.jacrev(totals))(output)
    assert (vb[..., :2] == 0).all() and (vb[..., 2:] != 0).any()
    assert (mse[..., :2] != 0).any() and (mse[..., 2:] == 0).all()


def test_the_true_posterior_costs_no_bits():
    """With the right x_0 and the posterior's variance nothing is left of the bound but t = 0."""
    output = jnp.concatenate([NOISE, jnp.full_like(NOISE, -1.0)], axis=-1)
    vb = DDPM().losses(output, X_0, NOISE, T)["vb"]
    np.testing.assert_allclose(vb[1:], 0, atol=1e-5)
    assert vb[0] > 0.1


def test_ddim_with_eta_1_is_ancestral_sampling_with_the_small_variance():
    """DDIM, section 4.1."""

    def network(x_t, t):
        return jnp.sin(x_t) * 0.9

    step_noise = jax.random.normal(KEY, (8, *NOISE.shape))
    ancestral = DDPM(learned_variance=False, fixed_variance="small")
    ddim = DDPM(learned_variance=False, sampler="ddim", eta=1.0)
    states = [
        process.sample(
            network, NOISE, key=KEY, num_steps=8, step_noise=step_noise, trajectory=True
        )[1]
        for process in (ancestral, ddim)
    ]
    np.testing.assert_allclose(states[0], states[1], rtol=1e-4, atol=1e-4)


def test_samples_have_the_distribution_that_the_network_is_right_about():
    """Data N(0.5, 0.2^2): the best prediction is linear in x_t."""
    mean, deviation = 0.5, 0.2
    process = DDPM(learned_variance=False)
    kept = jnp.asarray(process.tables().alphas_cumprod, jnp.float32)

    def best(x_t, t):
        a = kept[t][:, None]
        variance = a * deviation**2 + 1 - a
        return jnp.sqrt(1 - a) * (x_t - jnp.sqrt(a) * mean) / variance

    noise = jax.random.normal(jax.random.key(1), (4096, 1))
    sample = jax.jit(process.sample, static_argnames=("denoise", "num_steps", "sampler"))
    for sampler in ("ancestral", "ddim"):
        x_0 = np.asarray(sample(best, noise, key=KEY, num_steps=100, sampler=sampler))
        assert x_0.mean() == pytest.approx(mean, abs=0.02)
        assert x_0.std() == pytest.approx(deviation, rel=0.1)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"schedule": "sigmoid"}, r"unknown schedule 'sigmoid'; choose from \['linear', 'cosine'"),
        ({"prediction": "v"}, r"unknown prediction 'v'; choose from \['epsilon', 'x_0'\]"),
        ({"sampler": "heun"}, r"unknown sampler 'heun'; choose from \['ancestral', 'ddim'\]"),
        ({"fixed_variance": "tiny"}, "unknown fixed_variance 'tiny'"),
        ({"spacing": "log"}, r"unknown spacing 'log'; choose from \['even', 'stride'\]"),
        ({"eta": 1.5}, r"eta=1.5 is out of range: choose 0..1"),
        ({"num_train_steps": 20}, "num_train_steps=20: the linear schedule takes at least 21"),
    ],
)
def test_settings_that_do_not_exist_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        DDPM(**arguments)


def test_the_smallest_linear_process_has_valid_tables():
    for table in DDPM(21).tables():
        assert np.isfinite(table).all()


def test_output_channels():
    assert DDPM().output_channels(16) == 32
    assert DDPM(learned_variance=False).output_channels(16) == 16
    with pytest.raises(ValueError, match=r"output \(3, 4, 2\) must be \(3, 4, 4\)"):
        DDPM().losses(NOISE, X_0, NOISE, T)
