"""MGVQ's second stage: forward, loss and gradients, greedy sampling (mgvq_ar_*.npz)."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np

from tests.parity.official import official_state
from tests.parity.report import GRADIENT_LIMIT, Report, Unsupported
from vqlab.export.official import SCHEMES
from vqlab.models.index_sampling import sample_indices
from vqlab.models.index_transformer import IndexTransformer
from vqlab.models.token_sampling import TokenSampling
from vqlab.ops.codebook import select_codewords
from vqlab.ops.losses import index_nll

KEY = jax.random.key(0)  # unused: greedy


def load_index_transformer(arrays: dict, config: dict) -> tuple[IndexTransformer, dict]:
    """The network of a file and its variables, converted strictly."""
    groups = config["codebook_groups"]
    side = round(arrays["in/codes"].shape[1] ** 0.5)
    for name, value in {"norm_eps": 1e-5, "rope_base": 10000, "cls_token_num": 1}.items():
        if config.get(name, value) != value:
            raise Unsupported(f"{name}={config[name]!r} is not supported, only {value!r}")
    layers = {int(m[1]) for m in map(re.compile(r"w/layers\.(\d+)\.").match, arrays) if m}
    pattern = re.compile(r"w/ar_head\.causal_space_blocks\.(\d+)\.")
    module = IndexTransformer(
        grid=(side, side),
        num_groups=groups,
        codebook_size=len(arrays["in/embs"]) // groups,
        latent_channels=config["codebook_embed_dim"],
        num_classes=len(arrays["w/cls_embedding.embedding_table.weight"]) - 1,
        width=config["dim"],
        depth=len(layers),
        num_heads=config["n_head"],
        head_depth=len({int(m[1]) for m in map(pattern.match, arrays) if m}),
        dropout=0.0,
    )
    codes = jnp.asarray(arrays["in/codes"])
    template = jax.eval_shape(
        module.init,
        KEY,
        jnp.zeros((*codes.shape[:2], module.latent_channels)),
        codes,
        jnp.zeros(len(codes), jnp.int32),
    )
    scheme = SCHEMES["second_stage"]
    return module, jax.tree.map(jnp.asarray, scheme.from_state(official_state(arrays), template))


def codebooks(arrays: dict, module: IndexTransformer) -> jax.Array:
    """[G, K, D] of a file's raw codebook."""
    return jnp.asarray(arrays["in/embs"]).reshape(module.num_groups, module.codebook_size, -1)


def check_index_transformer(report: Report, config: dict) -> None:
    """Whatever of the two kinds of arrays the file has."""
    module, variables = load_index_transformer(report.arrays, config)
    if "out/loss" in report.arrays:
        _check_training(report, module, variables, config)
        return
    _check_forward(report, module, variables)
    _check_head_steps(report, module, variables)
    _check_greedy(report, module, variables, config)


