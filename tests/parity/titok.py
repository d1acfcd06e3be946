"""TiTok: both stages and the form that gives pixels (titok_tiny.npz), and MaskGIT's VQGAN
(titok_pixel_tokenizer.npz)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from tests.parity.official import official_state, to_nchw, to_nhwc
from tests.parity.report import GRADIENT_LIMIT, Report
from vqlab import models
from vqlab.export.official import SCHEMES
from vqlab.export.package import abstract_variables
from vqlab.models.codec import Weights
from vqlab.training.objectives.code_prediction import CodeObjective

SCHEME = SCHEMES["titok"]
KEY = jax.random.key(0)  # unused: nothing is drawn
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


def pixel_node(sizes: dict) -> dict:
    return {
        "name": "maskgit_vq",
        "widths": [sizes["hidden"] * factor for factor in sizes["mult"]],
        "depth": sizes["res"],
        "latent_channels": sizes["z"],
        "codebook_size": sizes["pixel_codes"],
    }


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


def check_titok(report: Report, config: dict) -> None:
    """Activations, tokens, losses and gradients of each stage that the file has."""
    for stage in STAGES:
        if any(name.startswith(f"out/{stage}/") for name in report.arrays):
            module, variables = load(report.arrays, config["sizes"], stage)
            _check_activations(report, module, variables, stage)
            _check_tokens(report, module, variables, stage)
            _check_training(report, module, variables, stage, config)


def images(report: Report) -> jax.Array:
    """The stored images are in [0, 1]."""
    return jnp.asarray(to_nhwc(report.arrays["in/x"])) * 2 - 1


def _check_activations(report: Report, module, variables: dict, stage: str) -> None:
    names = ("patch_embed", "norm_in", "blocks", "norm_out")

    @jax.jit
    def run(variables, images):
        method = "predict" if module.frozen_parts() else "__call__"
        return module.apply(
            variables,
            images,
            method=method,
            mutable="intermediates",
            capture_intermediates=lambda module, _: module.name in names,
        )[1]["intermediates"]

    inner = run(variables, images(report))
    _maybe(report, f"out/{stage}/patch_embed", to_nchw(_output(inner["encoder"]["patch_embed"])))
    for short, network in (("enc", "encoder"), ("dec", "decoder")):
        parts = inner[network]
        _maybe(report, f"out/{stage}/{short}_ln_pre", _output(parts["norm_in"]))
        _maybe(report, f"out/{stage}/{short}_ln_post", _output(parts["norm_out"]))
        for i, block in enumerate(_output(parts["blocks"])):
            _maybe(report, f"out/{stage}/{short}_block{i}", block)


def _output(captured: dict):
    value = captured["__call__"][0]
    return value[0] if isinstance(value, tuple) else value


def _maybe(report: Report, name: str, ours) -> None:
    if name in report.arrays:
        report.close(name, ours)


def _check_tokens(report: Report, module, variables: dict, stage: str) -> None:
    apply = functools.partial(module.apply, variables)
    latents = jax.jit(functools.partial(apply, method="encode_unquantized"))(images(report))
    quantized = jax.jit(functools.partial(apply, method="encode"))(images(report))
    report.close(f"out/{stage}/z", _as_row(latents))
    report.close(f"out/{stage}/z_quantized", _as_row(quantized.latents))
    report.equal(f"out/{stage}/indices", np.asarray(quantized.indices)[:, None, :, 0])
    if f"out/{stage}/margin" in report.arrays:
        # A difference of close numbers, so that its error is relative to the cosines, up to 1.
        ours = _margin(latents, variables["params"]["quantizer"]["codebook"][0])
        theirs = report.take(f"out/{stage}/margin")
        report.add(f"out/{stage}/margin", np.max(np.abs(ours - theirs)), 1e-5, "of cosines")
    indices = jnp.asarray(report.arrays[f"out/{stage}/indices"])[:, 0, :, None]
    decode = jax.jit(functools.partial(_decode_tokens, module))
    report.close(f"out/{stage}/decode_tokens", _grid(decode(variables, indices), stage))


def _decode_tokens(module, variables: dict, indices):
    if not module.frozen_parts():
        return module.codec().decode(Weights(variables, {}), indices, 1, KEY)
    latents = module.codec().lookup(Weights(variables, {}), indices)
    return module.apply(variables, latents, method="decode_logits")


def _as_row(tokens) -> np.ndarray:
    """[B, S, C] -> [B, C, 1, S]."""
    return np.asarray(tokens).swapaxes(1, 2)[:, :, None]


def _grid(x, stage: str) -> np.ndarray:
    """Logits, or images in [0, 1]."""
    return to_nchw(x) if stage == "stage1" else to_nchw((x + 1) / 2)


def _margin(latents, codebook) -> np.ndarray:
    arrays = map(np.float64, (latents, codebook))
    unit = [x / np.linalg.norm(x, axis=-1, keepdims=True) for x in arrays]
    cosines = np.sort(unit[0] @ unit[1].T, axis=-1)
    return (cosines[..., -1] - cosines[..., -2])[:, None]


def _check_training(report: Report, module, variables: dict, stage: str, config: dict) -> None:
    params, others = variables["params"], {n: v for n, v in variables.items() if n != "params"}
    x = jnp.asarray(to_nhwc(report.arrays["in/x"]))
    loss_of = functools.partial(_loss, module, others, report.arrays, stage)
    gradient = jax.jit(jax.value_and_grad(loss_of, argnums=(0, 1), has_aux=True))
    (loss, values), (grads, grad_x) = gradient(params, x)
    report.close(f"out/{stage}/loss", loss)
    for name, value in values.items():
        report.close(f"out/{stage}/{name}", value)
    report.close(f"out/{stage}/grad_x", to_nchw(grad_x), GRADIENT_LIMIT)
    official = SCHEME.to_state({"params": grads})
    for name in report.arrays:
        kind, _, tensor = name.removeprefix(f"out/{stage}/").partition("/")
        if kind in ("grad", "grad_first32"):
            ours = official[tensor] if kind == "grad" else official[tensor].ravel()[:32]
            _check_gradient(report, name, ours, config, stage)
    names = config["grad_stats_names"][stage]
    stats = np.array([_stats(official[name]) for name in names])
    report.close(f"out/{stage}/grad_stats", stats, GRADIENT_LIMIT)
    if official.keys() != set(names):
        report.add(f"out/{stage}/grad_stats", np.inf, 0, "gradients of one side only")


def _check_gradient(report: Report, name: str, ours, config: dict, stage: str) -> None:
    """A gradient that is 0 but for rounding, as the released code's is by its own float64, is held
    to the largest gradient of the stage: such is a bias before a norm that takes it away."""
    theirs = report.arrays[name]
    rounding = config["f32_vs_f64_max_abs_diff"].get(name.removeprefix("out/"), 0.0)
    if rounding < 0.5 * np.max(np.abs(theirs)):
        report.close(name, ours, GRADIENT_LIMIT)
        return
    report.take(name)
    largest = np.max(report.arrays[f"out/{stage}/grad_stats"][:, 2])
    report.add(name, np.max(np.abs(ours - theirs)) / largest, 1e-5, "0 but for rounding")


def _loss(module, others: dict, arrays: dict, stage: str, params: dict, x):
    """The released code's loss of a stage, and what else it reports; x in [0, 1]."""
    weights = {"params": params, **others}
    if stage == "stage1":
        objective = CodeObjective(network=module)
        codes = jnp.asarray(arrays["in/target_codes"]).reshape(len(x), *_side(module))
        loss, terms, made = objective.losses(weights, 2 * x - 1, codes)
        values = {
            "logits": jnp.moveaxis(made.logits, -1, 1),
            "reconstruction_loss": terms["cross_entropy"],
        }
    else:
        made, _ = module.apply(weights, 2 * x - 1, train=True, mutable=list(others))
        pixels = (made.images + 1) / 2
        loss = jnp.mean(jnp.square(pixels - jax.lax.stop_gradient(x)))
        values = {"reconstruction": jnp.moveaxis(pixels, -1, 1)}
    commit, vq = (jnp.sum(made.quantized.losses[name]) for name in ("commit", "vq"))
    if stage == "nonlegacy":
        loss += commit + vq
    if stage == "stage2":
        values |= _softly(module, weights, made.quantized.latents)
    values |= {"commitment_loss": commit, "codebook_loss": vq, "quantizer_loss": commit + vq}
    return loss, values


