import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.signal import correlate

from vqlab.models.pretrained import lpips


@pytest.fixture
def narrow(monkeypatch):
    """VGG-16 with its 13 layers but a 16th of the widths, so that a slow reference can follow."""
    widths = tuple(tuple(w // 16 for w in stage) for stage in lpips.VGG16_STAGES)
    monkeypatch.setattr(lpips, "VGG16_STAGES", widths)


@pytest.fixture
def params(narrow):
    rng = np.random.default_rng(0)

    def leaf(shape):
        if len(shape) == 4:  # He's scale keeps activations of order 1 through 13 layers
            return (rng.normal(size=shape) * np.sqrt(2 / (9 * shape[2]))).astype(np.float32)
        return rng.uniform(0, 0.1, shape).astype(np.float32)

    return jax.tree.map(leaf, lpips.param_shapes(), is_leaf=lambda x: isinstance(x, tuple))


@pytest.fixture
def pair():
    rng = np.random.default_rng(1)
    return jnp.asarray(rng.uniform(-1, 1, (2, 1, 17, 32, 3)), jnp.float32)


def reference_features(params, image):
    """VGG-16 of one image [H, W, 3] in float64, written on scipy's correlation alone."""
    x = (image - np.array([-0.030, -0.088, -0.188])) / np.array([0.458, 0.448, 0.450])
    features = []
    for stage, count in enumerate((2, 2, 3, 3, 3), start=1):
        if stage > 1:
            h, w, c = x.shape
            x = x[: h // 2 * 2, : w // 2 * 2].reshape(h // 2, 2, w // 2, 2, c).max((1, 3))
        for i in range(1, count + 1):
            layer = params[f"conv{stage}_{i}"]
            kernel, bias = (layer[k].astype(np.float64) for k in ("kernel", "bias"))
            padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
            x = np.stack(
                [
                    correlate(padded, kernel[..., o], mode="valid", method="direct")[..., 0]
                    for o in range(kernel.shape[-1])
                ],
                axis=-1,
            )
            x = np.maximum(x + bias, 0)
        features.append(x)
    return features


def test_every_layer_equals_an_independent_implementation(params, pair):
    expected = [reference_features(params["vgg"], np.asarray(image[0])) for image in pair]
    features_fn = jax.jit(lpips.vgg16_features)
    for image, features in zip(pair, expected, strict=True):
        standardised = (image - np.float32(lpips.SHIFT)) / np.float32(lpips.SCALE)
        ours = features_fn(params["vgg"], standardised)
        for x, y in zip(ours, features, strict=True):
            np.testing.assert_allclose(x[0], y, rtol=1e-4, atol=1e-5)

    distance = 0.0
    for stage, (x, y) in enumerate(zip(*expected, strict=True), start=1):
        x, y = (z / (np.linalg.norm(z, axis=-1, keepdims=True) + 1e-10) for z in (x, y))
        distance += ((x - y) ** 2 @ params["heads"][f"relu{stage}"]).mean()
    ours = jax.jit(lpips.lpips_distance)(params, *pair)
    np.testing.assert_allclose(ours, [distance], rtol=1e-4)


def test_distance_is_zero_for_equal_symmetric_and_per_image(params, pair):
    a, b = pair
    distance_fn = jax.jit(lpips.lpips_distance)
    both = distance_fn(params, jnp.concatenate([a, a]), jnp.concatenate([a, b]))
    assert both.shape == (2,) and both.dtype == jnp.float32
    assert float(both[0]) < 1e-12 and float(both[1]) > 0.0
    np.testing.assert_allclose(both[1:], distance_fn(params, b, a), rtol=1e-5)


def test_gradient_is_finite_even_where_all_channels_are_zero(params, pair):
    dead = jax.tree.map(lambda x: x, params)
    dead["vgg"]["conv5_3"] = jax.tree.map(np.zeros_like, params["vgg"]["conv5_3"])

    @jax.jit
    @jax.grad
    def gradient(a, params):
        return lpips.lpips_distance(params, a, pair[1]).sum()

    grad = gradient(pair[0], dead)
    assert bool(jnp.isfinite(grad).all()) and bool(jnp.any(grad != 0))


def test_full_size_by_shape():
    shapes = jax.tree.leaves(lpips.param_shapes(), is_leaf=lambda x: isinstance(x, tuple))
    # torchvision's vgg16.features has 14,714,688 parameters, the heads 64+128+256+512+512.
    assert sum(int(np.prod(s)) for s in shapes) == 14_714_688 + 1_472
    params = jax.tree.map(
        lambda s: jax.ShapeDtypeStruct(s, jnp.float32),
        lpips.param_shapes(),
        is_leaf=lambda x: isinstance(x, tuple),
    )
    images = jax.ShapeDtypeStruct((2, 256, 256, 3), jnp.bfloat16)
    distance = jax.eval_shape(lpips.lpips_distance, params, images, images)
    assert distance.shape == (2,) and distance.dtype == jnp.float32


def test_bad_shapes():
    with pytest.raises(ValueError, match="8x32 are too small for VGG-16.*side is 16"):
        lpips.vgg16_features({}, jnp.zeros((1, 8, 32, 3)))
    with pytest.raises(ValueError, match="one shape"):
        lpips.lpips_distance({}, jnp.zeros((1, 16, 16, 3)), jnp.zeros((2, 16, 16, 3)))
