"""Meshes and placement rules."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from vqlab.ops.mesh import AXES
from vqlab.training import sharding


def test_minus_one_takes_the_devices_that_are_left():
    assert dict(sharding.make_mesh(-1, 4).shape) == {"data": 2, "fsdp": 4, "tensor": 1}
    assert dict(sharding.make_mesh(1, -1, 2).shape) == {"data": 1, "fsdp": 4, "tensor": 2}


@pytest.mark.parametrize(("data", "fsdp"), [(3, 2), (-1, 3), (-1, -1), (0, 8)])
def test_axes_that_do_not_fit_are_named(data, fsdp):
    with pytest.raises(
        ValueError, match=f"data={data} x fsdp={fsdp} x tensor=1 does not fit 8 dev"
    ):
        sharding.make_mesh(data, fsdp)


def test_fsdp_cuts_the_largest_axis_and_leaves_small_arrays_whole():
    mesh = sharding.make_mesh(2, 4)
    tree = {"kernel": jnp.zeros((3, 3, 64, 128)), "bias": jnp.zeros(128)}
    places = sharding.tree_sharding(tree, mesh, ((".*", "fsdp"),))
    assert places["kernel"].spec == P(None, None, None, "fsdp")
    assert places["bias"].spec == P()
    per_device = jax.device_put(tree["kernel"], places["kernel"]).addressable_shards[0].data
    assert per_device.size == tree["kernel"].size // 4


def test_columns_and_rows_are_cut_over_tensor_and_then_fsdp():
    mesh = sharding.make_mesh(2, 2, 2)
    tree = {
        "fc1": {"kernel": jnp.zeros((3, 64, 256)), "bias": jnp.zeros((3, 8192))},
        "fc2": {"kernel": jnp.zeros((3, 256, 64))},
    }
    rules = (("fc1", "column"), ("fc2/kernel", "row"))
    places = sharding.tree_sharding(tree, mesh, rules)
    assert places["fc1"]["kernel"].spec == P(None, None, ("tensor", "fsdp"))
    assert places["fc1"]["bias"].spec == P(None, ("tensor", "fsdp"))
    assert places["fc2"]["kernel"].spec == P(None, ("tensor", "fsdp"))


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
    with pytest.raises(ValueError, match=r"no axis of a/kernel \(129, 131\) .* divides by fsdp=8"):
        sharding.tree_sharding(odd, mesh, ((".*", "fsdp"),))
    mesh = sharding.make_mesh(1, 2, 4)
    with pytest.raises(ValueError, match=r"a/kernel \(129, 131\) .* by tensor=4 x fsdp=2"):
        sharding.tree_sharding(odd, mesh, ((".*", "column"),))
    with pytest.raises(ValueError, match="unknown tactic 'split' for '.*'; known: replicate, fsdp"):
        sharding.tree_sharding(odd, mesh, ((".*", "split"),))


def test_a_global_batch_keeps_its_rows_in_order():
    mesh = sharding.make_mesh(2, 4)
    batch = sharding.global_batch({"x": np.arange(16.0)}, mesh)
    assert batch["x"].sharding.spec == P(("data", "fsdp"))
    np.testing.assert_array_equal(batch["x"], np.arange(16.0))


def mesh_of(owners, **axes):
    """A mesh whose i-th device belongs to process owners[i]."""
    devices = np.array([types.SimpleNamespace(process_index=owner) for owner in owners])
    shape = {axis: axes.get(axis, 1) for axis in AXES}
    return types.SimpleNamespace(devices=devices.reshape(*shape.values()), shape=shape)


@pytest.mark.parametrize(
    "owners, axes, parts",
    [
        ([0, 0, 1, 1], {"data": 4}, [(0, 2), (1, 2)]),
        ([0, 0, 1, 1], {"data": 2, "tensor": 2}, [(0, 2), (1, 2)]),
        ([0, 1, 2, 3], {"data": 2, "tensor": 2}, [(0, 2), (0, 2), (1, 2), (1, 2)]),
        ([0, 0, 1, 1], {"tensor": 4}, [(0, 1), (0, 1)]),
        # Neighbours in a slice need not be neighbours in the list of all devices.
        ([0, 1, 0, 1], {"data": 2, "fsdp": 2}, [(0, 2), (1, 2)]),
    ],
)
def test_processes_that_split_only_tensors_read_the_same_rows(owners, axes, parts, monkeypatch):
    for process, part in enumerate(parts):
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        assert sharding.own_part(mesh_of(owners, **axes)) == part


def test_a_mesh_that_cuts_across_processes_is_refused():
    with pytest.raises(ValueError, match="does not give processes whole parts of a batch"):
        sharding.own_part(mesh_of([0, 0, 0, 1, 1, 1], data=3, tensor=2))


@pytest.mark.parametrize("kind", ["mgvq", "semanticist"])
def test_bytes_of_the_whole_state_fall_with_fsdp(kind):
    """Parameters, moments of all players and averages of published sizes; nothing is computed."""
    from configs import mgvq_f16, semanticist_l
    from vqlab.runs import parts, train_state

    config = {"mgvq": mgvq_f16, "semanticist": semanticist_l}[kind].get_config()
    config = config.copy_and_resolve_references().unlock()
    config.ema_decay = 0.99
    objective = parts.build_objective(config)
    optimizers = parts.build_optimizers(config, objective.players)

    def bytes_on_a_device(fsdp):
        mesh = sharding.make_mesh(-1, fsdp)
        state, _ = train_state.place_state(config, objective, optimizers, mesh)
        return sum(
            np.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
            for leaf in jax.tree.leaves(state)
        )

    whole = bytes_on_a_device(1)
    for fsdp in (2, 4, 8):
        # Small arrays and MGVQ's codebooks are whole everywhere: half a per cent of all.
        assert bytes_on_a_device(fsdp) / whole == pytest.approx(1 / fsdp, abs=0.006)
