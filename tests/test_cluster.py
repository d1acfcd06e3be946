"""How a process finds the others of its run, without any others."""

import jax
import pytest
from absl.testing import flagsaver

from vqlab.host import cluster

VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


@pytest.fixture
def joined(monkeypatch):
    """The arguments that jax.distributed.initialize was called with, call by call."""
    for name in (*VARIABLES, "SLURM_STEP_NODELIST", "SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda **given: calls.append(given))
    before = jax.config.jax_enable_preemption_service
    with flagsaver.flagsaver(coordinator_address=None, num_processes=None, process_id=None):
        yield calls
    jax.config.update("jax_enable_preemption_service", before)


def test_alone_nothing_is_joined(joined):
    cluster.join()
    assert joined == []


def test_the_environment_says_where_the_others_are(joined, monkeypatch):
    for name, value in zip(VARIABLES, ("host:1234", "4", "3"), strict=True):
        monkeypatch.setenv(name, value)
    cluster.join()
    assert joined[0]["coordinator_address"] == "host:1234"
    assert (joined[0]["num_processes"], joined[0]["process_id"]) == (4, 3)
    assert joined[0]["cluster_detection_method"] == "deactivate"
    assert not jax.config.jax_enable_preemption_service


def test_flags_come_before_the_environment(joined, monkeypatch):
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "other:1")
    with flagsaver.flagsaver(coordinator_address="host:2", num_processes=2, process_id=0):
        cluster.join()
    assert joined[0]["coordinator_address"] == "host:2"


def test_a_slurm_step_of_several_tasks_is_left_to_jax(joined, monkeypatch):
    monkeypatch.setenv("SLURM_NTASKS", "8")
    cluster.join()  # an interactive shell within an allocation is no step
    assert joined == []
    monkeypatch.setenv("SLURM_STEP_NODELIST", "node[1-8]")
    cluster.join()
    assert "coordinator_address" not in joined[0]
    assert joined[0]["cluster_detection_method"] is None


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"num_processes": 2}, "missing: .'coordinator_address', 'process_id'"),
        ({"coordinator_address": "host", "num_processes": 2, "process_id": 0}, "is no HOST:PORT"),
        (
            {"coordinator_address": "host:1", "num_processes": 2, "process_id": 2},
            "process_id=2 does not lie in 0..1",
        ),
    ],
)
def test_half_a_statement_is_an_error(joined, flags, message):
    with flagsaver.flagsaver(**flags), pytest.raises(ValueError, match=message):
        cluster.join()


def test_a_variable_that_is_no_number_is_named(joined, monkeypatch):
    monkeypatch.setenv("JAX_NUM_PROCESSES", "two")
    with pytest.raises(ValueError, match=r"\$JAX_NUM_PROCESSES=two is no whole number"):
        cluster.join()


def test_processes_that_do_not_meet_are_one_error(joined, monkeypatch):
    def unreachable(**given):
        raise RuntimeError("DEADLINE_EXCEEDED")

    monkeypatch.setattr(jax.distributed, "initialize", unreachable)
    with flagsaver.flagsaver(coordinator_address="host:2", num_processes=2, process_id=0):
        with pytest.raises(OSError, match="did not find each other: DEADLINE_EXCEEDED"):
            cluster.join()


def test_alone_an_error_of_the_device_stays_what_it_is():
    with pytest.raises(jax.errors.JaxRuntimeError, match="connection closed"):
        with cluster.ending_with_peers(75):
            raise jax.errors.JaxRuntimeError("connection closed")


def test_only_losing_a_peer_ends_a_process_quietly(monkeypatch, capsys):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    codes = []

    def leave(code):
        codes.append(code)
        raise SystemExit(code)

    monkeypatch.setattr(cluster.os, "_exit", leave)
    with pytest.raises(SystemExit), cluster.ending_with_peers(75):
        raise jax.errors.JaxRuntimeError("Gloo all-reduce failed: Connection closed by peer")
    assert codes == [75]
    assert "another process of this run has ended (Gloo all-reduce" in capsys.readouterr().err
    with pytest.raises(jax.errors.JaxRuntimeError), cluster.ending_with_peers(75):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")


@pytest.mark.parametrize(
    ("devices", "flags", "given", "expected"),
    [
        (8, "", None, "32"),
        (16, "", None, "64"),
        (-1, "--xla_force_host_platform_device_count=4", None, "32"),
        (8, "", "3", "3"),
        (1, "", None, None),
        (-1, "--xla_dump_to=x", None, None),
    ],
)
def test_several_cpu_devices_have_threads_to_spare(
    joined, monkeypatch, devices, flags, given, expected
):
    monkeypatch.setattr(cluster.os, "environ", {"XLA_FLAGS": flags})
    if given:
        cluster.os.environ["NPROC"] = given
    monkeypatch.setattr(cluster, "_num_cpu_devices", lambda: devices)
    cluster.join()
    assert cluster.os.environ.get("NPROC") == expected
