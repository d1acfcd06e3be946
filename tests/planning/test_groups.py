"""Which devices are joined, from the text of programs."""

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vqlab.planning import hlo
from vqlab.planning.collectives import collectives
from vqlab.planning.groups import device_groups

PAIRS = ((0, 1), (2, 3), (4, 5), (6, 7))
STRIDED = ((0, 2, 4, 6), (1, 3, 5, 7))


@pytest.mark.parametrize(
    ("attributes", "groups"),
    [
        (", replica_groups={{0,1},{2,3},{4,5},{6,7}}, to_apply=%add", PAIRS),
        (", replica_groups={{5},{0,7}}", ((5,), (0, 7))),
        (", channel_id=3, source_target_pairs={{4,0},{5,2}}, x={{1,1}}", ((4, 0), (5, 2))),
        ("replica_groups=[4,2]<=[8], x", PAIRS),
        # Of [[0, 1], [2, 3], [4, 5], [6, 7]] the columns.
        ("replica_groups=[2,4]<=[4,2]T(1,0), x", STRIDED),
        # Device 4a + 2b + c, with (b, a, c) in order, two at a time: c is the fastest.
        ("replica_groups=[4,2]<=[2,2,2]T(1,0,2)", ((0, 1), (4, 5), (2, 3), (6, 7))),
        ("replica_groups=mesh['a'=4,'b'=2] {'b'}, x", PAIRS),
        ("replica_groups=mesh['a'=4,'b'=2] {'a'}, x", STRIDED),
        ("replica_groups=mesh['a'=4,'b'=1,'c'=2] {'c','a','b'}", (tuple(range(8)),)),
        # The mesh's rows are the columns of [[0, 1], [2, 3], [4, 5], [6, 7]].
        ("replica_groups=mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'b'}, x", STRIDED),
        ("replica_groups=mesh['a'=2,'b'=2], device_ids=(0,3,1,2) {'b'}", ((0, 3), (1, 2))),
        # The axis of 8 is cut into 2 x 2 x 2, of which the middle one is meant.
        ("replica_groups=mesh['a'=8] {'a':(2)2}", ((0, 2), (1, 3), (4, 6), (5, 7))),
        ("replica_groups={}", (tuple(range(8)),)),
        ("channel_id=1", (tuple(range(8)),)),
    ],
)
def test_notations(attributes, groups):
    assert device_groups(attributes, 8) == groups


def test_a_compiled_step_gathers_along_one_axis_and_reduces_along_the_other():
    mesh = Mesh(np.array(jax.devices()[:8]).reshape(2, 4), ("data", "fsdp"))

    def place(*spec):
        return NamedSharding(mesh, PartitionSpec(*spec))

    def gradient(weights, x):
        return jax.grad(lambda w: ((x @ w) ** 2).sum())(weights)

    compiled = (
        jax.jit(gradient, out_shardings=place("fsdp"))
        .lower(
            jax.ShapeDtypeStruct((64, 32), "float32", sharding=place("fsdp")),
            jax.ShapeDtypeStruct((16, 64), "float32", sharding=place(("data", "fsdp"))),
        )
        .compile()
    )
    found = collectives(hlo.parse(compiled.as_text()), 8)
    rows, columns = {(0, 1, 2, 3), (4, 5, 6, 7)}, {(0, 4), (1, 5), (2, 6), (3, 7)}
    assert {one.kind for one in found if set(one.groups) == rows} >= {"all-gather"}
    assert {one.kind for one in found if set(one.groups) == columns} == {"all-reduce"}
    for one in found:
        assert one.is_within(4) == (set(one.groups) == rows)
