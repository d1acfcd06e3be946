import os
import signal

import jax
import jax.numpy as jnp
import pytest

from vqlab.planning import topologies
from vqlab.training import stopping
from vqlab.training.stopping import StopRequested, StopSignal


@pytest.fixture
def stop():
    stop = StopSignal()
    yield stop
    stop.close()


def test_signals_are_taken_over_once_there_is_something_to_save(stop):
    before = [signal.getsignal(number) for number in stopping.SIGNALS]
    assert not stop.agreed()
    stop.listen()
    os.kill(os.getpid(), signal.SIGHUP)
    assert stop.agreed() and stop.reason == "by SIGHUP"
    os.kill(os.getpid(), signal.SIGTERM)  # the first one counts
    assert stop.reason == "by SIGHUP"
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
        signal.pause()
    stop.close()
    assert [signal.getsignal(number) for number in stopping.SIGNALS] == before


def test_what_is_ignored_stays_ignored(stop, monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        stop.listen()
        os.kill(os.getpid(), signal.SIGHUP)
        assert not stop.agreed()
    finally:
        stop.close()
        assert signal.signal(signal.SIGHUP, before) is signal.SIG_IGN


def test_a_request_stops_like_a_signal_and_may_be_waited_for(stop):
    stop.listen()
    stop.request("a loader worker has died")
    with pytest.raises(StopRequested):
        stop.check()
    assert stop.reason == "a loader worker has died"
    os.kill(os.getpid(), signal.SIGINT)  # the first Ctrl-C: no KeyboardInterrupt


def test_what_went_to_a_closed_terminal_goes_nowhere(tmp_path):
    terminal, end = os.openpty()
    with open(tmp_path / "log", "w") as file:
        stopping.leave_terminals((end, file.fileno()))
        os.close(terminal)
        assert os.write(end, b"word") == 4
        file.write("word")
    os.close(end)
    assert (tmp_path / "log").read_text() == "word"


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
