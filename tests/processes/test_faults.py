"""Real runs that are killed, stopped and starved: `make test-slow`."""

import json
import os
import random
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest

from tests.processes.running import finish, parameters, run, start

pytestmark = pytest.mark.slow

KILLS = 50
FEW_EVENTS = ("--config.intervals.checkpoint=1", "--config.intervals.evaluate=3")


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """Programs of all runs here, so that a start takes seconds."""
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="module")
def straight(tmp_path_factory, compiled):
    """(seconds, final state) of an undisturbed run."""
    path = tmp_path_factory.mktemp("straight") / "run"
    run("mgvq", path, *FEW_EVENTS, devices=2, cache=compiled)
    shutil.rmtree(path)
    begin = time.perf_counter()
    run("mgvq", path, *FEW_EVENTS, devices=2, cache=compiled)
    return time.perf_counter() - begin, parameters(path, 8)


def assert_equal_states(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, array in theirs.items():
        np.testing.assert_array_equal(ours[name], array, name)


def test_runs_killed_at_fifty_moments_end_on_the_same_bits(straight, tmp_path, compiled):
    """Anywhere: at start-up, while compiling, in a step, an evaluation or a save."""
    seconds, expected = straight
    rng, kills, number, saved = random.Random(0), 0, 0, 0
    deadline = time.perf_counter() + 40 * 60
    while kills < KILLS and time.perf_counter() < deadline:
        workdir = tmp_path / str(number)
        is_first_start, begin = not workdir.exists(), time.perf_counter()
        [process] = start("mgvq", workdir, *FEW_EVENTS, devices=2, cache=compiled)
        time.sleep(rng.uniform(0, seconds))
        process.send_signal(rng.choice([signal.SIGKILL, signal.SIGTERM]))
        [code], [output] = finish([process])
        # 143: SIGTERM before the first step; -SIGTERM: before anything of vqlab is imported.
        assert code in (0, 75, 143, -signal.SIGKILL, -signal.SIGTERM), output
        kills += code != 0
        if code == 0 and is_first_start:  # the machine is faster now: later moments hit nothing
            seconds = min(seconds, time.perf_counter() - begin)
        finished = [
            int(p.name) for p in (workdir / "checkpoints").glob("[0-9]*") if p.name.isdigit()
        ]
        if code == 75:  # told so in time: what was done is there
            assert f"step {max(finished)} is saved" in output
        saved += code == 75
        if code == 0 or kills == KILLS:
            run("mgvq", workdir, *FEW_EVENTS, devices=2, cache=compiled)
            assert_equal_states(parameters(workdir, 8), expected)
            shutil.rmtree(workdir)
            number += 1
    assert kills == KILLS and number > 0 and saved > 0
    print(f"{kills} kills, {saved} of them saved first, {number} runs ended on the same bits")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["dead", "hanging"])
def test_a_lost_peer_ends_the_others_with_a_message(tmp_path, number):
    arguments = ("--config.num_steps=100000", "--heartbeat_timeout=15")
    processes = start("mgvq", tmp_path / "run", *arguments, processes=2, devices=1)
    wait_for_step(tmp_path / "run", 2)
    processes[1].send_signal(number)
    begin = time.perf_counter()
    try:
        output = processes[0].communicate(timeout=120)[0]
    finally:
        processes[1].kill()
    assert time.perf_counter() - begin < 100
    assert processes[0].returncode in (75, -signal.SIGABRT), output
    assert "another process of this run has ended" in output or "another task died" in output
    finish(processes)


def test_a_signal_to_one_of_two_processes_saves_and_stops_both(tmp_path):
    workdir = tmp_path / "run"
    processes = start("mgvq", workdir, "--config.num_steps=100000", processes=2, devices=1)
    wait_for_step(workdir, 2)
    processes[1].send_signal(signal.SIGTERM)
    codes, outputs = finish(processes, timeout=120)
    assert codes == [75, 75], "\n".join(outputs)
    events = [json.loads(line) for line in (workdir / "events.jsonl").read_text().splitlines()]
    assert events[-1]["event"] == "stopped"
    assert (workdir / "checkpoints" / str(events[-1]["step"])).is_dir()


