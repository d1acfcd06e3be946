import numpy as np
import pytest

from vqlab.evaluation import panels
from vqlab.evaluation.panels import Measured
from vqlab.models.codec import Units

UNITS = Units("concepts", 4, (1, 2, 4), "nulls", 2)

RESULTS = {
    "a/psnr": 21.0,
    "a/first_10/psnr": 21.0,
    "a/first_2/psnr": 18.0,
    "a/first_4/psnr": float("nan"),
    "a/first_2/ssim": 0.5,
    "a/mean_colour/psnr": 12.0,
    "ab/first_1/psnr": 3.0,
}


def test_curves_are_read_from_names_in_order_of_numbers():
    kept, values = panels.level_curve(RESULTS, "psnr", of="a")
    assert kept.tolist() == [2, 10] and values.tolist() == [18.0, 21.0]
    kept, _ = panels.level_curve({"a/first_3/psnr": 1.0}, "psnr", of="a")
    assert kept.tolist() == [3]


def test_own_numbers_are_those_of_one_evaluator():
    assert Measured(RESULTS, {}).own("ab") == {"first_1/psnr": 3.0}


def _drawn(monkeypatch, measured, **changes):
    """Arguments of the figure behind a level plot."""
    drawn = {}

    def levels_png(lines, **arguments):
        drawn.update(arguments, lines=lines)
        return b""

    monkeypatch.setattr(panels.figures, "levels_png", levels_png)
    arguments = {"title": "PSNR", "ylabel": "dB"} | changes
    html = panels.level_plot("a", measured, UNITS, "psnr", **arguments)
    return html, drawn


def test_other_runs_baselines_and_components_stand_beside_the_run(monkeypatch):
    other = {"a/first_1/psnr": 17.0, "a/first_2/psnr": 19.0}
    pca = {f"pca/components_{k}/psnr": float(k) for k in (1, 2, 3, 4, 8, 16)}
    measured = Measured(RESULTS | pca, {"MGVQ": other, "nothing": {}})
    html, drawn = _drawn(
        monkeypatch,
        measured,
        component_metric="psnr",
        baselines=["mean_colour/psnr", "mean_image/psnr"],
    )
    assert "<figcaption>PSNR</figcaption>" in html
    assert drawn["lines"]["this run"][0].tolist() == [2, 10]
    assert drawn["xlabel"] == "concepts kept"
    assert {label: x.tolist() for label, (x, _) in drawn["dashed"].items()} == {"MGVQ": [1, 2]}
    assert drawn["constants"] == {"mean colour": 12.0}
    # Two components stand for one concept of two numbers.
    assert drawn["dotted"]["PCA, 2 numbers each"][0].tolist() == [1, 2, 4]
    assert drawn["dotted"]["PCA, 2 numbers each"][1].tolist() == [2, 4, 8]
    assert drawn["dotted"]["PCA, 1 number each"][0].tolist() == [1, 2, 3, 4]


def test_without_values_there_is_no_plot(monkeypatch):
    assert _drawn(monkeypatch, Measured({"a/first_1/ssim": 0.1}, {})) == ("", {})
    assert panels.row(["", ""]) == ""


def test_tables_part_levels_from_single_numbers():
    own = Measured(RESULTS, {}).own("a")
    table = panels.results_table(own, {"psnr": "of <all>"})
    assert table.count("<tr>") == 2 and "of &lt;all&gt;" in table
    levels = panels.level_table(own, "concepts")
    assert [x in levels for x in ("first 10", "first 2", "mean colour")] == [True] * 3
    assert panels.level_table({"psnr": 1.0}, "groups") == ""


def test_pictures_are_what_they_show():
    rng = np.random.default_rng(0)
    originals = rng.uniform(-1, 1, (2, 8, 12, 3)).astype(np.float32)
    section = panels.picture_section(originals, originals[None] / 2, ["original", "1 <b>\n2 dB"])
    assert "1 &lt;b&gt;, 2 dB" in section.body and section.body.count("<img") == 4
    assert "range" not in section.body  # there is nothing to choose
    made = np.stack([originals, originals / 2])
    slider = panels.picture_section(originals, made, ["original", "1", "4"], (1, 4), "groups").body
    assert 'data-levels="1 4"' in slider and 'type="range"' in slider
    assert [slider.count(f'data-kept="{kept}"') for kept in (1, 4)] == [2, 2]
    assert panels.picture_section(originals[:0], originals[None, :0], ["original"] * 2).body == ""


@pytest.mark.parametrize(
    "value, text",
    [
        (0.0, "0"),
        (1.0, "1"),
        (50000.0, "50000"),
        (1234.56, "1234.6"),
        (0.012345, "0.01235"),
        (float("nan"), "nan"),
        (float("inf"), "inf"),
    ],
)
def test_numbers_are_short(value, text):
    assert panels.format_value(value) == text
