import base64
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from vqlab.evaluation import report


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(0)
    originals = rng.uniform(-1, 1, (2, 8, 12, 3)).astype(np.float32)
    return originals, np.stack([originals * 0.5, originals * 1.5])


RESULTS = {
    "groups_1/psnr": 18.25,
    "groups_2/psnr": 21.0,
    "mean_colour/psnr": 12.0,
    "psnr": 21.0,
    "usage_g0": 1.0,
    "usage_g1": 0.75,
    "num_images": 1234.0,
}
PROTOCOL = {"psnr": "of the mean MSE <dB>", "num_images": "padding not counted"}


def _write(workdir, pictures, **changes):
    arguments = dict(
        title="run <1> & more",
        results=RESULTS,
        protocol=PROTOCOL,
        originals=pictures[0],
        reconstructions=pictures[1],
    )
    return report.write_report(workdir, **(arguments | changes)).read_text()


def _images(page):
    return [
        Image.open(io.BytesIO(base64.b64decode(data)))
        for data in re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    ]


def test_page_holds_everything_and_needs_nothing(tmp_path, pictures):
    lines = [
        {"step": s, "train/loss/tokenizer": 1 / s, "train/usage_g0": 0.5, "eval/groups_1/psnr": s}
        for s in (1, 2, 3)
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    page = _write(tmp_path, pictures, summary={"steps": 3}, config={"a": {"b": "<script>"}})
    assert "run &lt;1&gt; &amp; more" in page and "<script>" not in page
    assert "of the mean MSE &lt;dB&gt;" in page and "1234" in page
    assert "1 group<br>18.25 dB" in page and "2 groups<br>21.00 dB" in page
    assert f"vqlab.load({str(tmp_path)!r})".replace("'", "&#x27;") in page
    # No address of anything outside the page.
    assert not re.search(r'(src|href)="(?!data:)|url\(|@import|https?:', page)
    images = _images(page)
    # 2 rows of an original and 2 reconstructions, three curves, one bar chart.
    assert len(images) == 2 * 3 + 3 + 1
    expected = ((pictures[0][0] + 1) * 127.5 + 1e-3).astype(np.uint8)
    np.testing.assert_array_equal(np.asarray(images[0]), expected)


@pytest.mark.parametrize(
    "evaluators, labels",
    [
        ([""], ["groups_2", "groups_10"]),
        (["photos/"], ["groups_2", "groups_10"]),
        (["a/", "b/"], ["a/groups_2", "a/groups_10", "b/groups_2", "b/groups_10"]),
    ],
)
def test_curves_are_labelled_in_order_of_groups(
    tmp_path, pictures, monkeypatch, evaluators, labels
):
    drawn = []
    monkeypatch.setattr(
        report.figures, "curves_png", lambda curves, **_: drawn.append(list(curves)) or b""
    )
    names = [f"eval/{evaluator}groups_{k}/psnr" for evaluator in evaluators for k in (10, 2)]
    line = {"step": 1} | dict.fromkeys(names, 20.0)
    (tmp_path / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    _write(tmp_path, pictures)
    assert drawn == [labels]


def test_sections_without_data_are_left_out(tmp_path, pictures):
    nothing = np.zeros((0, 8, 8, 3)), np.zeros((2, 0, 8, 8, 3))
    page = _write(tmp_path, nothing, results={"psnr": 20.0})
    assert "<h2>Results</h2>" in page and "<h2>Use it</h2>" in page
    assert not any(x in page for x in ("Curves", "Reconstructions", "By number", "Config"))
    assert _images(page) == []


def test_headings_carry_the_psnr_where_it_is_known():
    assert report.grid_headings(RESULTS, 2) == [
        "original",
        "1 group\n18.25 dB",
        "2 groups\n21.00 dB",
    ]
    assert report.grid_headings({}, 1) == ["original", "1 group"]


def test_table_for_a_terminal():
    table = report.format_table({"psnr": 21.03456, "num_images": 1234.0, "usage_g0": 0.5}, PROTOCOL)
    assert table.splitlines() == [
        "psnr        21.03  of the mean MSE <dB>",
        "num_images   1234  padding not counted",
        "usage_g0      0.5",
    ]


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
    assert report.format_value(value) == text
