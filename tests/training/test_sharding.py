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


def chips(*sides, kind="TPU v5 lite", slices=1):
    """TPU chips by their coordinates in the torus, in an order that says nothing."""
    made = [
        types.SimpleNamespace(
            platform="tpu",
            device_kind=kind,
            coords=(x, y, 0),
            core_on_chip=0,
            slice_index=number,
        )
        for number in range(slices)
        for x in range(sides[0])
        for y in range(sides[1])
    ]
    return [made[i] for i in np.random.default_rng(0).permutation(len(made))]


def test_neighbours_on_the_torus_are_neighbours_on_the_mesh():
    grid = sharding.order_devices(chips(4, 8), [4, 8, 1])
    assert all(len({chip.coords[0] for chip in row}) == 1 for row in grid[..., 0])
    # On most chips jax.make_mesh takes no axis but whole sides of the torus.
    odd = sharding.order_devices(chips(4, 8, kind="TPU v6 lite"), [2, 16, 1])
    assert len({chip.coords for chip in odd.flat}) == 32


@pytest.mark.parametrize(
    ("slices", "sizes", "across"),
    [(2, (4, 8, 1), (2, 1, 1)), (2, (1, 32, 1), (1, 2, 1)), (6, (4, 24, 1), (2, 3, 1))],
)
def test_slices_are_split_by_the_outer_axes(slices, sizes, across):
    """So that what `fsdp` and `tensor` send stays on the faster links."""
    side = np.prod(sizes) // slices // 4
    grid = sharding.order_devices(chips(4, side, slices=slices), sizes)
    numbers = np.vectorize(lambda chip: chip.slice_index)(grid)
    within = [size // cut for size, cut in zip(sizes, across, strict=True)]
    expected = np.arange(slices).reshape(across)
    np.testing.assert_array_equal(numbers, np.kron(expected, np.ones(within, int)))


# Neighbours on the mesh need not be neighbours in the list of all devices.
ORDERS = [list(range(8)), [0, 4, 1, 5, 2, 6, 3, 7], [7, 2, 5, 0, 3, 6, 1, 4]]


@pytest.mark.parametrize("order", ORDERS)
def test_a_global_batch_keeps_its_rows_in_order(order):
    mesh = sharding.make_mesh(2, 4, devices=[jax.devices()[i] for i in order])
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
        ([0, 0, 1, 1], {"data": 4}, [(0, 1), (2, 3)]),
        ([0, 0, 1, 1], {"data": 2, "tensor": 2}, [(0,), (1,)]),
        ([0, 1, 2, 3], {"data": 2, "tensor": 2}, [(0,), (0,), (1,), (1,)]),
        ([0, 0, 1, 1], {"tensor": 4}, [(0,), (0,)]),
        ([0, 1, 0, 1], {"data": 2, "fsdp": 2}, [(0, 2), (1, 3)]),
        ([0, 0, 0, 1, 1, 1], {"data": 3, "tensor": 2}, [(0, 1), (1, 2)]),
    ],
)
def test_a_process_reads_the_parts_that_its_devices_hold(owners, axes, parts, monkeypatch):
    for process, own in enumerate(parts):
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        total = axes.get("data", 1) * axes.get("fsdp", 1)
        assert sharding.own_parts(mesh_of(owners, **axes)) == (own, total)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("axes", [(8, 1, 1), (2, 2, 2), (1, 2, 4)])
def test_parts_are_where_jax_puts_the_rows_of_a_process(order, axes, monkeypatch):
    mesh = sharding.make_mesh(*axes, devices=[jax.devices()[i] for i in order])
    places = sharding.batch_sharding(mesh).devices_indices_map((16,))
    owners = [device.id // 4 for device in mesh.devices.flat]
    for process in range(2):
        own = {places[d][0].indices(16) for d in mesh.devices.flat if d.id // 4 == process}
        rows = [row for piece in sorted(own) for row in range(*piece)]
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        parts, total = sharding.own_parts(mesh_of(owners, **dict(zip(AXES, axes, strict=True))))
        assert rows == [p * 16 // total + i for p in parts for i in range(16 // total)]


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
