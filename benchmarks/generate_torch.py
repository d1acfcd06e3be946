"""GPT with a head over groups in plain PyTorch: the other side of benchmarks/generate.py.

Our words for LlamaGen's transformer and MGVQ's head: torch.nn layers, greedy choice, and a static
cache of keys and values that every step writes one row of and reads so far as it is filled.
"""

import torch
from torch import nn
from torch.nn import functional as F

EPS = 1e-5


def rotate(x, table):
    """x [B, M, N, D] with pairs of channels turned by cos and sin in `table` [N, D / 2, 2]."""
    pairs = x.unflatten(-1, (-1, 2))
    first, second = pairs[..., 0], pairs[..., 1]
    cos, sin = table[..., 0], table[..., 1]
    return torch.stack([first * cos - second * sin, second * cos + first * sin], -1).flatten(-2)


class Attention(nn.Module):
    """Causal, with a cache for `num_tokens`; `normed`: RMS norms of queries and keys."""

    def __init__(self, width: int, num_heads: int, num_tokens: int, batch: int, normed: bool):
        super().__init__()
        head_dim = width // num_heads
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width, bias=False)
        self.q_norm, self.k_norm = (
            (nn.RMSNorm(head_dim, EPS), nn.RMSNorm(head_dim, EPS))
            if normed
            else (nn.Identity(), nn.Identity())
        )
        shape = (batch, num_heads, num_tokens, head_dim)
        self.register_buffer("keys", torch.zeros(shape))
        self.register_buffer("values", torch.zeros(shape))

    def forward(self, x, position: int, table=None):
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        q, k = self.q_norm(q), self.k_norm(k)
        if table is not None:
            q, k = rotate(q, table), rotate(k, table)
        end = position + x.shape[1]
        self.keys[:, :, position:end], self.values[:, :, position:end] = k, v
        keys, values = self.keys[:, :, :end], self.values[:, :, :end]
        # Several tokens at once come first, so they see each other alone.
        x = F.scaled_dot_product_attention(q, keys, values, is_causal=x.shape[1] > 1)
        return self.proj(x.transpose(1, 2).flatten(-2))


class SwiGLU(nn.Module):
    """w2(silu(w1 x) * w3 x)."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.w1, self.w3 = (nn.Linear(width, hidden, bias=False) for _ in range(2))
        self.w2 = nn.Linear(hidden, width, bias=False)

    def forward(self, x):
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, width: int, hidden: int, *attention):
        super().__init__()
        self.norm1, self.norm2 = nn.RMSNorm(width, EPS), nn.RMSNorm(width, EPS)
        self.attention = Attention(width, *attention)
        self.mlp = SwiGLU(width, hidden)

    def forward(self, x, position: int, table=None):
        x = x + self.attention(self.norm1(x), position, table)
        return x + self.mlp(self.norm2(x))


class Head(nn.Module):
    """The G indices of a position, one after the other, from its state."""

    def __init__(self, width: int, depth: int, num_groups: int, codebook_size: int, batch: int):
        super().__init__()
        self.num_groups = num_groups
        self.index_embed = nn.Embedding(codebook_size, width)
        self.start = nn.Parameter(torch.zeros(width))
        self.position_embed = nn.Parameter(torch.zeros(num_groups + 1, width))
        attention = num_groups, num_groups + 1, batch, True
        self.blocks = nn.ModuleList(Block(width, 4 * width, *attention) for _ in range(depth))
        self.norm = nn.LayerNorm(width, EPS)
        self.output = nn.Linear(width, codebook_size, bias=False)

    def forward(self, state):
        """[B, width] -> [B, G]."""
        x = torch.stack([state, self.start.expand_as(state)], 1) + self.position_embed[:2]
        chosen = [self._choose(x, 0)]
        for group in range(1, self.num_groups):
            x = self.index_embed(chosen[-1]) + self.position_embed[group + 1]
            chosen.append(self._choose(x[:, None], group + 1))
        return torch.stack(chosen, 1)

    def _choose(self, x, position: int):
        for block in self.blocks:
            x = block(x, position)
        return self.output(self.norm(x[:, -1])).argmax(-1)


class Generator(nn.Module):
    """Labels [B] -> indices [B, L, G].

    Args:
      config: fields of vqlab's `IndexTransformer`, by name.
      table: [L + 1, D / 2, 2], rotations of the tokens.
      codewords: [G, K, D].
      hidden: width inside of SwiGLU.
      batch: B.
    """

    def __init__(self, config: dict, table, codewords, hidden: int, batch: int):
        super().__init__()
        width, num_groups = config["width"], config["num_groups"]
        self.register_buffer("table", table)
        self.register_buffer("codewords", codewords)
        self.num_positions = len(table) - 1
        self.class_embed = nn.Embedding(config["num_classes"] + 1, width)
        self.fc1 = nn.Linear(config["latent_channels"], width // 2, bias=False)
        self.fc2 = nn.Linear(width // 2, width, bias=False)
        self.projector_norm = nn.LayerNorm(width, EPS)
        attention = config["num_heads"], self.num_positions, batch, False
        self.blocks = nn.ModuleList(
            Block(width, hidden, *attention) for _ in range(config["depth"])
        )
        self.norm = nn.RMSNorm(width, EPS)
        sizes = num_groups, config["codebook_size"], batch
        self.head = Head(width, config["head_depth"], *sizes)
        self.register_buffer("groups", torch.arange(num_groups))

    def forward(self, labels):
        """Greedy: the likeliest index at every place."""
        x, chosen = self.class_embed(labels), []
        for position in range(self.num_positions):
            y = x[:, None]
            for block in self.blocks:
                y = block(y, position, self.table[position : position + 1])
            indices = self.head(self.norm(y[:, 0]))
            chosen.append(indices)
            vectors = self.codewords[self.groups, indices].flatten(-2)
            x = self.projector_norm(self.fc2(F.gelu(self.fc1(vectors))))
        return torch.stack(chosen, 1)


def load_weights(network: Generator, flat: dict) -> None:
    """Takes the arrays of vqlab's network, by path; every parameter has one."""
    names = {
        "class_embed/embedding": "class_embed.weight",
        "projector/fc1": "fc1.weight",
        "projector/fc2": "fc2.weight",
        "projector/norm/scale": "projector_norm.weight",
        "projector/norm/bias": "projector_norm.bias",
        "head/index_embed": "head.index_embed.weight",
        "head/norm/bias": "head.norm.bias",
        "head/start": "head.start",
        "head/position_embed": "head.position_embed",
    }
    state = {}
    for path, array in flat.items():
        name = path.removeprefix("params/")
        is_kernel, name = name.endswith("/kernel"), name.removesuffix("/kernel")
        tensor = torch.from_numpy(array)
        if is_kernel:
            tensor = tensor.transpose(-1, -2)
        if "blocks/" in name:
            before, _, inside = name.removesuffix("/scale").partition("blocks/")
            for layer, part in enumerate(tensor):
                own = f"{before}blocks.{layer}.{inside}.weight".replace("/", ".")
                state[own] = part.contiguous()
            continue
        default = name.removesuffix("/scale").replace("/", ".") + ".weight"
        state[names.get(name, default)] = tensor.contiguous()
    rows = network.head.position_embed.shape[0]
    state["head.position_embed"] = state["head.position_embed"][:rows]
    own = {name for name, _ in network.named_parameters()}
    if set(state) != own:
        raise ValueError(f"parameters differ: {sorted(set(state) ^ own)}")
    network.load_state_dict(state, strict=False)
