"""The bytes of one record; docs/records.md has the format in words."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Mapping

import numpy as np
from PIL import Image

from vqlab.data.decode import UNREADABLE, decode_rgb
from vqlab.data.manifest import Field
from vqlab.data.packing import num_packed_bytes, pack, unpack

LABEL = np.dtype("<i4")  # before the arrays of a record without an image


def encode_record(pixels: np.ndarray, label: int, arrays: Mapping[str, np.ndarray]) -> bytes:
    """The bytes of uint8 pixels [H, W, 3], a label and arrays; the same for the same content."""
    image, record = io.BytesIO(), io.BytesIO()
    # Quality and method say how hard to compress. At their least this is already smaller than
    # PNG, and takes half the time.
    Image.fromarray(pixels).save(image, "WEBP", lossless=True, quality=0, method=0)
    np.savez(
        record,
        image=np.frombuffer(image.getvalue(), np.uint8),
        label=np.int64(label),
        **arrays,
    )
    return record.getvalue()


def decode_record(record: bytes, image_size: int, fields: Mapping[str, Field]) -> dict:
    """{"image": uint8 [image_size, image_size, 3], "label": int, and the arrays of `fields`}.

    Raises:
      ValueError: damaged, or an array that is missing, of another shape or dtype, or not finite.
    """
    stored = _stored(record, ("image", "label"), fields)
    try:
        image = np.asarray(decode_rgb(stored.pop("image").tobytes()))
    except UNREADABLE as error:
        raise _no_record(error) from error
    if image.shape != (image_size, image_size, 3):
        raise ValueError(f"its image is {image.shape}, not of {image_size} pixels")
    return {"image": image, **stored}


def decode_arrays(record: bytes, fields: Mapping[str, Field]) -> dict:
    """{"label": int, and the arrays of `fields`}; the image beside them is not touched.

    Raises:
      ValueError: as `decode_record`.
    """
    return _stored(record, ("label",), fields)


def _stored(record: bytes, needed: tuple[str, ...], fields: Mapping[str, Field]) -> dict:
    """The members `needed` of a record's zip file, and the arrays of `fields`, checked."""
    try:
        with np.load(io.BytesIO(record), allow_pickle=False) as content:
            stored = {name: content[name] for name in needed}
            stored |= {name: content[name] for name in fields if name in content}
        stored["label"] = int(stored["label"])
    except (KeyError, TypeError, NotImplementedError, zipfile.BadZipFile, *UNREADABLE) as error:
        raise _no_record(error) from error
    for name, field in fields.items():
        if name not in stored:
            raise ValueError(f"it has no {name}")
        check_array(name, stored[name], field)
    return stored


def _no_record(error: Exception) -> ValueError:
    return ValueError(f"no record: {type(error).__name__}: {error}")


def encode_bare(label: int, arrays: Mapping[str, np.ndarray], fields: Mapping[str, Field]) -> bytes:
    """The bytes of a label and arrays without an image: one after the other, nothing between.

    Raises:
      ValueError: a number does not fit into its field's bits.
    """
    parts = [np.array(label, LABEL).tobytes()]
    for name, field in fields.items():
        if field.bits:
            parts.append(pack(arrays[name], field.bits))
        else:
            parts.append(np.ascontiguousarray(arrays[name], _stored_dtype(field)).tobytes())
    return b"".join(parts)


def decode_bare(record: bytes, fields: Mapping[str, Field]) -> dict:
    """{"label": int, and the arrays of `fields`} of what `encode_bare` made.

    Raises:
      ValueError: there are too few or too many bytes, or an array is not finite.
    """
    wanted = LABEL.itemsize + sum(map(_num_bytes, fields.values()))
    if len(record) != wanted:
        raise ValueError(f"no record: it has {len(record)} bytes, not {wanted}")
    content = {"label": int(np.frombuffer(record, LABEL, 1)[0])}
    start = LABEL.itemsize
    for name, field in fields.items():
        end = start + _num_bytes(field)
        content[name] = _bare_array(record[start:end], field)
        check_array(name, content[name], field)
        start = end
    return content


def _bare_array(stored: bytes, field: Field) -> np.ndarray:
    if field.bits:
        return unpack(stored, field.shape, field.bits).astype(field.dtype)
    array = np.frombuffer(stored, _stored_dtype(field)).reshape(field.shape)
    return array.astype(field.dtype)  # of this machine's byte order, and writable


def _num_bytes(field: Field) -> int:
    if field.bits:
        return num_packed_bytes(field.shape, field.bits)
    return math.prod(field.shape) * _stored_dtype(field).itemsize


def _stored_dtype(field: Field) -> np.dtype:
    return np.dtype(field.dtype).newbyteorder("<")


def check_array(name: str, array: np.ndarray, field: Field) -> None:
    """Raises ValueError unless the array has the field's shape and dtype and is finite."""
    if (array.dtype.name, array.shape) != (field.dtype, field.shape):
        raise ValueError(
            f"its {name} is {array.dtype} {array.shape}, not {field.dtype} {field.shape}"
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError(f"its {name} holds NaN or infinite numbers")
