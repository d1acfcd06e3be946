"""LFQ and BSQ beside three released families: values, indices, losses, entropies and gradients."""

import functools

import jax
import numpy as np

from tests.parity.bottleneck import Case, Options
from tests.parity.report import GRADIENT_LIMIT, Report
from vqlab.nn.bsq import BSQ
from vqlab.nn.lfq import LFQ
from vqlab.ops.bits import mean_code_probabilities, split_indices

OUTSIDE = "none outside training"


def check_binary(report: Report, config: dict) -> None:
    """All cases of a quantizer_lfq or quantizer_bsq file."""
    for case in config["cases"]:
        (_check_bsqvit if case["kind"] == "bsqvit" else _check_pytorch)(report, config, case)


def _check_pytorch(report: Report, config: dict, case: dict) -> None:
    """vector-quantize-pytorch's LFQ, spherical or not."""
    name, options, call = case["name"], Options(case["kwargs"]), Options(case.get("call", {}))
    is_image = options.take("channel_first", report.arrays[f"in/{name}/x"].ndim >= 5)
    dim, groups = options.take("dim"), options.take("num_codebooks", 1)
    arguments = {
        "codebook_size": options.take("codebook_size") or 2**dim,
        "num_groups": groups,
        "latent_channels": dim or 0,
        "entropy_weight": options.take("entropy_loss_weight", 0.1),
        "batch_weight": options.take("diversity_gamma", 1.0),
        "commitment_weight": (weight := options.take("commitment_loss_weight", 0.0)),
        "scale": options.take("codebook_scale", 1.0),
        "inverse_temperature": call.take("inv_temperature", 100.0),
        "entropy_floor": 1e-5,
        "eval_gradient": False,
    }
    is_spherical, clamp = options.take("spherical", False), options.take("soft_clamp_input_value")
    own = {"sphere": "group"} if is_spherical else {"soft_clamp": clamp or 0.0}
    options.finish()
    call.finish()

    def loss(losses):
        return sum(values.mean() for values in losses.values())

    module = (BSQ if is_spherical else LFQ)(**arguments, **own)
    case = Case(report, config, name, module, is_image=is_image, loss=loss)
    x, cotangent = (case.to_own(case.input(key)[0]) for key in ("x", "R"))
    for mode in ("train", "eval"):
        is_training = mode == "train"
        value, quantized, _, codes, grads = case.run(is_training, x, cotangent)
        case.check_latents(f"{mode}/quantized", quantized.latents)
        case.check_indices(f"{mode}/indices", quantized.indices)
        case.check_latents(f"{mode}/codes_from_indices", codes)
        commitment = quantized.losses["commit"].mean() / (weight or 1.0)
        case.check_numbers(f"{mode}/aux_loss", loss(quantized.losses))
        case.check_numbers(f"{mode}/commitment", commitment)
        for theirs, ours in (("per_sample", "token"), ("batch", "batch")):
            entropy = quantized.stats.get(f"{ours}_entropy", np.zeros(1)).mean()
            note = "" if is_training else OUTSIDE
            case.check_numbers(f"{mode}/{theirs}_entropy", entropy, note=note)
        case.check_numbers(f"{mode}/objective", value)
        case.check_gradients(f"{mode}/", grads, {})
    _, grad_x = case.run(True, x, np.zeros_like(cotangent)).gradients
    case.check_latents("train/grad_x_of_aux", grad_x, GRADIENT_LIMIT)


def _check_bsqvit(report: Report, config: dict, case: dict) -> None:
    """The class of BSQ-ViT, whose latents lie on the sphere already; it sums over channels."""
    name, options = case["name"], Options(case["kwargs"])
    bits, size = options.take("embed_dim"), options.take("group_size", 9)
    temperature = options.take("inv_temperature", 1)
    is_analytical = options.take("persample_entropy_compute", "group") == "analytical"
    module = BSQ(
        codebook_size=2**size,
        num_groups=bits // size,
        commitment_weight=options.take("beta") * size,
        entropy_weight=options.take("zeta") / temperature,
        sample_weight=options.take("gamma0"),
        batch_weight=options.take("gamma"),
        inverse_temperature=temperature,
        scale=1.0 if options.take("l2_norm", False) else bits**0.5,
        entropy_bits=1 if is_analytical else size,
        sphere="given",
        shrink_gradient=True,
        eval_losses=True,
    )
    options.expect(input_format="bchw", soft_entropy=True, cb_entropy_compute="group")
    options.finish()
    case = Case(report, config, name, module, is_image=True)
    x, cotangent = (case.to_own(case.input(key)[0]) for key in ("x", "R"))
    places = size * np.arange(module.num_groups)[::-1]
    (_, entropy), logits = case.methods(x, "entropies", "logits")
    probabilities = jax.jit(mean_code_probabilities)(logits)
    for mode in ("train", "eval"):
        value, quantized, _, _, grads = case.run(mode == "train", x, cotangent)
        case.check_latents(f"{mode}/quantized", quantized.latents)
        case.check_indices(f"{mode}/group_indices", quantized.indices)
        whole = np.sum(np.asarray(quantized.indices, np.int64) << places, -1)
        case.check_indices(f"{mode}/indices", whole)
        case.check_numbers(
            f"{mode}/loss", sum(values.sum() for values in quantized.losses.values())
        )
        case.check_numbers(f"{mode}/codebook_entropy", entropy.sum())
        case.check_numbers(f"{mode}/avg_prob", probabilities)
        case.check_numbers(f"{mode}/objective", value)
        case.check_gradients(f"{mode}/", grads, {})


