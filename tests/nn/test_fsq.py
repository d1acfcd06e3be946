"""FSQ against the arrays of vector-quantize-pytorch."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vqlab.nn.fsq import FSQ

GOLDEN = Path(__file__).parents[1] / "golden" / "quantizer_fsq.npz"


@pytest.fixture(scope="module")
def arrays():
    with np.load(GOLDEN) as stored:
        return dict(stored)


def build(case):
    options = dict(case["kwargs"])
    return FSQ(
        levels=options["levels"],
        num_groups=options.get("num_codebooks", 1),
        latent_channels=options.get("dim", 0),
        preserve_symmetry=options.get("preserve_symmetry", False),
        hard_clamp=options.get("bound_hard_clamp", False),
    )


@pytest.mark.parametrize(
    "name", ["plain", "proj", "image", "two_codebooks", "symmetric", "hard_clamp"]
)
def test_it_meets_the_reference_library(arrays, name):
    case = {c["name"]: c for c in json.loads(str(arrays["config"]))["cases"]}[name]
    quantizer = build(case)
    is_image = name == "image"  # [B, C, h, w] there

    def own(array):
        return jnp.asarray(np.moveaxis(array, 1, -1) if is_image else array)

    x, cotangent = (own(arrays[f"in/{name}/{key}"][0]) for key in ("x", "R"))
    variables = dict(jax.jit(lambda x: quantizer.init(jax.random.key(0), x, train=False))(x))
    weights = {k: arrays[f"w/{name}/{k}.weight"].T for k in ("project_in", "project_out")
               if f"w/{name}/{k}.weight" in arrays}  # fmt: skip
    params = {
        k: {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(arrays[f"w/{name}/{k}.bias"])}
        for k, kernel in weights.items()
    }
    assert set(params) == set(variables.get("params", {}))
    variables["params"] = params

    def objective(params, x):
        quantized, _ = quantizer.apply(
            variables | {"params": params}, x, train=True, mutable=["codebook_stats"]
        )
        return jnp.sum(quantized.latents * cotangent), quantized

    (value, quantized), (grads, grad_x) = jax.jit(
        jax.value_and_grad(objective, (0, 1), has_aux=True)
    )(params, x)
    prefix = f"out/{name}/train/"

    def meets(found, key, own=own):
        expected = own(arrays[prefix + key])
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5, err_msg=key)

    meets(quantized.latents, "quantized")
    meets(value, "objective", jnp.asarray)
    meets(grad_x, "grad_x")
    for layer, grad in grads.items():
        meets(grad["kernel"], f"grad/{layer}.weight", np.transpose)
        meets(grad["bias"], f"grad/{layer}.bias", np.asarray)
    expected = arrays[prefix + "indices"].reshape(quantized.indices.shape)
    np.testing.assert_array_equal(quantized.indices, expected)
    looked_up = jax.jit(lambda v, i: quantizer.apply(v, i, method="lookup"))(
        variables, quantized.indices
    )
    meets(looked_up, "codes_from_indices")
    assert set(quantized.stats) == {"usage", "perplexity", "dead"} and not quantized.losses
    assert quantizer.codebook_size == np.prod(quantizer.levels)


def test_every_index_is_a_point_of_its_own_that_quantizes_to_itself():
    quantizer = FSQ(levels=(4, 3, 5), num_groups=2)
    indices = jnp.stack([jnp.arange(60), jnp.arange(60)[::-1]], -1)
    latents = quantizer.apply({}, indices, method="lookup", mutable=["codebook_stats"])[0]
    assert len(np.unique(latents[:, :3], axis=0)) == 60
    one = quantizer.apply({}, indices, num_groups=1, method="lookup", mutable=["codebook_stats"])[0]
    np.testing.assert_array_equal(one[:, :3], latents[:, :3])
    assert not one[:, 3:].any()
    # tanh reaches no level at the border: what lies beyond it does.
    found = quantizer.apply({}, latents * 9, train=False, mutable=["codebook_stats"])[0]
    outermost = np.isin(np.abs(latents), [0, 1]).all(-1)
    np.testing.assert_array_equal(found.indices[outermost], indices[outermost])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"levels": ()}, r"levels=\(\): a channel needs at least 2"),
        ({"levels": (8, 1)}, r"levels=\(8, 1\): a channel needs at least 2"),
        ({"levels": (8,), "num_groups": 0}, "num_groups=0 must be at least 1"),
        ({"levels": (2,) * 31}, "make 2147483648 codewords"),
    ],
)
def test_wrong_settings_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        FSQ(**options)
