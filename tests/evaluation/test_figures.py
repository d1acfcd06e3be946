import io

import numpy as np
import pytest
from PIL import Image

from vqlab.evaluation import figures


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(0)
    originals = rng.uniform(-1, 1, (2, 8, 12, 3)).astype(np.float32)
    return originals, np.stack([originals * 0.5, originals * 1.5])


def test_metrics_are_read_past_nulls_and_a_cut_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "a": 2.0}\n{"step": 2, "a": null, "b": 1}\n{"step": 3, "a": 4')
    curves = figures.read_metrics(path)
    assert {k: (x.tolist(), y.tolist()) for k, (x, y) in curves.items()} == {
        "a": ([1], [2.0]),
        "b": ([2], [1]),
    }
    assert figures.read_metrics(tmp_path / "absent.jsonl") == {}


def test_grid_png_puts_tiles_under_headings(tmp_path, pictures):
    path = tmp_path / "grid.png"
    figures.write_grid_png(path, *pictures, ["original", "1 group\n18 dB", "2 groups"], scale=2)
    grid = np.asarray(Image.open(path))
    # Columns and rows are 2 * (12, 8) pixels with gaps of 6 around.
    assert grid.shape[1] == 6 + 3 * (24 + 6)
    last = grid[-(16 + 6) : -6, -(24 + 6) : -6]
    expected = (np.clip(pictures[1][1, 1], -1, 1) + 1) * 127.5 + 1e-3
    np.testing.assert_array_equal(last[::2, 1::2], expected.astype(np.uint8))


def test_grid_that_does_not_fit_is_refused(tmp_path, pictures):
    with pytest.raises(ValueError, match="2 headings for 3 columns"):
        figures.write_grid_png(tmp_path / "x.png", *pictures, ["original", "1 group"])
    with pytest.raises(ValueError, match="do not fit"):
        figures.write_grid_png(tmp_path / "x.png", pictures[0][:1], pictures[1], ["a", "b", "c"])


def test_plots_are_pngs_that_hold_their_data():
    steps = np.arange(1, 101)
    curve = figures.curves_png({"loss": (steps, 1 / steps)}, ylabel="loss", log=True)
    empty = figures.curves_png({"loss": (steps[:0], steps[:0])}, ylabel="loss", log=True)
    bars = figures.bars_png({"g0": 0.5, "g1": 1.0}, ylabel="share", limit=1.0)
    drawn = [np.asarray(Image.open(io.BytesIO(png)).convert("RGB")) for png in (curve, empty, bars)]
    blue = [int((x == (0x25, 0x63, 0xEB)).all(-1).sum()) for x in drawn]
    assert blue[0] > blue[1]
    assert blue[2] > 10_000


def test_lines_over_levels_show_all_kinds_of_lines():
    kept = np.array([1, 2, 4, 8])
    line = {"run": (kept, kept / 8)}
    arguments = dict(xlabel="concepts kept", ylabel="share")
    plain = figures.levels_png(line, **arguments)
    full = figures.levels_png(
        line,
        dashed={"other": (kept, kept / 16)},
        dotted={"PCA": (kept[1:], kept[1:] / 20)},
        constants={"mean colour": 0.4},
        **arguments,
    )
    drawn = [np.asarray(Image.open(io.BytesIO(png)).convert("RGB")) for png in (plain, full)]
    colours = [(0x25, 0x63, 0xEB), (0xEA, 0x58, 0x0C), (0x05, 0x96, 0x69), (0x64, 0x74, 0x8B)]
    shown = [[bool((x == c).all(-1).any()) for c in colours] for x in drawn]
    assert shown == [[True, False, False, False], [True] * 4]


def test_original_spectrum_is_red_and_levels_are_blue():
    frequency = np.arange(1, 9) / 16
    png = figures.spectra_png(
        (frequency, 1 / frequency),
        {"1 concept": (frequency, 2 / frequency), "2 concepts": (frequency, frequency)},
    )
    drawn = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
    assert (drawn == (0xDC, 0x26, 0x26)).all(-1).any()
    assert (drawn == (0x08, 0x30, 0x6B)).all(-1).any()  # the darkest of the blues
