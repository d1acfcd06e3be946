"""launch/skypilot.yaml: SkyPilot's own check, and its run section in a shell."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest
import yaml

from tests.launch.conftest import LAUNCH

FILE = LAUNCH / "skypilot.yaml"
TASK = yaml.safe_load(FILE.read_text())


def run_on_node(stand_in, rank, arguments):
    """The run section with the variables that SkyPilot sets on a node; the exit code."""
    activate = stand_in.folder / ".venv/bin/activate"
    activate.parent.mkdir(parents=True, exist_ok=True)
    activate.touch()
    env = stand_in.env | {
        "SKYPILOT_NODE_IPS": "10.0.0.5\n10.0.0.7",
        "SKYPILOT_NUM_NODES": "2",
        "SKYPILOT_NODE_RANK": str(rank),
        "ARGS": arguments,
    }
    return subprocess.run(["bash", "-c", TASK["run"]], cwd=stand_in.folder, env=env).returncode


def test_every_node_knows_its_place(stand_in):
    stand_in.plan(p1=[0])
    assert run_on_node(stand_in, 1, "") == 0
    (note,) = stand_in.notes(1)
    assert note["env"]["JAX_COORDINATOR_ADDRESS"] == "10.0.0.5:8476"
    assert note["env"]["JAX_NUM_PROCESSES"] == "2"


def test_arguments_are_quoted_as_on_a_command_line(stand_in):
    stand_in.plan(p0=[75])
    assert run_on_node(stand_in, 0, "--config='a b.py:groups=8' --workdir=/runs/\\$HOME") == 75
    assert stand_in.notes(0)[0]["argv"] == ["--config=a b.py:groups=8", "--workdir=/runs/$HOME"]


def test_what_recovers():
    recovery = TASK["resources"]["job_recovery"]
    assert recovery["recover_on_exit_codes"] == [75, 134, 143]  # 137 is SkyPilot's own
    assert recovery["max_restarts_on_errors"] == 0


@pytest.mark.skipif(importlib.util.find_spec("sky") is None, reason="SkyPilot is not installed")
def test_skypilot_accepts_it():
    # In a process of its own: SkyPilot changes logging and signal handling when it is imported.
    program = (
        "import sys, sky\n"
        "task = sky.Task.from_yaml_config(sky.utils.yaml_utils.read_yaml(sys.argv[1]),"
        " env_overrides=[('BUCKET', 'my-runs'), ('ARGS', '--config=a')])\n"
        "(resources,) = task.resources\n"
        "print(task.num_nodes, resources.accelerators, resources.use_spot)\n"
        "print(task.storage_mounts['/runs'].name)"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, str(FILE)], capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-2:] == ["2 {'H100': 8} True", "my-runs"]
