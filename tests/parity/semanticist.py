"""Semanticist's training step and sampling loop (semanticist_trainstep.npz).

The weights are in two files beside it: the encoder's in the ViT's, the decoder's in the DiT's.
"""

import ast
import dataclasses
import functools
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from tests.parity.official import load, to_nchw, to_nhwc
from tests.parity.report import GRADIENT_LIMIT, Report, Unsupported
from vqlab import models
from vqlab.diffusion.guidance import Guidance
from vqlab.export.torch_weights import from_torch_state, to_torch_state
from vqlab.models.concept_decoding import concept_denoiser
from vqlab.models.semanticist import Semanticist
from vqlab.ops import nesting
from vqlab.training.objectives.concept_diffusion import ConceptObjective


@dataclasses.dataclass(frozen=True)
class StandIn:
    """In place of the autoencoder: latents are given, and decoding only undoes the factor."""

    channels: int
    stride: int
    scaling_factor: float

    def decode(self, variables, latents):
        del variables
        return latents / self.scaling_factor


def check_semanticist(report: Report, config: dict, beside: Path) -> None:
    """Both losses and their gradients with dropped and with nested conditions, then sampling."""
    weights = read_weights(config, beside)
    model = build_model(config)
    template = jax.eval_shape(model.init, jax.random.key(0), images(report)[:1])
    params, variables = from_torch_state(weights, template)
    for case in ("drop", "nest"):
        check_case(report, config, model, params, variables, case)
    for name in [n for n in report.arrays if re.fullmatch(r"out/sample_.*/trajectory", n)]:
        check_sampling(report, config, model, {"params": params, **variables}, name)


def read_weights(config: dict, beside: Path) -> dict[str, np.ndarray]:
    """The state dict of both networks under the names of the whole model."""
    weights = {}
    for place, prefix in zip(config["weights_from"], ("", "dit."), strict=True):
        path = beside.with_name(place.split()[0])
        if not path.is_file():
            raise Unsupported(f"its weights are not beside it: {path.name}")
        for name, array in load(path)[0].items():
            if name.startswith("w/"):
                weights[prefix + name.removeprefix("w/")] = array
    return weights


