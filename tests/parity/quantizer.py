"""Consecutive training steps of the quantizer alone (mgvq_quantizer_train*.npz)."""

import functools
import re
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from tests.parity.official import to_nchw, to_nhwc
from tests.parity.report import GRADIENT_LIMIT, Report, Unsupported
from tests.parity.trainstep import drawn_tokens
from vqlab.export.torch_names import to_official
from vqlab.nn.quantizers import GroupedQuantizer
from vqlab.ops import masks
from vqlab.ops.codebook import draw_probabilities, l2_normalize, reseed

MASK_PROBS = (0.0, 0.2, 0.3, 0.4)  # the released list, which never masks a fifth group
RNGS = {"reseed": jax.random.key(0), "mask": jax.random.key(1)}


def check_quantizer(report: Report, config: dict) -> None:
    """Replays the training steps with the recorded draws, then evaluation and the masked passes."""
    if not config.get("l2_norm", True):
        raise Unsupported("l2_norm=False is not supported, only True")
    model = GroupedQuantizer(
        num_groups=config["groups"],
        codebook_size=config["n_e"] // config["groups"],
        latent_channels=config["e_dim"] * config["groups"],
        beta=config["beta"],
        usage_decay=config["prob_alpha"],
    )
    start = _variables(report.arrays, model)
    _check_steps(report, config, model, start)
    _check_eval(report, model, start)
    rounds = {match[1] for name in report.arrays if (match := re.match(r"out/mask([\d.]+)/", name))}
    for r in sorted(rounds, key=float):
        _check_masked(report, model, start, r)


