"""The page of a study, made of runs that took no time, read as text and in a browser."""

import json
import re
import shutil
import subprocess

import pytest

from tests import tiny_study
from vqlab.runs.studies import KINDS
from vqlab.runs.studies.page import write_study

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next((path for name in BROWSERS if (path := shutil.which(name))), None)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """(folder, page) of a study all of whose runs but one have ended."""
    workdir = tmp_path_factory.mktemp("study")
    config = tiny_study.config()
    *done, left = tiny_study.jobs_of(config)
    assert left.label == "mgvq seed 1"
    for job in done:
        tiny_study.make_up(job, workdir)
    arms = tiny_study.arms_of(config)
    kind = KINDS[config.kind](config, arms)
    path = write_study(config, kind, arms, workdir, "python -m vqlab.study --study=a.py")
    return workdir, path.read_text()


def test_the_page_needs_nothing_beside_itself(study):
    _, page = study
    outside = re.sub(r'href="\w+/seed\d/report.html"', "", page)
    assert not re.search(r'(src|href)="(?!data:)|url\(|@import|https?:', outside)
    assert "5 of 6 runs" in page and "mgvq seed 1: not run" in page
    assert "<h1>Which &lt;one&gt;?</h1>" in page and "1 x made up" in page
    headings = re.findall("<h2>(.*?)</h2>", page)
    assert headings == [
        "The rate-distortion plane",
        "Beside the VAE&#x27;s curve",
        "Arms",
        "The same held-out tiles, by every arm",
        "What is missing",
        "How this was made",
    ]


def test_findings_are_those_that_were_made_up(study):
    """MGVQ, in the one seed that it has, lies 1 dB above the VAE's line at its entropy."""
    workdir, page = study
    saved = json.loads((workdir / "study.json").read_text())
    assert saved["facts"]["minutes"] == pytest.approx(5 * 1.5)
    found = {
        (gap["of"], gap["way"]["rate"]): gap
        for gap in saved["findings"]["points_against_anchor"]
        if gap["metric"] == "psnr"
    }
    assert found["MGVQ 2x16", "entropy"]["quality"] == [pytest.approx(1.0), None]
    assert found["MGVQ 2x16", "entropy"]["interval"] == [2.0, 2.0]
    # At fixed length it takes twice the bits, where the line is 3 dB higher.
    assert found["MGVQ 2x16", "fixed"]["quality"][0] == pytest.approx(1 - 3.0103, abs=1e-4)
    assert "Of 1 codes by an ideal static code, 1 lie above the VAE" in page
    marks = {(m["arm"], m["kept"]): m for m in saved["findings"]["marks"]}
    # 20 and 20.5 dB: mean 20.25, standard error a quarter.
    assert marks["vae_low", 0]["quality"]["psnr"] == [20.25, pytest.approx(0.25)]
    (curve,) = (
        gap
        for gap in saved["findings"]["curves_against_anchor"]
        if (gap["way"]["rate"], gap["metric"]) == ("entropy", "psnr")
    )
    assert curve["of"] == "MGVQ 2x16, over its groups" and curve["interval"] == [1.0, 2.0]


def test_marks_carry_their_numbers_and_pictures_their_levels(study):
    _, page = study
    tips = re.findall("<title>(.*?)</title>", page, re.DOTALL)
    rate = "1.000 ± 0.000 bits per pixel (KL (bits-back))"
    assert f"VAE, low\nposterior samples\nPSNR 20.25 ± 0.25 dB\n{rate}\n2 seeds" in tips
    assert any(tip.startswith("MGVQ 2x16\nindices, 1 group\nPSNR 19.00 dB") for tip in tips)
    assert page.count('class="plane"') == 4  # PSNR and SSIM, at entropy and at fixed length
    rows = re.findall(r'<div class="row" data-arm="(\w+)">(.*?)</div>\n?', page)
    assert [name for name, _ in rows] == ["vae_low", "vae_high", "mgvq"]
    assert page.count('<div data-kept="1"><img') == 2  # a prefix of each of two tiles
    assert page.count("data:image/webp") == 2 + 2 + 2 + 4


# Does what a reader does, and writes down what is to be seen then.
SCRIPT = """
<script>
const seen = {};
const shown = (selector) => [...document.querySelectorAll(selector)]
  .filter((one) => one.checkVisibility()).length;
const names = () => [...document.querySelectorAll("table.sortable")].at(-1).tBodies[0].rows;
const first = () => [...names()].map((row) => row.cells[0].textContent.trim());
const slider = document.querySelector(".units input[type=range]");
const kept = () =>
  document.querySelector("[data-arm=mgvq] .name .steps :not([hidden])").textContent;
seen.before = [slider.value, document.querySelector("output").textContent, kept(), shown(".plane")];
seen.pictures = shown(".gallery img");
slider.value = 0;
slider.dispatchEvent(new Event("input"));
seen.after = [document.querySelector("output").textContent, kept(), shown(".gallery img")];
seen.rows = first();
const parameters = [...document.querySelectorAll("th button")]
  .findLast((one) => one.textContent === "parameters");
parameters.click();
seen.ascending = first();
parameters.click();
seen.descending = first();
const plane = () => document.querySelector(".plane:not([hidden])").dataset;
seen.plane = { ...plane() };
document.querySelector("input[value=ssim]").click();
document.querySelector("input[value=fixed]").click();
seen.chosen = { ...plane() };
const mark = document.querySelector(".plane:not([hidden]) .mark");
mark.dispatchEvent(new Event("pointerenter"));
seen.tip = document.querySelector(".tip").textContent.split("\\n")[0];
seen.wide = document.documentElement.scrollWidth <= document.documentElement.clientWidth;
const pre = document.body.appendChild(document.createElement("pre"));
pre.id = "seen";
pre.textContent = JSON.stringify(seen);
</script>
"""


@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")
def test_a_browser_moves_the_slider_sorts_the_table_and_chooses_a_plane(study, tmp_path):
    (tmp_path / "page.html").write_text(study[1].replace("</body>", SCRIPT + "</body>"))
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1300,900"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
    done = subprocess.run(
        [*command, (tmp_path / "page.html").as_uri()], capture_output=True, text=True, timeout=120
    )
    match = re.search('<pre id="seen">(.*?)</pre>', done.stdout)
    assert match, done.stderr[-2000:]
    seen = json.loads(match[1].replace("&amp;", "&").replace("&lt;", "<"))
    assert seen["before"] == ["1", "2 groups", "2 of 2 groups, 24.01 dB", 1]
    assert seen["pictures"] == 2 * (1 + 3)
    assert seen["after"] == ["1 group", "1 of 2 groups, 19.00 dB", 2 * (1 + 3)]
    assert seen["rows"] == ["VAE, low", "VAE, high", "MGVQ 2x16"]
    assert seen["ascending"] == ["MGVQ 2x16", "VAE, low", "VAE, high"]
    assert seen["descending"] == seen["ascending"][::-1]
    assert seen["plane"] == {"metric": "psnr", "rate": "entropy"}
    assert seen["chosen"] == {"metric": "ssim", "rate": "fixed"}
    assert seen["tip"] == "VAE, low" and seen["wide"]
