"""DINOv2's vision transformer, whose patch features REPA aligns a diffusion decoder with.

A frozen network (dinov2's vision_transformer.py, without register tokens): its parameters come in
as an argument, read from the official file by `vqlab.export.dinov2_weights`.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Float

from vqlab.models.conv_autoencoder import IMAGE_CHANNELS
from vqlab.nn.layers import FLOAT32, conv_init
from vqlab.nn.transformer import MLP, PatchEmbed, SelfAttention, layer_norm, scan_blocks, vit_init
from vqlab.ops.mesh import split_batch
from vqlab.ops.resize import bicubic, bicubic_matrix

# ImageNet's mean and standard deviation of pixels in [0, 1].
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)

# The official interpolation of positions adds this to the target side (interpolate_offset of the
# models without registers), which shifts the grid a little.
POSITION_OFFSET = 0.1


class DINOv2(nn.Module):
    """images [B,H,W,3] in [-1,1] -> normalised patch features [B,h,w,width] float32.

    Images are standardised, then resized to `resolution` x `resolution` by bicubic interpolation
    without antialiasing, as Semanticist does (diffuse_slot.py repa_encode); h = w = resolution /
    patch_size. No gradient goes through. The defaults are ViT-B/14 on 224 pixels: [B,16,16,768].

    Attributes:
      width, depth, num_heads, patch_size: of the transformer.
      image_size: side in pixels that the position table is for; other sides interpolate it.
      resolution: side that images are resized to.
      dtype: of the activations; parameters are float32.
    """

    width: int = 768
    depth: int = 12
    num_heads: int = 12
    patch_size: int = 14
    image_size: int = 518
    resolution: int = 224
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, images: Float[Array, "B H W 3"]) -> Float[Array, "B h w D"]:
        self._check(images)
        x = bicubic(_standardise(images), self.resolution, self.resolution)
        x = PatchEmbed(self.width, self.patch_size, conv_init, self.dtype, name="patch_embed")(x)
        batch, side = x.shape[0], x.shape[1]
        cls, positions = self._positions(side)
        patches = x.reshape(batch, side * side, self.width) + positions.astype(self.dtype)
        cls = jnp.broadcast_to(cls.astype(self.dtype), (batch, 1, self.width))
        x = scan_blocks(
            ScaledBlock(self.num_heads, self.dtype, name="blocks"),
            lambda block, x, _: split_batch(block(x)),
            jnp.concatenate([cls, patches], axis=1),
            None,
            self.depth,
        )
        x = layer_norm(name="norm")(x)[:, 1:]
        return jax.lax.stop_gradient(x.reshape(batch, side, side, self.width))

    def _positions(self, side: int) -> tuple[Float[Array, " D"], Float[Array, "N D"]]:
        """The class token with its position, and positions of side x side patches."""
        table_side = self.image_size // self.patch_size
        cls_token = self.param("cls_token", vit_init, (self.width,))
        table = self.param("position_embed", vit_init, (1 + table_side**2, self.width))
        grid = table[1:]
        if side != table_side:
            scale = table_side / (side + POSITION_OFFSET)
            matrix = jnp.asarray(bicubic_matrix(table_side, side, scale), jnp.float32)
            grid = grid.reshape(table_side, table_side, self.width)
            grid = jnp.einsum("hH,HWd,wW->hwd", matrix, grid, matrix, precision=FLOAT32)
            grid = grid.reshape(side * side, self.width)
        return cls_token + table[0], grid

    def _check(self, images: Array) -> None:
        if images.ndim != 4 or images.shape[-1] != IMAGE_CHANNELS:
            raise ValueError(f"images {images.shape} must be [B, H, W, {IMAGE_CHANNELS}]")
        if self.width % self.num_heads:
            raise ValueError(f"width {self.width} does not split into {self.num_heads} heads")
        for name in ("image_size", "resolution"):
            side = getattr(self, name)
            if side < self.patch_size or side % self.patch_size:
                raise ValueError(f"{name}={side} is no multiple of patch_size={self.patch_size}")


def repa_teacher() -> DINOv2:
    """ViT-B/14, whose features REPA aligns with."""
    return DINOv2(dtype="bfloat16")


class ScaledBlock(nn.Module):
    """A pre-norm block with LayerScale: each branch times a learned number a channel.

    [B,N,D] -> [B,N,D] in `dtype`.
    """

    num_heads: int
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
        width = x.shape[-1]
        scale1 = self.param("scale1", nn.initializers.ones, (width,))
        scale2 = self.param("scale2", nn.initializers.ones, (width,))
        y = layer_norm(name="norm1")(x).astype(self.dtype)
        y = SelfAttention(self.num_heads, vit_init, self.dtype, name="attention")(y)
        x = x + y * scale1.astype(self.dtype)
        y = layer_norm(name="norm2")(x).astype(self.dtype)
        y = MLP(4 * width, False, vit_init, self.dtype, name="mlp")(y)
        return x + y * scale2.astype(self.dtype)


def _standardise(images: Array) -> Array:
    pixels = (images.astype(jnp.float32) + 1) / 2
    return (pixels - jnp.asarray(MEAN, jnp.float32)) / jnp.asarray(STD, jnp.float32)