def _softly(module, weights: dict, latents) -> dict:
    def look(module, latents):
        logits = module.decode_logits(latents)
        return {"logits": logits, "soft_embedding": module.pixel_tokenizer.mix(logits)}

    made = module.apply(weights, latents, method=look)
    return {name: jnp.moveaxis(array, -1, 1) for name, array in made.items()}


def _side(module) -> tuple[int, int]:
    return (module.decoder.grid_side,) * 2


def _stats(gradient: np.ndarray) -> list[float]:
    """L2 norm, mean, largest magnitude."""
    gradient = np.asarray(gradient, np.float64)
    return [np.linalg.norm(gradient), gradient.mean(), np.abs(gradient).max()]


def check_pixel_tokenizer(report: Report, config: dict) -> None:
    """Codes and both ways of decoding."""
    network = models.build(pixel_node(config["sizes"]))
    variables = SCHEME.from_state(official_state(report.arrays), abstract_variables(network))
    variables = jax.tree.map(jnp.asarray, dict(variables))

    @jax.jit
    def run(variables, images):
        codes, state = network.apply(
            variables,
            images,
            method="encode",
            mutable="intermediates",
            capture_intermediates=lambda module, _: (module.name or "").startswith(
                ("stage", "encoder")
            ),
        )
        latents = network.apply(variables, codes, method="lookup")
        inner = state["intermediates"]["encoder"]
        return codes, latents, network.apply(variables, latents, method="decode"), inner

    codes, latents, decoded, inner = run(variables, images(report))
    hidden, pixels = inner["__call__"][0], (decoded + 1) / 2
    report.equal("out/indices", np.asarray(codes).reshape(len(codes), -1))
    report.close("out/hidden", to_nchw(hidden))
    report.close("out/z_quantized", to_nchw(latents))
    report.close("out/reconstruction", to_nchw(pixels))
    report.close("out/decode_clamped", to_nchw(jnp.clip(pixels, 0.0, 1.0)))
    last = len(network.widths) - 1
    for name in [n for n in report.arrays if n.startswith("out/enc_down")]:
        stage = int(name.removeprefix("out/enc_down"))
        y = np.asarray(inner[f"stage{stage}"]["__call__"][0])
        report.close(name, to_nchw(y if stage == last else _halved(y)))
    tokens = np.asarray(hidden, np.float64)[..., None, :]
    squared = np.sort(np.sum((tokens - variables["params"]["codebook"]) ** 2, -1), axis=-1)
    margin = (squared[..., 1] - squared[..., 0]).reshape(len(codes), -1)
    report.close("out/margin", margin)


def _halved(x: np.ndarray) -> np.ndarray:
    batch, height, width, channels = x.shape
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).mean((2, 4))
