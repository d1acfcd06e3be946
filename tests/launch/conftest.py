"""Runs the launchers for real, with a stand-in in the place of vqlab."""

from __future__ import annotations

import json
import os
import pathlib
import sys
import time

import pytest

LAUNCH = pathlib.Path(__file__).parents[2] / "launch"
PACKAGE = pathlib.Path(__file__).parent / "stand_in"


class StandIn:
    """The plan of each process, the environment to launch them in, and their notes."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        path = os.pathsep.join([str(pathlib.Path(sys.executable).parent), os.environ["PATH"]])
        self.env = {name: os.environ[name] for name in ("HOME", "LANG") if name in os.environ}
        self.env |= {"PATH": path, "PYTHONPATH": str(PACKAGE), "STAND_IN": str(folder)}

    def plan(self, **processes: list[int | str]) -> None:
        """`p0=["wait", 0]` waits for a signal at its first start and is done at its second."""
        plan = {name[1:]: steps for name, steps in processes.items()}
        (self.folder / "plan.json").write_text(json.dumps(plan))

    def notes(self, process: int) -> list[dict]:
        """{"argv", "env", "pid"} of each start of a process."""
        paths = sorted(self.folder.glob(f"{process}-*.json"))
        return [json.loads(path.read_text()) for path in paths]

    def wait_for_starts(self, *processes: int, starts: int = 1, seconds: float = 30) -> None:
        """Returns once each of the processes has started that often, and heeds signals."""
        wait_until(lambda: all(len(self.notes(p)) >= starts for p in processes), seconds)


def wait_until(condition, seconds: float) -> None:
    """Returns once the condition holds; a TimeoutError when that takes too long."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds} s")
        time.sleep(0.1)


@pytest.fixture
def stand_in(tmp_path):
    folder = tmp_path / "stand_in"
    folder.mkdir()
    return StandIn(folder)
