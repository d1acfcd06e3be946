"""FSQ's own claims; tests/test_parity.py meets the arrays of vector-quantize-pytorch."""

import jax.numpy as jnp
import numpy as np
import pytest

from vqlab.nn.fsq import FSQ


def test_every_index_is_a_point_of_its_own_that_quantizes_to_itself():
    quantizer = FSQ(levels=(4, 3, 5), num_groups=2)
    indices = jnp.stack([jnp.arange(60), jnp.arange(60)[::-1]], -1)
    latents = quantizer.apply({}, indices, method="lookup", mutable=["codebook_stats"])[0]
    assert len(np.unique(latents[:, :3], axis=0)) == 60
    one = quantizer.apply({}, indices, num_groups=1, method="lookup", mutable=["codebook_stats"])[0]
    np.testing.assert_array_equal(one[:, :3], latents[:, :3])
    assert not one[:, 3:].any()
    # tanh reaches no level at the border: what lies beyond it does.
    found = quantizer.apply({}, latents * 9, train=False, mutable=["codebook_stats"])[0]
    outermost = np.isin(np.abs(latents), [0, 1]).all(-1)
    np.testing.assert_array_equal(found.indices[outermost], indices[outermost])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"levels": ()}, r"levels=\(\): a channel needs at least 2"),
        ({"levels": (8, 1)}, r"levels=\(8, 1\): a channel needs at least 2"),
        ({"levels": (8,), "num_groups": 0}, "num_groups=0 must be at least 1"),
        ({"levels": (2,) * 31}, "make 2147483648 codewords"),
    ],
)
def test_wrong_settings_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        FSQ(**options)
