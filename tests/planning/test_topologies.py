"""Names of slices and groups of GPUs."""

import pytest

from vqlab.planning import topologies

needs_libtpu = pytest.mark.skipif(
    topologies.libtpu_version() is None, reason="libtpu is not installed"
)


def test_names():
    slice_ = topologies.parse_tpu("v5p:4x4x8")
    assert (slice_.chip.name, slice_.sides, slice_.num_devices) == ("v5p", (4, 4, 8), 128)
    assert topologies.parse_gpus(16, "h100").name == "h100:16"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v5e", "needs 2 sides, such as v5e:4x4"),
        ("v5e:2x2x2", "needs 2 sides"),
        ("v4:4x4", "needs 3 sides, such as v4:4x4x4"),
        ("v5e:axb", "needs 2 sides"),
        ("v5e:0x4", "a side outside 1..16"),
        ("v5e:32x8", "a side outside 1..16"),
        ("h100:8", "unknown TPU 'h100'"),
    ],
)
def test_wrong_names(name, message):
    with pytest.raises(ValueError, match=message):
        topologies.parse_tpu(name)


@pytest.mark.parametrize("count", [0, -8, 12])
def test_wrong_numbers_of_gpus(count):
    with pytest.raises(ValueError, match=f"{count} GPUs do not fill servers of 8"):
        topologies.parse_gpus(count, "h100")


@needs_libtpu
@pytest.mark.parametrize("name", ["v5e:2x4", "v4:2x2x2", "v5p:2x2x1", "v6e:1x1"])
def test_libtpus_devices_are_those_of_the_table(name):
    topology = topologies.parse_tpu(name)
    devices = topologies.tpu_devices(topology)
    assert len(devices) == topology.num_devices
    assert devices[0].device_kind in topology.chip.device_kinds


@needs_libtpu
def test_a_shape_that_libtpu_refuses():
    with pytest.raises(ValueError, match="no such topology 'v5e:3x3'"):
        topologies.tpu_devices(topologies.parse_tpu("v5e:3x3"))
