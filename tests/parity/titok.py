"""TiTok: both stages and the form that gives pixels (titok_tiny.npz)."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tests.parity.index_transformer import gradient_stats
from tests.parity.official import official_state, to_nchw, to_nhwc
from tests.parity.pixel_tokenizer import SCHEME, pixel_node
from tests.parity.report import GRADIENT_LIMIT, Report
from vqlab import models
from vqlab.export.package import abstract_variables
from vqlab.nn.quantized import Quantized
from vqlab.training.objectives.code_prediction import CodeObjective

STAGES = ("stage1", "stage2", "nonlegacy")
# The prefix of the decoder's tensors in the form that gives pixels.
OTHER = "nonlegacy/"


def node(sizes: dict, stage: str) -> dict:
    """The model node of a file's sizes."""
    shared = {
        "image_size": sizes["image"],
        "patch_size": sizes["patch"],
        "width": sizes["width"],
        "num_tokens": sizes["latents"],
    }
    gives_pixels = stage == "nonlegacy"
    return {
        "name": "titok",
        "encoder": {
            "name": "titok_encoder",
            "depth": sizes["enc_layers"],
            "num_heads": sizes["enc_heads"],
            "latent_channels": sizes["token"],
            "legacy": not gives_pixels,
            **shared,
        },
        "quantizer": {
            "name": "vector_quantizer",
            "codebook_size": sizes["codes"],
            "latent_channels": sizes["token"],
            "distance": "cosine",
            "reseed": False,
        },
        "decoder": {
            "name": "titok_decoder",
            "depth": sizes["dec_layers"],
            "num_heads": sizes["dec_heads"],
            "num_codes": 0 if gives_pixels else sizes["pixel_codes"],
            **shared,
        },
        "pixel_tokenizer": _pixels(sizes, stage),
        "trains_encoder": stage != "stage2",
    }


def _pixels(sizes: dict, stage: str) -> dict | None:
    if stage == "nonlegacy":
        return None
    if stage == "stage1":
        return {"name": "frozen_pixel_tokenizer", "network": pixel_node(sizes)}
    network = pixel_node(sizes)
    codes = network.pop("codebook_size")
    return network | {"name": "soft_pixel_decoder", "num_codes": codes}


def stage_state(arrays: dict, stage: str) -> dict[str, np.ndarray]:
    """The state dict of a stage among a file's arrays."""
    state = official_state(arrays)
    other = {n.removeprefix(OTHER): state.pop(n) for n in list(state) if n.startswith(OTHER)}
    if stage != "stage2":
        state = {name: array for name, array in state.items() if not name.startswith("pixel_")}
    if stage == "nonlegacy":
        kept = {name: a for name, a in state.items() if not name.startswith("decoder.ffn.")}
        state = kept | other
    return state


def load(arrays: dict, sizes: dict, stage: str):
    """(module, variables) of a stage, converted strictly."""
    module = models.build(node(sizes, stage))
    variables = SCHEME.from_state(stage_state(arrays, stage), abstract_variables(module))
    return module, jax.tree.map(jnp.asarray, dict(variables))


class Watched:
    """A network whose next `apply` keeps what its inner modules give, in `inner`."""

    NAMES = ("patch_embed", "norm_in", "blocks", "norm_out")

    def __init__(self, module):
        self.module, self.inner = module, {}

    def apply(self, variables, *args, mutable, **options):
        made, updated = self.module.apply(
            variables,
            *args,
            mutable=[*mutable, "intermediates"],
            capture_intermediates=lambda module, _: module.name in self.NAMES,
            **options,
        )
        self.inner = updated.pop("intermediates")
        return made, updated


class Made(NamedTuple):
    """What one program makes of a stage's file: all that is compared but the gradients."""

    values: dict
    inner: dict
    latents: jax.Array
    quantized: Quantized
    decoded: jax.Array


def check_titok(report: Report, config: dict) -> None:
    """Activations, tokens, losses and gradients of each stage that the file has."""
    for stage in STAGES:
        if not any(name.startswith(f"out/{stage}/") for name in report.arrays):
            continue
        module, variables = load(report.arrays, config["sizes"], stage)
        others = {name: tree for name, tree in variables.items() if name != "params"}
        x = jnp.asarray(to_nhwc(report.arrays["in/x"]))
        loss_of = functools.partial(_loss, module, others, report.arrays, stage)
        gradient = jax.jit(jax.value_and_grad(loss_of, argnums=(0, 1), has_aux=True))
        (loss, made), (grads, grad_x) = gradient(variables["params"], x)
        report.close(f"out/{stage}/loss", loss)
        for name, value in made.values.items():
            report.close(f"out/{stage}/{name}", value)
        _check_activations(report, made.inner, stage)
        _check_tokens(report, made, variables["params"]["quantizer"]["codebook"][0], stage)
        report.close(f"out/{stage}/grad_x", to_nchw(grad_x), GRADIENT_LIMIT)
        _check_gradients(report, SCHEME.to_state({"params": grads}), config, stage)


