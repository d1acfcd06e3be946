import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vqlab.nn.bottleneck import GaussianBottleneck, draw_posterior, kl_divergence

BOTTLENECK = GaussianBottleneck(2)


def moments(mean, log_variance, shape=(1, 1, 1)):
    """[B, h, w, 4] from two values each."""
    return jnp.broadcast_to(jnp.array([*mean, *log_variance], jnp.float32), (*shape, 4))


def test_kl_of_the_prior_is_zero_and_of_another_normal_as_by_hand():
    assert kl_divergence(moments((0, 0), (0, 0), (3, 2, 2))).tolist() == [0.0, 0.0, 0.0]
    # 1/2 (1 + 4 - 1 - ln 4) + 1/2 (4 + 1 - 1 - 0) a position, at 2 x 3 positions
    expected = 6 * (0.5 * (4 - np.log(4)) + 2)
    kl = kl_divergence(moments((1, 2), (np.log(4), 0), (2, 2, 3)))
    np.testing.assert_allclose(kl, [expected, expected], rtol=1e-6)


def test_log_variances_are_clamped():
    low, high = kl_divergence(moments((0, 0), (-1000, 0))), kl_divergence(moments((0, 0), (50, 0)))
    np.testing.assert_allclose(low, 0.5 * (np.exp(-30.0) - 1 + 30), rtol=1e-6)
    np.testing.assert_allclose(high, 0.5 * (np.exp(20.0) - 1 - 20), rtol=1e-6)


def test_draws_have_the_posteriors_mean_and_deviation():
    draws = draw_posterior(moments((3, -1), (np.log(4), -30), (1, 200, 200)), jax.random.key(0))
    np.testing.assert_allclose(draws.mean((0, 1, 2)), (3, -1), atol=0.05)
    np.testing.assert_allclose(draws.std((0, 1, 2)), (2, 0), atol=0.05)


def test_a_draw_is_the_mean_plus_the_deviation_times_the_keys_noise():
    key = jax.random.key(7)
    expected = jnp.array([3.0, -1.0]) + jnp.array([2.0, 1.0]) * jax.random.normal(key, (1, 2, 2, 2))
    drawn = draw_posterior(moments((3, -1), (np.log(4), 0), (1, 2, 2)), key)
    np.testing.assert_allclose(drawn, expected, rtol=1e-6)


def test_training_draws_and_evaluation_takes_the_mean():
    x = moments((3, -1), (0, 0), (2, 2, 2))
    quantized = BOTTLENECK.apply({}, x, train=False)
    np.testing.assert_array_equal(quantized.latents, x[..., :2])
    assert quantized.indices is None and quantized.stats == {}

    def train(seed):
        return BOTTLENECK.apply({}, x, train=True, rngs={"posterior": jax.random.key(seed)})

    assert np.abs(train(0).latents - x[..., :2]).min() > 0
    np.testing.assert_array_equal(train(0).latents, train(0).latents)
    assert np.abs(train(0).latents - train(1).latents).min() > 0
    np.testing.assert_allclose(train(0).losses["kl"], [4 * 0.5 * (9 + 1)], rtol=1e-6)


def test_the_gradient_reaches_means_and_log_variances():
    def loss(x):
        quantized = BOTTLENECK.apply({}, x, train=True, rngs={"posterior": jax.random.key(0)})
        return jnp.sum(quantized.latents**2)

    assert np.abs(jax.grad(loss)(moments((3, -1), (0, 0)))).min() > 0


@pytest.mark.parametrize(
    ("channels", "kwargs", "message"),
    [
        (3, {}, r"moments \(1, 1, 1, 3\) must be \[B, ..., 4\], a mean and a log-variance"),
        (4, {"num_groups": 0}, "num_groups=0: a Gaussian bottleneck has 1 group"),
    ],
)
def test_what_does_not_fit_is_named(channels, kwargs, message):
    with pytest.raises(ValueError, match=message):
        BOTTLENECK.apply({}, jnp.zeros((1, 1, 1, channels)), train=False, **kwargs)


def test_there_is_nothing_to_look_up():
    with pytest.raises(ValueError, match="a Gaussian bottleneck has no indices"):
        BOTTLENECK.apply({}, jnp.zeros((1, 1, 1, 1), jnp.int32), method="lookup")
    with pytest.raises(ValueError, match="latent_channels=0 must be at least 1"):
        GaussianBottleneck(0).apply({}, jnp.zeros((1, 1, 1, 0)), train=False)
