import os

import pytest

from tests.data import small_records
from vqlab.data import build_source, listing_facts


@pytest.fixture
def folder(tmp_path):
    for name, content in {"cat/a.png": b"one", "cat/b.png": b"two", "dog/c.png": b"three"}.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        os.utime(path, (1000, 1000))
    return tmp_path


def facts(folder, count=3):
    return listing_facts(build_source("folder", path=str(folder)), count)


def exchange(folder):
    (folder / "cat/b.png").write_bytes(b"2!!")


def grow(folder):
    (folder / "cat/b.png").write_bytes(b"longer")
    os.utime(folder / "cat/b.png", (1000, 1000))


def rename(folder):
    (folder / "cat/b.png").rename(folder / "cat/bb.png")


def relabel(folder):
    (folder / "cat/b.png").rename(folder / "dog/b.png")


@pytest.mark.parametrize(
    ("change", "differing"),
    [
        (lambda folder: None, set()),
        (exchange, {"times"}),
        (grow, {"listing"}),
        (rename, {"listing"}),
        (relabel, {"listing"}),
    ],
)
def test_an_exchange_shows(folder, change, differing):
    before = facts(folder)
    change(folder)
    after = facts(folder)
    assert set(before) == {"times", "listing"}
    assert {name for name in before if before[name] != after[name]} == differing


def test_a_class_that_is_new_changes_the_labels(folder):
    before = facts(folder, 2)
    (folder / "train").mkdir()
    for name in ("cat", "dog"):
        (folder / name).rename(folder / "train" / name)
    assert facts(folder, 2) == before
    for name in ("ant", "bee"):  # one folder alone would be no class
        (folder / "val" / name).mkdir(parents=True)
        (folder / "val" / name / "a.png").write_bytes(b"")
    assert facts(folder, 2)["listing"] != before["listing"]
    assert facts(folder, 2)["times"] == before["times"]


def test_only_the_first_images_count(folder):
    before = facts(folder, 2), facts(folder, 3)
    (folder / "dog/c.png").write_bytes(b"else")
    assert facts(folder, 2) == before[0]
    assert facts(folder, 3) != before[1]


def test_a_file_that_is_gone_is_a_change(folder):
    source = build_source("folder", path=str(folder))
    before = listing_facts(source, 3)
    (folder / "cat/a.png").unlink()
    assert listing_facts(source, 3) != before


def test_records_are_told_by_their_manifest(tmp_path):
    def found():
        return listing_facts(build_source("records", path=str(tmp_path)), 10)

    small_records.write(tmp_path / "train")
    first = found()
    assert found() == first
    (tmp_path / "train/manifest.json").unlink()
    for path in (tmp_path / "train").iterdir():
        path.unlink()
    small_records.write(tmp_path / "train", views={"crop": "center", "flip": True})
    assert found()["listing"] != first["listing"]


def test_the_photographs_cannot_be_exchanged():
    assert listing_facts(build_source("photos"), 8) == {}