def _variables(arrays: dict, model: GroupedQuantizer) -> dict:
    codebook = arrays["w/embedding.weight"]
    shape = (model.num_groups, model.codebook_size, model.latent_channels // model.num_groups)
    return {
        "params": {"codebook": jnp.asarray(codebook.reshape(shape))},
        "codebook_stats": {
            "usage_ema": jnp.asarray(arrays["w/embed_prob"]),
            "recent_indices": jnp.asarray(arrays["w/codebook_used"].astype(np.int32)),
        },
    }


def _check_steps(report: Report, config: dict, model: GroupedQuantizer, variables: dict) -> None:
    @jax.jit
    def step(variables, z, cotangent):
        def objective(params, z):
            quantized, state = model.apply(
                {**variables, "params": params},
                z,
                train=True,
                rngs=RNGS,
                mutable=["codebook_stats"],
            )
            losses = quantized.losses["vq"].sum() + quantized.losses["commit"].sum()
            return losses + jnp.sum(quantized.latents * cotangent), (quantized, state)

        return jax.value_and_grad(objective, argnums=(0, 1), has_aux=True)(variables["params"], z)

    for k, (z, cotangent) in enumerate(
        zip(report.arrays["in/z"], report.arrays["in/R"], strict=True)
    ):
        z = to_nhwc(z)
        (loss, (quantized, state)), grads = step(variables, z, to_nhwc(cotangent))
        prefix = f"out/s{k}/"
        codebook = variables["params"]["codebook"]
        drawn = drawn_tokens(z, report.take(prefix + "draws"))
        after = {
            "params": {"codebook": reseed(codebook, drawn, quantized.update["reseed_keep"])},
            **state,
        }
        report.close(prefix + "loss", loss)
        report.close(prefix + "grad_z", to_nchw(grads[1]), GRADIENT_LIMIT)
        _check_codebook_gradient(report, config, k, grads[0]["codebook"])
        _check_quantized(report, prefix, quantized)
        _check_training_stats(report, prefix, z, codebook, quantized)
        _check_state(report, prefix, variables, after)
        variables = after
    recent = variables["codebook_stats"]["recent_indices"]
    report.equal("out/codebook_used_after", to_official("codebook_stats/recent_indices", recent))


def _check_codebook_gradient(report: Report, config: dict, k: int, grad) -> None:
    """The clean gradient, and the released run's own within its known distance from it."""
    grad = np.asarray(grad).reshape(-1, grad.shape[-1])
    name = f"out/s{k}/grad_embedding"
    report.close(f"{name}_clean", grad, GRADIENT_LIMIT)
    strays = config["grad_embedding_vs_clean_max_abs"][f"s{k}"]
    limit = GRADIENT_LIMIT + strays / np.abs(report.arrays[name]).max()
    report.close(name, grad, limit, "taken at changed values")


def _check_quantized(report: Report, prefix: str, quantized) -> None:
    report.close(prefix + "z_q", to_nchw(quantized.latents))
    if prefix + "vq_loss" in report.arrays:
        report.close(prefix + "vq_loss", quantized.losses["vq"])
        report.close(prefix + "commit_loss", quantized.losses["commit"])
    if prefix + "indices" in report.arrays:
        groups = quantized.indices.shape[-1]
        report.equal(prefix + "indices", np.asarray(quantized.indices).reshape(-1, groups))


def _check_training_stats(report: Report, prefix: str, z, codebook, quantized) -> None:
    groups, _, dim = codebook.shape
    stats = quantized.stats
    report.close(prefix + "freq_prob", quantized.update["reseed_keep"])
    report.close(prefix + "codebook_usage", stats["usage"])
    report.close(prefix + "perplexity_last_group", stats["perplexity"][-1])
    tokens = l2_normalize(jnp.asarray(z).reshape(-1, groups, dim))
    # The stored weights are rescaled as a whole; only their ratios matter to the draw.
    weights = report.take(prefix + "draw_prob").astype(np.float64)
    report.arrays[prefix + "draw_prob"] = weights / weights.sum(-1, keepdims=True)
    report.close(prefix + "draw_prob", draw_probabilities(tokens, codebook), note="as shares")


def _check_state(report: Report, prefix: str, before: dict, after: dict) -> None:
    for when, variables in (("before", before), ("after", after)):
        codebook = to_official("params/codebook", variables["params"]["codebook"])
        report.close(f"{prefix}embedding_{when}", codebook)
        report.close(f"{prefix}embed_prob_{when}", variables["codebook_stats"]["usage_ema"])


def _check_eval(report: Report, model: GroupedQuantizer, variables: dict) -> None:
    if not any(name.startswith("out/eval/") for name in report.arrays):
        return
    z = jnp.asarray(to_nhwc(report.arrays["in/z"][0]))
    quantized = jax.jit(functools.partial(model.apply, train=False))(variables, z)
    _check_quantized(report, "out/eval/", quantized)
    # The released code returns zeros for the usage outside training, vqlab returns no statistics.
    usage = quantized.stats.get("usage", np.zeros(model.num_groups))
    report.close("out/eval/usage", usage, note="none outside training")


def _check_masked(report: Report, model: GroupedQuantizer, variables: dict, r: str) -> None:
    """A training pass whose one uniform draw is r."""
    prefix = f"out/mask{r}/"
    groups = model.num_groups
    probs = (MASK_PROBS + (0.0,) * groups)[:groups]
    keep = masks.nested_keep(jnp.array([float(r)]), probs)

    def known_keep(key, mask_probs, batch, *, per_sample=False):
        return jnp.broadcast_to(keep, (batch, groups))

    # Any list will do: the draw is given.
    masked = model.clone(mask_probs=(0.0,) + (1.0,) * (groups - 1), reseed=False)
    apply = functools.partial(masked.apply, train=True, rngs=RNGS, mutable=["codebook_stats"])
    with mock.patch.object(masks, "draw_keep", known_keep):
        quantized, state = jax.jit(apply)(variables, to_nhwc(report.arrays["in/z"][0]))
    _check_quantized(report, prefix, quantized)
    before = variables["codebook_stats"]["usage_ema"]
    changed = jnp.any(state["codebook_stats"]["usage_ema"] != before, axis=-1)
    report.equal(prefix + "num_index_columns", keep.sum())
    report.equal(prefix + "embed_prob_changed", changed)
