"""A loaded tokenizer inside programs of its users; docs/programs.md."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vqlab
from tests import exports, tiny
from tests.filled import filled
from vqlab import models

DOCS = Path(__file__).parent.parent / "docs" / "programs.md"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Exported folders of random weights."""
    root = tmp_path_factory.mktemp("programs")
    for name, node, sampling in (
        ("mgvq", tiny.tokenizer_node(), None),
        ("semanticist", tiny.semanticist_node(), {"num_steps": 2, "guidance_scale": 1.5}),
    ):
        variables = filled(models.build(node).init, tiny.images(1, 16))
        exports.save(root / name, node, variables.pop("params"), variables, sampling=sampling)
    return root


def test_the_documented_program_runs_on_eight_devices(folders):
    program, _ = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    names = {"FOLDER": folders / "mgvq"}
    exec(compile(program, str(DOCS), "exec"), names)
    assert len(names["losses"]) == 3 and names["losses"][-1] < names["losses"][0]
    assert len(names["params"].sharding.device_set) == 8


@pytest.mark.parametrize("name", ["mgvq", "semanticist"])
def test_pure_functions_are_what_the_methods_do(folders, name):
    tokenizer = vqlab.load(folders / name)
    images_u8 = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
    code = tokenizer.encode(images_u8)
    encode = jax.jit(tokenizer.encode_fn)
    np.testing.assert_allclose(encode(tokenizer.weights, images_u8), code, atol=1e-5)
    floats = jnp.asarray(images_u8, jnp.float32) / 127.5 - 1
    np.testing.assert_allclose(encode(tokenizer.weights, floats), code, atol=1e-5)
    decode = jax.jit(tokenizer.decode_fn)
    for kept in (1, 2):  # one program for any number
        key = jax.random.key(5)
        pictures = decode(tokenizer.weights, code, kept, key)
        np.testing.assert_allclose(pictures, tokenizer.decode(code, kept, **SEED[name]), atol=1e-5)
    assert decode._cache_size() == 1
    with pytest.raises(ValueError, match="images are int32; give floats"):
        encode(tokenizer.weights, images_u8.astype(np.int32))
    vectors = tokenizer.lookup(code)
    assert vectors.shape[:-1] == code.shape[:-1] and vectors.dtype == np.float32


SEED = {"mgvq": {}, "semanticist": {"seed": 5}}


def test_inside_of_jit_the_methods_say_what_to_use_instead(folders):
    tokenizer = vqlab.load(folders / "mgvq")
    images = jnp.zeros((1, 16, 16, 3))
    with pytest.raises(TypeError, match=r"use tokenizer.encode_fn\(tokenizer.weights, images\)"):
        jax.jit(tokenizer.encode)(images)
    with pytest.raises(TypeError, match=r"use tokenizer.decode_fn\(tokenizer.weights, code\)"):
        jax.jit(tokenizer.decode)(jnp.zeros((1, 2, 2, 2), int))


def test_weights_are_one_copy_on_the_device(folders):
    tokenizer = vqlab.load(folders / "mgvq")
    leaves = jax.tree.leaves(tokenizer.params)
    assert all(isinstance(leaf, jax.Array) for leaf in leaves)
    held = {id(leaf) for leaf in jax.tree.leaves(tokenizer.weights)}
    assert {id(leaf) for leaf in leaves} <= held


def test_what_a_tokenizer_does_not_have_is_said(folders):
    mgvq, semanticist = (vqlab.load(folders / name) for name in ("mgvq", "semanticist"))
    assert (mgvq.num_groups, mgvq.codebook_size, mgvq.stride) == (2, 16, 8)
    assert (semanticist.num_concepts, semanticist.concept_dim) == (4, 4)
    with pytest.raises(AttributeError, match="a tokenizer with indices has no 'num_concepts'"):
        mgvq.num_concepts  # noqa: B018
    indices = np.zeros((1, 2, 2, 2), int)
    with pytest.raises(ValueError, match="num_concepts=1: this tokenizer counts groups"):
        mgvq.decode(indices, num_concepts=1)
    with pytest.raises(ValueError, match="draws nothing: it takes no guidance_scale"):
        mgvq.decode(indices, guidance_scale=2.0)
    assert repr(mgvq) == "<MGVQ with indices: num_groups=2, codebook_size=16, stride=8>"
