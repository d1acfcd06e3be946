"""MGVQ in plain PyTorch, in our own words: the other side of benchmarks/encode_decode.py.

The published architecture (DC-AE's encoder and decoder, one codebook for each channel group) with
torch.nn layers, channels first, random weights; for images, not for training.
"""

import torch
from torch import nn
from torch.nn import functional as F

HEAD_DIM = 32


class RMSNorm(nn.Module):
    """Over channels at every position, with scale and bias."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight, self.bias = (
            nn.Parameter(torch.ones(channels)),
            nn.Parameter(torch.zeros(channels)),
        )

    def forward(self, x):
        x = x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-5)
        return x * self.weight[:, None, None] + self.bias[:, None, None]


NORMS = {"rms_norm": RMSNorm, "batch_norm": nn.BatchNorm2d}
ACTS = {"silu": nn.SiLU, "relu": nn.ReLU}


class ResBlock(nn.Module):
    """x + norm(conv(act(conv(x))))."""

    def __init__(self, channels: int, norm: str, act: str):
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            ACTS[act](),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            NORMS[norm](channels),
        )

    def forward(self, x):
        return x + self.branch(x)


class LinearAttention(nn.Module):
    """ReLU attention over all positions with heads of 32 channels."""

    def __init__(self, channels: int, norm: str):
        super().__init__()
        self.qkv = nn.Conv2d(channels, 3 * channels, 1, bias=False)
        self.proj = nn.Conv2d(channels, channels, 1, bias=False)
        self.norm = NORMS[norm](channels)

    def forward(self, x):
        batch, channels, height, width = x.shape
        qkv = self.qkv(x).view(batch, channels // HEAD_DIM, 3 * HEAD_DIM, height * width)
        q, k, v = qkv.chunk(3, dim=2)
        q, k = F.relu(q), F.relu(k)
        if height * width > HEAD_DIM:
            v = F.pad(v, (0, 0, 0, 1), value=1.0)  # the last row counts the weights
            out = (v @ k.transpose(-1, -2)) @ q
            out = out[:, :, :-1] / (out[:, :, -1:] + 1e-15)
        else:
            weights = k.transpose(-1, -2) @ q
            out = v @ (weights / (weights.sum(2, keepdim=True) + 1e-15))
        return self.norm(self.proj(out.reshape(x.shape)))


class GatedConv(nn.Module):
    """1x1 to 8 times the channels, depthwise 3x3, gate, 1x1 back."""

    def __init__(self, channels: int, norm: str, act: str):
        super().__init__()
        hidden = 8 * channels
        self.act = ACTS[act]()
        self.expand = nn.Conv2d(channels, hidden, 1)
        self.depthwise = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.project = nn.Conv2d(hidden // 2, channels, 1, bias=False)
        self.norm = NORMS[norm](channels)

    def forward(self, x):
        value, gate = self.depthwise(self.act(self.expand(x))).chunk(2, dim=1)
        return self.norm(self.project(value * self.act(gate)))


class AttentionBlock(nn.Module):
    """EfficientViT's block: attention, then the gated convolution."""

    def __init__(self, channels: int, norm: str, act: str):
        super().__init__()
        self.attention = LinearAttention(channels, norm)
        self.glu = GatedConv(channels, norm, act)

    def forward(self, x):
        x = x + self.attention(x)
        return x + self.glu(x)


BLOCKS = {"res": ResBlock, "evit_glu": AttentionBlock}