def check_magvit2(report: Report, config: dict) -> None:
    """All cases of a quantizer_magvit2_lfq file: Open-MAGVIT2's LFQ."""
    for case in config["cases"]:
        _check_magvit2(report, config, case)


def _check_magvit2(report: Report, config: dict, case: dict) -> None:
    name, options = case["name"], Options(case["kwargs"])
    weights = {"entropy": case["entropy_weight"], "commit": case["commit_weight"]}
    bits = options.take("factorized_bits", (9, 9)) if options.take("token_factorization") else ()
    module = LFQ(
        codebook_size=options.take("codebook_size"),
        num_groups=options.take("num_codebooks", 1),
        latent_channels=options.take("dim", 0),
        entropy_weight=1.0,
        sample_weight=options.take("sample_minimization_weight", 1.0),
        batch_weight=options.take("batch_maximization_weight", 1.0),
        commitment_weight=1.0,
        inverse_temperature=100.0,
        low_bit_first=True,
        entropy_offset=1e-5,
        pool_groups=True,
    )
    options.finish()
    for key in ("x", "R"):  # a step's axis in front, as the other files have it
        report.arrays[f"in/{name}/{key}"] = report.arrays[f"in/{name}/{key}"][None]

    def loss(losses):
        return sum(weights[key] * values.mean() for key, values in losses.items())

    case = Case(report, config, name, module, is_image=True, loss=loss)
    x, cotangent = (case.to_own(case.input(key)[0]) for key in ("x", "R"))
    size, groups = module.codebook_size, module.num_groups
    every = np.broadcast_to(np.arange(size)[:, None], (size, groups))
    case.check_numbers("codebook", case.methods(every, "lookup_groups")[0][:, 0])
    for mode in ("train", "eval"):
        note = "" if mode == "train" else OUTSIDE
        value, quantized, _, codes, grads = case.run(mode == "train", x, cotangent)
        case.check_latents(f"{mode}/quantized", quantized.latents)
        _check_magvit2_indices(case, mode, quantized.indices, tuple(bits))
        case.check_numbers(f"{mode}/commitment", quantized.losses["commit"].mean())
        case.check_numbers(f"{mode}/entropy_aux_loss", quantized.losses["entropy"][0])
        for theirs, ours in (("per_sample", "token"), ("codebook", "batch")):
            entropy = quantized.stats.get(f"{ours}_entropy", np.zeros(1))[0]
            case.check_numbers(f"{mode}/{theirs}_entropy", entropy, note=note)
        case.check_numbers(f"{mode}/objective", value)
        case.check_gradients(f"{mode}/", grads, {})
        if f"out/{name}/{mode}/codebook_entry" in report.arrays:
            case.check_latents(f"{mode}/codebook_entry", codes)

    def entropies(x):
        return [entropy[0] for entropy in module.apply(case.variables, x, method="entropies")]

    for key, grad_x in zip(
        ("per_sample", "codebook"), jax.jit(jax.jacrev(entropies))(x), strict=True
    ):
        case.check_latents(f"train/grad_x_of_{key}_entropy", grad_x, GRADIENT_LIMIT)


def _check_magvit2_indices(case: Case, mode: str, indices, bits: tuple[int, ...]) -> None:
    if not bits:
        case.check_indices(f"{mode}/indices", indices)
        return
    split = functools.partial(split_indices, num_bits=bits, low_bit_first=True)
    parts = np.asarray(jax.jit(split)(indices))
    for i, part in enumerate(("pre", "post")):
        case.check_indices(f"{mode}/indices_{part}", parts[..., i])
