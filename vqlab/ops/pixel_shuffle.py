"""Moving pixels into channels and back, in the channel order of PyTorch.

Channel c of the small grid and the offset (i, j) inside an r x r block sit at c*r*r + i*r + j of
the packed channels (torch.nn.PixelShuffle). Averaging and duplicating channels are the
parameter-free shortcuts around it (DC-AE, section 3.2: residual autoencoding).
"""

from einops import reduce, repeat
from jaxtyping import Array, Float

from vqlab.ops.mesh import rearrange


def pixel_unshuffle(x: Float[Array, "B H W C"], factor: int) -> Float[Array, "B h w F"]:
    """Packs each factor x factor block into channels: [B,H,W,C] -> [B,H/r,W/r,C*r*r].

    Raises ValueError when a side is no multiple of `factor`.
    """
    height, width = x.shape[1:3]
    if height % factor or width % factor:
        raise ValueError(f"sides {height}x{width} are no multiples of {factor}")
    return rearrange(x, "b (h i) (w j) c -> b h w (c i j)", i=factor, j=factor)


def pixel_shuffle(x: Float[Array, "B h w F"], factor: int) -> Float[Array, "B H W C"]:
    """Unpacks channels into blocks, the inverse of `pixel_unshuffle`: [B,h,w,C*r*r] ->
    [B,h*r,w*r,C].

    Raises ValueError when the channels are no multiple of factor * factor.
    """
    if x.shape[-1] % factor**2:
        raise ValueError(f"{x.shape[-1]} channels are no multiple of {factor}*{factor}")
    return rearrange(x, "b h w (c i j) -> b (h i) (w j) c", i=factor, j=factor)


def average_channels(x: Float[Array, "... C"], channels: int) -> Float[Array, "... D"]:
    """Means over consecutive runs of channels, so that `channels` remain: [..., C] -> [..., D].

    Raises ValueError when the channels do not split evenly.
    """
    if channels < 1 or x.shape[-1] % channels:
        raise ValueError(f"{x.shape[-1]} channels do not average into {channels}")
    return reduce(x, "... (c k) -> ... c", "mean", c=channels)


def duplicate_channels(x: Float[Array, "... C"], channels: int) -> Float[Array, "... D"]:
    """Repeats every channel in place until there are `channels`: (a, b) -> (a, a, b, b).

    Raises ValueError when `channels` is no multiple of what is there.
    """
    if channels < 1 or channels % x.shape[-1]:
        raise ValueError(f"{x.shape[-1]} channels do not duplicate into {channels}")
    return repeat(x, "... c -> ... (c k)", k=channels // x.shape[-1])
