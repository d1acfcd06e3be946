import base64
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from vqlab.evaluation import panels, report
from vqlab.evaluation.panels import Section


def _write(workdir, **changes):
    arguments = dict(title="run <1> & more", sections=[Section("Results", "<p>fine</p>")])
    return report.write_report(workdir, **(arguments | changes)).read_text()


def _images(page):
    return [
        Image.open(io.BytesIO(base64.b64decode(data)))
        for data in re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    ]


def _metrics(workdir, *lines):
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))


def test_page_holds_everything_and_needs_nothing(tmp_path):
    names = ("train/loss/tokenizer", "train/usage_g0", "eval/reconstruction/first_1/psnr")
    _metrics(tmp_path, *({"step": s} | dict.fromkeys(names, 1 / s) for s in (1, 2, 3)))
    originals = np.random.default_rng(0).uniform(-1, 1, (2, 8, 12, 3)).astype(np.float32)
    pictures = panels.picture_section(originals, np.stack([originals / 2, originals * 2]), "abc")
    page = _write(
        tmp_path,
        sections=[pictures, Section("Power spectrum", "<p>flat</p>")],
        summary={"steps": 3},
        config={"a": {"b": "<script>"}},
        snippet="vqlab.load('x')",
    )
    assert "run &lt;1&gt; &amp; more" in page and "&quot;&lt;script&gt;&quot;" in page
    assert "vqlab.load(&#x27;x&#x27;)" in page
    headings = re.findall("<h2>(.*?)</h2>", page)
    assert headings == [pictures.heading, "Power spectrum", "Curves", "Use it"]
    # No address of anything outside the page.
    assert not re.search(r'(src|href)="(?!data:)|url\(|@import|https?:', page)
    images = _images(page)
    assert len(images) == 2 * 3 + 3  # pictures and curves
    expected = ((originals[0] + 1) * 127.5 + 1e-3).astype(np.uint8)
    np.testing.assert_array_equal(np.asarray(images[0]), expected)


@pytest.fixture
def drawn(monkeypatch):
    """What `curves_png` is asked to draw: [(labels, whether on a logarithmic axis)]."""
    calls = []

    def curves_png(curves, *, ylabel, log):
        calls.append((list(curves), log))
        return b""

    monkeypatch.setattr(report.figures, "curves_png", curves_png)
    return calls


@pytest.mark.parametrize(
    "evaluators, labels",
    [
        ([""], ["first_2", "first_10"]),
        (["photos/"], ["first_2", "first_10"]),
        (["a/", "b/"], ["a/first_2", "a/first_10", "b/first_2", "b/first_10"]),
    ],
)
def test_curves_are_labelled_in_order_of_groups(tmp_path, drawn, evaluators, labels):
    names = [f"eval/{evaluator}first_{k}/psnr" for evaluator in evaluators for k in (10, 2)]
    _metrics(tmp_path, {"step": 1} | dict.fromkeys(names, 20.0))
    _write(tmp_path)
    assert drawn == [(labels, False)]


def test_curves_of_a_diffusion_run(tmp_path, drawn):
    names = ("loss/tokenizer", "mse", "vb", "repa", "grad_norm/tokenizer")
    line = {f"train/{name}": 0.5 for name in names} | {"train/repa": -0.5}
    line |= {f"eval/explained_variance/first_{k}/share": 0.1 for k in (1, 16)}
    _metrics(tmp_path, {"step": 1} | line)
    _write(tmp_path)
    assert drawn == [
        (["loss/tokenizer", "mse", "vb"], True),
        (["repa"], False),
        (["first_1", "first_16"], False),
        (["tokenizer"], True),
    ]


def test_a_loss_below_zero_is_drawn_on_a_linear_axis(tmp_path, drawn):
    _metrics(tmp_path, {"step": 1, "train/loss/tokenizer": -0.1, "train/mse": 0.3})
    _write(tmp_path)
    assert drawn == [(["loss/tokenizer", "mse"], False)]


def test_sections_without_data_are_left_out(tmp_path):
    page = _write(tmp_path, sections=[Section("Empty", ""), Section("Results", "<p>fine</p>")])
    assert re.findall("<h2>(.*?)</h2>", page) == ["Results"]
    assert "Config" not in page and _images(page) == []


def test_table_for_a_terminal():
    table = report.format_table(
        {"psnr": 21.03456, "num_images": 1234.0, "usage_g0": 0.5},
        {"psnr": "of the mean MSE <dB>", "num_images": "padding not counted"},
    )
    assert table.splitlines() == [
        "psnr        21.03  of the mean MSE <dB>",
        "num_images   1234  padding not counted",
        "usage_g0      0.5",
    ]
