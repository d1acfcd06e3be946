import pickle

import numpy as np
import pytest

from tests.data import small_records
from vqlab.data import (
    CenterCrop,
    RecordArrays,
    StoredCrop,
    build_source,
    eval_batches,
    train_batches,
)
from vqlab.data.record_format import encode_record


@pytest.fixture
def folder(tmp_path):
    small_records.write(tmp_path / "train")
    return tmp_path


def source(folder):
    return build_source("records", path=str(folder), split="train")


def shard(folder, number=1):
    return folder / "train" / f"data-{number:05}-of-00003.array_record"


def damage(path, start, length=40):
    content = bytearray(path.read_bytes())
    content[start : start + length] = bytes(length)
    path.write_bytes(content)


def start_of(path, record):
    """Where a record's own bytes lie: they are stored as they are."""
    images, labels, arrays = small_records.batch([record])
    encoded = encode_record(images[0], labels[0], {n: a[0] for n, a in arrays.items()})
    start = path.read_bytes().find(encoded)
    assert start > 0
    return start


def test_records_are_what_was_written(folder):
    records = source(folder)
    assert (len(records), records.num_classes) == (10, 3)
    assert records.fields == {"moments": ("float16", (2, 2, 4)), "indices": ("int32", (3,))}
    for number in range(10):
        record = records[number]
        np.testing.assert_array_equal(record["image"], small_records.pixels(number))
        assert record["label"] == number % 3
        assert (record["moments"] == number).all() and record["moments"].dtype == np.float16
        assert record["indices"].tolist() == [number, number + 1, number + 2]
    assert records.name(9) == f"{shard(folder, 2)} record 1"
    assert records.name(4) == f"{shard(folder, 1)} record 0"
    assert pickle.loads(pickle.dumps(records))[7]["indices"][0] == 7


@pytest.mark.parametrize("changes", [{}, small_records.BARE], ids=["webp", "none"])
def test_arrays_are_read_without_an_image(tmp_path, monkeypatch, changes):
    small_records.write(tmp_path / "train", **changes)
    monkeypatch.delattr("PIL.Image.open")
    records = pickle.loads(pickle.dumps(RecordArrays(str(tmp_path))))
    assert (len(records), records.num_classes) == (10, 3)
    assert records.fields["indices"] == ("int32", (3,))
    for number in range(10):
        record = records[number]
        assert set(record) == {"label", "moments", "indices"} and record["label"] == number % 3
        assert (record["moments"] == number).all() and record["moments"].dtype == np.float16
        assert record["indices"].tolist() == [number, number + 1, number + 2]
        assert record["indices"].dtype == np.int32


def test_records_without_images_are_refused_where_images_are_read(tmp_path):
    small_records.write(tmp_path / "train", **small_records.BARE)
    with pytest.raises(ValueError, match="train hold no images .*images=none") as error:
        source(tmp_path)
    assert len(str(error.value).splitlines()) == 1


def test_batches_carry_the_arrays_of_their_images(folder):
    def take(count, index, **reading):
        batches = train_batches(
            source(folder),
            StoredCrop(8),
            4,
            seed=1,
            parts=(index,),
            num_parts=count,
            **reading,
        )
        taken = [next(batches) for _ in range(5)]
        batches.close()
        return {name: np.stack([batch[name] for batch in taken]) for name in taken[0]}

    whole = take(1, 0)
    assert set(whole) == {"images", "labels", "moments", "indices"}
    assert whole["moments"].shape == (5, 4, 2, 2, 4) and whole["moments"].dtype == np.float16
    numbers = whole["indices"][..., 0]
    assert whole["indices"].dtype == np.int32 and set(numbers[:2].ravel()) <= set(range(10))
    for image, number in zip(whole["images"].reshape(-1, 8, 8, 3), numbers.ravel(), strict=True):
        np.testing.assert_array_equal(image, small_records.pixels(number))
    np.testing.assert_array_equal(whole["moments"][..., 0, 0, 0], numbers)
    halves = [take(2, index) for index in range(2)]
    workers = take(1, 0, num_workers=1)
    for name, values in whole.items():
        np.testing.assert_array_equal(
            np.concatenate([half[name] for half in halves], axis=1), values
        )
        np.testing.assert_array_equal(workers[name], values)