def _loss(module, others: dict, arrays: dict, stage: str, params: dict, x):
    """(the released code's loss of a stage, `Made`); x in [0, 1]."""
    weights, watched = {"params": params, **others}, Watched(module)
    if stage == "stage1":
        codes = jnp.asarray(arrays["in/target_codes"])
        codes = codes.reshape(len(x), *(module.decoder.grid_side,) * 2)
        loss, terms, made = CodeObjective(network=watched).losses(weights, 2 * x - 1, codes)
        values = {"logits": _nchw(made.logits), "reconstruction_loss": terms["cross_entropy"]}
    else:
        made, _ = watched.apply(weights, 2 * x - 1, train=True, mutable=list(others))
        pixels = (made.images + 1) / 2
        loss = jnp.mean(jnp.square(pixels - jax.lax.stop_gradient(x)))
        values = {"reconstruction": _nchw(pixels)}
    commit, vq = (jnp.sum(made.quantized.losses[name]) for name in ("commit", "vq"))
    if stage == "nonlegacy":
        loss += commit + vq
    values |= {"commitment_loss": commit, "codebook_loss": vq, "quantizer_loss": commit + vq}

    def inside(module, images, indices):
        values = _softly(module, made.quantized.latents) if stage == "stage2" else {}
        decode = module.decode_logits if stage == "stage1" else module.decode
        decoded = decode(module.quantizer.lookup(indices))
        return values, module.encode_unquantized(images), decoded

    indices = jnp.asarray(arrays[f"out/{stage}/indices"])[:, 0, :, None]
    more, latents, decoded = module.apply(weights, 2 * x - 1, indices, method=inside)
    return loss, Made(values | more, watched.inner, latents, made.quantized, decoded)


def _softly(module, latents) -> dict:
    logits = module.decode_logits(latents)
    return {"logits": _nchw(logits), "soft_embedding": _nchw(module.pixel_tokenizer.mix(logits))}


def _nchw(x: jax.Array) -> jax.Array:
    return jnp.moveaxis(x, -1, 1)


def _check_activations(report: Report, inner: dict, stage: str) -> None:
    def compare(name: str, ours) -> None:
        if f"out/{stage}/{name}" in report.arrays:
            report.close(f"out/{stage}/{name}", ours)

    compare("patch_embed", to_nchw(_output(inner["encoder"]["patch_embed"])))
    for short, network in (("enc", "encoder"), ("dec", "decoder")):
        parts = inner[network]
        compare(f"{short}_ln_pre", _output(parts["norm_in"]))
        compare(f"{short}_ln_post", _output(parts["norm_out"]))
        for i, block in enumerate(_output(parts["blocks"])):
            compare(f"{short}_block{i}", block)


def _output(captured: dict):
    value = captured["__call__"][0]
    return value[0] if isinstance(value, tuple) else value


def _check_tokens(report: Report, made: Made, codebook, stage: str) -> None:
    report.close(f"out/{stage}/z", _as_row(made.latents))
    report.close(f"out/{stage}/z_quantized", _as_row(made.quantized.latents))
    report.equal(f"out/{stage}/indices", np.asarray(made.quantized.indices)[:, None, :, 0])
    if f"out/{stage}/margin" in report.arrays:
        # A difference of close numbers, so that its error is relative to the cosines, up to 1.
        theirs = report.take(f"out/{stage}/margin")
        error = np.max(np.abs(_margin(made.latents, codebook) - theirs))
        report.add(f"out/{stage}/margin", error, 1e-5, "of cosines")
    decoded = made.decoded if stage == "stage1" else (made.decoded + 1) / 2
    report.close(f"out/{stage}/decode_tokens", to_nchw(decoded))


def _as_row(tokens) -> np.ndarray:
    """[B, S, C] -> [B, C, 1, S]."""
    return np.asarray(tokens).swapaxes(1, 2)[:, :, None]


def _margin(latents, codebook) -> np.ndarray:
    arrays = map(np.float64, (latents, codebook))
    unit = [x / np.linalg.norm(x, axis=-1, keepdims=True) for x in arrays]
    cosines = np.sort(unit[0] @ unit[1].T, axis=-1)
    return (cosines[..., -1] - cosines[..., -2])[:, None]


def _check_gradients(report: Report, official: dict, config: dict, stage: str) -> None:
    names = config["grad_stats_names"][stage]
    stats = np.array([gradient_stats(official[name]) for name in names])
    largest = np.max(report.arrays[f"out/{stage}/grad_stats"][:, 2])
    report.close(f"out/{stage}/grad_stats", stats, GRADIENT_LIMIT)
    if official.keys() != set(names):
        report.add(f"out/{stage}/grad_stats", np.inf, 0, "gradients of one side only")
    for name, theirs in report.arrays.items():
        kind, _, tensor = name.removeprefix(f"out/{stage}/").partition("/")
        if kind not in ("grad", "grad_first32"):
            continue
        ours = official[tensor] if kind == "grad" else official[tensor].ravel()[:32]
        rounding = config["f32_vs_f64_max_abs_diff"].get(name.removeprefix("out/"), 0.0)
        if rounding < 0.5 * np.max(np.abs(theirs)):
            report.close(name, ours, GRADIENT_LIMIT)
        else:  # as of a bias before a norm that takes it away
            report.take(name)
            error = np.max(np.abs(ours - theirs)) / largest
            report.add(name, error, 1e-5, "0 but for rounding, so of the stage's largest")
