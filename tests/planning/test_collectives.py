"""What devices send, from the text of programs."""

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tests.planning.programs import TPU
from vqlab.planning import hlo
from vqlab.planning.collectives import by_kind, collectives, sent_bytes


def test_loops_count_every_turn():
    found = by_kind(collectives(hlo.parse(TPU), 8))
    assert found == {
        "all-reduce": {"count": 4, "bytes": 4 * 2 * 256 * 256 * 4 * 7 / 8},
        "all-gather": {"count": 1, "bytes": 8000 * 2 * 7 / 8},
    }


def test_the_pieces_of_an_asynchronous_collective_count_once():
    line = "  %g{} = f32[80]{{0}} all-gather(%x), channel_id={}, replica_groups={{}}, {}\n"
    chain = 'frontend_attributes={chain_id="3"}'
    lines = [line.format(i, 7, chain) for i in range(3)]
    lines += [line.format(3, 8, chain), line.format(4, 9, ""), line.format(5, 9, "")]
    text = f"ENTRY %main (x: f32[10]) -> f32[80] {{\n{''.join(lines)}}}\n"
    found = by_kind(collectives(hlo.parse(text), 8))
    assert found == {"all-gather": {"count": 4, "bytes": 4 * 320 * 7 / 8}}


def test_the_devices_of_a_mesh_in_another_order():
    groups = "mesh['a'=1,'b'=2,'c'=4], device_ids=([4,2]T(1,0)) {'b'}"
    line = f"  %y = f32[70] reduce-scatter(%x), replica_groups={groups}, dimensions={{0}}\n"
    (one,) = collectives(hlo.parse(f"ENTRY %main (x: f32[140]) -> f32[70] {{\n{line}}}\n"), 8)
    assert (one.group, one.bytes) == (2, 280)


def test_rings():
    # Four devices, 100 bytes of result in each.
    assert sent_bytes("all-gather", 100, 4) == 75  # three of the four quarters pass through
    assert sent_bytes("reduce-scatter", 100, 4) == 300
    assert sent_bytes("all-reduce", 400, 4) == 600  # a reduce-scatter, then an all-gather
    assert sent_bytes("all-to-all", 100, 4) == 75
    assert sent_bytes("collective-permute", 100, 4) == 100


def test_a_compiled_gradient_is_reduced_once():
    mesh = Mesh(np.array(jax.devices()[:8]), ("data",))

    def place(*spec):
        return NamedSharding(mesh, PartitionSpec(*spec))

    def gradient(weights, x):
        return jax.grad(lambda w: ((x @ w) ** 2).sum())(weights)

    compiled = (
        jax.jit(gradient, out_shardings=place())
        .lower(
            jax.ShapeDtypeStruct((64, 32), "float32", sharding=place()),
            jax.ShapeDtypeStruct((16, 64), "float32", sharding=place("data")),
        )
        .compile()
    )
    found = by_kind(collectives(hlo.parse(compiled.as_text()), 8))
    assert found == {"all-reduce": {"count": 1, "bytes": 2 * 64 * 32 * 4 * 7 / 8}}
