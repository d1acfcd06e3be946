import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import tiny
from tests.filled import filled
from vqlab.export.dinov2_weights import dinov2_from_state, read_dinov2
from vqlab.export.torch_weights import write_state_dict
from vqlab.models.pretrained.dinov2 import DINOv2

torch = pytest.importorskip("torch")
from torch.nn import functional as F  # noqa: E402

# Positions for 5 x 5 patches, images of 3 x 3 patches.
SMALL = DINOv2(width=12, depth=2, num_heads=3, patch_size=4, image_size=20, resolution=12)
IMAGES = tiny.images(2, 16)


def official_state(network, seed=0):
    """Random tensors under the official names, with a mask token."""
    rng = np.random.default_rng(seed)
    width, patch = network.width, network.patch_size
    shapes = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, 1 + (network.image_size // patch) ** 2, width),
        "mask_token": (1, width),
        "patch_embed.proj.weight": (width, 3, patch, patch),
        "patch_embed.proj.bias": (width,),
        "norm.weight": (width,),
        "norm.bias": (width,),
    }
    for i in range(network.depth):
        for name, shape in {
            "norm1.weight": (width,),
            "norm1.bias": (width,),
            "attn.qkv.weight": (3 * width, width),
            "attn.qkv.bias": (3 * width,),
            "attn.proj.weight": (width, width),
            "attn.proj.bias": (width,),
            "ls1.gamma": (width,),
            "norm2.weight": (width,),
            "norm2.bias": (width,),
            "mlp.fc1.weight": (4 * width, width),
            "mlp.fc1.bias": (4 * width,),
            "mlp.fc2.weight": (width, 4 * width),
            "mlp.fc2.bias": (width,),
            "ls2.gamma": (width,),
        }.items():
            shapes[f"blocks.{i}.{name}"] = shape
    draws = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    return {name: np.asarray(0.5 * draw, np.float32) for name, draw in draws.items()}


def reference_features(state, images, network):
    """x_norm_patchtokens [B,h,w,D] in PyTorch, from images [B,H,W,3] in [-1,1]."""
    w = {name: torch.from_numpy(value) for name, value in state.items()}
    width, heads, patch = network.width, network.num_heads, network.patch_size
    x = (torch.from_numpy(np.asarray(images).transpose(0, 3, 1, 2).copy()) + 1) / 2
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = (x - mean[:, None, None]) / std[:, None, None]
    x = F.interpolate(x, network.resolution, mode="bicubic")
    x = F.conv2d(x, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], stride=patch)
    side, table = x.shape[-1], network.image_size // patch
    grid = w["pos_embed"][:, 1:].reshape(1, table, table, width).permute(0, 3, 1, 2)
    if side != table:
        scale = float((side + 0.1) / table)
        grid = F.interpolate(grid, scale_factor=(scale, scale), mode="bicubic")
    cls = (w["cls_token"] + w["pos_embed"][:, :1]).expand(len(x), 1, width)
    x = torch.cat([cls, (x + grid).flatten(2).transpose(1, 2)], 1)

    def norm(name, x):
        return F.layer_norm(x, (width,), w[f"{name}.weight"], w[f"{name}.bias"], 1e-6)

    def linear(name, x):
        return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])

    for i in range(network.depth):
        qkv = linear(f"blocks.{i}.attn.qkv", norm(f"blocks.{i}.norm1", x))
        q, k, v = qkv.reshape(*x.shape[:2], 3, heads, width // heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape)
        x = x + w[f"blocks.{i}.ls1.gamma"] * linear(f"blocks.{i}.attn.proj", y)
        y = F.gelu(linear(f"blocks.{i}.mlp.fc1", norm(f"blocks.{i}.norm2", x)))
        x = x + w[f"blocks.{i}.ls2.gamma"] * linear(f"blocks.{i}.mlp.fc2", y)
    return norm("norm", x)[:, 1:].reshape(len(x), side, side, width).numpy()


@pytest.mark.parametrize(
    "network",
    [SMALL, DINOv2(width=12, depth=1, num_heads=2, patch_size=4, image_size=16, resolution=16)],
    ids=["positions interpolated", "positions as they are"],
)
def test_features_equal_an_independent_implementation(network):
    state = official_state(network)
    features = jax.jit(network.apply)(dinov2_from_state(state, network), IMAGES)
    assert features.dtype == jnp.float32
    expected = reference_features(state, IMAGES, network)
    np.testing.assert_allclose(features, expected, atol=2e-5)


def test_the_defaults_are_vit_b_14():
    images = jax.ShapeDtypeStruct((2, 256, 256, 3), jnp.float32)
    shapes = jax.eval_shape(DINOv2().init, jax.random.key(0), images)
    # dinov2_vitb14 has 86,580,480 parameters, of which 768 are the mask token.
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 86_580_480 - 768
    assert jax.eval_shape(DINOv2().apply, shapes, images).shape == (2, 16, 16, 768)


def test_features_are_constants():
    variables = filled(SMALL.init, IMAGES)
    gradient = jax.jit(jax.grad(lambda v, x: SMALL.apply(v, x).sum(), (0, 1)))(variables, IMAGES)
    assert all(np.abs(leaf).max() == 0 for leaf in jax.tree.leaves(gradient))


def test_files_are_read_strictly(tmp_path):
    state = official_state(SMALL)
    write_state_dict(tmp_path / "dinov2.safetensors", state)
    variables = read_dinov2(tmp_path / "dinov2.safetensors", SMALL)
    qkv = variables["params"]["blocks"]["attention"]["qkv"]["kernel"]
    np.testing.assert_array_equal(qkv[1], state["blocks.1.attn.qkv.weight"].T)
    with pytest.raises(ValueError, match="DINOv2 has NaN or infinite weights: norm.bias$"):
        dinov2_from_state(state | {"norm.bias": np.full(12, np.inf, np.float32)}, SMALL)
    with pytest.raises(ValueError, match="DINOv2 needs weights in floats: norm.bias is uint8$"):
        dinov2_from_state(state | {"norm.bias": np.ones(12, np.uint8)}, SMALL)
    del state["blocks.1.ls2.gamma"]
    state |= {"register_tokens": np.zeros((1, 4, 12)), "norm.bias": np.zeros(5)}
    with pytest.raises(ValueError) as error:
        dinov2_from_state(state, SMALL)
    assert str(error.value) == (
        "the state dict does not fit DINOv2: missing: blocks.1.ls2.gamma; "
        "unexpected: register_tokens; wrong shape: norm.bias (5,) instead of (12,)"
    )
    with pytest.raises(ValueError, match="nothing.pth: no such weights file"):
        read_dinov2(tmp_path / "nothing.pth", SMALL)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_heads": 5}, "width 12 does not split into 5 heads"),
        ({"resolution": 14}, "resolution=14 is no multiple of patch_size=4"),
        ({"image_size": 2}, "image_size=2 is no multiple of patch_size=4"),
    ],
)
def test_settings_that_do_not_fit_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        SMALL.clone(**change).init(jax.random.key(0), IMAGES)
