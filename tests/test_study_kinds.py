"""Kinds of studies that are no plane: collapse of codebooks, coupling of spectra."""

import json
import re

import numpy as np
import pytest

from configs.studies import collapse, coupling
from vqlab.runs.results import write_numbers
from vqlab.runs.studies import KINDS, record, training
from vqlab.runs.studies.arms import choose_jobs, read_arms
from vqlab.runs.studies.page import write_study
from vqlab.training.stopping import StopSignal


def _kind(study):
    kind = KINDS[study.kind]
    arms = read_arms(study, kind.equal)
    return kind(study, arms), arms


def test_collapse_goes_from_its_config_to_its_page(tmp_path):
    study = collapse.get_config("debug").unlock()
    study.order = ("grouped_few_channels_few_codes",)
    study.arms = {study.order[0]: study.arms[study.order[0]]}
    study.base.update(num_steps=4, measure_every=2)
    kind, arms = _kind(study)
    (job,) = choose_jobs(arms)
    folder = tmp_path / job.folder
    begun = record.begin(folder)
    costs = kind.train(job.arm.config_of(0), folder, StopSignal(), job.label)
    assert costs == {"numbers": 16}  # two groups of eight codewords of one channel
    record.end(folder, begun, is_finished=True, costs=costs)
    run = kind.read(job, folder)
    assert (
        run.results.keys()
        == run.protocols.keys()
        == {"codebook/usage", "codebook/perplexity", "codebook/distortion"}
    )
    assert 0 < run.results["codebook/usage"] <= 1
    page = write_study(study, kind, arms, tmp_path, "command").read_text()
    assert "2 channels, 64 codes" in page and "2,000 tokens" in page
    assert len(re.findall(r'<svg class="plot', page)) == 4
    saved = json.loads((tmp_path / "study.json").read_text())
    (found,) = saved["findings"]["codebooks"]
    assert (found["channels"], found["codes"]) == (2, 64)
    stopped = StopSignal()
    stopped.request("by the test")
    assert kind.train(job.arm.config_of(0), tmp_path / "other", stopped, "") is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"channels": 3}, "3 channels do not split into 2 groups"),
        ({"measure_every": 41}, "measure_every=41: choose"),
        ({"tokens": {"count": 9}}, "not comparable: tokens.count"),
    ],
)
def test_collapse_refuses_what_cannot_work(changes, words):
    study = collapse.get_config("debug").unlock()
    arm = study.arms.grouped_few_channels_few_codes
    with arm.unlocked():
        arm.changes.update(changes)
    with pytest.raises(ValueError, match=words):
        _kind(study)


def test_coupling_draws_a_panel_for_whatever_has_prefixes(tmp_path):
    study = coupling.get_config("debug")
    kind, arms = _kind(study)
    frequency = np.arange(1, 17) / 32
    jobs = choose_jobs(arms)[1:]  # one is missing still
    for job in jobs:
        folder = tmp_path / job.folder
        numbers = {
            f"{name}/{metric}": 0.25
            for name in ("spectrum", "pca_spectrum")
            for metric in ("semantic_spectrum_coupling", "spectrum_distance")
        }
        record.write(folder, record.Record(is_finished=True))
        write_numbers(folder, numbers, dict.fromkeys(numbers, "made up"), step=4)
        arrays = {
            "frequency": frequency,
            "original": frequency**-2.0,
            "levels": np.array([1, 4]),
            "power": np.stack([frequency**-3.0, frequency**-2.0]),
        }
        named = {f"{n}/{k}": v for n in ("spectrum", "pca_spectrum") for k, v in arrays.items()}
        np.savez(folder / training.ARRAYS_FILE, **named)
        tiles = np.zeros((5, 8, 8, 3), np.uint8)
        levels = (1, 4)
        np.savez(
            folder / training.PICTURES_FILE,
            originals=tiles,
            made=np.stack([tiles] * len(levels)),
            levels=np.array(levels),
        )
    page = write_study(study, kind, arms, tmp_path, "command").read_text()
    titles = re.findall(r"<figcaption><b>(.*?)</b>", page)
    assert titles == [
        "RVQ, 4 x 32",
        "MGVQ, 4 x 32",
        "Semanticist, 16 x 16",
        "TiTok, 32 x 1024",
        "Semanticist, quantized, 16 x 4 x 64",
        "PCA of the pixels",
    ]
    assert page.count('class="curve original"') == len(titles)
    assert "vq seed 0: not run" in page and "concepts:" in page
    names = ["rvq", "mgvq", "semanticist", "titok", "semanticist_quantized"]
    assert re.findall(r'class="row" data-arm="(.*?)"', page) == names
    assert 'class="units" data-levels="1 4" data-noun="groups or concepts"' in page


def test_coupling_arms_say_what_is_kept():
    study = coupling.get_config()
    nouns = [training.prefixes(arm.config) for arm in _kind(study)[1].values()]
    assert [(one.noun, one.levels) for one in nouns] == [
        ("components", (1, 2, 4, 8)),
        ("groups", (1, 2, 3, 4)),
        ("groups", (1, 2, 3, 4)),
        ("concepts", (1, 2, 4, 8, 16)),
        ("tokens", (1, 2, 4, 8, 16, 32)),
        ("concepts", (1, 2, 4, 8, 16)),
    ]


def test_arrays_of_evaluators_are_read_by_their_name(tmp_path):
    np.savez(tmp_path / training.ARRAYS_FILE, **{"a/x": np.ones(2), "ab/y": np.zeros(1)})
    assert training.read_arrays(tmp_path, "a").keys() == {"x"}
    np.testing.assert_array_equal(training.read_arrays(tmp_path, "ab")["y"], [0])
