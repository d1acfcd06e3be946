"""Loading by name and pushing, against a Hub of this machine; what the commands say of errors."""

import functools
import json
import pathlib
import shutil
import sys
import tarfile

import jax
import numpy as np
import pytest
from absl.testing import flagsaver

import vqlab
from tests import exports, fake_hub, tiny, tiny_kl
from tests.commands import imported
from tests.filled import filled
from vqlab import convert, models
from vqlab.export import frozen, package
from vqlab.runs.workdir import read_trained

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "before_the_seams.tar.xz"
SHA = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Exported folders of random weights."""
    root = tmp_path_factory.mktemp("exports")
    for name, node in {"mgvq": tiny.tokenizer_node(), "kl": tiny_kl.node()}.items():
        variables = filled(models.build(node).init, tiny.images(1, 16))
        exports.save(root / name, node, variables.pop("params"), variables)
    return root


@pytest.fixture
def hub(folders):
    """A Hub with both, and with what is none of ours."""
    with fake_hub.FakeHub() as hub:
        hub.add("lab/mgvq", files_of(folders / "mgvq"))
        hub.add("lab/kl", files_of(folders / "kl"))
        hub.add("lab/bert", {"config.json": b'{"model_type": "bert"}', "model.safetensors": b""})
        hub.add("lab/list", {"config.json": b"[]"})
        hub.add("lab/binary", {"config.json": b"\xff\x00"})
        hub.add("lab/empty", {"README.md": b""})
        hub.add("lab/half", {"config.json": files_of(folders / "mgvq")["config.json"]})
        hub.add("lab/gated", {}).is_gated = True
        hub.add("me/hidden", files_of(folders / "mgvq"), private=True)
        yield hub


@pytest.fixture
def online(hub, monkeypatch, tmp_path):
    """An empty folder and an empty cache; the Hub is reached, without a token."""
    monkeypatch.chdir(tmp_path)
    with fake_hub.library(monkeypatch, hub.endpoint, tmp_path / "cache"):
        yield


@pytest.fixture
def logged_in(hub, monkeypatch, tmp_path):
    """The same, with a token."""
    monkeypatch.chdir(tmp_path)
    with fake_hub.library(monkeypatch, hub.endpoint, tmp_path / "cache", HF_TOKEN=fake_hub.TOKEN):
        yield


def files_of(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@functools.cache
def content(folder):
    """(module, parameters) of an exported folder."""
    node, params, _ = exports.load(folder)
    return models.build(node), params


def assert_equal(loaded, folder):
    """The tokenizer is that of the folder."""
    module, params = content(folder)
    assert loaded.module == module
    jax.tree.map(np.testing.assert_array_equal, loaded.params, params)


def fails(command, capsys):
    """The one line with which a command ends."""
    with pytest.raises(SystemExit) as exit_:
        convert.main(command)
    error = capsys.readouterr().err
    assert exit_.value.code == 2 and error.startswith("error: ") and error.count("\n") == 1
    return error


def test_two_files_are_fetched_once(hub, online, folders):
    assert_equal(vqlab.load("lab/mgvq"), folders / "mgvq")
    fetched = [request.rpartition("/")[2] for request in hub.requests if "/resolve/" in request]
    assert sorted(set(fetched)) == ["config.json", "model.safetensors"]
    hub.requests.clear()
    assert_equal(vqlab.load("lab/mgvq"), folders / "mgvq")
    assert hub.requests == ["GET /api/models/lab/mgvq"]


def test_a_revision_is_a_branch_or_a_commit(hub, online, folders):
    repository = hub.repositories["lab/mgvq"]
    old = repository.branches["main"]
    repository.branches["old/one"] = old
    assert vqlab.load("lab/mgvq").stride == 8
    repository.commit("main", files_of(folders / "kl"))
    assert_equal(vqlab.load("lab/mgvq"), folders / "kl")
    for revision in ("old/one", old):
        assert_equal(vqlab.load(f"lab/mgvq@{revision}"), folders / "mgvq")


def test_a_folder_of_this_machine_comes_first(hub, online, folders):
    shutil.copytree(folders / "kl", "lab/mgvq")
    assert_equal(vqlab.load("lab/mgvq"), folders / "kl")
    for name in (pathlib.Path("lab/kl"), "./lab/kl", "runs/lab/kl"):
        with pytest.raises(ValueError, match="lab/kl is no workdir"):
            vqlab.load(name)
    assert not hub.requests


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lab/none", "lab/none: no such folder, and no such repository on HOST; if it is private"),
        ("me/hidden", "me/hidden: no such folder, and no such repository on HOST; if it is priv"),
        ("lab/mgvq@v2", "lab/mgvq on HOST has no revision 'v2'"),
        ("lab/bert", "lab/bert on HOST is no exported tokenizer: .*says format None, known: vqla"),
        ("lab/list", "lab/list on HOST is no exported tokenizer: .*says format None"),
        ("lab/binary", "lab/binary on HOST is truncated or no exported tokenizer"),
        ("lab/empty", "lab/empty on HOST is no exported tokenizer: no config.json or model.safet"),
        ("lab/half", "lab/half on HOST is no exported tokenizer: no config.json or model.safet"),
        ("lab/gated", "lab/gated is for those who asked for it: ask at http://HOST/lab/gated"),
        ("lab/a--b", "lab/a--b is no name of a repository: "),
    ],
)
def test_what_cannot_be_loaded_is_said_in_one_line(hub, online, name, message):
    host = hub.endpoint.removeprefix("http://")
    with pytest.raises(ValueError, match=message.replace("HOST", host)) as error:
        vqlab.load(name)
    assert "\n" not in str(error.value)
    assert not [request for request in hub.requests if request.startswith("GET /blobs")]


def test_a_hub_that_is_down_is_replaced_by_the_cache(hub, online, folders, tmp_path):
    vqlab.load("lab/mgvq")
    hub.is_broken = True
    assert_equal(vqlab.load("lab/mgvq"), folders / "mgvq")
    message = f"lab/kl: no such folder, not in {tmp_path}/cache/hub, and .* was not reached: .*503"
    with pytest.raises(ValueError, match=message) as error:
        vqlab.load("lab/kl")
    assert "\n" not in str(error.value)


def test_a_prepared_cache_is_enough_offline(folders, tmp_path, monkeypatch):
    repository = tmp_path / "cache" / "hub" / "models--lab--mgvq"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(SHA)
    shutil.copytree(folders / "mgvq", repository / "snapshots" / SHA)
    monkeypatch.chdir(tmp_path)
    nowhere = "http://127.0.0.1:9"
    with fake_hub.library(monkeypatch, nowhere, tmp_path / "cache", HF_HUB_OFFLINE="1"):
        for name in ("lab/mgvq", f"lab/mgvq@{SHA}"):
            assert_equal(vqlab.load(name), folders / "mgvq")
        with pytest.raises(ValueError, match="not in .* was not reached: .*HF_HUB_OFFLINE"):
            vqlab.load("lab/kl")


def test_without_the_library_the_error_says_what_to_install(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ValueError, match="^lab/x: no such folder; .* pip install 'hugging"):
        vqlab.load("lab/x")
    assert "needs huggingface_hub: pip install" in fails(["push", "x", "me/x"], capsys)


def test_a_name_stands_wherever_an_export_is_taken(hub, online, folders, tmp_path, capsys):
    node, variables = read_trained("lab/mgvq")  # what config.init_from and to-official read
    module, params = content(folders / "mgvq")
    assert models.build(node) == module
    jax.tree.map(np.testing.assert_array_equal, variables["params"], params)
    convert.main(["export", "lab/mgvq@main", str(tmp_path / "out")])
    assert_equal(vqlab.load(tmp_path / "out"), folders / "mgvq")
    assert "| exported from | lab/mgvq@main |" in (tmp_path / "out" / "README.md").read_text()
    autoencoder, params = content(folders / "kl")
    latents = frozen.NETWORKS["latent_space"].read("lab/kl", autoencoder)
    jax.tree.map(np.testing.assert_array_equal, latents["params"], params)
    assert "lab/none: no such folder" in fails(["to-official", "lab/none", "x.npz"], capsys)


def test_a_file_that_is_missing_is_not_looked_for_on_the_hub(hub, online):
    autoencoder = models.build(tiny_kl.node())
    with pytest.raises(ValueError, match="weights/kl16.ckpt: no such weights file"):
        frozen.NETWORKS["latent_space"].read("weights/kl16.ckpt", autoencoder)
    assert not hub.requests


def test_tokenize_asks_for_the_images_before_it_fetches(hub, online):
    with imported("tokenize") as tokenize, flagsaver.flagsaver(source="lab/mgvq"):
        with pytest.raises(ValueError, match="--config must say which images"):
            tokenize._config_of_source()
    assert not hub.requests


def test_a_pushed_folder_is_loaded_by_its_name(hub, logged_in, folders, tmp_path, capsys):
    folder = shutil.copytree(folders / "mgvq", tmp_path / "out")
    (folder / "LICENSE").write_text("mine")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "secret").write_text("not for others")
    convert.main(["push", str(folder), "me/new", "--license=mit", "--message=the first"])
    assert capsys.readouterr().out == f"{hub.endpoint}/me/new\n"
    pushed = hub.repositories["me/new"]
    files = pushed.commits[pushed.branches["main"]]
    kept = {"LICENSE", package.CONFIG_FILE, package.WEIGHTS_FILE}
    assert files.keys() == kept | {package.CARD_FILE}
    assert {name: files[name] for name in kept} == {
        name: (folder / name).read_bytes() for name in kept
    }
    card = files[package.CARD_FILE].decode()
    assert 'vqlab.load("me/new")' in card and "\nlicense: mit\n" in card
    assert pushed.messages == ["the first"] and not pushed.private
    assert_equal(vqlab.load("me/new"), folders / "mgvq")


def test_a_push_goes_where_it_is_said(hub, logged_in, folders, tmp_path, capsys):
    convert.main(["push", str(folders / "mgvq"), "me/new", "--private"])
    convert.main(["push", str(folders / "kl"), "me/new", "--revision=next/kl", "--private"])
    page = f"{hub.endpoint}/me/new"
    assert capsys.readouterr().out.splitlines() == [page, f"{page}/tree/next/kl"]
    assert hub.repositories["me/new"].private
    assert_equal(vqlab.load("me/new"), folders / "mgvq")
    assert_equal(vqlab.load("me/new@next/kl"), folders / "kl")
    hub.add("me/shown", {})
    error = fails(["push", str(folders / "mgvq"), "me/shown", "--private"], capsys)
    assert "me/shown is public: nothing was uploaded" in error
    assert len(hub.repositories["me/shown"].messages) == 1


def test_a_workdir_is_exported_first(hub, logged_in, tmp_path):
    with tarfile.open(GOLDEN) as archive:
        runs = [member for member in archive if member.name.split("/")[0] == "mgvq"]
        archive.extractall(tmp_path, runs, filter="data")
    convert.main(["push", "mgvq", "me/run", "--step=2", "--license=apache-2.0"])
    pushed = hub.repositories["me/run"]
    files = pushed.commits[pushed.branches["main"]]
    assert files.keys() == {package.CONFIG_FILE, package.WEIGHTS_FILE, package.CARD_FILE}
    card = files[package.CARD_FILE].decode()
    assert "\n# me/run\n" in card and "| step | 2 |" in card and "\nlicense: apache-2.0\n" in card
    for text in (card, files[package.CONFIG_FILE].decode()):
        assert str(tmp_path) not in text and "vqlab-push" not in text
    assert json.loads(files[package.CONFIG_FILE])["facts"] == {"step": "2"}
    expected = vqlab.load("mgvq", step=2)
    loaded = vqlab.load("me/run")
    jax.tree.map(np.testing.assert_array_equal, loaded.params, expected.params)


@pytest.mark.parametrize(
    ("token", "name", "message"),
    [
        ("", "me/new", "needs a token that may write: log in by `hf auth login`, or set HF_TOKEN"),
        ("hf_wrong", "me/new", "me/new on HOST: Invalid username or password."),
        (fake_hub.TOKEN, "lab/mgvq", "lab/mgvq on HOST: You don't have the rights to write to lab"),
        (fake_hub.TOKEN, "new", "'new' is no name of a repository: user/name"),
        (fake_hub.TOKEN, "me/a--b", "me/a--b is no name of a repository: "),
    ],
)
def test_what_cannot_be_pushed_is_said_in_one_line(
    hub, folders, monkeypatch, tmp_path, capsys, token, name, message
):
    with fake_hub.library(monkeypatch, hub.endpoint, tmp_path, HF_TOKEN=token):
        error = fails(["push", str(folders / "mgvq"), name], capsys)
    assert message.replace("HOST", hub.endpoint.removeprefix("http://")) in error
    assert "me/new" not in hub.repositories and len(hub.repositories["lab/mgvq"].messages) == 1


def test_what_does_not_load_is_not_pushed(hub, logged_in, folders, tmp_path, capsys):
    folder = shutil.copytree(folders / "mgvq", tmp_path / "cut")
    weights = folder / package.WEIGHTS_FILE
    weights.write_bytes(weights.read_bytes()[:-1])
    assert f"{folder} is truncated" in fails(["push", str(folder), "me/cut"], capsys)
    assert "nowhere is no workdir" in fails(["push", "nowhere", "me/cut"], capsys)
    assert not hub.requests
