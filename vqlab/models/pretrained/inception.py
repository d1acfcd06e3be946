"""FID's Inception of 2015, whose features every Frechet distance of the field is made of.

TensorFlow's inception-2015-12-05, not torchvision's network: average pools leave the padding out of
the count, the last block pools by maxima, there are 1008 classes and no auxiliary head. Names are
those of pytorch-fid's and torch-fidelity's files. A frozen network: its parameters come in as an
argument, read by `vqlab.export.inception_weights`, each BatchNorm folded into its convolution.

    params["Mixed_5b.branch1x1"]: {"kernel": [1, 1, 192, 64], "bias": [64]}, and so on
    params["fc"]: {"kernel": [2048, 1008], "bias": [1008]}
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from vqlab.models.pretrained.inception_steps import Conv, Fork, Observe, Pool, kernels_of
from vqlab.nn.layers import FLOAT32

SIDE = 299
NUM_FEATURES, NUM_CLASSES = 2048, 1008
SPATIAL_CHANNELS = 7


def _conv(name: str, outputs: int, height: int = 1, width: int = 0, stride: int = 1) -> Conv:
    return Conv(name, outputs, (height, width or height), stride)


AVERAGE, MAX, HALVE = Pool("average"), Pool("max"), Pool("max", stride=2)


def _block_5(name: str, pooled: int) -> Fork:
    branches = (
        (_conv("branch1x1", 64),),
        (_conv("branch5x5_1", 48), _conv("branch5x5_2", 64, 5)),
        (
            _conv("branch3x3dbl_1", 64),
            _conv("branch3x3dbl_2", 96, 3),
            _conv("branch3x3dbl_3", 96, 3),
        ),
        (AVERAGE, _conv("branch_pool", pooled)),
    )
    return Fork(branches, f"{name}.")


def _block_6a() -> Fork:
    branches = (
        (_conv("branch3x3", 384, 3, stride=2),),
        (
            _conv("branch3x3dbl_1", 64),
            _conv("branch3x3dbl_2", 96, 3),
            _conv("branch3x3dbl_3", 96, 3, stride=2),
        ),
        (HALVE,),
    )
    return Fork(branches, "Mixed_6a.")


def _block_6(name: str, inner: int) -> Fork:
    branches = (
        (_conv("branch1x1", 192),),
        (
            _conv("branch7x7_1", inner),
            _conv("branch7x7_2", inner, 1, 7),
            _conv("branch7x7_3", 192, 7, 1),
        ),
        (
            _conv("branch7x7dbl_1", inner),
            _conv("branch7x7dbl_2", inner, 7, 1),
            _conv("branch7x7dbl_3", inner, 1, 7),
            _conv("branch7x7dbl_4", inner, 7, 1),
            _conv("branch7x7dbl_5", 192, 1, 7),
        ),
        (AVERAGE, _conv("branch_pool", 192)),
    )
    return Fork(branches, f"{name}.")


def _block_7a() -> Fork:
    branches = (
        (_conv("branch3x3_1", 192), _conv("branch3x3_2", 320, 3, stride=2)),
        (
            _conv("branch7x7x3_1", 192),
            _conv("branch7x7x3_2", 192, 1, 7),
            _conv("branch7x7x3_3", 192, 7, 1),
            _conv("branch7x7x3_4", 192, 3, stride=2),
        ),
        (HALVE,),
    )
    return Fork(branches, "Mixed_7a.")


def _block_7(name: str, pool: Pool) -> Fork:
    def halves(name: str) -> Fork:
        return Fork(((_conv(f"{name}a", 384, 1, 3),), (_conv(f"{name}b", 384, 3, 1),)))

    branches = (
        (_conv("branch1x1", 320),),
        (_conv("branch3x3_1", 384), halves("branch3x3_2")),
        (
            _conv("branch3x3dbl_1", 448),
            _conv("branch3x3dbl_2", 384, 3),
            halves("branch3x3dbl_3"),
        ),
        (pool, _conv("branch_pool", 192)),
    )
    return Fork(branches, f"{name}.")


# (name of a map of features, the steps that lead to it from the one before).
STAGES = (
    (
        "64",  # [B, 73, 73, 64]
        (
            _conv("Conv2d_1a_3x3", 32, 3, stride=2),
            Conv("Conv2d_2a_3x3", 32, (3, 3), padding="VALID"),
            _conv("Conv2d_2b_3x3", 64, 3),
            HALVE,
        ),
    ),
    (
        "192",  # [B, 35, 35, 192]
        (_conv("Conv2d_3b_1x1", 80), Conv("Conv2d_4a_3x3", 192, (3, 3), padding="VALID"), HALVE),
    ),
    (
        "768",  # [B, 17, 17, 768]
        (
            _block_5("Mixed_5b", 32),
            _block_5("Mixed_5c", 64),
            _block_5("Mixed_5d", 64),
            _block_6a(),
            _block_6("Mixed_6b", 128),
            _block_6("Mixed_6c", 160),
            _block_6("Mixed_6d", 160),
            _block_6("Mixed_6e", 192),
        ),
    ),
    (
        "2048",  # [B, 8, 8, 2048]
        (_block_7a(), _block_7("Mixed_7b", AVERAGE), _block_7("Mixed_7c", MAX)),
    ),
)
# The map of sFID: ADM's `mixed_6/conv`, which is this one after its ReLU.
SPATIAL = "Mixed_6d.branch1x1"


def inception_maps(
    params: dict, x: Float[Array, "B 299 299 3"], observe: Observe | None = None
) -> dict[str, Array]:
    """Maps of features by name: "64", "192", "768", "2048" and "spatial" [B, 17, 17, 7], float32.

    Args:
      params: see above.
      x: images of 299 pixels, normalised as `inception_inputs` does it.
      observe: called with each convolution's name and output, in order.
    """
    maps = {}

    def seen(name: str, y: Array) -> None:
        if name == SPATIAL:
            maps["spatial"] = y[..., :SPATIAL_CHANNELS]
        if observe is not None:
            observe(name, y)

    for name, steps in STAGES:
        for step in steps:
            x = step(params, x, seen)
        maps[name] = x
    return maps


def inception_features(params: dict, x: Float[Array, "B 299 299 3"]) -> dict[str, Array]:
    """What measures take, float32: means over each map, the map of sFID as it lies, logits.

    "64", "192", "768", "2048" [B, 64 ...]; "spatial" [B, 2023]; "logits_unbiased" and "logits"
    [B, 1008], without and with the last layer's bias. Inception Score takes the first of the two,
    as torch-fidelity and ADM do. What is not used is not computed under `jit`.
    """
    maps = inception_maps(params, x)
    spatial = maps.pop("spatial")
    features = {name: jnp.mean(y, axis=(1, 2)) for name, y in maps.items()}
    logits = jnp.matmul(features["2048"], params["fc"]["kernel"], precision=FLOAT32)
    return features | {
        "spatial": spatial.reshape(len(spatial), -1),
        "logits_unbiased": logits,
        "logits": logits + params["fc"]["bias"],
    }


def param_shapes() -> dict:
    """The parameter tree with a shape tuple at each leaf."""
    steps = tuple(step for _, stage in STAGES for step in stage)
    shapes = {
        name: {"kernel": shape, "bias": shape[-1:]} for name, shape in kernels_of(steps, inputs=3)
    }
    shapes["fc"] = {"kernel": (NUM_FEATURES, NUM_CLASSES), "bias": (NUM_CLASSES,)}
    return shapes
