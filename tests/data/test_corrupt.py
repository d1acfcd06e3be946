import json
import logging

import pytest

from vqlab.data.corrupt import CorruptDataError, CorruptRecords, Failure


def failures(*records):
    return [Failure(record, f"{record}.png", "OSError: truncated") for record in records]


def test_a_record_is_named_once_and_counted_always(caplog):
    corrupt = CorruptRecords(num_records=500, max_share=0.01)
    with caplog.at_level(logging.WARNING):
        corrupt.add(failures(7), tried=32)
        corrupt.add(failures(7, 8), tried=32)
    assert [record.getMessage() for record in caplog.records] == [
        "corrupt image skipped: 7.png (OSError: truncated)",
        "corrupt image skipped: 8.png (OSError: truncated)",
    ]
    assert (corrupt.tried, corrupt.skipped, len(corrupt.names)) == (64, 3, 2)


def test_share_of_a_small_set_is_that_of_the_set():
    corrupt = CorruptRecords(num_records=200, max_share=0.01)
    corrupt.add(failures(1, 2), tried=2)  # 2 of 200 is 1 %
    with pytest.raises(CorruptDataError, match=r"3 of 3 records .* 1\.png, 2\.png, 3\.png"):
        corrupt.add(failures(3), tried=1)


def test_share_of_a_large_set_is_that_of_the_records_tried():
    corrupt = CorruptRecords(num_records=10**6, max_share=0.01)
    corrupt.add(failures(*range(10)), tried=16)
    corrupt.add(failures(*range(10, 30)), tried=2984)  # 30 of 3,000
    with pytest.raises(CorruptDataError, match="31 of 3000"):
        corrupt.add(failures(30), tried=0)


def test_one_bad_file_never_ends_a_run_unless_none_is_allowed():
    CorruptRecords(num_records=3, max_share=0.01).add(failures(1), tried=3)
    with pytest.raises(CorruptDataError):
        CorruptRecords(num_records=3, max_share=0).add(failures(1), tried=3)


def test_state_survives_json_and_is_not_named_again(caplog):
    corrupt = CorruptRecords(num_records=500, max_share=0.01)
    corrupt.add(failures(7), tried=32)
    copy = CorruptRecords(num_records=500, max_share=0.01)
    copy.set_state(json.loads(json.dumps(corrupt.get_state())))
    caplog.clear()
    copy.add(failures(7), tried=32)
    assert not caplog.records
    assert (copy.tried, copy.skipped) == (64, 2)


def test_share_must_be_a_share():
    with pytest.raises(ValueError, match="max_corrupt_share is 2, not a share"):
        CorruptRecords(num_records=1, max_share=2)