@pytest.mark.parametrize("changes", [{}, small_records.BARE], ids=["webp", "none"])
def test_batches_of_arrays_alone_open_no_image(tmp_path, monkeypatch, changes):
    small_records.write(tmp_path / "train", **changes)
    monkeypatch.delattr("PIL.Image.open")
    arrays = build_source("records", arrays=("indices",), path=str(tmp_path), split="train")
    batches = train_batches(arrays, StoredCrop(8), 4, seed=1)
    batch = next(batches)
    batches.close()
    assert set(batch) == {"labels", "moments", "indices"}
    numbers = batch["indices"][:, 0]
    np.testing.assert_array_equal(batch["labels"], numbers % 3)
    np.testing.assert_array_equal(batch["moments"][:, 0, 0, 0], numbers)
    *_, last = eval_batches(arrays, StoredCrop(8), 4)
    assert set(last) == {"labels", "moments", "indices", "mask"}
    np.testing.assert_array_equal(last["indices"][:, 0], [8, 9, 0, 0])


def test_images_are_read_where_no_array_stands_for_them(folder):
    assert build_source("records", arrays=("concepts",), path=str(folder), split="train").has_images


def test_the_order_is_the_same_with_and_without_images(folder):
    def numbers(**arrays):
        taken = build_source("records", path=str(folder), split="train", **arrays)
        batches = train_batches(taken, StoredCrop(8), 4, seed=1)
        numbers = [next(batches)["indices"][:, 0].tolist() for _ in range(4)]
        batches.close()
        return numbers

    assert numbers() == numbers(arrays=("indices",))


@pytest.mark.parametrize(
    ("views", "number"),
    [
        ({"crop": "center", "flip": False}, 1),
        ({"crop": "center", "flip": True}, 2),
        ({"crop": "random", "num_views": 5, "flip": True}, 5),
        ({"crop": "ten", "flip": True, "num_views": 10, "scales": [1.1]}, 10),
    ],
)
def test_an_epoch_has_one_view_of_each_image(tmp_path, views, number):
    small_records.write(tmp_path / "train", views=views)
    records = build_source("records", path=str(tmp_path), split="train")
    assert records.num_views == number
    batches = train_batches(records, StoredCrop(8), 10 // number, seed=1)
    epochs = [tuple(sorted(next(batches)["indices"][:, 0].tolist())) for _ in range(6)]
    batches.close()
    for epoch in epochs:
        assert [record // number for record in epoch] == list(range(10 // number))
    assert (len(set(epochs)) > 1) == (number > 1)


def test_evaluation_sees_the_stored_crops_and_pads_the_arrays(folder):
    *_, last = eval_batches(source(folder), CenterCrop(8), 4)
    np.testing.assert_array_equal(last["indices"][:, 0], [8, 9, 0, 0])
    np.testing.assert_array_equal(last["mask"], [True, True, False, False])
    np.testing.assert_array_equal(last["images"][1], small_records.pixels(9))


def test_random_crops_of_stored_crops_are_refused(folder):
    with pytest.raises(ValueError, match=r"with StoredCrop, not CenterCrop\(size=8\)"):
        train_batches(source(folder), CenterCrop(8), 4, seed=0)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda path: path.unlink(), "records are incomplete: .*00001-of-00003.* is missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:-9]), "is truncated or changed: "),
        (lambda path: path.write_bytes(b""), "00001-of-00003.* is truncated or changed: 0 bytes"),
        (lambda path: path.write_bytes(bytes(path.stat().st_size)), "00001.* is damaged"),
        (lambda path: damage(path, start_of(path, 4)), "00001.* record 0 is damaged: unreadable"),
    ],
)
def test_damaged_files_are_named_before_training(folder, harm, message):
    harm(shard(folder))
    with pytest.raises(ValueError, match=message) as error:
        source(folder)
    assert len(str(error.value).splitlines()) == 1


def test_a_shard_of_another_job_is_named(folder):
    manifest = folder / "train" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"num_records": 2,', '"num_records": 3,'))
    with pytest.raises(ValueError, match="00002-of-00003.* has 2 records of 3"):
        source(folder)


def test_a_record_that_is_damaged_later_is_replaced_and_counted(folder, caplog):
    damage(shard(folder), start_of(shard(folder), 6))
    batches = train_batches(source(folder), StoredCrop(8), 5, seed=0)
    numbers = {int(n) for _ in range(2) for n in next(batches)["indices"][:, 0]}
    batches.close()
    assert 6 not in numbers
    assert batches.corrupt.names == {6: f"{shard(folder)} record 2"}
    assert "unreadable record" in caplog.text
