"""A study from its config to its page, through the real trainer."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from tests import tiny_study
from vqlab.host.lock import if_free
from vqlab.runs.results import read_results
from vqlab.runs.studies import KINDS, record, training
from vqlab.runs.studies.arms import choose_jobs
from vqlab.runs.studies.page import write_study
from vqlab.runs.studies.runner import run_jobs
from vqlab.training.stopping import EXIT_STOPPED

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(workdir, study.json) of one arm with one seed, of three arms with two."""
    workdir = tmp_path_factory.mktemp("study")
    study = tiny_study.config()
    arms = tiny_study.arms_of(study)
    kind = KINDS[study.kind](study, arms)
    jobs = choose_jobs(arms, ["mgvq"], 0)

    def write_page():
        write_study(study, kind, arms, workdir, "python -m vqlab.study")

    outcome = run_jobs(jobs, workdir, kind.train, if_free, write_page)
    assert not outcome.failed and not outcome.elsewhere and not outcome.is_stopped
    return workdir, json.loads((workdir / "study.json").read_text())


def test_a_run_is_an_ordinary_workdir(finished):
    workdir, _ = finished
    folder = workdir / "mgvq/seed0"
    for name in ("config.json", "report.html", "metrics.jsonl", "checkpoints", "export"):
        assert (folder / name).exists(), name
    found = record.read_record(folder)
    assert found.is_finished and found.seconds > 0 and found.device.endswith("cpu")
    assert found.costs["parameters"] > 1000 and found.costs["flops"] > 1e5
    originals, made, levels = training.read_pictures(workdir / "mgvq/seed0")
    assert levels == (1, 2) and made.shape == (2, *originals.shape) == (2, 2, 16, 16, 3)


def test_the_study_says_what_they_measured(finished):
    workdir, saved = finished
    states = {(run["arm"], run["seed"]): run["state"] for run in saved["runs"]}
    assert states.pop(("mgvq", 0)) == "finished"
    assert set(states.values()) == {"not run"} and len(states) == 5
    results = read_results(workdir / "mgvq/seed0")
    marks = {(m["arm"], m["coding"], m["step"], m["kept"]): m for m in saved["findings"]["marks"]}
    assert set(marks) == {
        ("mgvq", "indices", 0, 1),
        ("mgvq", "indices", 0, 2),
    }
    whole = marks["mgvq", "indices", 0, 2]
    # Two groups of 16 codewords at each of the positions of stride 2: 8 bits for 4 pixels.
    assert whole["rates"]["fixed"] == [2.0, None]
    assert 0 < whole["rates"]["entropy"][0] <= 2.0
    psnr = results["rate_distortion/indices/psnr"]
    assert whole["quality"]["psnr"] == [psnr, None]
    assert psnr == pytest.approx(results["reconstruction/psnr"], abs=1e-4)
    page = (workdir / "study.html").read_text()
    assert 'href="mgvq/seed0/report.html"' in page and "1 of 6 runs" in page


def command(workdir, *arguments):
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"}
    words = [sys.executable, "-m", "vqlab.study", f"--workdir={workdir}", *arguments]
    return subprocess.Popen(words, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_a_study_that_is_killed_goes_on_to_the_same_numbers(tmp_path):
    arguments = ["--study=tests/tiny_study.py:30", "--arms=mgvq,vae_low", "--seed=0"]
    process = command(tmp_path / "killed", *arguments, "--study.base.intervals.checkpoint=5")
    saved = tmp_path / "killed/mgvq/seed0/checkpoints/10"
    deadline = time.monotonic() + 200
    while not saved.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    errors = process.communicate(timeout=200)[1]
    assert process.returncode == EXIT_STOPPED, errors
    assert "1 of the runs" not in errors and (tmp_path / "killed/study.html").exists()
    for name in ("killed", "straight"):
        process = command(tmp_path / name, *arguments, "--study.base.intervals.checkpoint=5")
        errors = process.communicate(timeout=300)[1]
        assert process.returncode == 0, errors
    for arm in ("mgvq", "vae_low"):
        first, second = (
            read_results(tmp_path / name / arm / "seed0") for name in ("killed", "straight")
        )
        speed = "reconstruction/images_per_second"
        assert {**first, speed: 0} == {**second, speed: 0}
        assert training.read_pictures(tmp_path / "killed" / arm / "seed0") is not None
    changed = command(tmp_path / "killed", "--study=tests/tiny_study.py:31")
    errors = changed.communicate(timeout=200)[1]
    assert changed.returncode == 2 and "num_steps was 30, is 31" in errors
    assert len(errors.strip().splitlines()) == 1
