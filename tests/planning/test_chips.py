"""The table of accelerators."""

import pytest

from vqlab.planning import chips


def test_figures_of_the_specifications():
    v5e = chips.find_tpu("v5e")
    assert (v5e.bf16, v5e.bandwidth) == (197e12, 819e9)
    assert v5e.link == 100e9  # 4 ports, 1600 Gbit/s each way in total: half of them for an axis
    h100 = chips.find_gpu("h100")
    assert (h100.link, h100.network, h100.domain) == (450e9, 50e9, 8)


@pytest.mark.parametrize("chip", chips.TPUS + chips.GPUS, ids=lambda chip: chip.name)
def test_every_chip_is_found_by_what_jax_calls_it(chip):
    assert chip.device_kinds and chip.source
    for kind in chip.device_kinds:
        assert chips.chip_of(kind) is chip
    assert chip.bf16 >= chip.default > chip.float32


def test_other_devices_are_unknown():
    assert chips.chip_of("cpu") is None
    assert chips.chip_of("NVIDIA H100 PCIe") is None


def test_unknown_names_answer_with_the_known_ones():
    with pytest.raises(ValueError, match="unknown TPU 'v7'; known: v4, v5e, v5p, v6e"):
        chips.find_tpu("v7")
    with pytest.raises(ValueError, match="unknown GPU 'v5e'; known: a100, h100, h200, b200"):
        chips.find_gpu("v5e")
