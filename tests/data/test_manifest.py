import json

import pytest

from tests.data import small_records
from vqlab.data import RecordSource
from vqlab.data.manifest import (
    Field,
    check_records,
    load_manifest,
    read_manifest,
    save_manifest,
)


def test_what_is_written_is_read(tmp_path):
    written = small_records.write(tmp_path / "train")
    assert read_manifest(tmp_path, "train") == written
    content = json.loads((tmp_path / "train" / "manifest.json").read_text())
    assert (content["format"], content["num_records"]) == ("vqlab-records-2", 10)
    assert [shard["num_records"] for shard in content["shards"]] == [4, 4, 2]


def test_records_of_the_first_format_are_read(tmp_path):
    written = small_records.write(tmp_path / "train")
    path = tmp_path / "train" / "manifest.json"
    content = json.loads(path.read_text()) | {"format": "vqlab-records-1"}
    del content["images"], content["tokenizer"]
    for field in content["fields"].values():
        del field["bits"]
    path.write_text(json.dumps(content))
    assert read_manifest(tmp_path, "train") == written
    assert RecordSource(str(tmp_path))[7]["indices"].tolist() == [7, 8, 9]


def test_missing_unfinished_and_foreign_manifests_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"no records in .*train: manifest\.json is missing"):
        read_manifest(tmp_path, "train")
    with pytest.raises(ValueError, match="have no path"):
        read_manifest("", "train")
    (tmp_path / "train").mkdir()
    save_manifest(small_records.manifest(), tmp_path / "train")
    with pytest.raises(ValueError, match="are unfinished"):
        read_manifest(tmp_path, "train")
    assert load_manifest(tmp_path / "train") == small_records.manifest()
    path = tmp_path / "train" / "manifest.json"
    for text, message in {
        path.read_text()[:50]: "no valid JSON",
        '{"format": "vqlab-records-9"}': "of none of the formats vqlab-records-1, vqlab",
        '{"format": "vqlab-records-1", "num_records": 3}': "no manifest of records: .*'fields'",
        "[]": "no manifest of records",
    }.items():
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_manifest(tmp_path, "train")


@pytest.mark.parametrize(
    ("size", "fingerprints", "message"),
    [
        (16, {}, "hold images of 8 pixels, config's are of 16"),
        (8, {"repa_features": None}, "hold no repa_features, only: moments, indices"),
        (
            8,
            {"moments": "xyz"},
            "in DIR were made by another autoencoder: fingerprint abc, config's is xyz",
        ),
    ],
)
def test_records_of_something_else_are_refused(size, fingerprints, message):
    with pytest.raises(ValueError, match=message):
        check_records(small_records.manifest(), "DIR", image_size=size, fingerprints=fingerprints)


def test_records_that_fit_pass():
    fingerprints = {"moments": "abc", "indices": None}
    check_records(small_records.manifest(), "DIR", image_size=8, fingerprints=fingerprints)


def test_images_are_stored_in_one_of_two_ways():
    with pytest.raises(ValueError, match="images='jpeg' is none of webp, none"):
        small_records.manifest(images="jpeg")


def test_arrays_cannot_take_the_names_of_batches():
    with pytest.raises(ValueError, match=r"use the names \['labels'\] themselves"):
        small_records.manifest(fields={"labels": Field("int32", (), "", "")})
