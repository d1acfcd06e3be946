import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vqlab.diffusion.flow import Flow

KEY = jax.random.key(0)


def test_the_path_runs_from_noise_to_data():
    x_0, noise = jnp.full((3, 1), 4.0), jnp.full((3, 1), -2.0)
    x_t = Flow().add_noise(x_0, noise, jnp.array([0.0, 0.25, 1.0]))
    assert x_t[:, 0].tolist() == [-2.0, -0.5, 4.0]


def test_the_network_sees_the_scaled_time():
    assert Flow().network_time(jnp.array([0.5])).tolist() == [500.0]
    assert Flow(time_scale=1.0).network_time(jnp.array([0.5])).tolist() == [0.5]


def test_euler_and_heun_steps_by_hand():
    """dx/dt = x from 1 in two steps: 1.5^2, and (1 + 1/2 + 1/8)^2."""
    start = jnp.ones((1, 1))
    for sampler, expected in {"euler": 2.25, "heun": 1.625**2}.items():
        x = Flow().sample(lambda x, t: x, start, key=KEY, num_steps=2, sampler=sampler)
        assert float(x[0, 0]) == pytest.approx(expected, rel=1e-6)


def test_an_euler_maruyama_step_by_hand():
    """From x = 2 at t = 0 with velocity 3: drift 3 - 2, spread sqrt(2 * 0.96); then the mean."""
    noise, step_noise = jnp.full((1, 1), 2.0), jnp.array([[[0.5]], [[9.0]]])
    _, states = Flow(sampler="euler_maruyama").sample(
        lambda x, t: jnp.full_like(x, 3.0),
        noise,
        key=KEY,
        num_steps=2,
        step_noise=step_noise,
        trajectory=True,
    )
    first = 2 + 0.96 * (3 - 2) + np.sqrt(2 * 0.96) * 0.5
    second = first + 0.04 * (1.96 * 3 - first)
    assert states[:, 0, 0].tolist() == pytest.approx([first, second], rel=1e-6)


def test_samples_have_the_distribution_that_the_network_is_right_about():
    """Data N(0.5, 0.2^2): the best velocity is linear in x_t."""
    mean, deviation = 0.5, 0.2

    def best(x_t, t):
        t = t[:, None]
        variance = (t * deviation) ** 2 + (1 - t) ** 2
        return mean + (t * deviation**2 - (1 - t)) * (x_t - t * mean) / variance

    noise = jax.random.normal(jax.random.key(1), (4096, 1))
    for sampler in ("euler", "heun", "euler_maruyama"):
        x_0 = np.asarray(Flow().sample(best, noise, key=KEY, num_steps=100, sampler=sampler))
        assert x_0.mean() == pytest.approx(mean, abs=0.02)
        assert x_0.std() == pytest.approx(deviation, rel=0.1)


def test_settings_that_do_not_exist_are_refused():
    with pytest.raises(ValueError, match="unknown sampler 'ddim'; choose from"):
        Flow(sampler="ddim")
    with pytest.raises(ValueError, match="time_scale=0.0 must be positive"):
        Flow(time_scale=0.0)
    with pytest.raises(ValueError, match="num_steps=1 is out of range: at least 2"):
        Flow().sample(
            lambda x, t: x, jnp.ones((1, 1)), key=KEY, num_steps=1, sampler="euler_maruyama"
        )
