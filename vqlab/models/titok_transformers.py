"""The two vision transformers of TiTok: images to tokens, and tokens to a grid.

TiTok (arXiv 2406.07550), section 3.2; blocks.py TiTokEncoder and TiTokDecoder. Both read the same
sequence, [a class token, a grid of P places, S tokens]; what one of them keeps of it, the other
gets.
"""

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype, Initializer
from jaxtyping import Array, Float

from vqlab.models.conv_autoencoder import IMAGE_CHANNELS
from vqlab.nn.layers import conv
from vqlab.nn.transformer import (
    Block,
    PatchEmbed,
    dense,
    layer_norm,
    recomputed,
    scan_blocks,
)
from vqlab.ops.mesh import placed_as, rearrange, reshape

NORM_EPS = 1e-5


class TokenTransformer(nn.Module, kw_only=True):
    """What both have in common.

    Attributes:
      image_size: side in pixels; the table of positions is for this one alone.
      patch_size: side in pixels of a place of the grid, P = (image_size / patch_size)^2.
      width, depth, num_heads, mlp_ratio: of the transformer.
      num_tokens: S.
      kernel_deviation: standard deviation that all kernels of matrices start from. The released
        0.02 is for widths of 512 and more; with it narrow transformers do next to nothing at first.
      dtype: of the activations; parameters are float32.
      remat: store only the input of each block for the backward pass; see `recomputed`.
    """

    image_size: int
    patch_size: int
    width: int
    depth: int
    num_heads: int
    num_tokens: int
    mlp_ratio: float = 4.0
    kernel_deviation: float = 0.02
    dtype: Dtype = "float32"
    remat: bool = False

    @property
    def grid_side(self) -> int:
        """Places of the grid along each side."""
        return self.image_size // self.patch_size

    @property
    def kernel_init(self) -> Initializer:
        """Of matrices; tokens and positions have theirs in `table`."""
        return nn.initializers.normal(self.kernel_deviation)

    def check_settings(self) -> None:
        """Raises ValueError for sizes that do not fit each other."""
        if self.width % self.num_heads:
            raise ValueError(f"width {self.width} does not split into {self.num_heads} heads")
        if self.image_size < self.patch_size or self.image_size % self.patch_size:
            raise ValueError(
                f"image_size={self.image_size} is no multiple of patch_size={self.patch_size}"
            )
        if self.num_tokens < 1:
            raise ValueError(f"num_tokens={self.num_tokens} must be at least 1")

    def table(self, name: str, *shape: int) -> Float[Array, "*dims"]:
        """A parameter of learned tokens or positions, with the released code's deviation."""
        return self.param(name, nn.initializers.normal(self.width**-0.5), shape)

    def transform(
        self, grid: Float[Array, "B P D"], tokens: Float[Array, "B S D"]
    ) -> Float[Array, "B N D"]:
        """The whole sequence after all blocks, N = 1 + P + S; positions are added here."""
        positions = self.table("positions", 1 + self.grid_side**2, self.width)
        token_positions = self.table("token_positions", self.num_tokens, self.width)
        first = self.for_each_image(self.table("class_token", self.width)[None], grid)
        x = jnp.concatenate([first, grid], axis=1) + positions
        x = jnp.concatenate([x, tokens + token_positions], axis=1)
        x = layer_norm(eps=NORM_EPS, name="norm_in")(x)
        block = recomputed(Block, everything=self.remat)(
            self.num_heads,
            self.mlp_ratio,
            self.dtype,
            norm_eps=NORM_EPS,
            kernel_init=self.kernel_init,
            name="blocks",
        )
        return scan_blocks(
            block,
            lambda block, x, _: block(x),
            x,
            None,
            self.depth,
        )

    @nn.nowrap
    def for_each_image(self, tokens: Float[Array, "N D"], like: Array) -> Float[Array, "B N D"]:
        """The same tokens for all images of the batch `like`."""
        return placed_as(jnp.broadcast_to(tokens, (like.shape[0], *tokens.shape)), like)


class TiTokEncoder(TokenTransformer, kw_only=True):
    """images [B,H,W,3] in [-1,1] -> latents [B,S,C] float32, what the quantizer takes.

    Attributes:
      latent_channels: C.
      legacy: as in the published S-128, B-64 and L-32: the tokens' last features [S, D] are read in
        memory order as [D, S], so that each latent is made of parts of several tokens. The latents
        are then made by a layer of another name, so that weights of one form do not fit the other.
    """

    latent_channels: int
    legacy: bool = False

    @nn.compact
    def __call__(
        self, images: Float[Array, "B H W 3"], *, train: bool = False
    ) -> Float[Array, "B S C"]:
        """`train` makes no difference here."""
        del train
        self.check_settings()
        # The released network reads pixels in [0, 1].
        patches = PatchEmbed(
            self.width, self.patch_size, self.kernel_init, self.dtype, name="patch_embed"
        )((images + 1) / 2)
        tokens = self.table("latent_tokens", self.num_tokens, self.width)
        x = self.transform(
            rearrange(patches, "b h w d -> b (h w) d"), self.for_each_image(tokens, images)
        )
        x = layer_norm(eps=NORM_EPS, name="norm_out")(x[:, -self.num_tokens :])
        if self.legacy:
            x = reshape(x, (x.shape[0], self.width, self.num_tokens)).swapaxes(1, 2)
        # Float32: the choice of codewords hangs on these values.
        name = "to_latents_legacy" if self.legacy else "to_latents"
        return dense(self.latent_channels, kernel_init=self.kernel_init, name=name)(x)


class TiTokDecoder(TokenTransformer, kw_only=True):
    """latents [B,S,C] -> logits [B,h,w,K'] of another tokenizer's codes, or images [B,H,W,3].

    The grid is one learned mask token at every place. Images are in [-1, 1], not clipped; both are
    float32.

    Attributes:
      num_codes: K'; 0 for images.
    """

    num_codes: int = 0

    @nn.compact
    def __call__(
        self, latents: Float[Array, "B S C"], *, train: bool = False
    ) -> Float[Array, "B h w out"]:
        """`train` makes no difference here."""
        del train
        self.check_settings()
        tokens = dense(
            self.width, dtype=self.dtype, kernel_init=self.kernel_init, name="token_embed"
        )(latents)
        num_places = self.grid_side**2
        mask = jnp.broadcast_to(self.table("mask_token", self.width), (num_places, self.width))
        x = self.transform(self.for_each_image(mask, latents), tokens)
        x = layer_norm(eps=NORM_EPS, name="norm_out")(x[:, 1 : 1 + num_places])
        x = rearrange(x, "b (h w) d -> b h w d", h=self.grid_side)
        return self._logits(x) if self.num_codes else self._pixels(x)

    def _logits(self, x: Float[Array, "B h w D"]) -> Float[Array, "B h w K"]:
        hidden = dense(
            2 * self.width, dtype=self.dtype, kernel_init=self.kernel_init, name="head_fc1"
        )(x)
        hidden = jnp.tanh(hidden.astype(jnp.float32))
        return dense(self.num_codes, kernel_init=self.kernel_init, name="head_fc2")(hidden)

    def _pixels(self, x: Float[Array, "B h w D"]) -> Float[Array, "B H W 3"]:
        p = self.patch_size
        x = dense(p * p * IMAGE_CHANNELS, kernel_init=self.kernel_init, name="to_patches")(x)
        x = rearrange(x, "b h w (p q c) -> b (h p) (w q) c", p=p, q=p)
        return 2 * conv(IMAGE_CHANNELS, 3, name="project_out")(x) - 1
