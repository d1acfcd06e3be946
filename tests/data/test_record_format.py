import numpy as np
import pytest

from tests.data import small_records
from vqlab.data.manifest import Field
from vqlab.data.record_format import (
    check_array,
    decode_arrays,
    decode_bare,
    decode_record,
    encode_bare,
    encode_record,
)


def test_records_decode_only_to_what_the_manifest_says():
    images, labels, arrays = small_records.batch([3])
    arrays = {name: array[0] for name, array in arrays.items()}

    def decoded(image=images[0], size=8, **changes):
        return decode_record(
            encode_record(image, labels[0], arrays | changes), size, small_records.FIELDS
        )

    assert decoded()["label"] == 0
    wrong = {
        r"image is \(8, 8, 3\), not of 16": {"size": 16},
        r"moments is float32 \(2, 2, 4\), not float16": {"moments": np.zeros((2, 2, 4), "f4")},
        r"indices is int32 \(4,\), not int32 \(3,\)": {"indices": np.zeros(4, np.int32)},
        "moments holds NaN": {"moments": np.full((2, 2, 4), np.nan, np.float16)},
        "moments holds NaN or infinite": {"moments": np.full((2, 2, 4), np.inf, np.float16)},
    }
    for message, changes in wrong.items():
        with pytest.raises(ValueError, match=message):
            decoded(**changes)
    for content in (b"", b"no record", encode_record(images[0], labels[0], arrays)[:-200]):
        with pytest.raises(ValueError, match="no record: "):
            decode_record(content, 8, small_records.FIELDS)
    with pytest.raises(ValueError, match="has no indices"):
        decode_record(
            encode_record(images[0], 0, {"moments": arrays["moments"]}), 8, small_records.FIELDS
        )


def test_integers_are_never_infinite():
    check_array("x", np.full(2, 2**31 - 1, np.int32), Field("int32", (2,), "", ""))


def test_arrays_alone_are_checked_like_whole_records():
    images, _, arrays = small_records.batch([3])
    record = encode_record(images[0], 2, {"moments": arrays["moments"][0]})
    fields = small_records.FIELDS
    assert decode_arrays(record, {"moments": fields["moments"]})["label"] == 2
    with pytest.raises(ValueError, match="has no indices"):
        decode_arrays(record, fields)
    with pytest.raises(ValueError, match="no record: "):
        decode_arrays(record[:-20], fields)


def test_a_record_without_an_image_byte_by_byte():
    fields = {"a": Field("int32", (2, 2), "", "", bits=3), "b": Field("float16", (1,), "", "")}
    arrays = {"a": np.array([[1, 2], [7, 4]], np.int32), "b": np.array([1.5], np.float16)}
    record = encode_bare(258, arrays, fields)
    # 258 as an int32; 4 7 2 1 from the high bits down is 100 111 010 001; 1.5 is 0x3e00.
    assert record == bytes([2, 1, 0, 0, 0b11010001, 0b1001, 0x00, 0x3E])
    found = decode_bare(record, fields)
    assert found.pop("label") == 258
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype
    with pytest.raises(ValueError, match="no record: it has 7 bytes, not 8"):
        decode_bare(record[:-1], fields)
    with pytest.raises(ValueError, match="its b holds NaN"):
        decode_bare(record[:-2] + b"\x00\x7e", fields)
