"""Loaded tokenizers at the edges: empty batches, numbers of other libraries, dtypes."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vqlab
from tests import exports, tiny, tiny_kl
from tests.filled import filled
from vqlab import models
from vqlab.export import package
from vqlab.models.dtypes import with_dtype

NODES = {
    "mgvq": tiny.tokenizer_node(),
    "kl": tiny_kl.node(),
    "semanticist": tiny.semanticist_node(),
}
SAMPLING = {"semanticist": {"num_steps": 2, "guidance_scale": 1.5}}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Exported folders of random weights by method, of models that train in bfloat16."""
    root = tmp_path_factory.mktemp("exports")
    for name, node in NODES.items():
        variables = filled(models.build(node).init, tiny.images(1, 16))
        params = variables.pop("params")
        node = with_dtype(node, "bfloat16")
        exports.save(root / name, node, params, variables, sampling=SAMPLING.get(name))
    return root


@pytest.mark.parametrize(
    ("name", "code"), [("mgvq", (2, 2, 2)), ("kl", (8, 8, 4)), ("semanticist", (4, 4))]
)
def test_an_empty_batch_gives_an_empty_batch(folders, name, code):
    tokenizer = vqlab.load(folders / name)
    made = tokenizer.encode(np.zeros((0, 16, 16, 3), np.uint8))
    assert made.shape == (0, *code) and made.dtype == ("int32" if name == "mgvq" else "float32")
    images = tokenizer.decode(made)
    assert images.shape == (0, 16, 16, 3) and images.dtype == np.float32


def test_counts_and_seeds_may_be_those_of_numpy_and_jax(folders):
    tokenizer = vqlab.load(folders / "mgvq")
    indices = np.arange(8).reshape(1, 2, 2, 2)
    one = tokenizer.decode(indices, num_groups=1)
    for count in (np.int64(1), np.array(1), jnp.array(1)):
        np.testing.assert_array_equal(tokenizer.decode(jnp.asarray(indices), count), one)
    semanticist = vqlab.load(folders / "semanticist")
    concepts = np.ones((1, 4, 4), np.float32)
    plain = semanticist.decode(concepts, 2, num_steps=3, seed=5, guidance_scale=2.0)
    for kind in (np.array, jnp.array):
        settings = {"num_steps": kind(3), "seed": kind(5), "guidance_scale": kind(2.0)}
        np.testing.assert_array_equal(semanticist.decode(concepts, kind(2), **settings), plain)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seed": 1.5}, "seed=1.5 is no whole number"),
        ({"seed": 2**32 + 5}, "seed=4294967301 is out of range"),
        ({"num_steps": -1}, "num_steps=-1 is out of range: choose 2..1000"),
        ({"num_steps": 2.5}, "num_steps=2.5 is no whole number"),
        ({"guidance_scale": jnp.array(jnp.nan)}, "guidance_scale=nan must be finite"),
        ({"guidance_interval": 3}, "guidance_interval=3 are no numbers"),
        ({"sampler": ["ddim"]}, "unknown sampler"),
    ],
)
def test_settings_that_cannot_be_are_named(folders, settings, message):
    with pytest.raises(ValueError, match=message) as error:
        vqlab.load(folders / "semanticist").decode(np.zeros((1, 4, 4)), **settings)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", NODES)
def test_an_export_computes_in_float32_and_says_so(folders, name):
    node = json.loads((folders / name / package.CONFIG_FILE).read_text())["model"]
    assert node["encoder"]["dtype"] == node["decoder"]["dtype"] == "float32"
    assert "| computes in | float32 |" in (folders / name / package.CARD_FILE).read_text()
    assert vqlab.load(folders / name).module.encoder.dtype == "float32"
    loaded = vqlab.load(folders / name, dtype="bfloat16")
    assert loaded.module.encoder.dtype == loaded.module.decoder.dtype == "bfloat16"


def test_an_export_that_says_bfloat16_computes_in_it_unless_asked_otherwise(folders, tmp_path):
    """So did all that were written of published configs before exports said float32."""
    node, params, variables = exports.load(folders / "semanticist")
    bfloat16 = with_dtype(node, "bfloat16")
    exports.save(tmp_path / "old", bfloat16, params, variables, dtype="config")
    assert "| computes in | bfloat16 |" in (tmp_path / "old" / package.CARD_FILE).read_text()
    for dtype in (None, "config", "bfloat16"):
        assert vqlab.load(tmp_path / "old", dtype=dtype).module == models.build(bfloat16)
    assert vqlab.load(tmp_path / "old", dtype="float32").module == models.build(node)
    with pytest.raises(ValueError, match="dtype='float8' is unknown; choose from float32, bfloat1"):
        vqlab.load(tmp_path / "old", dtype="float8")


def test_arrays_of_another_dtype_are_refused(folders, tmp_path):
    node, params, variables = exports.load(folders / "kl")
    halves = jax.tree.map(lambda array: array.astype(np.float16), params)
    exports.save(tmp_path / "halves", node, halves, variables)
    with pytest.raises(ValueError, match=r"another dtype: .*bias \(float16 instead of float32\)"):
        vqlab.load(tmp_path / "halves")


@pytest.mark.parametrize("name", ["mgvq", "kl"])
def test_images_of_any_sides_are_padded_and_cropped_back(folders, name):
    tokenizer = vqlab.load(folders / name)
    images = np.asarray(tiny.images(1, 32))[:, :27, :19]
    padded = tokenizer.pad(images)
    assert all(side % tokenizer.stride == 0 for side in padded.shape[1:3])
    np.testing.assert_array_equal(padded[:, :27, :19], images)
    np.testing.assert_array_equal(padded[:, 27], padded[:, 25])  # a reflection
    pictures = tokenizer.decode(tokenizer.encode(padded))[:, :27, :19]
    assert pictures.shape == images.shape
    np.testing.assert_array_equal(tokenizer.pad(padded), padded)
