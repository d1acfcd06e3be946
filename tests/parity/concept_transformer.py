"""Semanticist's second stage: training pass and sampling with given noise (semanticist_gpt_*)."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np

from tests.parity.diffloss import flow_or_ddpm
from tests.parity.official import official_state
from tests.parity.report import GRADIENT_LIMIT, Report, Unsupported
from vqlab.export.official import SCHEMES
from vqlab.models.concept_sampling import Noise, sample_concepts
from vqlab.models.concept_transformer import ConceptTransformer
from vqlab.models.token_sampling import TokenSampling

KEY = jax.random.key(0)  # unused: all noise is given


def load_concept_transformer(arrays: dict, config: dict) -> tuple[ConceptTransformer, dict]:
    """The network of a file and its variables, converted strictly."""
    for name, value in {"norm_eps": 1e-5, "ffn_multiple_of": 256}.items():
        if config.get(name, value) != value:
            raise Unsupported(f"{name}={config[name]!r} is not supported, only {value!r}")
    module = ConceptTransformer(
        num_kept=config["num_slots"],
        concept_dim=config["slot_dim"],
        num_classes=config["num_classes"],
        width=config["dim"],
        depth=config["n_layer"],
        num_heads=config["n_head"],
        process=flow_or_ddpm(config["use_si"]),
        num_class_tokens=config["cls_token_num"],
        head_width=config["diffloss_w"],
        head_depth=config["diffloss_d"],
        head_conditioning=config["cond_method"],
        dropout=0.0,
        label_dropout=0.0,
    )
    template = jax.eval_shape(
        module.init,
        KEY,
        arrays["in/slots"],
        arrays["in/labels"],
        arrays["in/noise"],
        arrays["in/t"],
    )
    scheme = SCHEMES["second_stage"]
    return module, jax.tree.map(jnp.asarray, scheme.from_state(official_state(arrays), template))


def check_concept_transformer(report: Report, config: dict) -> None:
    """Training pass, gradients and samples of one file."""
    module, variables = load_concept_transformer(report.arrays, config)
    _check_training(report, module, variables)
    for name in list(report.arrays):
        if match := re.fullmatch(r"out/(gen_.+)/slots", name):
            _check_sampling(report, module, variables, config, match[1])


def _check_training(report: Report, module: ConceptTransformer, variables: dict) -> None:
    arrays = report.arrays
    labels = jnp.where(arrays["in/label_drop"], module.num_classes, arrays["in/labels"])
    noise, t = jnp.asarray(arrays["in/noise"]), jnp.asarray(arrays["in/t"])
    process = module.process

    def objective(variables, concepts):
        hidden, state = module.apply(
            variables,
            concepts,
            labels,
            method="hidden",
            mutable="intermediates",
            capture_intermediates=lambda module, _: module.name == "blocks",
        )
        layers = state["intermediates"]["blocks"]["__call__"][0][0]
        conditions = module.apply(variables, hidden, method="conditions")
        # The released loss does not train its targets.
        flat = jax.lax.stop_gradient(concepts.reshape(-1, module.concept_dim))
        x_0 = jnp.tile(flat, (len(noise) // len(flat), 1))
        x_t = process.add_noise(x_0, noise, t)
        output = module.apply(variables, concepts, labels, x_t, t)
        loss = jnp.mean(process.losses(output, x_0, noise, t)["loss"])
        return loss, (hidden, conditions, layers)

    gradient = jax.jit(jax.value_and_grad(objective, argnums=(0, 1), has_aux=True))
    (loss, (hidden, conditions, layers)), (grads, grad_concepts) = gradient(
        variables, jnp.asarray(arrays["in/slots"])
    )
    for i, layer in enumerate(layers):
        report.close(f"out/train/layer{i}", layer)
    report.close("out/train/hidden", hidden)
    report.close("out/train/cond", conditions)
    report.close("out/train/loss", loss)
    report.close("out/train/grad_slots", grad_concepts, GRADIENT_LIMIT)
    for name, gradient in SCHEMES["second_stage"].to_state(grads).items():
        norm = np.linalg.norm(np.asarray(gradient, np.float64))
        report.close(f"out/train/grad_norm/{name}", norm, GRADIENT_LIMIT)


def _check_sampling(
    report: Report, module: ConceptTransformer, variables: dict, config: dict, name: str
) -> None:
    """One setting, told by its name and the config's scale for each concept."""
    arrays = report.arrays
    labels, start = jnp.asarray(arrays["in/labels"]), arrays["in/gen_noise0"]
    steps = arrays["in/gen_step_noise"][:, :, : len(labels)]  # of the conditional half
    num_steps = int(config["num_sampling_steps"])
    if config["use_si"]:  # which ignores that number; the last step takes no noise
        num_steps = steps.shape[1] + 1
        steps = np.pad(steps, ((0, 0), (0, 1), (0, 0), (0, 0)))
    temperature = re.search(r"temp([\d.]+)", name)
    scales = config[f"{name}_cfg_per_token"]
    sampling = TokenSampling.of(
        round(scales[-1], 9),
        "linear" if "linear" in name else "constant",
        temperature=float(temperature[1]) if temperature else 1.0,
    )
    ours = [float(sampling.scale_at(jnp.int32(i), len(scales))) for i in range(len(scales))]
    report.add(f"config {name} scale", np.max(np.abs(np.subtract(ours, scales))), 1e-6)

    noise = Noise(jnp.asarray(start), jnp.asarray(steps))
    concepts, conditions = _sample(module, variables, labels, sampling, noise, num_steps)
    report.close(f"out/{name}/slots", concepts)
    report.close(f"out/{name}/cond", conditions)


@functools.partial(jax.jit, static_argnums=(0, 5))
def _sample(module, variables, labels, sampling, noise, num_steps):
    keys = jax.random.split(KEY, len(labels))
    return sample_concepts(
        module, variables, labels, keys, sampling, num_steps=num_steps, noise=noise
    )
