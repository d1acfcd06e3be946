import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vqlab.ops import losses


def test_reconstruction_losses_by_hand():
    images = jnp.array([0.0, 0.5, -1.0, 1.0]).reshape(1, 2, 2, 1)
    reconstruction = jnp.array([0.5, 0.5, 1.0, 0.0]).reshape(1, 2, 2, 1)
    assert float(losses.l1(reconstruction, images)) == (0.5 + 0 + 2 + 1) / 4
    assert float(losses.l2(reconstruction, images)) == (0.25 + 0 + 4 + 1) / 4
    assert losses.RECONSTRUCTION == {"l1": losses.l1, "l2": losses.l2}


def test_hinge_by_hand():
    real = jnp.array([2.0, 0.0, -1.0, 1.0])
    fake = jnp.array([-2.0, 0.0, 1.0, -1.0])
    # real: 0, 1, 2, 0 and fake: 0, 1, 2, 0
    assert float(losses.hinge_discriminator(real, fake)) == 0.5 * (3 / 4 + 3 / 4)
    assert float(losses.hinge_generator(fake)) == 0.5


def test_hinge_gradient_stops_where_the_discriminator_is_sure():
    grad = jax.grad(losses.hinge_discriminator)(jnp.array([2.0, 0.5]), jnp.array([-2.0, 0.5]))
    np.testing.assert_allclose(grad, [0.0, -0.25])


def test_losses_are_float32_whatever_comes_in():
    x = jnp.full((2, 4, 4, 3), 0.1, jnp.bfloat16)
    values = [
        losses.l1(x, 0 * x),
        losses.l2(x, 0 * x),
        losses.hinge_discriminator(x, x),
        losses.hinge_generator(x),
        losses.adaptive_weight(x, x),
    ]
    assert all(v.dtype == jnp.float32 and v.shape == () for v in values)


@pytest.mark.parametrize(
    "reconstruction_norm, adversarial_norm, expected",
    [(5.0, 2.0, 5 / 2.0001), (1.0, 0.0, 1e4), (10.0, 0.0, 1e4), (0.0, 3.0, 0.0)],
)
def test_adaptive_weight_is_the_ratio_of_lengths_clamped(
    reconstruction_norm, adversarial_norm, expected
):
    direction = jnp.array([[0.6, 0.0], [0.0, 0.8]])
    weight = losses.adaptive_weight(reconstruction_norm * direction, adversarial_norm * direction)
    np.testing.assert_allclose(weight, expected, rtol=1e-6)


def test_adaptive_weight_passes_no_gradient():
    grads = jax.grad(losses.adaptive_weight, argnums=(0, 1))(jnp.ones(3), jnp.ones(3))
    np.testing.assert_array_equal(grads, np.zeros((2, 3)))


@pytest.mark.parametrize("name", ["l1", "l2"])
def test_shapes_that_would_broadcast_are_refused(name):
    with pytest.raises(ValueError, match=r"\(1, 4, 4, 3\) and images \(2, 4, 4, 3\)"):
        losses.RECONSTRUCTION[name](jnp.zeros((1, 4, 4, 3)), jnp.zeros((2, 4, 4, 3)))
