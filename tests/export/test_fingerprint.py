import jax.numpy as jnp
import numpy as np
import pytest

from vqlab.export.fingerprint import fingerprint
from vqlab.export.frozen import network_fingerprint

NODE = {"name": "tokenizer", "widths": (1, 2), "encoder": {"depth": 2, "dtype": "float32"}}
ARRAYS = {"params": {"a": np.arange(6, dtype=np.float32), "b": {"c": np.float32(1)}}}


def changed(path, value):
    arrays = {"params": {"a": ARRAYS["params"]["a"].copy(), "b": {"c": np.float32(1)}}}
    arrays["params"][path] = value
    return arrays


def test_the_same_network_has_the_same_name():
    mark = fingerprint(NODE, ARRAYS)
    assert len(mark) == 16 and int(mark, 16) > 0
    node = {"encoder": {"dtype": "float32", "depth": 2}, "widths": [1, 2], "name": "tokenizer"}
    arrays = {"params": {"b": {"c": jnp.float32(1)}, "a": jnp.arange(6, dtype=jnp.float32)}}
    assert fingerprint(node, arrays) == mark


@pytest.mark.parametrize(
    ("node", "arrays"),
    [
        (NODE | {"widths": (2, 1)}, ARRAYS),
        (NODE | {"encoder": {"depth": 2, "dtype": "bfloat16"}}, ARRAYS),
        (NODE, changed("a", np.nextafter(ARRAYS["params"]["a"], 9, dtype=np.float32))),
        (NODE, changed("a", np.arange(6, dtype=np.int32))),
        (NODE, changed("a", ARRAYS["params"]["a"].reshape(2, 3))),
        (NODE, changed("d", np.float32(0))),
        (NODE, {"batch_stats": ARRAYS["params"]}),
    ],
)
def test_any_change_shows(node, arrays):
    assert fingerprint(node, arrays) != fingerprint(NODE, ARRAYS)


def test_a_matrix_and_its_transpose_differ():
    square = np.arange(4, dtype=np.float32).reshape(2, 2)
    assert fingerprint({}, {"w": square}) != fingerprint({}, {"w": square.T})
    assert fingerprint({}, {"w": square.T}) == fingerprint({}, {"w": square.T.copy()})


def test_frozen_networks_are_told_by_their_part_of_the_model():
    model = {"latent_space": {"name": "autoencoder_space", "autoencoder": NODE}}
    made = network_fingerprint("latent_space", model, ARRAYS)
    assert made == (fingerprint(NODE, ARRAYS), "autoencoder")
    assert network_fingerprint("repa", model, ARRAYS) == (
        fingerprint({"name": "dinov2"}, ARRAYS),
        "DINOv2",
    )
