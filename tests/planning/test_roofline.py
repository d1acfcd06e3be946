"""The largest of three times."""

import pytest

from vqlab.planning.chips import find_gpu, find_tpu
from vqlab.planning.collectives import Collective
from vqlab.planning.flops import Flops
from vqlab.planning.roofline import roofline


def test_by_hand_on_a_tpu():
    v5e = find_tpu("v5e")
    sent = [Collective("all-reduce", 32, 1, 2e9), Collective("all-gather", 8, 3, 1e9)]
    times = roofline(v5e, Flops(bf16=19.7e12), 8.19e9, sent)
    assert times == pytest.approx((0.1, 0.01, 0.03))
    assert (times.seconds, times.bound_by) == (pytest.approx(0.1), "compute")
    assert roofline(v5e, Flops(), 819e9, sent).bound_by == "memory"
    assert roofline(v5e, Flops(), 0.0, sent).bound_by == "interconnect"


def test_gpus_of_several_servers_use_the_network():
    h100 = find_gpu("h100")
    within, beyond = Collective("all-reduce", 8, 1, 9e9), Collective("all-reduce", 16, 1, 9e9)
    assert roofline(h100, Flops(), 0.0, [within]).interconnect == pytest.approx(0.02)
    assert roofline(h100, Flops(), 0.0, [beyond]).interconnect == pytest.approx(0.18)
