import jax
import jax.numpy as jnp
import pytest

from vqlab.planning import topologies
from vqlab.training import stopping


def test_one_flag_a_process_is_answered_on_all_devices():
    _, places, anywhere = stopping.meeting(tuple(jax.devices()))
    for flag in (False, True):
        answer = anywhere(jax.make_array_from_process_local_data(places, jnp.array([flag])))
        assert bool(answer) == flag and answer.sharding.num_devices == jax.device_count()


@pytest.mark.skipif(topologies.libtpu_version() is None, reason="libtpu is not installed")
@pytest.mark.parametrize("name", ["v5e:4x8", "v6e:8x8", "v4:2x2x4", "v5p:2x2x4"])
def test_the_question_compiles_for_slices_of_several_hosts(name):
    devices = tuple(topologies.tpu_devices(topologies.parse_tpu(name)))
    mesh, places, anywhere = stopping.meeting(devices)
    assert mesh.shape["process"] == len({device.process_index for device in devices}) > 1
    flags = jax.ShapeDtypeStruct((mesh.shape["process"],), bool, sharding=places)
    with jax.set_mesh(mesh):
        anywhere.lower(flags).compile()