def build_model(config: dict) -> Semanticist:
    vit, dit = config["vit_config"], config["dit_config"]
    encoder = {
        "name": "concept_encoder",
        "image_size": vit["img"],
        "patch_size": vit["patch"],
        "width": vit["dim"],
        "depth": vit["depth"],
        "num_heads": vit["heads"],
        "num_concepts": vit["num_slots"],
        "concept_dim": vit["slot_dim"],
        "drop_path": config["drop_path_rate"],
    }
    decoder = {
        "name": "dit",
        "latent_size": dit["input_size"],
        "in_channels": dit["in_channels"],
        "out_channels": dit["out_channels"],
        "patch_size": dit["patch_size"],
        "width": dit["hidden_size"],
        "depth": dit["depth"],
        "num_heads": dit["num_heads"],
        "num_concepts": dit["num_autoenc"],
        "concept_dim": dit["autoenc_dim"],
        "repa_layer": dit["encoder_depth"],
        "repa_dim": dit["z_dim"],
        "repa_width": dit["projector_dim"],
    }
    space = StandIn(dit["in_channels"], vit["img"] // dit["input_size"], config["fake_vae_scaling"])
    parts = (models.build(node) for node in (encoder, decoder, {"name": "ddpm"}))
    return Semanticist(*parts, latent_space=space)


def images(report: Report) -> jax.Array:
    """The stored images are in [0, 1]."""
    return jnp.asarray(to_nhwc(report.arrays["in/x"])) * 2 - 1


def check_case(report: Report, config: dict, model, params, variables, case: str) -> None:
    total = model.num_concepts
    kept = report.arrays["in/nested_k"]
    if case == "drop":
        kept = np.where(report.arrays["in/cond_drop"], 0, total)
    latents, noise = (
        jnp.asarray(to_nhwc(report.arrays[f"in/{name}"])) for name in ("latents", "noise")
    )
    t = jnp.asarray(report.arrays["in/t"])
    target = jnp.asarray(report.arrays["in/repa_feats"])
    side = int(np.sqrt(target.shape[1]))
    objective = ConceptObjective(tokenizer=model)

    def loss_of(params):
        return objective.losses(
            {"params": params, **variables},
            images(report),
            latents,
            noise,
            t,
            nesting.keep_first(jnp.asarray(kept), total),
            target.reshape(len(target), side, side, -1),
            rngs={"drop_path": jax.random.key(0)},
        )

    (loss, terms), grads = jax.jit(jax.value_and_grad(loss_of, has_aux=True))(params)
    report.close(f"out/{case}/repa_loss", terms["repa"])
    report.close(f"out/{case}/diff_loss", loss - terms["repa"])
    weights = {"params": params, **variables}
    concepts = jax.jit(functools.partial(model.apply, method="encode"))(weights, images(report))
    report.close(f"out/{case}/slots", concepts)
    x_t = model.process.add_noise(latents, noise, t)
    keep = nesting.keep_first(jnp.asarray(kept), total)
    denoise = jax.jit(functools.partial(model.apply, method="denoise"))
    output = denoise(weights, x_t, t, concepts, keep_mask=keep)
    by_sample = model.process.losses(output.prediction, latents, noise, t)
    report.close(f"out/{case}/mse", by_sample["mse"])
    report.close(f"out/{case}/vb", by_sample["vb"])
    features = np.asarray(output.features)
    report.close(f"out/{case}/repa_hook", features.reshape(len(features), -1, features.shape[-1]))
    check_gradients(report, config, to_torch_state(grads, variables), case)


def check_gradients(report: Report, config: dict, grads: dict, case: str) -> None:
    names = config[f"grad_names_{case}"]
    names = ast.literal_eval(names) if isinstance(names, str) else names
    norms = np.array([np.linalg.norm(np.asarray(grads[name], np.float64)) for name in names])
    theirs = report.take(f"out/{case}/grad_norm")
    ratio = np.abs(norms - theirs) / np.maximum(theirs, 1e-6 * theirs.max())
    worst = int(np.argmax(ratio))
    report.add(f"out/{case}/grad_norm", ratio[worst], GRADIENT_LIMIT, f"worst {names[worst]}")
    if missing := sorted(set(grads) ^ set(names) ^ {"dit.pos_embed"}):
        report.add(f"out/{case}/grad_norm", np.inf, 0, f"gradients of one side only: {missing}")
    for name in [n for n in report.arrays if n.startswith(f"out/{case}/grad/")]:
        report.close(name, grads[name.removeprefix(f"out/{case}/grad/")], GRADIENT_LIMIT)


def check_sampling(report: Report, config: dict, model, weights: dict, name: str) -> None:
    """`out/sample_cfgS[_kJ]/trajectory` and the image after it."""
    scale, kept = re.fullmatch(r"out/sample_cfg([\d.]+)(?:_k(\d+))?/trajectory", name).groups()
    concepts = jnp.asarray(report.arrays["in/sample_slots"])
    denoise = concept_denoiser(
        model,
        weights,
        concepts,
        num_kept=None if kept is None else int(kept),
        guidance=Guidance(float(scale)),
    )
    step_noise = np.stack([to_nhwc(x) for x in report.arrays["in/sample_noise"]])

    @jax.jit
    def sample(noise, step_noise):
        return model.process.sample(
            denoise,
            noise,
            key=jax.random.key(0),
            num_steps=int(config["steps"]),
            step_noise=step_noise,
            trajectory=True,
        )

    latents, states = sample(
        jnp.asarray(to_nhwc(report.arrays["in/z0"])),
        jnp.asarray(step_noise[:, : len(concepts)]),
    )
    report.close(name, np.stack([to_nchw(x) for x in states]))
    decoded = (model.latent_space.decode({}, latents) + 1) / 2
    report.close(name.replace("trajectory", "image"), to_nchw(decoded))
