"""The concept encoder alone (semanticist_vit_*.npz)."""

import re

import jax
import jax.numpy as jnp
import numpy as np

from tests.parity.official import official_state, to_nhwc
from tests.parity.report import GRADIENT_LIMIT, Report, Unsupported
from vqlab.export.torch_weights import from_torch_state, to_torch_state
from vqlab.models.vit import ConceptEncoder
from vqlab.nn.transformer import LAYER_NORM_EPS

# What vqlab's encoder fixes, as the released one does.
FIXED = {"gelu": "exact", "ln_eps": LAYER_NORM_EPS, "qkv_bias": True}


def check_vit(report: Report, config: dict) -> None:
    """Every block and the concepts, causal and not, then gradients of sum(concepts * R)."""
    for name, value in FIXED.items():
        if config.get(name, value) != value:
            raise Unsupported(f"{name}={config[name]!r} is not supported, only {value!r}")
    params = read_params(report, config)
    images = jnp.asarray(to_nhwc(report.arrays["in/x"])) * 2 - 1  # stored in [0, 1]
    for case in ("causal", "full"):
        values = outputs(encoder(config, is_causal=case == "causal"), params, images)
        for name in [n for n in report.arrays if n.startswith(f"out/{case}/")]:
            key = name.removeprefix(f"out/{case}/")
            if key in values:
                report.close(name, values[key])
    check_gradients(report, encoder(config, is_causal=True), params, images)


def encoder(config: dict, *, is_causal: bool) -> ConceptEncoder:
    return ConceptEncoder(
        image_size=config["img"],
        patch_size=config["patch"],
        width=config["dim"],
        depth=config["depth"],
        num_heads=config["heads"],
        num_concepts=config["num_slots"],
        concept_dim=config["slot_dim"],
        mlp_ratio=float(config["mlp_ratio"]),
        is_causal=is_causal,
    )


def read_params(report: Report, config: dict) -> dict:
    """The encoder's parameters, converted strictly from the w/ arrays."""
    images = jnp.zeros((1, config["img"], config["img"], 3))
    shapes = jax.eval_shape(encoder(config, is_causal=True).init, jax.random.key(0), images)
    template = {"params": {"encoder": shapes["params"]}}
    params, _ = from_torch_state(official_state(report.arrays), template)
    return jax.tree.map(jnp.asarray, params["encoder"])


def outputs(model: ConceptEncoder, params: dict, images) -> dict[str, np.ndarray]:
    """Official output name -> our value."""
    concepts, state = jax.jit(
        lambda params, images: model.apply(
            {"params": params},
            images,
            capture_intermediates=lambda module, method: (
                module.name in ("blocks", "norm", "to_concepts") or method == "_tokens"
            ),
        )
    )(params, images)
    inner = state["intermediates"]
    values = {
        "tokens_in": inner["_tokens"][0],
        "encoder": inner["norm"]["__call__"][0],
        "slots_raw": inner["to_concepts"]["__call__"][0],
        "slots": concepts,
    }
    for i, block in enumerate(inner["blocks"]["__call__"][0]):
        values[f"block{i}"] = block
    return values


def check_gradients(report: Report, model: ConceptEncoder, params: dict, images) -> None:
    cotangent = jnp.asarray(report.arrays["in/R"])

    def objective(params):
        return jnp.sum(model.apply({"params": params}, images) * cotangent)

    grads = to_torch_state({"encoder": jax.jit(jax.grad(objective))(params)}, {})
    check_gradient_norms(report, grads)
    for name in [n for n in report.arrays if re.match(r"out/grad/", n)]:
        report.close(name, grads[name.removeprefix("out/grad/")], GRADIENT_LIMIT)


def check_gradient_norms(report: Report, grads: dict[str, np.ndarray]) -> None:
    """`out/grad_norm/NAME`, each relative to itself; `grads` holds these names and no other."""
    stored = {n.removeprefix("out/grad_norm/"): n for n in report.arrays if "/grad_norm/" in n}
    for name, array in stored.items():
        if name in grads:
            norm = np.linalg.norm(np.asarray(grads[name], np.float64))
            report.close(array, norm, GRADIENT_LIMIT)
    if grads.keys() != stored.keys():
        names = sorted(grads.keys() ^ stored.keys())
        report.add("out/grad_norm", np.inf, 0, f"gradients of one side only: {names}")
