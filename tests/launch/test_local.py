"""launch/local.sh with real processes, whose program is a stand-in."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import time

import pytest

from tests.launch.conftest import LAUNCH

SCRIPT = str(LAUNCH / "local.sh")


def launch(stand_in, *arguments):
    return subprocess.Popen(
        [SCRIPT, *arguments],
        cwd=stand_in.folder,
        env=stand_in.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def run(stand_in, *arguments):
    """(exit code, stdout, stderr)"""
    process = launch(stand_in, *arguments)
    out, err = process.communicate(timeout=30)
    return process.returncode, out, err


def test_arguments_arrive_untouched(stand_in):
    arguments = ["--config=a b.py:groups=8", "it's", '"quoted" $HOME *', "", "-n", "--", "x\ny"]
    stand_in.plan(p0=[0], p1=[0])
    assert run(stand_in, "-n", "2", "-d", "1", *arguments)[0] == 0
    assert [stand_in.notes(process)[0]["argv"] for process in (0, 1)] == [arguments] * 2


def test_options_of_the_program_can_follow_two_dashes(stand_in):
    stand_in.plan(p0=[0])
    assert run(stand_in, "-n", "1", "--", "-d", "7")[0] == 0
    assert stand_in.notes(0)[0]["argv"] == ["-d", "7"]


def test_every_process_knows_its_place_and_its_devices(stand_in):
    stand_in.plan(p0=[0], p1=[0], p2=[0])
    assert run(stand_in, "-n", "3", "-d", "4")[0] == 0
    notes = [stand_in.notes(process)[0]["env"] for process in range(3)]
    assert [env["JAX_PROCESS_ID"] for env in notes] == ["0", "1", "2"]
    shared = {name: {env[name] for env in notes} for name in notes[0] if name.startswith("JAX_")}
    address = shared["JAX_COORDINATOR_ADDRESS"]
    assert len(address) == 1 and address.pop().startswith("127.0.0.1:")
    assert shared["JAX_NUM_PROCESSES"] == {"3"}
    assert shared["JAX_NUM_CPU_DEVICES"] == {"4"} and shared["JAX_PLATFORMS"] == {"cpu"}


def put_gpus_on_path(stand_in, count):
    """An nvidia-smi that lists so many GPUs."""
    program = stand_in.folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\nseq 0 {count - 1}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    stand_in.env["PATH"] = os.pathsep.join([str(stand_in.folder), stand_in.env["PATH"]])


def test_gpus_are_shared_out_evenly(stand_in):
    put_gpus_on_path(stand_in, 4)
    stand_in.plan(p0=[0], p1=[0])
    assert run(stand_in, "-n", "2")[0] == 0
    notes = [stand_in.notes(process)[0]["env"] for process in (0, 1)]
    assert [env["CUDA_VISIBLE_DEVICES"] for env in notes] == ["0,1", "2,3"]
    assert not any("JAX_PLATFORMS" in env for env in notes)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["-n", "3"], "4 GPUs do not split evenly among 3 processes"),
        (["-n", "0"], "-n from 1 on"),
        (["-d", "two"], "whole numbers"),
    ],
)
def test_a_wrong_topology_is_exit_code_2(stand_in, arguments, message):
    put_gpus_on_path(stand_in, 4)
    code, _, err = run(stand_in, *arguments)
    assert code == 2 and message in err


def test_lines_carry_the_number_of_their_process(stand_in):
    stand_in.plan(p0=[0], p1=[0])
    _, out, _ = run(stand_in, "-n", "2")
    assert sorted(out.splitlines()) == ["[1] process 1", "process 0"]


@pytest.mark.parametrize(
    "codes, combined",
    [
        ((0, 0), 0),
        ((1, 2), 2),
        ((75, 2), 2),
        ((0, 75), 75),
        ((143, 134), 75),
        (("abort", 137), 75),
        ((75, 1), 1),
        ((3, 75), 3),
    ],
)
def test_exit_codes_are_combined(stand_in, codes, combined):
    stand_in.plan(p0=[codes[0]], p1=[codes[1]])
    assert run(stand_in, "-n", "2")[0] == combined


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_launcher_stops_every_process(stand_in, sent):
    stand_in.plan(p0=["wait"], p1=["wait"])
    process = launch(stand_in, "-n", "2", "-r", "3")
    stand_in.wait_for_starts(0, 1)
    process.send_signal(sent)
    process.communicate(timeout=10)
    assert process.returncode == 75
    assert len(stand_in.notes(0)) == 1  # whoever stops it does not want it to start again


def test_ctrl_c_in_a_terminal_lets_the_processes_save(stand_in):
    stand_in.plan(p0=["wait"], p1=["wait"])
    process = launch(stand_in, "-n", "2")
    stand_in.wait_for_starts(0, 1)
    os.killpg(process.pid, signal.SIGINT)  # a terminal signals the whole group
    out, err = process.communicate(timeout=10)
    assert process.returncode == 75 and "[1] waiting" in out
    assert "KeyboardInterrupt" not in err


def test_survivors_are_ended_in_bounded_time(stand_in):
    stand_in.plan(p0=["hang"], p1=[1], p2=["wait"])
    start = time.monotonic()
    code, _, _ = run(stand_in, "-n", "3", "-g", "1")
    assert code == 1 and time.monotonic() - start < 10


def test_an_interrupted_run_goes_on_and_an_error_does_not(stand_in):
    stand_in.plan(p0=[75, "abort", 0], p1=[0])
    assert run(stand_in, "-n", "2", "-r", "5")[0] == 0
    assert len(stand_in.notes(0)) == len(stand_in.notes(1)) == 3
    stand_in.plan(p0=[0], p1=[1])
    assert run(stand_in, "-n", "2", "-r", "5")[0] == 1
    assert len(stand_in.notes(0)) == 4


def test_the_number_of_restarts_is_bounded(stand_in):
    stand_in.plan(p0=[75])
    assert run(stand_in, "-n", "1", "-r", "2")[0] == 75
    assert len(stand_in.notes(0)) == 3


@pytest.mark.slow
def test_jax_processes_meet(stand_in):
    stand_in.plan(p0=["meet"], p1=["meet"])
    process = launch(stand_in, "-n", "2", "-d", "3")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert sorted(line for line in out.splitlines() if "met" in line) == [
        "[1] met 2 6 3",
        "met 2 6 3",
    ]
