"""The largest of three times."""

import pytest

from vqlab.planning import hlo
from vqlab.planning.chips import find_gpu, find_tpu
from vqlab.planning.collectives import Collective, collectives
from vqlab.planning.flops import Flops
from vqlab.planning.roofline import roofline


def test_by_hand_on_a_tpu():
    v5e = find_tpu("v5e")
    sent = [
        Collective("all-reduce", 32, 1, 2e9, (tuple(range(32)),)),
        Collective("all-gather", 4, 3, 1e9, ((0, 8, 16, 24),)),  # no farther than neighbours
    ]
    times = roofline(v5e, Flops(bf16=19.7e12), 8.19e9, sent)
    assert times == pytest.approx((0.1, 0.01, 0.03))
    assert (times.seconds, times.bound_by) == (pytest.approx(0.1), "compute")
    assert roofline(v5e, Flops(), 819e9, sent).bound_by == "memory"
    assert roofline(v5e, Flops(), 0.0, sent).bound_by == "interconnect"


def test_gpus_of_several_servers_use_the_network():
    h100 = find_gpu("h100")
    within = Collective("all-reduce", 8, 1, 9e9, (tuple(range(8)), tuple(range(8, 16))))
    beyond = Collective("all-reduce", 16, 1, 9e9, (tuple(range(16)),))
    assert roofline(h100, Flops(), 0.0, [within]).interconnect == pytest.approx(0.02)
    assert roofline(h100, Flops(), 0.0, [beyond]).interconnect == pytest.approx(0.18)


@pytest.mark.parametrize(
    ("attributes", "rate"),
    [
        ("all-gather(%x), replica_groups=[8,8]<=[64]", 450e9),
        # One GPU of each of eight servers, as along `data` of a mesh with fsdp=8.
        ("all-gather(%x), replica_groups=[8,8]<=[8,8]T(1,0)", 50e9),
        ("all-gather(%x), replica_groups={{0,1,2,3,4,5,6,7}}", 450e9),
        # The second group lies in two servers, and the first waits for it.
        ("all-gather(%x), replica_groups={{0,1,2,3,4,5,6,7},{12,13,14,15,16,17,18,19}}", 50e9),
        ("collective-permute(%x), source_target_pairs={{0,7},{7,0},{8,15},{15,8}}", 450e9),
        ("collective-permute(%x), source_target_pairs={{0,1},{7,8}}", 50e9),
    ],
)
def test_where_the_gpus_of_a_group_are(attributes, rate):
    # 56 GB, of which a ring of eight sends 49 and a permutation all.
    text = f"ENTRY %main (x: f32[7]) -> f32[7] {{\n  %y = f32[14000000000] {attributes}\n}}\n"
    (one,) = collectives(hlo.parse(text), 64)
    assert one.bytes == (56e9 if one.kind == "collective-permute" else 49e9)
    assert roofline(find_gpu("h100"), Flops(), 0.0, [one]).interconnect == one.bytes / rate
    # A torus has the same links everywhere.
    assert roofline(find_tpu("v5e"), Flops(), 0.0, [one]).interconnect == one.bytes / 100e9
