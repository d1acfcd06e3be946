"""What holds for every process and sampler."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vqlab.diffusion.ddpm import DDPM
from vqlab.diffusion.flow import Flow
from vqlab.diffusion.process import Process

KEY = jax.random.key(0)
SHAPE = (2, 4, 4, 3)
X_0, NOISE = (jax.random.normal(jax.random.key(seed), SHAPE) for seed in (1, 2))

PROCESSES = {
    "ddpm": DDPM(),
    "ddpm_x_0": DDPM(prediction="x_0", schedule="cosine"),
    "ddpm_fixed": DDPM(learned_variance=False, fixed_variance="small"),
    "ddim": DDPM(sampler="ddim"),
    "ddim_random": DDPM(sampler="ddim", eta=0.7, spacing="stride"),
    "euler": Flow(),
    "heun": Flow(sampler="heun"),
    "euler_maruyama": Flow(sampler="euler_maruyama"),
}
RANDOM = {"ddpm", "ddpm_x_0", "ddpm_fixed", "ddim_random", "euler_maruyama"}
every_process = pytest.mark.parametrize("name", PROCESSES)


def network(process):
    """Any smooth function with the right number of channels."""
    repeats = process.output_channels(1)

    def denoise(x_t, t):
        t = process.network_time(t).reshape(-1, 1, 1, 1) / 1000
        return jnp.tile(jnp.sin(x_t + t), (1, 1, 1, repeats))

    return denoise


def oracle(process, x_0):
    """The network that knows x_0."""

    def denoise(x_t, t):
        if isinstance(process, Flow):
            t = t.reshape(-1, 1, 1, 1)
            return (x_0 - x_t) / jnp.maximum(1 - t, 1e-6)
        kept = jnp.asarray(process.tables().alphas_cumprod, jnp.float32)[t].reshape(-1, 1, 1, 1)
        noise = (x_t - jnp.sqrt(kept) * x_0) / jnp.sqrt(1 - kept)
        answer = noise if process.prediction == "epsilon" else x_0
        variance = jnp.zeros_like(answer) if process.learned_variance else answer[..., :0]
        return jnp.concatenate([answer, variance], axis=-1)

    return denoise


@every_process
def test_a_network_that_knows_x_0_leads_there(name):
    process = PROCESSES[name]
    sample = jax.jit(process.sample, static_argnames=("denoise", "num_steps"))
    samples = sample(oracle(process, X_0), NOISE, key=KEY, num_steps=20)
    if name == "euler_maruyama":
        # Its last step starts at t = 0.96, where the noise left has deviation 0.04, and mirrors it.
        error = np.asarray(samples - X_0)
        assert abs(error.mean()) < 0.03 and 0.005 < error.std() < 0.1
    elif name == "heun":
        # The last slope is taken at t = 1, where this network has none to give.
        straight = sample(lambda x_t, t: X_0 - NOISE, NOISE, key=KEY, num_steps=20)
        np.testing.assert_allclose(straight, X_0, atol=1e-5)
    else:
        np.testing.assert_allclose(samples, X_0, atol=5e-5)


@every_process
def test_the_scan_does_what_a_loop_over_its_steps_does(name):
    """And calls the network at each state, from much noise to little."""
    process, n = PROCESSES[name], 5
    step_noise = jax.random.normal(jax.random.key(3), (n, *SHAPE))
    calls = []

    def recording(x_t, t):
        calls.append((np.asarray(x_t), np.asarray(t)))
        return network(process)(x_t, t)

    options = dict(key=KEY, num_steps=n, step_noise=step_noise, trajectory=True)
    x_0, states = jax.jit(lambda noise: process.sample(network(process), noise, **options))(NOISE)
    with jax.disable_jit():  # a scan is then a Python loop
        looped, looped_states = process.sample(recording, NOISE, **options)
    np.testing.assert_allclose(states, looped_states, rtol=1e-4, atol=1e-4)
    assert (x_0 == states[-1]).all() and states.shape == (n, *SHAPE)
    assert len(calls) == (2 * n if name == "heun" else n)
    before = [NOISE, *looped_states[:-1]]
    for x_t, call in zip(before, calls[:: len(calls) // n], strict=True):
        np.testing.assert_array_equal(call[0], x_t)
    levels = [float(process.noisiness(jnp.asarray(t))[0]) for _, t in calls]
    assert sorted(levels, reverse=True) == levels


@every_process
def test_noise_comes_from_the_key_and_only_where_the_sampler_is_random(name):
    process = PROCESSES[name]

    @jax.jit
    def sample(seed, temperature=1.0, step_noise=None):
        return process.sample(
            network(process),
            NOISE,
            key=jax.random.key(seed),
            num_steps=4,
            temperature=temperature,
            step_noise=step_noise,
        )

    assert (sample(0) == sample(0)).all()
    is_random = name in RANDOM
    assert bool((sample(0) != sample(1)).any()) == is_random
    zeros = jnp.zeros((4, *SHAPE))
    assert (sample(0, temperature=0.0) == sample(1, step_noise=zeros)).all()


@every_process
def test_the_last_step_adds_no_noise(name):
    process = PROCESSES[name]
    step_noise = jax.random.normal(KEY, (4, *SHAPE))
    sample = jax.jit(process.sample, static_argnames=("denoise", "num_steps"))
    denoise = network(process)
    first, second = (
        sample(denoise, NOISE, key=KEY, num_steps=4, step_noise=given)
        for given in (step_noise, step_noise.at[-1].set(7.0))
    )
    assert (first == second).all()


@every_process
def test_one_program_holds_the_network_once_whatever_the_number_of_steps(name):
    process = PROCESSES[name]
    traced = []

    def counting(x_t, t):
        traced.append(t)
        return network(process)(x_t, t)

    jax.eval_shape(lambda x: process.sample(counting, x, key=KEY, num_steps=50), NOISE)
    assert len(traced) <= (2 if name == "heun" else 1)


@every_process
def test_processes_offer_what_the_protocol_says(name):
    process = PROCESSES[name]
    assert isinstance(process, Process) and hash(process) == hash(PROCESSES[name])
    t = process.draw_times(KEY, 512)
    noisiness = np.asarray(process.noisiness(t))
    assert t.shape == (512,) and 0 <= noisiness.min() < 0.1 and 0.9 < noisiness.max() <= 1
    time = np.asarray(process.network_time(t))
    assert time.dtype == np.float32 and 0 <= time.min() < 20 and 980 < time.max() < 1000
    # The share of noise in x_t, from x_0 = 0 and noise = 1, grows with it.
    ones = jnp.ones((512, 1))
    x_t = process.add_noise(0 * ones, ones, t)
    assert (np.diff(np.asarray(x_t)[np.argsort(noisiness), 0]) >= 0).all()


@every_process
def test_the_loss_of_a_perfect_prediction_is_zero(name):
    process = PROCESSES[name]
    if isinstance(process, Flow):
        t, answer = jnp.array([0.0, 0.5]), X_0 - NOISE
    else:
        t, answer = jnp.array([0, 500]), NOISE if process.prediction == "epsilon" else X_0
    output = jnp.tile(answer, (1, 1, 1, process.output_channels(1)))
    losses_of = jax.jit(process.losses)
    losses = losses_of(output, X_0, NOISE, t)
    assert (losses["mse"] == 0).all() and losses["loss"].shape == (2,)
    wrong = losses_of(output + 2, X_0, NOISE, t)
    np.testing.assert_allclose(wrong["mse"], 4, atol=1e-4)


@every_process
def test_errors(name):
    process = PROCESSES[name]
    sample = lambda **options: process.sample(  # noqa: E731
        network(process), NOISE, **{"key": KEY, "num_steps": 4, **options}
    )
    with pytest.raises(ValueError, match="unknown sampler 'dpm'; choose from"):
        sample(sampler="dpm")
    with pytest.raises(ValueError, match="num_steps=0"):
        sample(num_steps=0)
    if name in RANDOM:
        with pytest.raises(ValueError, match=r"step_noise \(3, 2, 4, 4, 3\) must be \(4, 2,"):
            sample(step_noise=jnp.zeros((3, *SHAPE)))
    with pytest.raises(ValueError, match=r"output \(2, 4, 4, 5\) must be \(2, 4, 4, [36]\)"):
        process.sample(lambda x_t, t: jnp.zeros((*x_t.shape[:-1], 5)), NOISE, key=KEY, num_steps=4)
