"""Runs of 1, 2 and 4 processes are the same run: `make test-slow`."""

import numpy as np
import pytest

from tests.processes.running import images_seen, metrics, parameters, run

pytestmark = pytest.mark.slow

KINDS = ("mgvq", "semanticist")
# Processes and the CPU devices of each: four devices in all.
LAYOUTS = ((1, 4), (2, 2), (4, 1))


@pytest.fixture(scope="module", params=KINDS)
def straight(request, tmp_path_factory):
    """(kind, workdir, metrics, images seen) of an undisturbed run of one process."""
    path = tmp_path_factory.mktemp(request.param)
    values = run(request.param, path / "run", devices=4, seen=path / "seen")
    return request.param, path / "run", values, images_seen(path / "seen")


def assert_same_curve(ours, theirs, rtol):
    """But for speeds, and for shares: after a few steps these are quotients of rounding errors."""
    assert ours.keys() == theirs.keys()
    for step, values in theirs.items():
        for name, value in values.items():
            if name.startswith(("train/loss/", "train/l2", "train/mse", "eval/")):
                if not name.endswith(("images_per_second", "/share")):
                    np.testing.assert_allclose(
                        ours[step][name], value, rtol=rtol, atol=rtol, err_msg=f"{step} {name}"
                    )


@pytest.mark.parametrize(("processes", "devices"), LAYOUTS[1:])
def test_the_curve_and_the_images_are_those_of_one_process(straight, tmp_path, processes, devices):
    kind, _, values, seen = straight
    layout = {"processes": processes, "devices": devices, "seen": tmp_path / "seen"}
    ours = run(kind, tmp_path / "run", **layout)
    assert images_seen(tmp_path / "seen") == seen
    assert_same_curve(ours, values, rtol=2e-4)
    if kind == "mgvq":
        assert ours[8]["eval/reconstruction/num_images"] == 13
    assert (tmp_path / "run" / "export" / "model.safetensors").exists()
    assert (tmp_path / "run" / "report.html").exists()


@pytest.mark.parametrize(
    ("first", "second"), [((1, 4), (2, 1)), ((4, 2), (1, 1)), ((2, 1), (1, 8))]
)
def test_a_run_goes_on_with_other_processes_and_devices(straight, tmp_path, first, second):
    """And no image is repeated or left out."""
    kind, workdir, values, seen = straight
    for (processes, devices), steps in ((first, 4), (second, 8)):
        fsdp = min(2, processes * devices)
        run(
            kind,
            tmp_path / "run",
            f"--config.num_steps={steps}",
            f"--config.mesh.fsdp={fsdp}",
            processes=processes,
            devices=devices,
            seen=tmp_path / "seen",
        )
    assert images_seen(tmp_path / "seen") == seen
    assert len(seen) == 8 * 16 and sorted(seen) == list(range(8 * 16))
    before, after = parameters(workdir, 4), parameters(tmp_path / "run", 4)
    assert before.keys() == after.keys()
    if kind == "mgvq":  # of the other the schedule follows num_steps
        assert_same_curve(metrics(tmp_path / "run"), values, rtol=2e-4)


def test_processes_that_split_tensors_read_the_same_rows(straight, tmp_path):
    kind, _, values, _ = straight
    if kind == "mgvq":
        pytest.skip("no tensor axis in convolutions")
    mesh = ("--config.mesh.fsdp=1", "--config.mesh.tensor=2")
    ours = run(kind, tmp_path / "run", *mesh, processes=2, devices=1)
    assert_same_curve(ours, values, rtol=2e-4)
