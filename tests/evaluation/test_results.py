import json
import math

import ml_collections
import numpy as np
import pytest
from PIL import Image

from tests.evaluation import stubs
from vqlab.evaluation import panels
from vqlab.evaluation.evaluator import Evaluator
from vqlab.evaluation.evaluators import EVALUATORS
from vqlab.runs import results

CODECS = {
    "semanticist": stubs.codec_of(stubs.semanticist(), num_steps=2, guidance_scale=2.0),
    "mgvq": stubs.codec_of(stubs.grouped_tokenizer()),
    "autoencoder": stubs.codec_of(stubs.autoencoder()),
}
CONFIG = ml_collections.ConfigDict({"image_size": stubs.SIDE, "data": {"name": "photos"}})


def _write(workdir, evaluators, values, model="mgvq", **changes):
    arguments = dict(step=7, parameters=1234567, load_path="somewhere") | changes
    card = CODECS[model].card()
    page = results.write_results(workdir, CONFIG, card, evaluators, values, **arguments)
    return page.read_text()


@pytest.fixture(scope="module")
def evaluated():
    """All evaluators of a Semanticist by name, and their numbers as in a run."""
    codec = CODECS["semanticist"]
    make_batches = stubs.batches(stubs.images(4), [0, 1, 0, 1])
    # In the order of a ConfigDict, which is that of the alphabet.
    names = sorted(name for name, kind in EVALUATORS.items() if kind.of == "tokenizer")
    evaluators = {name: EVALUATORS[name](codec, make_batches) for name in names}
    weights = stubs.weights_of(codec.module)
    values = {
        f"{name}/{metric}": value
        for name, evaluator in evaluators.items()
        for metric, value in evaluator.measure(weights, {}).items()
    }
    return evaluators, values


def test_one_page_shows_every_analysis_of_semanticist(tmp_path, evaluated):
    page = _write(tmp_path, *evaluated, model="semanticist")
    headings = (
        "Reconstructions of held-out images",
        "Results",
        "By number of concepts",
        "Explained variance",
        "Power spectrum",
        "Linear probe",
        "Principal components",
        "Use it",
    )
    places = [page.index(f"<h2>{heading}</h2>") for heading in headings]
    assert places == sorted(places)
    assert f"Semanticist: {tmp_path.name}" in page and "1,234,567" in page
    assert "4 x 4" in page and "2 steps of ancestral, guidance 2 (constant)" in page
    assert "concepts, num_concepts=4, guidance_scale=2.0, num_steps=2, seed=0" in page
    picture = np.asarray(Image.open(tmp_path / "reconstructions.png"))
    # The original and 1, 2, 4 concepts, enlarged to the 96 pixels of a heading.
    assert picture.shape[1] == 6 + 4 * (6 * stubs.SIDE + 6)


def test_numbers_are_saved_with_their_protocol_and_read_back(tmp_path, evaluated):
    evaluators, values = evaluated
    values = values | {"explained_variance/first_1/share": math.nan}
    _write(tmp_path, evaluators, values, model="semanticist")
    saved = json.loads((tmp_path / results.EVALUATION_FILE).read_text(), parse_constant=pytest.fail)
    assert saved["step"] == 7 and saved["results"].keys() == values.keys()
    assert all(entry["protocol"] for entry in saved["results"].values())
    read = results.read_results(tmp_path)
    np.testing.assert_array_equal([read[name] for name in values], list(values.values()))
    with pytest.raises(ValueError, match="evaluate that run first"):
        results.read_results(tmp_path / "nowhere")


def test_the_gaussian_ssim_of_an_old_run_is_read_as_what_it_was(tmp_path):
    names = ("r/psnr", "r/ssim_gaussian", "r/first_1/ssim_gaussian")
    for names_now in (names, (*names, "r/ssim_gaussian_valid", "r/first_1/ssim_gaussian_valid")):
        saved = {name: {"value": 0.5, "protocol": ""} for name in names_now}
        (tmp_path / results.EVALUATION_FILE).write_text(json.dumps({"step": 1, "results": saved}))
        read = results.read_results(tmp_path)
        assert "r/ssim_gaussian_valid" in read and "r/first_1/ssim_gaussian_valid" in read
        assert ("r/ssim_gaussian" in read) == (names_now is not names)


def test_other_runs_are_drawn_beside_this_one(tmp_path, evaluated, monkeypatch):
    evaluators, values = evaluated
    drawn = []
    monkeypatch.setattr(
        panels.figures, "levels_png", lambda lines, **kw: drawn.append(list(kw["dashed"])) or b""
    )
    _write(tmp_path, evaluators, values, "semanticist", comparison={"guidance off": values})
    # PSNR, SSIM, share, loss, distance between the spectra and of components, probe.
    assert drawn == [["guidance off"]] * 7


class Simple(Evaluator):
    """An evaluator of one number."""

    protocol = {"psnr": "in dB"}

    def sections(self, name, measured):
        return [panels.Section("Results", f"<p>{measured.own(name)['psnr']}</p>")]


def test_the_page_of_each_method_says_how_to_use_it(tmp_path):
    page = _write(tmp_path, {"x": Simple()}, {"x/psnr": 20.0})
    assert "<h1>MGVQ:" in page and "2 x 8" in page and "num_groups=2" in page
    page = _write(tmp_path, {"x": Simple()}, {"x/psnr": 20.0}, "autoencoder")
    assert "<h1>Autoencoder:" in page and "tokenizer.decode(latents)" in page


def test_two_evaluators_of_a_kind_are_told_apart(tmp_path):
    evaluators = {"near": Simple(), "far": Simple(), "absent": Simple()}
    page = _write(tmp_path, evaluators, {"near/psnr": 20.0, "far/psnr": 10.0})
    assert "<h2>Results (near)</h2><p>20.0</p>" in page
    assert "<h2>Results (far)</h2><p>10.0</p>" in page and "absent" not in page


def test_without_evaluators_nothing_is_written(tmp_path):
    page = results.write_results(
        tmp_path, CONFIG, CODECS["mgvq"].card(), {}, {}, step=1, parameters=1, load_path=""
    )
    assert page is None and not list(tmp_path.iterdir())


def test_numbers_of_other_evaluators_stay_with_the_step_they_were_taken_at(tmp_path):
    _write(tmp_path, {"x": Simple()}, {"x/psnr": 20.0}, step=3)
    page = _write(tmp_path, {"y": Simple()}, {"y/psnr": math.nan}, step=7)
    saved = json.loads((tmp_path / results.EVALUATION_FILE).read_text())["results"]
    assert saved["x/psnr"] == {"value": 20.0, "protocol": "in dB", "step": 3}
    assert saved["y/psnr"] == {"value": None, "protocol": "in dB", "step": 7}
    assert "<h2>Measured before</h2>" in page and "x/psnr" in page
