"""One training-mode forward and backward of the whole tokenizer (mgvq_*_trainstep.npz)."""

import jax
import jax.numpy as jnp
import numpy as np

from tests.parity.official import load_tokenizer, to_nchw, to_nhwc
from tests.parity.report import GRADIENT_LIMIT, OUTPUT_LIMIT, Report
from vqlab.export.torch_weights import to_torch_state
from vqlab.ops.codebook import l2_normalize, reseed

COLLECTIONS = ("batch_stats", "codebook_stats")


def check_trainstep(report: Report, weights: dict, config: dict) -> None:
    """Loss = mean((recon - x)^2) + sum vq + sum commit; then reseeding with the recorded draws."""
    model, variables = load_tokenizer(weights, config)
    params = variables.pop("params")
    images = jnp.asarray(to_nhwc(report.arrays["in/x"]))

    def objective(params):
        result, state = model.apply(
            {"params": params, **variables},
            images,
            train=True,
            rngs={"reseed": jax.random.key(0)},
            mutable=[*COLLECTIONS, "intermediates"],
            capture_intermediates=lambda module, _: module.name == "quant_conv",
        )
        mse = jnp.mean(jnp.square(result.images - images))
        losses = result.quantized.losses
        loss = mse + losses["vq"].sum() + losses["commit"].sum()
        return loss, (mse, result, state)

    (loss, (mse, result, state)), grads = jax.jit(jax.value_and_grad(objective, has_aux=True))(
        params
    )
    report.close("out/recon", to_nchw(result.images))
    report.close("out/mse", mse)
    report.close("out/vq_loss", result.quantized.losses["vq"])
    report.close("out/commit_loss", result.quantized.losses["commit"])
    report.close("out/loss", loss)
    _check_gradients(report, config, to_torch_state(grads, {}))

    latents = state.pop("intermediates")["quant_conv"]["__call__"][0]
    keep = result.quantized.update["reseed_keep"]
    drawn = drawn_tokens(latents, report.take("out/draws"))
    codebook = reseed(params["quantizer"]["codebook"], drawn, keep)
    after = to_torch_state(params | {"quantizer": {"codebook": codebook}}, state)
    for name in [name for name in report.arrays if name.startswith("out/after/")]:
        stored = report.arrays[name]
        if np.issubdtype(stored.dtype, np.integer):
            report.equal(name, after[name.removeprefix("out/after/")])
        else:
            report.close(name, after[name.removeprefix("out/after/")], OUTPUT_LIMIT)


def drawn_tokens(latents, draws: np.ndarray):
    """Normalised tokens at the recorded draws [G,K]: [G,K,D], from latents [B,h,w,G*D]."""
    groups = draws.shape[0]
    tokens = l2_normalize(jnp.asarray(latents).reshape(-1, groups, latents.shape[-1] // groups))
    return tokens[draws, jnp.arange(groups)[:, None]]


def _check_gradients(report: Report, config: dict, grads: dict[str, np.ndarray]) -> None:
    for name in report.arrays:
        if name.startswith("out/grad/"):
            report.close(name, grads[name.removeprefix("out/grad/")], GRADIENT_LIMIT)
        elif name.startswith("out/grad_first32/"):
            ours = grads[name.removeprefix("out/grad_first32/")].reshape(-1)[:32]
            report.close(name, ours, GRADIENT_LIMIT)
    if "out/grad_stats" in report.arrays:
        _check_gradient_statistics(report, config["grad_stats_names"], grads)


def _check_gradient_statistics(report: Report, names: list[str], grads: dict) -> None:
    """Norm and largest value relative to their own, the mean relative to the largest value."""
    theirs = report.take("out/grad_stats")
    ours = np.array(
        [[np.linalg.norm(g), g.mean(), np.abs(g).max()] for g in _float64(grads, names)]
    )
    difference = np.abs(ours - theirs)
    scale = np.stack([theirs[:, 0], theirs[:, 2], theirs[:, 2]], axis=-1)
    ratio = np.divide(difference, scale, out=difference.copy(), where=scale > 0)
    for column, label in enumerate(("norm", "mean", "abs max")):
        worst = int(np.argmax(ratio[:, column]))
        note = f"{label}; worst {names[worst]}"
        report.add("out/grad_stats", ratio[worst, column], GRADIENT_LIMIT, note)
    if set(grads) != set(names):
        missing = sorted(set(grads) ^ set(names))
        report.add("out/grad_stats", np.inf, 0, f"gradients of one side only: {missing}")


def _float64(grads: dict, names: list[str]):
    return (np.asarray(grads[name], np.float64).reshape(-1) for name in names)
