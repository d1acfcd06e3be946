"""The tokens that a config's codebooks are fitted to: drawn, or a trained encoder's."""

from __future__ import annotations

import jax
import numpy as np

from vqlab import data, inference
from vqlab.data.token_clouds import Cloud, anisotropic, make_cloud
from vqlab.ops.pixels import as_floats
from vqlab.runs import parts
from vqlab.runs.studies.arms import Config


def read_tokens(config: Config) -> np.ndarray:
    """[N, C] float32: all that arms of this config take their channels from.

    With `latents`, a workdir or an exported folder, what its encoder makes of the images of
    `data`; without, a normal distribution. `tokens.count` and, of the latter, `tokens.channels`.

    Raises:
      ValueError: no tokenizer there, or images that it cannot take.
    """
    node = config.tokens
    if not config.latents:
        return anisotropic(node.count, node.channels, node.seed)
    loaded = inference.load_only("tokenizer", config.latents)
    loaded.codec.check_image_size(node.image_size, "tokens.image_size")
    source = parts.build_source(config.data, config.data.train_split)
    if node.tile_size:
        source = data.TileSource(source, node.tile_size)
    encode = jax.jit(lambda weights, images: loaded.codec.tokens(weights, as_floats(images)))
    made, count = [], 0
    crop = data.CenterCrop(node.image_size)
    for batch in data.eval_batches(source, crop, node.batch_size):
        tokens = np.asarray(encode(loaded.weights, batch["images"]))[batch["mask"]]
        made.append(tokens.reshape(-1, tokens.shape[-1]).astype(np.float32))
        count += len(made[-1])
        if count >= node.count:
            break
    return np.concatenate(made)[: node.count]


def build_cloud(config: Config, tokens: np.ndarray) -> Cloud:
    """What an encoder of `channels` would keep of them."""
    node = config.tokens
    return make_cloud(tokens, config.channels, node.num_held_out, node.seed)