class Downsample(nn.Module):
    """Half the sides, with the averaging shortcut."""

    def __init__(self, channels: int, features: int, has_shortcut: bool = True):
        super().__init__()
        self.conv = nn.Conv2d(channels, features // 4, 3, padding=1)
        self.features, self.has_shortcut = features, has_shortcut

    def forward(self, x):
        y = F.pixel_unshuffle(self.conv(x), 2)
        if not self.has_shortcut:
            return y
        return y + F.pixel_unshuffle(x, 2).unflatten(1, (self.features, -1)).mean(2)


class Upsample(nn.Module):
    """Twice the sides, with the duplicating shortcut."""

    def __init__(self, channels: int, features: int, has_shortcut: bool = True):
        super().__init__()
        self.conv = nn.Conv2d(channels, 4 * features, 3, padding=1)
        self.repeats = 4 * features // channels if has_shortcut else 0

    def forward(self, x):
        y = F.pixel_shuffle(self.conv(x), 2)
        if not self.repeats:
            return y
        return y + F.pixel_shuffle(x.repeat_interleave(self.repeats, dim=1), 2)


def encoder(widths, depths, block_types, norm, act, latent_channels, **_) -> nn.Sequential:
    """Images [B, 3, H, W] to latents, for a published model's empty first stage."""
    layers = [Downsample(3, widths[1], False)]
    for i in range(1, len(widths)):
        layers += [BLOCKS[block_types[i]](widths[i], norm, act) for _ in range(depths[i])]
        if i + 1 < len(widths):
            layers.append(Downsample(widths[i], widths[i + 1]))
    return nn.Sequential(*layers, _Narrow(widths[-1], latent_channels))


def decoder(widths, depths, block_types, norms, acts, latent_channels, **_) -> nn.Sequential:
    """Latents to images [B, 3, H, W]."""
    layers = [_Widen(latent_channels, widths[-1])]
    for i in reversed(range(1, len(widths))):
        layers += [BLOCKS[block_types[i]](widths[i], norms[i], acts[i]) for _ in range(depths[i])]
        if i > 1:
            layers.append(Upsample(widths[i], widths[i - 1]))
    return nn.Sequential(*layers, RMSNorm(widths[1]), nn.ReLU(), Upsample(widths[1], 3, False))


class _Narrow(nn.Module):
    """3x3 convolution to fewer channels, plus their means."""

    def __init__(self, channels: int, features: int):
        super().__init__()
        self.conv, self.features = nn.Conv2d(channels, features, 3, padding=1), features

    def forward(self, x):
        return self.conv(x) + x.unflatten(1, (self.features, -1)).mean(2)


class _Widen(nn.Module):
    """3x3 convolution to more channels, plus each of its own several times."""

    def __init__(self, channels: int, features: int):
        super().__init__()
        self.conv, self.repeats = nn.Conv2d(channels, features, 3, padding=1), features // channels

    def forward(self, x):
        return self.conv(x) + x.repeat_interleave(self.repeats, dim=1)


class Tokenizer(nn.Module):
    """Encoder, grouped nearest codewords and decoder, from the nodes of a config."""

    def __init__(self, encoder_node: dict, quantizer_node: dict, decoder_node: dict):
        super().__init__()
        channels, groups = quantizer_node["latent_channels"], quantizer_node["num_groups"]
        self.encoder = encoder(**encoder_node)
        self.decoder = decoder(**decoder_node, latent_channels=channels)
        self.quant_conv = nn.Conv2d(channels, channels, 1, groups=groups)
        self.post_quant_conv = nn.Conv2d(channels, channels, 1, groups=groups)
        shape = (groups, quantizer_node["codebook_size"], channels // groups)
        self.codebook = nn.Parameter(torch.randn(shape))

    def encode(self, images):
        """[B, 3, H, W] -> [B, h, w, G]."""
        latents = self.quant_conv(self.encoder(images)).unflatten(1, (len(self.codebook), -1))
        tokens = F.normalize(latents.permute(1, 0, 3, 4, 2), dim=-1)  # [G, B, h, w, D]
        scores = torch.einsum("gbhwd,gkd->gbhwk", tokens, F.normalize(self.codebook, dim=-1))
        return scores.argmax(-1).permute(1, 2, 3, 0)

    def decode(self, indices):
        """[B, h, w, G] -> [B, 3, H, W]."""
        codebook = F.normalize(self.codebook, dim=-1)
        latents = torch.cat([c[indices[..., g]] for g, c in enumerate(codebook)], dim=-1)
        return self.decoder(self.post_quant_conv(latents.permute(0, 3, 1, 2))).clamp(-1, 1)
