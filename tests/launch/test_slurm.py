"""launch/slurm.sbatch, submitted to a SLURM that runs here; about a minute and a half."""

from __future__ import annotations

import re
import subprocess

import pytest

from tests.launch import slurm
from tests.launch.conftest import LAUNCH, StandIn, wait_until

SCRIPT = str(LAUNCH / "slurm.sbatch")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(slurm.missing()), reason=slurm.missing() or "runs"),
]

# A node of two cores and two GPUs instead of the nodes that the file asks for.
HERE = ["--gpus-per-node=2", "--ntasks-per-node=2", "--cpus-per-task=1"]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with slurm.cluster(tmp_path_factory.mktemp("slurm")) as env:
        wait_until(lambda: "idle" in output(env, "sinfo", "--noheader", "--format=%T"), 30)
        yield env


def output(env, *command):
    return subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout


class Job:
    """A submitted job of the stand-in."""

    def __init__(self, cluster, stand_in: StandIn, *arguments: str, options=()):
        self.env = cluster | stand_in.env
        command = ["sbatch", "--parsable", *HERE, *options, SCRIPT, *arguments]
        self.number = subprocess.run(
            command, cwd=stand_in.folder, env=self.env, capture_output=True, text=True, check=True
        ).stdout.strip()
        self.log = stand_in.folder / f"vqlab-{self.number}.log"

    def show(self, field: str) -> str:
        text = output(self.env, "scontrol", "show", "job", self.number)
        return re.search(rf"\b{field}=(\S*)", text).group(1)

    def wait_for(self, *states: str, seconds: float = 60) -> None:
        try:
            wait_until(lambda: self.show("JobState") in states, seconds)
        except TimeoutError as error:
            log = self.log.read_text() if self.log.exists() else ""
            raise TimeoutError(f"{self.show('JobState')}\n{log}") from error

    def signal(self) -> None:
        """SIGTERM to the processes but not to the script, as ahead of the time limit."""
        output(self.env, "scancel", "--signal=TERM", self.number)


def test_one_process_a_gpu_with_the_arguments_untouched(cluster, stand_in):
    stand_in.plan(p0=[0], p1=[0])
    arguments = ["--config=a b.py:groups=8", "it's", '"quoted" $HOME *']
    Job(cluster, stand_in, *arguments).wait_for("COMPLETED")
    notes = [stand_in.notes(process)[0] for process in (0, 1)]
    assert [note["argv"] for note in notes] == [arguments] * 2
    assert [note["env"]["SLURM_LOCALID"] for note in notes] == ["0", "1"]
    # JAX picks the GPU with the local number, so every process has to see all of them.
    assert [note["env"]["CUDA_VISIBLE_DEVICES"] for note in notes] == ["0,1"] * 2


def test_a_stopped_job_comes_back_and_finishes(cluster, stand_in):
    stand_in.plan(p0=["wait", 0], p1=["wait", 0])
    job = Job(cluster, stand_in)
    stand_in.wait_for_starts(0, 1)
    job.signal()
    job.wait_for("COMPLETED")
    assert job.show("Restarts") == "1"
    assert "exit code 75: back into the queue" in job.log.read_text()
    assert len(stand_in.notes(0)) == len(stand_in.notes(1)) == 2


def test_the_time_limit_sends_the_signal_ahead(cluster, stand_in):
    stand_in.plan(p0=["wait", 0], p1=["wait", 0])
    # The signal may come up to a minute early: here, at once.
    job = Job(cluster, stand_in, options=["--time=1", "--signal=TERM@30"])
    job.wait_for("COMPLETED", seconds=120)
    assert job.show("Restarts") == "1"


def test_the_script_outlives_a_signal_to_all(cluster, stand_in):
    stand_in.plan(p0=["wait", 0], p1=["wait", 0])
    job = Job(cluster, stand_in)
    stand_in.wait_for_starts(0, 1)
    output(job.env, "scancel", "--signal=TERM", "--full", job.number)
    job.wait_for("COMPLETED")
    assert job.show("Restarts") == "1"


@pytest.mark.parametrize("code", [2, 1])
def test_an_error_does_not_come_back(cluster, stand_in, code):
    stand_in.plan(p0=[code], p1=[0])
    job = Job(cluster, stand_in)
    job.wait_for("FAILED")
    assert job.show("ExitCode") == f"{code}:0" and job.show("Restarts") == "0"


def test_a_cancelled_job_stays_cancelled(cluster, stand_in):
    stand_in.plan(p0=["wait", 0], p1=["wait", 0])
    job = Job(cluster, stand_in)
    stand_in.wait_for_starts(0, 1)
    output(job.env, "scancel", job.number)
    job.wait_for("CANCELLED")
    wait_until(lambda: not output(job.env, "squeue", "--noheader"), 30)
    assert job.show("JobState") == "CANCELLED" and job.show("Restarts") == "0"
    assert "exit code 75" in job.log.read_text()


def test_restarts_are_bounded(cluster, stand_in):
    stand_in.env["MAX_RESTARTS"] = "1"
    stand_in.plan(p0=["abort"], p1=[75])
    job = Job(cluster, stand_in)
    job.wait_for("FAILED")
    assert job.show("Restarts") == "1"


def test_jax_processes_meet(cluster, stand_in):
    stand_in.env["JAX_PLATFORMS"] = "cpu"
    stand_in.plan(p0=["meet"], p1=["meet"])
    job = Job(cluster, stand_in)
    job.wait_for("COMPLETED", seconds=120)
    assert job.log.read_text().count("met 2 2 3") == 2
