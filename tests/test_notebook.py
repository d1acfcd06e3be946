"""docs/quickstart.ipynb runs from above to below, and shows what it says."""

import base64
import io
import pathlib
import re
import tarfile

import numpy as np
import pytest
from PIL import Image
from skimage.data import coffee

nbclient = pytest.importorskip("nbclient", reason="the notebook needs nbclient to run")
nbformat = pytest.importorskip("nbformat", reason="the notebook needs nbformat to be read")

ROOT = pathlib.Path(__file__).parent.parent
NOTEBOOK = ROOT / "docs" / "quickstart.ipynb"
GOLDEN = ROOT / "tests" / "golden" / "before_the_seams.tar.xz"


def read():
    """(the notebook, its cells of code by id)."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    return notebook, {cell.id: cell for cell in notebook.cells if cell.cell_type == "code"}


def run(notebook, folder, monkeypatch):
    """Runs it where there is nothing; a cell that fails raises."""
    empty = folder / "empty"
    empty.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("TMPDIR", str(folder))
    client = nbclient.NotebookClient(
        notebook, timeout=1200, kernel_name="python3", resources={"metadata": {"path": str(empty)}}
    )
    client.execute()
    assert not list(empty.iterdir())


def printed(cell):
    return "".join(out.text for out in cell.outputs if out.output_type == "stream")


def picture(cell):
    """What a cell shows, [H, W, 3]."""
    (data,) = [out.data for out in cell.outputs if "image/png" in out.get("data", {})]
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data["image/png"]))).convert("RGB"))


def check(cells, groups):
    """What the cells show of a tokenizer with so many groups; its dB by their number."""
    shown = picture(cells["decode"])
    assert shown.shape == (2 * 192, (1 + groups) * 192, 3)
    np.testing.assert_array_equal(shown[192:, :192], coffee()[80:272, 220:412])
    assert len({shown[:, x : x + 192].tobytes() for x in range(0, shown.shape[1], 192)}) > groups
    assert "license: apache-2.0" in printed(cells["export"])
    assert "<MGVQ with indices" in cells["again"].outputs[0].data["text/plain"]
    return [float(x) for x in re.findall(r"groups: ([\d.]+) dB", printed(cells["decode"]))]


def test_it_is_stored_without_outputs():
    _, cells = read()
    assert not any(cell.outputs or cell.execution_count for cell in cells.values())
    assert NOTEBOOK.stat().st_size < 10_000


def test_it_shows_the_run_that_is_named(tmp_path, monkeypatch):
    """With a run that is there; the next test trains its own."""
    with tarfile.open(GOLDEN) as archive:
        runs = [member for member in archive if member.name.split("/")[0] == "mgvq"]
        archive.extractall(tmp_path, runs, filter="data")
    notebook, cells = read()
    cells["workdir"].source = f"workdir = pathlib.Path({str(tmp_path / 'mgvq')!r})"
    run(notebook, tmp_path, monkeypatch)
    assert len(check(cells, groups=2)) == 2 and not printed(cells["train"])


@pytest.mark.slow
def test_it_trains_what_it_shows(tmp_path, monkeypatch):
    notebook, cells = read()
    run(notebook, tmp_path, monkeypatch)
    psnr = check(cells, groups=4)
    assert psnr[-1] > psnr[0] > 12
