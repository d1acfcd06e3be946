"""Semanticist's training step in plain PyTorch, in our own words: the baseline "torch eager".

The published architecture (vision transformer with concepts, DiT, hybrid DDPM loss) written the
straightforward way with torch.nn layers and its fused attention; random weights.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F


class Block(nn.Module):
    """Attention and MLP; modulated by a condition (DiT), or with affine norms and drop path."""

    def __init__(self, width: int, num_heads: int, is_modulated: bool):
        super().__init__()
        self.num_heads, self.is_modulated = num_heads, is_modulated
        self.norm1, self.norm2 = (
            nn.LayerNorm(width, eps=1e-6, elementwise_affine=not is_modulated) for _ in range(2)
        )
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        if is_modulated:
            self.modulation = nn.Linear(width, 6 * width)

    def forward(self, x, condition=None, mask=None, drop_rate=0.0):
        if self.is_modulated:
            parts = self.modulation(F.silu(condition))[:, None].chunk(6, dim=-1)
            shift1, scale1, gate1, shift2, scale2, gate2 = parts
            x = x + gate1 * self.attention(self.norm1(x) * (1 + scale1) + shift1, mask)
            return x + gate2 * self.mlp(self.norm2(x) * (1 + scale2) + shift2)
        x = x + drop(self.attention(self.norm1(x), mask), drop_rate)
        return x + drop(self.mlp(self.norm2(x)), drop_rate)

    def attention(self, x, mask):
        batch, length, width = x.shape
        qkv = self.qkv(x).view(batch, length, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        x = F.scaled_dot_product_attention(*qkv, attn_mask=mask)
        return self.proj(x.transpose(1, 2).reshape(batch, length, width))

    def mlp(self, x):
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh" if self.is_modulated else "none"))


def drop(branch, rate):
    """Stochastic depth: whole samples of a residual branch."""
    keep = (torch.rand(len(branch), 1, 1) >= rate).float() / (1 - rate)
    return branch * keep


class Encoder(nn.Module):
    """ViT-B/16 whose last tokens are concepts."""

    def __init__(self, num_concepts: int = 256, concept_dim: int = 16, width: int = 768):
        super().__init__()
        self.patches = nn.Conv2d(3, width, 16, 16)
        self.tokens = nn.Parameter(0.02 * torch.randn(1 + num_concepts, width))
        total = 1 + 256 + num_concepts
        self.positions = nn.Parameter(0.02 * torch.randn(total, width))
        self.blocks = nn.ModuleList(Block(width, 12, False) for _ in range(12))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.to_concepts = nn.Linear(width, concept_dim)
        mask = torch.zeros(total, total, dtype=torch.bool)
        mask[:, :257] = True
        mask[257:, 257:] = torch.ones(num_concepts, num_concepts).tril().bool()
        self.register_buffer("mask", mask)

    def forward(self, images):
        x = self.patches(images / 2 + 0.5).flatten(2).transpose(1, 2)
        cls, concepts = (part.expand(len(x), -1, -1) for part in self.tokens.split([1, 256]))
        x = torch.cat([cls, x, concepts], dim=1) + self.positions
        for rate, block in zip(torch.linspace(0, 0.1, 12).tolist(), self.blocks, strict=True):
            x = block(x, mask=self.mask, drop_rate=rate)
        x = self.to_concepts(self.norm(x[:, 257:]))
        x = x - x.mean(-1, keepdim=True)
        return x / x.std(-1, keepdim=True)


class Decoder(nn.Module):
    """DiT with patches of 2 on 16x16x16 latents, which reads concepts as tokens."""

    def __init__(self, depth: int, width: int, num_heads: int):
        super().__init__()
        self.patches = nn.Conv2d(16, width, 2, 2)
        self.register_buffer("positions", torch.randn(64, width))
        self.time = nn.Sequential(nn.Linear(256, width), nn.SiLU(), nn.Linear(width, width))
        self.nulls = nn.Parameter(0.02 * torch.randn(256, 16))
        self.concepts = nn.Linear(16, width)
        self.blocks = nn.ModuleList(Block(width, num_heads, True) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.modulation = nn.Linear(width, 2 * width)
        self.last = nn.Linear(width, 4 * 32)

    def forward(self, x_t, t, concepts, keep):
        frequencies = torch.exp(-math.log(10000) * torch.arange(128) / 128)
        angles = t[:, None] * frequencies
        condition = self.time(torch.cat([angles.cos(), angles.sin()], dim=-1))
        x = self.patches(x_t).flatten(2).transpose(1, 2) + self.positions
        concepts = torch.where(keep[..., None], concepts, self.nulls)
        x = torch.cat([x, self.concepts(concepts)], dim=1)
        for block in self.blocks:
            x = block(x, condition)
        shift, scale = self.modulation(F.silu(condition))[:, None].chunk(2, dim=-1)
        x = self.last(self.norm(x[:, :64]) * (1 + scale) + shift)
        x = x.view(-1, 8, 8, 2, 2, 32).permute(0, 5, 1, 3, 2, 4).reshape(-1, 32, 16, 16)
        return x.chunk(2, dim=1)


def hybrid_loss(epsilon, variance, x_0, x_t, noise, t):
    """Mean squared error of the noise plus the variational bound in bits, for t > 0."""
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    kept = (1 - betas).cumprod(0)
    before = torch.cat([torch.ones(1), kept[:-1]])

    def at(table):
        return table[t].float().view(-1, 1, 1, 1)

    posterior = betas * (1 - before) / (1 - kept)
    weight_x_0 = at(betas * before.sqrt() / (1 - kept))
    predicted = at((1 / kept).sqrt()) * x_t - at((1 / kept - 1).sqrt()) * epsilon.detach()
    difference = weight_x_0 * (x_0 - predicted)  # of the means, which share the part of x_t
    low, high = at(posterior.log()), at(betas.log())
    log_variance = low + (variance + 1) / 2 * (high - low)
    kl = log_variance - low - 1 + (low - log_variance).exp()
    kl = 0.5 * (kl + difference**2 * (-log_variance).exp()) / math.log(2)
    return F.mse_loss(epsilon, noise) + kl.mean()


def training_step(depth: int, width: int, num_heads: int, batch_size: int):
    """A function that runs one forward and backward pass and returns the loss."""
    torch.manual_seed(0)
    encoder, decoder = Encoder(), Decoder(depth, width, num_heads)
    parameters = [*encoder.parameters(), *decoder.parameters()]
    images = 2 * torch.rand(batch_size, 3, 256, 256) - 1
    x_0 = torch.randn(batch_size, 16, 16, 16)

    def run():
        for parameter in parameters:
            parameter.grad = None
        t, noise = torch.randint(1, 1000, (batch_size,)), torch.randn_like(x_0)
        keep = torch.arange(256) < torch.randint(1, 257, (batch_size, 1))
        kept = (1 - torch.linspace(1e-4, 0.02, 1000)).cumprod(0)[t].view(-1, 1, 1, 1)
        x_t = kept.sqrt() * x_0 + (1 - kept).sqrt() * noise
        epsilon, variance = decoder(x_t, t, encoder(images), keep)
        loss = hybrid_loss(epsilon, variance, x_0, x_t, noise, t)
        loss.backward()
        return loss.item()

    return run
