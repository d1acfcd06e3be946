"""FSQ beside vector-quantize-pytorch's: values, indices, codes and gradients, in both modes."""

import jax
import jax.numpy as jnp
import numpy as np

from tests.parity.report import GRADIENT_LIMIT, Report
from vqlab.nn.fsq import FSQ

LAYERS = ("project_in", "project_out")


def check_fsq(report: Report, config: dict) -> None:
    """All cases of a quantizer_fsq file."""
    for case in config["cases"]:
        _check_case(report, case["name"], _build(case["kwargs"]))


def _build(options: dict) -> FSQ:
    return FSQ(
        levels=options["levels"],
        num_groups=options.get("num_codebooks", 1),
        latent_channels=options.get("dim", 0),
        preserve_symmetry=options.get("preserve_symmetry", False),
        hard_clamp=options.get("bound_hard_clamp", False),
    )


def _check_case(report: Report, name: str, quantizer: FSQ) -> None:
    is_image = report.arrays[f"in/{name}/x"].ndim == 5  # [1, B, C, h, w] there

    def to_own(array):
        return jnp.asarray(np.moveaxis(array, 1, -1) if is_image else array)

    def to_theirs(array):
        return np.moveaxis(np.asarray(array), -1, 1) if is_image else np.asarray(array)

    x, cotangent = (to_own(report.take(f"in/{name}/{key}")[0]) for key in ("x", "R"))
    params = {
        layer: {
            "kernel": jnp.asarray(report.take(f"w/{name}/{layer}.weight").T),
            "bias": jnp.asarray(report.take(f"w/{name}/{layer}.bias")),
        }
        for layer in LAYERS
        if f"w/{name}/{layer}.weight" in report.arrays
    }
    stats = jax.eval_shape(lambda: quantizer.init(jax.random.key(0), x, train=False))
    stats = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), stats["codebook_stats"])

    def objective(params, x, train):
        variables = {"params": params, "codebook_stats": stats}
        quantized, _ = quantizer.apply(variables, x, train=train, mutable=["codebook_stats"])
        return jnp.sum(quantized.latents * cotangent), quantized

    step = jax.jit(jax.value_and_grad(objective, (0, 1), has_aux=True), static_argnums=2)
    lookup = jax.jit(
        lambda indices: quantizer.apply(
            {"params": params, "codebook_stats": stats}, indices, method="lookup"
        )
    )
    for mode in ("train", "eval"):
        (value, quantized), (grads, grad_x) = step(params, x, mode == "train")
        prefix = f"out/{name}/{mode}/"
        expected = report.take(prefix + "indices")
        report.equal(prefix + "indices", np.asarray(quantized.indices).reshape(expected.shape))
        report.close(prefix + "quantized", to_theirs(quantized.latents))
        report.close(prefix + "codes_from_indices", to_theirs(lookup(quantized.indices)))
        report.close(prefix + "objective", value)
        report.close(prefix + "grad_x", to_theirs(grad_x), GRADIENT_LIMIT)
        for layer, grad in grads.items():
            report.close(f"{prefix}grad/{layer}.weight", grad["kernel"].T, GRADIENT_LIMIT)
            report.close(f"{prefix}grad/{layer}.bias", grad["bias"], GRADIENT_LIMIT)
