"""LPIPS, a learned perceptual distance on VGG-16 features (Zhang et al. 2018, lpips version 0.1).

A frozen network: its parameters come in as an argument and are never closed over, where a
compiler would take 59 MB of weights for constants. They are read from the official files by
`vqlab.export.lpips_weights`; without them nothing here may be called LPIPS.

    params["vgg"]["conv{stage}_{i}"]: {"kernel": [3, 3, in, out], "bias": [out]}
    params["heads"]["relu{stage}"]: [channels], one non-negative weight a channel
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vqlab.nn.layers import FLOAT32

# Width of each 3x3 convolution; a 2x2 max pooling stands between stages.
VGG16_STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
MIN_SIDE = 2 ** (len(VGG16_STAGES) - 1)

# ImageNet's mean and standard deviation carried over to pixels in [-1, 1], rounded as in lpips.
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)

NORM_EPS = 1e-10


def lpips_distance(
    params: dict,
    a: Float[Array, "_B _H _W 3"],
    b: Float[Array, "_B _H _W 3"],
    *,
    precision: jax.lax.Precision | None = FLOAT32,
) -> Float[Array, " B"]:
    """Perceptual distance of each pair of images in [-1, 1]; 0 for equal images, float32.

    `precision` is that of VGG-16's products: with None a TPU takes them in bfloat16 and a GPU in
    TF32. Everything else is float32.

    Raises:
      ValueError: the shapes differ, or a side is below 16 px, where VGG's last stage is empty.
    """
    if a.shape != b.shape:
        raise ValueError(f"LPIPS needs images of one shape, got {a.shape} and {b.shape}")
    features_a = vgg16_features(params["vgg"], _standardise(a), precision)
    features_b = vgg16_features(params["vgg"], _standardise(b), precision)
    distance = jnp.zeros(a.shape[0], jnp.float32)
    for stage, (x, y) in enumerate(zip(features_a, features_b, strict=True), start=1):
        difference = jnp.square(_unit_length(x) - _unit_length(y))
        # A sum and no matrix product, which accelerators take in bfloat16 unless told otherwise.
        weighted = jnp.sum(difference * params["heads"][f"relu{stage}"], axis=-1)
        distance += jnp.mean(weighted, axis=(1, 2))  # over [H_s, W_s]
    return distance


def vgg16_features(
    params: dict,
    images: Float[Array, "_B _H _W 3"],
    precision: jax.lax.Precision | None = FLOAT32,
) -> tuple[Array, ...]:
    """Activations relu1_2, relu2_2, relu3_3, relu4_3, relu5_3, each [B, H_s, W_s, width].

    `images` are standardised; side s of stage i is floor(s / 2**(i - 1)).
    """
    height, width = images.shape[1:3]
    if min(height, width) < MIN_SIDE:
        raise ValueError(
            f"images of {height}x{width} are too small for VGG-16: the smallest side is {MIN_SIDE}"
        )
    x = images.astype(jnp.float32)
    features = []
    for stage, widths in enumerate(VGG16_STAGES, start=1):
        if stage > 1:
            x = _max_pool(x)
        for i in range(1, len(widths) + 1):
            x = jax.nn.relu(_conv3x3(params[f"conv{stage}_{i}"], x, precision))
        features.append(x)
    return tuple(features)


def param_shapes() -> dict:
    """The parameter tree with a shape tuple at each leaf."""
    vgg, in_channels = {}, 3
    for stage, widths in enumerate(VGG16_STAGES, start=1):
        for i, width in enumerate(widths, start=1):
            vgg[f"conv{stage}_{i}"] = {"kernel": (3, 3, in_channels, width), "bias": (width,)}
            in_channels = width
    heads = {f"relu{stage}": (widths[-1],) for stage, widths in enumerate(VGG16_STAGES, start=1)}
    return {"vgg": vgg, "heads": heads}


def _standardise(images: Array) -> Array:
    images = images.astype(jnp.float32)
    return (images - jnp.asarray(SHIFT, jnp.float32)) / jnp.asarray(SCALE, jnp.float32)


def _conv3x3(params: dict, x: Array, precision: jax.lax.Precision | None) -> Array:
    y = jax.lax.conv_general_dilated(
        x,
        params["kernel"],
        window_strides=(1, 1),
        padding=((1, 1), (1, 1)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=precision,
    )
    return y + params["bias"]


def _max_pool(x: Array) -> Array:
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


def _unit_length(x: Array) -> Array:
    """x / (|x| + 1e-10) over channels; a zero vector stays zero and passes a finite gradient."""
    x = x.astype(jnp.float32)
    squared = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    nonzero = squared > 0
    norm = jnp.where(nonzero, jnp.sqrt(jnp.where(nonzero, squared, 1.0)), 0.0)
    return x / (norm + NORM_EPS)
