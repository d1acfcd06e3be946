"""Meshes and placement rules."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from vqlab.training import sharding


def test_minus_one_takes_the_devices_that_are_left():
    assert dict(sharding.make_mesh(-1, 4).shape) == {"data": 2, "fsdp": 4}


@pytest.mark.parametrize(("data", "fsdp"), [(3, 2), (-1, 3), (-1, -1), (0, 8)])
def test_axes_that_do_not_fit_are_named(data, fsdp):
    with pytest.raises(ValueError, match=f"data={data} x fsdp={fsdp} does not fit 8 devices"):
        sharding.make_mesh(data, fsdp)


def test_fsdp_cuts_the_largest_axis_and_leaves_small_arrays_whole():
    mesh = sharding.make_mesh(2, 4)
    tree = {"kernel": jnp.zeros((3, 3, 64, 128)), "bias": jnp.zeros(128)}
    places = sharding.tree_sharding(tree, mesh, ((".*", "fsdp"),))
    assert places["kernel"].spec == P(None, None, None, "fsdp")
    assert places["bias"].spec == P()
    per_device = jax.device_put(tree["kernel"], places["kernel"]).addressable_shards[0].data
    assert per_device.size == tree["kernel"].size // 4


def test_the_first_matching_rule_wins():
    mesh = sharding.make_mesh(1, 8)
    tree = {"codebook": jnp.zeros((4, 8192, 8))}
    places = sharding.tree_sharding(tree, mesh, (("codebook", "replicate"), (".*", "fsdp")))
    assert places["codebook"].spec == P()


def test_errors_name_the_parameter_and_the_numbers():
    mesh = sharding.make_mesh(1, 8)
    odd = {"a": {"kernel": jnp.zeros((129, 131))}}
    with pytest.raises(ValueError, match="no sharding rule matches a/kernel"):
        sharding.tree_sharding(odd, mesh, (("bias", "fsdp"),))
    with pytest.raises(ValueError, match=r"no axis of a/kernel \(129, 131\) divides .* 8 devices"):
        sharding.tree_sharding(odd, mesh, ((".*", "fsdp"),))
    with pytest.raises(ValueError, match="unknown tactic 'split'"):
        sharding.tree_sharding(odd, mesh, ((".*", "split"),))


def test_a_global_batch_keeps_its_rows_in_order():
    mesh = sharding.make_mesh(2, 4)
    batch = sharding.global_batch({"x": np.arange(16.0)}, mesh)
    assert batch["x"].sharding.spec == P(("data", "fsdp"))
    np.testing.assert_array_equal(batch["x"], np.arange(16.0))