def _inputs(arrays: dict, codewords: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    codes, labels = (jnp.asarray(arrays[f"in/{name}"]) for name in ("codes", "labels"))
    vectors = select_codewords(codewords, codes)
    return vectors.reshape(*codes.shape[:2], -1), codes, labels


def _check_forward(report: Report, module: IndexTransformer, variables: dict) -> None:
    vectors, codes, labels = _inputs(report.arrays, codebooks(report.arrays, module))

    @jax.jit
    def forward(labels):
        hidden, state = module.apply(
            variables,
            vectors,
            labels,
            method="hidden",
            mutable="intermediates",
            capture_intermediates=lambda module, _: module.name == "blocks",
        )
        logits = module.apply(variables, hidden, codes, method="head_logits")
        return hidden, logits, state["intermediates"]["blocks"]["__call__"][0][0]

    hidden, logits, layers = forward(labels)
    report.close("out/proj", module.apply(variables, vectors, method="project"))
    for i, layer in enumerate(layers):
        report.close(f"out/layer{i}", layer)
    report.close("out/hidden", hidden)
    report.close("out/logits", logits)
    report.close("out/nll", jnp.mean(index_nll(logits[:, :, 1:], codes), axis=(0, 1)))
    nulls = jnp.full_like(labels, module.num_classes)
    report.close("out/logits_null", forward(nulls)[1])
    # In the file, row 0 is the class token's; `rotary_table` of our grid has the same rows.
    report.close("out/freqs_cis", module.bind(variables).table)


def _check_head_steps(report: Report, module: IndexTransformer, variables: dict) -> None:
    """One index after the other with the cache, for the last position."""
    codes = jnp.asarray(report.arrays["in/codes"])[:, -1]
    hidden = jnp.asarray(report.arrays["out/hidden"])[:, -1]
    step = jax.jit(functools.partial(module.apply, method="step_groups"))
    logits, cache = jax.jit(functools.partial(module.apply, method="begin_groups"))(
        variables, hidden
    )
    steps = [logits]
    for group in range(module.num_groups - 1):
        logits, cache = step(variables, cache, codes[:, group], jnp.int32(group))
        steps.append(logits)
    report.close("out/head_step_logits", jnp.stack(steps, axis=1))


def _check_greedy(report: Report, module: IndexTransformer, variables: dict, config: dict) -> None:
    codewords, labels = codebooks(report.arrays, module), jnp.asarray(report.arrays["in/labels"])

    def look_up(indices):
        return select_codewords(codewords, indices).reshape(len(indices), -1)

    @jax.jit
    def sample(sampling):
        keys = jax.random.split(KEY, len(labels))
        return sample_indices(module, variables, look_up, labels, keys, sampling)

    scale = config["cfg_scale"]
    for name in [name for name in report.arrays if name.startswith("out/greedy_")]:
        if name == "out/greedy_interval":
            interval = config.get("cfg_interval", 3)
            sampling = TokenSampling.of(scale, guidance_interval=interval, top_k=1)
        else:
            sampling = TokenSampling.of(float(name.removeprefix("out/greedy_cfg")), top_k=1)
        report.equal(name, sample(sampling))


def _check_training(
    report: Report, module: IndexTransformer, variables: dict, config: dict
) -> None:
    arrays = report.arrays
    codes, labels = jnp.asarray(arrays["in/codes"]), jnp.asarray(arrays["in/labels"])
    labels = jnp.where(jnp.asarray(arrays["in/label_drop"]) == 1, module.num_classes, labels)

    def objective(variables, codewords):
        vectors = select_codewords(codewords, codes).reshape(*codes.shape[:2], -1)
        hidden = module.apply(variables, vectors, labels, method="hidden")
        logits = module.apply(variables, hidden, codes, method="head_logits")[:, :, 1:]
        nll = index_nll(logits, codes)
        return jnp.mean(nll), (hidden, logits, nll)

    gradient = jax.jit(jax.value_and_grad(objective, argnums=(0, 1), has_aux=True))
    (loss, (hidden, logits, nll)), (grads, grad_books) = gradient(
        variables, codebooks(arrays, module)
    )
    report.close("out/hidden", hidden)
    report.close("out/logits", logits)
    report.close("out/nll", nll)
    report.close("out/nll_per_group", jnp.mean(nll, axis=(0, 1)))
    report.close("out/loss", loss)
    report.close("out/grad_embs", np.reshape(grad_books, arrays["in/embs"].shape), GRADIENT_LIMIT)
    # What the released modules have and nothing uses gets no gradient: zeros, as written out.
    official = SCHEMES["second_stage"].to_state(grads)
    check_gradients(report, official)
    stats = np.array([gradient_stats(official[name]) for name in config["grad_stats_names"]])
    report.close("out/grad_stats", stats, GRADIENT_LIMIT)


def check_gradients(report: Report, official: dict[str, np.ndarray]) -> None:
    """Whole gradients, beginnings of them and their statistics, under official names."""
    for name in list(report.arrays):
        kind, _, tensor = name.removeprefix("out/").partition("/")
        if kind == "grad":
            report.close(name, official[tensor], GRADIENT_LIMIT)
        elif kind == "grad_first32":
            report.close(name, official[tensor].ravel()[:32], GRADIENT_LIMIT)


def gradient_stats(gradient: np.ndarray) -> list[float]:
    """L2 norm, mean, largest magnitude."""
    gradient = np.asarray(gradient, np.float64)
    return [np.linalg.norm(gradient), gradient.mean(), np.abs(gradient).max()]
