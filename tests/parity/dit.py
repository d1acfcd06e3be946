"""The denoiser alone (semanticist_dit_*.npz)."""

import re

import jax
import jax.numpy as jnp
import numpy as np

from tests.parity.official import official_state, to_nchw, to_nhwc
from tests.parity.report import GRADIENT_LIMIT, Report, Unsupported
from tests.parity.vit import check_gradient_norms
from vqlab.diffusion.guidance import guide
from vqlab.export.torch_weights import from_torch_state, to_torch_state
from vqlab.models.dit import DiT
from vqlab.nn.transformer import LAYER_NORM_EPS
from vqlab.ops.nesting import keep_first
from vqlab.ops.position import sincos_table

# What vqlab's denoiser fixes, as the released one does.
FIXED = {"gelu": "tanh", "ln_eps": LAYER_NORM_EPS}


def check_dit(report: Report, config: dict) -> None:
    """Every block, every kind of condition, guidance, and gradients of sum(y * R)."""
    for name, value in FIXED.items():
        if config.get(name, value) != value:
            raise Unsupported(f"{name}={config[name]!r} is not supported, only {value!r}")
    model = decoder(config)
    variables = read_variables(report, model)
    call = Caller(report, model, variables)
    check_forward(report, call)
    for name in [n for n in report.arrays if re.fullmatch(r"out/\w+", n)]:
        check_condition(report, config, call, name)
    side = config["input_size"] // config["patch_size"]
    table = sincos_table(side, side, config["hidden_size"])
    report.close("out/pos_embed_default", table[None])
    check_gradients(report, config, call)


def decoder(config: dict) -> DiT:
    return DiT(
        latent_size=config["input_size"],
        in_channels=config["in_channels"],
        out_channels=config["out_channels"],
        patch_size=config["patch_size"],
        width=config["hidden_size"],
        depth=config["depth"],
        num_heads=config["num_heads"],
        num_concepts=config["num_autoenc"],
        concept_dim=config["autoenc_dim"],
        mlp_ratio=float(config["mlp_ratio"]),
        **repa(config),
    )


def repa(config: dict) -> dict:
    if not config["use_repa"]:
        return {}
    return {
        "repa_layer": config["encoder_depth"],
        "repa_dim": config["z_dim"],
        "repa_width": config["projector_dim"],
    }


def read_variables(report: Report, model: DiT) -> dict:
    """Parameters and the position table, converted strictly from the w/ arrays."""
    shapes = jax.eval_shape(
        model.init,
        jax.random.key(0),
        jnp.zeros((1, model.latent_size, model.latent_size, model.in_channels)),
        jnp.zeros(1),
        jnp.zeros((1, model.num_concepts, model.concept_dim)),
    )
    template = {name: {"decoder": tree} for name, tree in shapes.items()}
    state = {f"dit.{name}": array for name, array in official_state(report.arrays).items()}
    params, variables = from_torch_state(state, template)
    return jax.tree.map(
        jnp.asarray,
        {"params": params["decoder"], "constants": variables["constants"]["decoder"]},
    )


class Caller:
    """The model on a file's inputs; keeping how many concepts of each sample is the argument."""

    def __init__(self, report: Report, model: DiT, variables: dict):
        self.model, self.variables = model, variables
        self.x_t = jnp.asarray(to_nhwc(report.arrays["in/x"]))
        self.t = jnp.asarray(report.arrays["in/t"])
        self.concepts = jnp.asarray(report.arrays["in/slots"])
        self.keep_all = np.full(len(self.t), model.num_concepts)
        self._apply = jax.jit(model.apply)

    def __call__(self, kept):
        """(prediction NCHW, projected features [B, N, F] or None)."""
        keep = keep_first(jnp.asarray(kept), self.model.num_concepts)
        output = self._apply(self.variables, self.x_t, self.t, self.concepts, keep_mask=keep)
        features = output.features
        if features is not None:
            features = features.reshape(len(features), -1, self.model.repa_dim)
        return to_nchw(output.prediction), features


def check_forward(report: Report, call: Caller) -> None:
    """Without a mask: the time embedding and every block."""
    _, state = jax.jit(
        lambda variables: call.model.apply(
            variables,
            call.x_t,
            call.t,
            call.concepts,
            capture_intermediates=lambda module, _: module.name in ("blocks", "time_fc2"),
            mutable="intermediates",
        )
    )(call.variables)
    inner = state["intermediates"]
    report.close("out/t_emb", inner["time_fc2"]["__call__"][0])
    for i, block in enumerate(inner["blocks"]["__call__"][0]):
        report.close(f"out/block{i}", block)


def check_condition(report: Report, config: dict, call: Caller, name: str) -> None:
    """`name` is that of a prediction or of features, given all or the first J concepts."""
    key = name.removeprefix("out/")
    total, nulls = call.keep_all, 0 * call.keep_all
    if match := re.fullmatch(r"(y|repa)(?:_k(\d+))?", key):
        kept = total if match[2] is None else 0 * total + int(match[2])
        report.close(name, call(kept)[match[1] == "repa"])
    elif key == "y_null":
        report.close(name, call(nulls)[0])
    elif key == "y_kmix":
        report.close(name, call(np.array([1, config["ks"][1], config["num_autoenc"]]))[0])
    elif key == "y_traindrop":
        report.close(name, call(np.where(config["traindrop"], nulls, total))[0])
    elif match := re.fullmatch(r"cfg([\d.]+)(?:_k(\d+))?", key):
        kept = total if match[2] is None else 0 * total + int(match[2])
        report.close(name, guided(call, kept, float(match[1])))


def guided(call: Caller, kept: np.ndarray, scale: float) -> np.ndarray:
    """The official layout: guided epsilon in both halves, each half's own variance channels."""
    conditional, unconditional = (
        jnp.asarray(to_nhwc(call(number)[0])) for number in (kept, 0 * kept)
    )
    channels = call.model.in_channels
    upper = guide(conditional, unconditional, scale, channels)
    lower = jnp.concatenate([upper[..., :channels], unconditional[..., channels:]], axis=-1)
    return to_nchw(jnp.concatenate([upper, lower]))


def check_gradients(report: Report, config: dict, call: Caller) -> None:
    cotangent = jnp.asarray(to_nhwc(report.arrays["in/R"]))
    constants = {"constants": call.variables["constants"]}

    def objective(params, concepts):
        output = call.model.apply({"params": params, **constants}, call.x_t, call.t, concepts)
        return jnp.sum(output.prediction * cotangent)

    gradient = jax.jit(jax.grad(objective, argnums=(0, 1)))
    params, concepts = gradient(call.variables["params"], call.concepts)
    report.close("out/grad_slots", concepts, GRADIENT_LIMIT)
    grads = to_torch_state({"decoder": params}, {})
    grads = {name.removeprefix("dit."): grad for name, grad in grads.items()}
    without = [name for name in config["params_without_gradient"] if name in grads]
    largest = max(np.max(np.abs(grads.pop(name))) for name in without)
    report.add("config/params_without_gradient", largest, 0, f"{len(without)} largest gradient")
    check_gradient_norms(report, grads)