def test_a_full_disk_ends_the_run_and_keeps_what_was_saved(tmp_path, compiled):
    """A real one: a file system of a few megabytes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", disk]).returncode:
        pytest.skip("no right to mount a small file system")
    try:
        settings = {"devices": 2, "cache": compiled}
        few = ("--config.intervals.checkpoint=1", "--config.intervals.evaluate=0")
        [code], [output] = finish(start("mgvq", disk / "run", *few, **settings))
        assert code == 1, output
        assert "cannot be written" in output and "No space left on device" in output
        # One line of ours; Orbax's threads say more around it.
        assert any(line.startswith("error: checkpoint ") for line in output.splitlines())
        kept = sorted(int(p.name) for p in (disk / "run" / "checkpoints").glob("[0-9]"))
        assert kept and f"the newest good one is {kept[-1]}" in output
        # With more room the same command goes on from there.
        subprocess.run(["mount", "-o", "remount,size=200m", disk], check=True)
        [code], [output] = finish(start("mgvq", disk / "run", *few, **settings))
        assert code == 0 and f"step {kept[-1]}\n" in output, output
    finally:
        subprocess.run(["umount", disk], check=True)


def test_an_unreadable_newest_checkpoint_costs_its_steps_only(straight, tmp_path, compiled):
    workdir = tmp_path / "run"
    settings = {"devices": 2, "cache": compiled}
    run("mgvq", workdir, *FEW_EVENTS, "--config.num_steps=5", **settings)
    for file in (workdir / "checkpoints" / "5" / "state").rglob("*"):
        if file.is_file() and file.stat().st_size > 1000:
            os.truncate(file, file.stat().st_size // 2)
    [code], [output] = finish(start("mgvq", workdir, *FEW_EVENTS, **settings))
    assert code == 0 and "going on from step 4" in output, output
    assert_equal_states(parameters(workdir, 8), straight[1])


def test_a_shard_that_one_process_cannot_read_sends_both_to_the_checkpoint_before(tmp_path):
    workdir, layout = tmp_path / "run", {"processes": 2, "devices": 1}
    run("mgvq", workdir, **layout)
    shards = (workdir / "checkpoints" / "8" / "state" / "ocdbt.process_1" / "d").iterdir()
    largest = max(shards, key=lambda file: file.stat().st_size)
    os.truncate(largest, largest.stat().st_size // 2)
    codes, outputs = finish(start("mgvq", workdir, **layout))
    assert codes == [0, 0], "\n".join(outputs)
    assert all("going on from step 4" in output for output in outputs)
    assert (workdir / "checkpoints_unreadable" / "8").is_dir()


def test_a_workdir_that_is_not_shared_is_named_before_anything_compiles(tmp_path):
    started = start("mgvq", tmp_path / "PROCESS" / "run", processes=2, devices=1)
    codes, outputs = finish(started, timeout=60)
    assert codes == [2, 2], "\n".join(outputs)
    assert "not one shared folder: processes [1] do not see" in outputs[1]


def test_an_error_of_one_process_ends_it_at_once_with_its_own_code(tmp_path):
    (tmp_path / "1").write_text("")
    started = start(
        "mgvq", tmp_path / "PROCESS" / "run", "--heartbeat_timeout=10", processes=2, devices=1
    )
    codes, outputs = finish(started, timeout=90)
    assert codes[1] == 2 and "workdir" in outputs[1] and "cannot be written" in outputs[1]
    assert codes[0] in (75, -signal.SIGABRT), outputs[0]


def wait_for_step(workdir, step, timeout=200):
    """Returns when a run has logged a step."""
    deadline = time.perf_counter() + timeout
    path = workdir / "metrics.jsonl"
    while time.perf_counter() < deadline:
        if path.exists() and any(
            json.loads(line)["step"] >= step
            for line in path.read_text().split("\n")[:-1]  # the last one may still be written
        ):
            return
        time.sleep(0.2)
    pytest.fail(f"{workdir} did not reach step {step} in {timeout} s")
