"""VQ and RVQ beside vector-quantize-pytorch's: training steps of running means, and gradients."""

import math
import random
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from tests.parity.bottleneck import Case, Options
from tests.parity.report import Report
from vqlab.nn.learned_codebooks import LearnedCodebooks
from vqlab.nn.residual_quantizer import ResidualQuantizer
from vqlab.nn.vector_quantizer import VectorQuantizer
from vqlab.ops import masks

# Released names of a layer's state, and ours.
STATE = {"cluster_size": "ema_counts", "embed_avg": "ema_sums", "embed": "codebook"}


def check_residual(report: Report, config: dict) -> None:
    """All cases of a quantizer_rvq file."""
    for case in config["cases"]:
        module, keep, is_image = _build(case)
        known = mock.patch.object(masks, "draw_keep", _known(keep))
        with known:
            _check_case(
                Case(report, config, case["name"], module, is_image=is_image, loss=_released_loss),
                keep,
                module,
            )


def _known(keep: np.ndarray):
    """In the place of `draw_keep`: these layers of every sample."""
    return lambda key, probs, batch, *, per_sample=False: jnp.broadcast_to(keep, (batch, len(keep)))


def _build(case: dict) -> tuple[LearnedCodebooks, np.ndarray, bool]:
    """The module of a case, which layers it keeps in training, whether channels come first."""
    options, call = Options(case["kwargs"]), Options(case.get("call", {}))
    is_residual = case["kind"] == "rvq"
    layers = options.take("num_quantizers", 1)
    is_ema = options.take("ema_update", True)
    is_learned = options.take("learnable_codebook", False)
    weight = options.take("commitment_weight", 1.0)
    arguments = {
        "codebook_size": options.take("codebook_size"),
        "latent_channels": options.take("dim"),
        "codebook_dim": options.take("codebook_dim") or 0,
        "distance": "cosine" if options.take("use_cosine_sim", False) else "euclidean",
        "learning": "ema" if is_ema else "gradient",
        "reseed": False,
        "beta": weight,
        "codebook_weight": weight if is_learned else 0.0,
        "ema_decay": options.take("decay", 0.8),
        "rotation_trick": options.take("rotation_trick", True),
        "eval_gradient": False,
    }
    keep = _kept_layers(options, call, layers)
    shared, is_image = (
        options.take("shared_codebook", False),
        options.take("accept_image_fmap", False),
    )
    options.expect(eps=1e-5, threshold_ema_dead_code=0)
    options.finish()
    call.finish()
    if not is_residual:
        return VectorQuantizer(**arguments), keep, is_image
    dropped = {} if keep.all() else {"mask_probs": (0.0,) + (1.0,) * (layers - 1)}
    own = {"num_groups": layers, "shared": shared, "gradient_per_layer": True}
    return ResidualQuantizer(**arguments, **own, **dropped), keep, is_image


def _kept_layers(options: Options, call: Options, layers: int) -> np.ndarray:
    """The layers that the released draw of this seed leaves."""
    has_dropout, first = (
        options.take("quantize_dropout"),
        options.take("quantize_dropout_cutoff_index", 0),
    )
    multiple = options.take("quantize_dropout_multiple_of", 1)
    seed = call.take("rand_quantize_dropout_fixed_seed")
    if not has_dropout or layers == 1:
        return np.ones(layers, bool)
    last = random.Random(seed).randrange(first, layers)
    last = math.ceil((last + 1) / multiple) * multiple - 1
    return np.arange(layers) <= last


def _check_case(case: Case, keep: np.ndarray, module: LearnedCodebooks) -> None:
    start = _with_state(case)
    is_residual = isinstance(module, ResidualQuantizer)
    names = _layer_names(module, is_residual)
    inputs = list(zip(case.input("x"), case.input("R"), strict=True))
    variables = start
    for k, (x, cotangent) in enumerate(inputs):
        prefix = "train/" if len(inputs) == 1 else f"train/s{k}/"
        quantized, sums = _check_pass(case, prefix, variables, x, cotangent, keep)
        update = jax.tree.map(jnp.asarray, quantized.update)
        params = module.post_update(variables["params"], update)
        stats = variables["codebook_stats"] | sums
        variables = {"params": params, "codebook_stats": stats}
        _check_state(case, prefix, names, variables, start)
    _check_pass(case, "eval/", start, *inputs[0], np.ones_like(keep))


def _with_state(case: Case) -> dict:
    """Variables with the file's codebooks and running sums.

    Layers that share have names of their own in the file; loading leaves what the last one has.
    """
    module = case.module
    names = _layer_names(module, isinstance(module, ResidualQuantizer))[-module.num_codebooks :]
    own = {
        ours: np.concatenate([case.weight(n + theirs) for n in names])
        for theirs, ours in STATE.items()
    }
    params = {**case.variables["params"], "codebook": own.pop("codebook")}
    stats = dict(case.variables["codebook_stats"])
    if module.learns_by_ema:
        stats |= own
    return {**case.variables, "params": params, "codebook_stats": stats}


def _layer_names(module: LearnedCodebooks, is_residual: bool) -> list[str]:
    if not is_residual:
        return ["_codebook."]
    return [f"layers.{i}._codebook." for i in range(module.num_groups)]


def _released_loss(losses):
    """One loss there, with gradients to token and codeword; here two of the same value."""
    total = losses["commit"].sum()
    if "vq" in losses:
        total += (losses["vq"] - jax.lax.stop_gradient(losses["vq"])).sum()
    return total


def _check_pass(case: Case, prefix: str, variables: dict, x, cotangent, keep: np.ndarray) -> tuple:
    """What the bottleneck returned, and its new running sums."""
    value, quantized, sums, _, grads = case.run(
        prefix != "eval/", case.to_own(x), case.to_own(cotangent), variables
    )
    case.check_latents(prefix + "quantized", quantized.latents)
    case.check_indices(prefix + "indices", np.where(keep, quantized.indices, -1))
    expected = case.report.take(f"out/{case.name}/{prefix}losses")
    case.check_numbers(prefix + "losses", quantized.losses["commit"].reshape(expected.shape))
    case.check_numbers(prefix + "objective", value)
    names = _layer_names(case.module, isinstance(case.module, ResidualQuantizer))
    codebooks = {
        f"{name}embed": (lambda tree, i=i: tree["codebook"][i : i + 1])
        for i, name in enumerate(names[: case.module.num_codebooks])
    }
    case.check_gradients(prefix, grads, {} if case.module.learns_by_ema else codebooks)
    return quantized, sums


def _check_state(case: Case, prefix: str, names, variables: dict, start: dict) -> None:
    """State after a step; learning by gradient keeps no running sums, and theirs stand still."""
    for i, name in enumerate(names):
        own = min(i, case.module.num_codebooks - 1)
        for theirs, ours in STATE.items():
            full = f"{prefix}after/{name}{theirs}"
            if ours == "codebook":
                case.check_numbers(full, variables["params"]["codebook"][own : own + 1])
            elif case.module.learns_by_ema:
                case.check_numbers(full, variables["codebook_stats"][ours][own : own + 1])
            else:
                case.check_numbers(full, case.weight(name + theirs), note="stands still, not kept")
