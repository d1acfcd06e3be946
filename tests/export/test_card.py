"""Model cards and configs as model hubs read them."""

import json

import huggingface_hub
import pytest
from safetensors import safe_open

import vqlab
from tests import exports, tiny, tiny_kl
from tests.filled import filled
from vqlab import models
from vqlab.export import card, package

NODES = {
    "mgvq": tiny.tokenizer_node(),
    "autoencoder": tiny_kl.node(),
    "semanticist": tiny.semanticist_node(),
}
OF_BEFORE = '# run\n\n```python\ntokenizer = vqlab.load("run")\n```\n'


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Exported folders of random weights by method."""
    root = tmp_path_factory.mktemp("exports")
    for name, node in NODES.items():
        variables = filled(models.build(node).init, tiny.images(1, 16))
        exports.save(root / name, node, variables.pop("params"), variables, license="mit")
    return root


@pytest.mark.parametrize(
    ("name", "tags", "paper"),
    [
        ("mgvq", ["mgvq", "vector-quantization"], "2507.07997"),
        ("autoencoder", ["autoencoder", "continuous-latents"], "1312.6114"),
        ("semanticist", ["semanticist", "continuous-latents", "diffusion"], "2503.08685"),
    ],
)
def test_an_export_says_what_hubs_ask(folders, name, tags, paper):
    """Read by the Hub's own client."""
    text = (folders / name / package.CARD_FILE).read_text()
    data = huggingface_hub.ModelCard(text).data
    assert text.startswith("---\n")
    assert (data.library_name, data.license) == ("vqlab", "mit")
    assert data.pipeline_tag == "image-feature-extraction"
    assert data.tags == [*tags, "image-tokenizer", "jax", "flax"]
    assert f"https://arxiv.org/abs/{paper}" in text
    config = json.loads((folders / name / package.CONFIG_FILE).read_text())
    named = (config["library_name"], config["library_version"], config["model_type"])
    assert named == ("vqlab", vqlab.__version__, name)
    with safe_open(folders / name / package.WEIGHTS_FILE, "np") as file:
        assert file.metadata() == {"format": "flax"}


def test_a_license_is_unknown_unless_it_is_said(folders, tmp_path):
    exports.save(tmp_path / "out", *exports.load(folders / "mgvq"))
    text = (tmp_path / "out" / package.CARD_FILE).read_text()
    assert huggingface_hub.ModelCard(text).data.license == "unknown"
    for wrong in ("", "Apache 2.0", "mit\ntags: x"):
        with pytest.raises(ValueError, match="is no identifier such as apache-2.0"):
            exports.save(tmp_path / "no", *exports.load(folders / "mgvq"), license=wrong)
    assert not (tmp_path / "no").exists()


def test_a_card_gets_another_name_and_license_and_keeps_what_was_written_into_it(folders):
    text = (folders / "mgvq" / package.CARD_FILE).read_text() + "\nlicense: mine\n# mgvq\n"
    changed = card.licensed(card.renamed(text, "me/tok"), "apache-2.0")
    expected = text.replace('load("mgvq")', 'load("me/tok")').replace("# mgvq", "# me/tok", 1)
    assert changed == expected.replace("license: mit", "license: apache-2.0")
    titled = text.replace("# mgvq\n", "# A tokenizer\n")
    assert "# A tokenizer\n" in card.renamed(titled, "me/tok")
    assert card.renamed("a text of one's own", "me/tok") == "a text of one's own"


def test_a_card_of_before_has_no_license_to_change():
    assert card.renamed(OF_BEFORE, "me/tok") == OF_BEFORE.replace("run", "me/tok")
    for text in (OF_BEFORE, "---\ntags:\n- x\n---\n\nlicense: mit\n"):
        with pytest.raises(ValueError, match="no metadata that name a license: export anew"):
            card.licensed(text, "mit")
