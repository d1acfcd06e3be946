"""What holds for every launcher: it runs the one command, and sets nothing of the training."""

from __future__ import annotations

import math
import re
import shutil
import subprocess

import pytest

from configs import mgvq_demo
from tests.launch.conftest import LAUNCH

FILES = sorted(path for path in LAUNCH.iterdir() if path.is_file())
DOCS = LAUNCH.parent / "docs" / "pods.md"
SHELL = [path for path in FILES if path.suffix in (".sh", ".sbatch")]


def code(path):
    """A launcher without its comments."""
    return re.sub(r"(^|\s)#.*", "", path.read_text())


def test_they_are_all_here():
    names = {path.name for path in FILES}
    assert names == {
        "k8s_jobset.yaml",
        "local.sh",
        "skypilot.yaml",
        "slurm.sbatch",
        "tpu_pod.sh",
    }


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_it_runs_the_command_of_the_readme_and_sets_nothing(path):
    text = code(path)
    assert "python -m vqlab.main" in text or "[python, -m, vqlab.main]" in text
    # Only Kubernetes has the arguments in the file, and those are files and folders.
    files = {"config", "workdir", "config.objective.lpips_weights", "config.data.data_dir"}
    expected = files if path.name == "k8s_jobset.yaml" else set()
    assert set(re.findall(r"--(config[.\w]*|workdir)", text)) == expected


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_it_begins_with_what_it_does_and_an_example(path):
    lines = path.read_text().splitlines()
    head = "\n".join(line for line in lines[:14] if line.startswith("#"))
    assert "Trains" in head and re.search(r"^#   \w", head, re.MULTILINE)
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize("path", [*FILES, DOCS], ids=lambda path: path.name)
def test_examples_of_full_size_say_where_lpips_lies(path):
    text = path.read_text()
    examples = len(re.findall(r"--config=configs/mgvq_f16\.py", text))
    assert len(re.findall(r"--config\.objective\.lpips_weights=", text)) == examples


@pytest.mark.parametrize("path", [LAUNCH / "local.sh", DOCS], ids=lambda path: path.name)
def test_the_batches_of_the_example_divide_over_its_devices(path):
    (example,) = re.findall(r"-n (\d+) -d (\d+) --config=configs/mgvq_demo.py", path.read_text())
    config = mgvq_demo.get_config()
    for node in (config, *config.evals.values()):
        assert node.batch_size % math.prod(map(int, example)) == 0


@pytest.mark.parametrize("path", SHELL, ids=lambda path: path.name)
def test_shell_is_strict_and_clean(path):
    assert "\nset -euo pipefail\n" in path.read_text()
    subprocess.run(["bash", "-n", path], check=True)
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    subprocess.run(["shellcheck", path], check=True)


@pytest.mark.parametrize("path", [p for p in SHELL if p.suffix == ".sh"], ids=lambda p: p.name)
def test_scripts_are_executable(path):
    assert path.stat().st_mode & 0o111
