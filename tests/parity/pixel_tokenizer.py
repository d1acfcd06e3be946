"""The tokenizer whose codes TiTok learns, MaskGIT's VQGAN (titok_pixel_tokenizer.npz)."""

import jax
import jax.numpy as jnp
import numpy as np

from tests.parity.official import official_state, to_nchw, to_nhwc
from tests.parity.report import Report
from vqlab import models
from vqlab.export.official import SCHEMES
from vqlab.export.package import abstract_variables

SCHEME = SCHEMES["titok"]


def pixel_node(sizes: dict) -> dict:
    return {
        "name": "maskgit_vq",
        "widths": [sizes["hidden"] * factor for factor in sizes["mult"]],
        "depth": sizes["res"],
        "latent_channels": sizes["z"],
        "codebook_size": sizes["pixel_codes"],
    }


def images(report: Report) -> jax.Array:
    """The stored images are in [0, 1]."""
    return jnp.asarray(to_nhwc(report.arrays["in/x"])) * 2 - 1


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
