"""launch/tpu_pod.sh with a gcloud whose pod is two folders of this machine."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest

from tests.launch.conftest import LAUNCH, wait_until

SCRIPT = str(LAUNCH / "tpu_pod.sh")

# The hosts' python3 makes an environment with nothing in it.
PYTHON3 = """#!/bin/sh
echo "$*" >> "$HOME/python3.log"
case "$*" in
  *"uv venv"*) mkdir -p .venv/bin && touch .venv/bin/activate ;;
esac
"""


class Pod:
    """What the launcher runs against, and what came of it."""

    def __init__(self, stand_in, folder):
        self.stand_in, self.folder = stand_in, folder
        self.code = folder / "code"
        programs = folder / "programs"
        for path in (self.code, programs):
            path.mkdir()
        (self.code / "requirements.txt").write_text("jax\n")
        fake = LAUNCH.parent / "tests/launch/fake_gcloud.py"
        for name, text in {
            "gcloud": f'#!/bin/sh\nexec "{sys.executable}" "{fake}" "$@"\n',
            "python3": PYTHON3,
        }.items():
            (programs / name).write_text(text)
            (programs / name).chmod(0o755)
        self.env = stand_in.env | {"POD": str(folder), "POLL": "0.1", "SPOT": "yes"}
        self.env |= {"NAME": "f16", "ZONE": "a zone", "TYPE": "v5litepod-8", "VERSION": "v2"}
        self.env["PATH"] = os.pathsep.join([str(programs), self.env["PATH"]])
        self.set_states("")

    def set_states(self, *states):
        (self.folder / "states.json").write_text(json.dumps(states))

    def launch(self, *arguments):
        return subprocess.Popen(
            [SCRIPT, *arguments],
            cwd=self.code,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *arguments):
        """(exit code, output)"""
        process = self.launch(*arguments)
        out, _ = process.communicate(timeout=30)
        return process.returncode, out

    def calls(self, verb):
        lines = (self.folder / "calls.jsonl").read_text().splitlines()
        return [call for call in map(json.loads, lines) if call[3] == verb]

    def preempt(self):
        """The hosts die, and the queue says so."""
        self.set_states("SUSPENDING", "SUSPENDED")
        for host in (0, 1):
            os.kill(self.stand_in.notes(host)[-1]["pid"], signal.SIGKILL)
            shutil.rmtree(self.folder / f"host{host}", ignore_errors=True)


@pytest.fixture
def pod(stand_in, tmp_path):
    return Pod(stand_in, tmp_path)


def test_from_nothing_to_done_with_the_arguments_untouched(pod, stand_in):
    stand_in.plan(p0=[0], p1=[0])
    arguments = ["--config=a b.py:groups=8", "it's", '"quoted" $HOME *', "x\ny"]
    pod.env["PREPARE"] = "touch prepared"
    code, out = pod.run(*arguments)
    assert code == 0, out
    assert [stand_in.notes(host)[0]["argv"] for host in (0, 1)] == [arguments] * 2
    assert "[0] process 0" in out and "[1] process 1" in out
    assert (pod.folder / "host1/vqlab/prepared").exists()
    assert "jax[tpu]" in (pod.folder / "host1/python3.log").read_text()
    (create,) = pod.calls("create")
    assert {"--accelerator-type=v5litepod-8", "--runtime-version=v2", "--spot"} <= set(create)
    assert len(pod.calls("delete")) == 1  # a pod that is done costs nothing


def test_a_preempted_pod_is_made_anew(pod, stand_in):
    stand_in.plan(p0=["wait", 0], p1=["wait", 0])
    process = pod.launch()
    stand_in.wait_for_starts(0, 1)
    pod.preempt()
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 0, out
    assert len(pod.calls("create")) == len(pod.calls("delete")) == 2
    assert len(stand_in.notes(0)) == len(stand_in.notes(1)) == 2


@pytest.mark.slow
def test_an_interrupted_run_goes_on_in_the_same_pod(pod, stand_in):
    stand_in.plan(p0=[75, "abort", 0], p1=[75, 0, 0])
    assert pod.run()[0] == 0
    assert len(pod.calls("create")) == 1 and len(stand_in.notes(0)) == 3


def test_an_error_ends_it_and_leaves_the_pod(pod, stand_in):
    stand_in.plan(p0=[2], p1=[2])
    code, out = pod.run()
    assert code == 2 and "pod f16 stays" in out
    assert len(stand_in.notes(0)) == 1 and not pod.calls("delete")


@pytest.mark.slow
def test_restarts_are_bounded(pod, stand_in):
    pod.env["MAX_RESTARTS"] = "1"
    stand_in.plan(p0=[75], p1=[75])
    assert pod.run()[0] == 75
    assert len(stand_in.notes(0)) == 2


def test_a_request_that_is_refused_is_exit_code_2(pod, stand_in):
    (pod.folder / "refuses").touch()
    code, out = pod.run()
    assert code == 2 and "no such accelerator type" in out
    assert not stand_in.notes(0)


def test_a_setting_that_is_missing_is_named(pod):
    del pod.env["ZONE"]
    code, out = pod.run()
    assert code != 0 and "ZONE" in out


def test_sigterm_saves_the_run_and_leaves_the_pod(pod, stand_in):
    stand_in.plan(p0=["wait"], p1=["wait"])
    process = pod.launch()
    stand_in.wait_for_starts(0, 1)
    process.terminate()
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 75 and "pod f16 stays" in out
    assert (pod.folder / "host0/vqlab/run.exit").read_text() == "75\n"


@pytest.mark.slow
def test_started_again_it_follows_the_run_that_is_there(pod, stand_in):
    stand_in.plan(p0=["wait"], p1=["wait"])
    first = pod.launch()
    stand_in.wait_for_starts(0, 1)
    first.kill()  # the machine that watches goes down; the hosts do not notice
    second = pod.launch()
    wait_until(lambda: len(pod.calls("ssh")) == 4, 20)
    for host in (0, 1):
        os.kill(stand_in.notes(host)[0]["pid"], signal.SIGTERM)
    pod.env["KEEP"] = "yes"
    stand_in.plan(p0=[0], p1=[0])
    out, _ = second.communicate(timeout=30)
    assert second.returncode == 0 and "exit code 75: going on" in out
    assert len(pod.calls("create")) == 1 and len(stand_in.notes(0)) == 2


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("gcloud") is None, reason="gcloud is not installed")
@pytest.mark.parametrize(
    "command, options",
    [
        (
            "queued-resources create",
            "--node-id --accelerator-type --runtime-version --spot --zone",
        ),
        ("queued-resources delete", "--force --zone"),
        ("queued-resources list", "--filter --zone"),
        ("tpu-vm ssh", "--worker --command --zone"),
        ("tpu-vm scp", "--worker --zone"),
    ],
)
def test_gcloud_has_every_option_that_is_used(command, options):
    shown = subprocess.run(
        ["gcloud", "compute", "tpus", *command.split(), "--help"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    text = LAUNCH.joinpath("tpu_pod.sh").read_text()
    assert all(option in shown and option in text for option in options.split())
