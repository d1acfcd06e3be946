import numpy as np
import pytest

from vqlab.diffusion import schedule


def test_linear_betas_keep_the_total_noise_for_any_number_of_times():
    betas = schedule.training_betas("linear", 1000)
    assert betas.dtype == np.float64
    assert betas[[0, -1]] == pytest.approx([1e-4, 0.02])
    assert schedule.training_betas("linear", 100)[[0, -1]] == pytest.approx([1e-3, 0.2])


def test_cosine_betas_follow_the_squared_cosine():
    kept = np.cumprod(1 - schedule.training_betas("cosine", 1000))
    start = np.cos(0.008 / 1.008 * np.pi / 2) ** 2
    assert kept[499] * start == pytest.approx(np.cos((0.5 + 0.008) / 1.008 * np.pi / 2) ** 2)
    assert schedule.training_betas("cosine", 1000).max() == 0.999


def test_even_times_have_both_ends_and_stride_times_equal_gaps():
    assert schedule.respaced_times(1000, 4) == [0, 333, 666, 999]
    assert schedule.respaced_times(1000, 4, "stride") == [0, 250, 500, 750]
    assert schedule.respaced_times(50, 50) == list(range(50))


@pytest.mark.parametrize("num_steps", [-1, 0, 1, 1001])
def test_a_number_of_steps_out_of_range_is_refused(num_steps):
    with pytest.raises(ValueError, match=f"num_steps={num_steps} is out of range: choose 2..1000"):
        schedule.respaced_times(1000, num_steps)


def test_a_number_of_steps_without_a_whole_stride_is_refused():
    with pytest.raises(ValueError, match="num_steps=300: no whole stride"):
        schedule.respaced_times(1000, 300, "stride")


def test_a_respaced_process_has_the_noise_levels_of_the_whole_one():
    betas = schedule.training_betas("linear", 1000)
    whole, times = schedule.tables(betas), schedule.respaced_times(1000, 25)
    part = schedule.tables(betas, times)
    np.testing.assert_allclose(part.alphas_cumprod, whole.alphas_cumprod[times], rtol=1e-12)
    assert part.timesteps.tolist() == times
    assert part.posterior_variance[0] == 0 and part.posterior_mean_coef2[0] == 0
    assert part.posterior_mean_coef1[0] == pytest.approx(1)
    assert np.isfinite(part.posterior_log_variance_clipped).all()


def test_the_posterior_of_two_steps_worked_out_by_hand():
    tables = schedule.tables(np.array([0.1, 0.2]))
    # q(x_0 | x_1) from the prior N(sqrt(.9) x, .1) and the likelihood N(x_1; sqrt(.8) x_0, .2)
    variance = 1 / (1 / 0.1 + 0.8 / 0.2)
    assert tables.posterior_variance[1] == pytest.approx(variance)
    assert tables.posterior_mean_coef1[1] == pytest.approx(variance * np.sqrt(0.9) / 0.1)
    assert tables.posterior_mean_coef2[1] == pytest.approx(variance * np.sqrt(0.8) / 0.2)
