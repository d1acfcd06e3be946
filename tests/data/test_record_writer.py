import numpy as np
import pytest

from tests.data import small_records
from vqlab.data import RecordFileError, RecordSource, RecordWriter


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_stopped_job_goes_on_and_ends_the_same(tmp_path):
    small_records.write(tmp_path / "straight")
    first = small_records.writer(tmp_path / "resumed")
    first.begin()
    small_records.write_missing(first, number=1)
    with pytest.raises(KeyboardInterrupt):
        with first.shard(1) as file:
            file.write(*small_records.batch([4, 5]))
            raise KeyboardInterrupt
    # What a killed process leaves behind, longer than the file that will be.
    first.path(1).with_suffix(".part").write_bytes(bytes(10**6))
    done = first.path(0).stat().st_mtime_ns
    second = small_records.writer(tmp_path / "resumed")
    second.begin()
    assert second.missing() == [1, 2]
    small_records.write_missing(second)
    second.finish()
    assert contents(tmp_path / "resumed") == contents(tmp_path / "straight")
    assert first.path(0).stat().st_mtime_ns == done


def test_processes_write_their_own_shards(tmp_path):
    small_records.write(tmp_path / "one")
    parts = [
        small_records.writer(tmp_path / "two", {"process_index": p, "process_count": 2})
        for p in range(2)
    ]
    parts[0].begin()
    assert [part.missing() for part in parts] == [[0, 2], [1]]
    small_records.write_missing(parts[0])
    with pytest.raises(ValueError, match="00001-of-00003.* is missing or damaged"):
        parts[0].finish()
    small_records.write_missing(parts[1])
    parts[0].finish()
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


def test_a_shard_that_a_crash_left_damaged_is_written_again(tmp_path):
    straight = small_records.write(tmp_path)
    again = small_records.writer(tmp_path)
    again.path(1).write_bytes(bytes(again.path(1).stat().st_size))
    assert again.missing() == [1]
    small_records.write_missing(again)
    assert again.finish() == straight


def test_records_of_another_job_are_kept_unless_overwritten(tmp_path):
    small_records.write(tmp_path)
    other = RecordWriter(tmp_path, small_records.manifest(image_size=16), 3)
    with pytest.raises(ValueError, match=r"another job \(image_size was 8, now 16\)"):
        other.begin()
    assert len(RecordSource(str(tmp_path.parent), tmp_path.name)) == 10
    other.begin(overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]
    (tmp_path / "manifest.json").unlink()
    other.path(0).write_bytes(b"")
    with pytest.raises(ValueError, match="holds shards without manifest.json"):
        other.begin()


def source(**listing):
    return {"name": "folder", "path": "DIR", "num_images": 10, **listing}


def test_exchanged_images_are_another_job(tmp_path):
    here = {"times": "aa", "listing": "bb"}
    written = small_records.write(tmp_path, source=source(**here))
    same = small_records.writer(tmp_path, source=source(**here))
    same.begin()
    assert same.finish() == written
    for listing, message in (
        ({"times": "cc", "listing": "dd"}, "of other images: .* exchanged, .*was bb, now dd"),
        ({"times": "aa", "listing": "dd"}, "of other images: .*source.listing was bb, now dd"),
        ({"times": "cc", "listing": "bb"}, "though not their names and sizes .*was aa, now cc"),
        ({**here, "num_images": 9}, r"another job \(source.num_images was 10, now 9\)"),
        ({**here, "decoding": {"alpha": "white"}}, "source.decoding.alpha was None, now white"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            small_records.writer(tmp_path, source=source(**listing)).begin()
        assert len(str(error.value).splitlines()) == 1
    # As the message for changed times says.
    path = tmp_path / "manifest.json"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(line for line in lines if '"times"' not in line))
    small_records.writer(tmp_path, source=source(times="cc", listing="bb")).begin()


def test_a_listing_that_only_one_has_is_not_compared(tmp_path):
    small_records.write(tmp_path / "old", source=source())
    later = small_records.writer(tmp_path / "old", source=source(listing="bb", times="aa"))
    later.begin()
    # It is not known whether the images were these, and the manifest does not claim it.
    assert later.finish().source == source()
    first = small_records.writer(tmp_path / "new", source=source(listing="bb", times="aa"))
    first.begin()
    second = small_records.writer(
        tmp_path / "new", {"process_index": 1, "process_count": 2}, source=source()
    )
    second.check()
    assert second.manifest == first.manifest


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_not_written(tmp_path, value):
    records = small_records.writer(tmp_path)
    records.begin()
    images, labels, arrays = small_records.batch([4, 5, 6])
    arrays["moments"][1, 0, 0, 0] = value
    with pytest.raises(RecordFileError, match="00001-of-00003.array_record record 2 is not .*NaN"):
        with records.shard(1) as file:
            file.write(*small_records.batch([3]))
            file.write(images, labels, arrays)
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


def test_arrays_must_be_the_fields(tmp_path):
    records = small_records.writer(tmp_path)
    records.begin()
    images, labels, arrays = small_records.batch([0])
    with pytest.raises(ValueError, match=r"arrays \['indices'\] are not the fields \['indices', "):
        with records.shard(0) as file:
            file.write(images, labels, {"indices": arrays["indices"]})
    with pytest.raises(RecordFileError, match="record 0 is not written: its indices is int64"):
        with records.shard(0) as file:
            file.write(images, labels, arrays | {"indices": arrays["indices"].astype(np.int64)})


def test_numbers_that_do_not_fit_into_their_bits_are_not_written(tmp_path):
    records = small_records.writer(tmp_path, **small_records.BARE)
    images, labels, arrays = small_records.batch([0])
    for number in (16, -1):
        arrays["indices"][0, 1] = number
        with pytest.raises(RecordFileError, match="record 0 is not written: .* fit into 4 bits"):
            with records.shard(0) as file:
                file.write(images, labels, arrays)


def test_a_full_disk_is_named(tmp_path):
    records = small_records.writer(tmp_path)
    records.path(0).with_suffix(".part").symlink_to("/dev/full")
    with pytest.raises(RecordFileError, match="00000.* cannot be written: .*No space left"):
        with records.shard(0) as file:
            file.write(*small_records.batch([0]))


def test_shards_without_a_record_are_left_out(tmp_path):
    records = small_records.writer(tmp_path)
    records.begin()
    for shard in range(3):
        with records.shard(shard) as file:
            if shard == 1:
                file.write(*small_records.batch([2]))
    manifest = records.finish()
    assert [shard.file for shard in manifest.shards] == [records.path(1).name]
    source = RecordSource(str(tmp_path.parent), tmp_path.name)
    assert len(source) == 1 and source[0]["label"] == 2
