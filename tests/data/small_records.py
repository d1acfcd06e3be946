"""Ten records of 8 pixels in three files."""

import dataclasses

import numpy as np

from vqlab.data import Field, Manifest, RecordWriter

SIZE, COUNT, PER_SHARD = 8, 10, 4
FIELDS = {
    "moments": Field("float16", (2, 2, 4), "abc", "autoencoder"),
    "indices": Field("int32", (3,), "def", "tokenizer"),
}

# Of the same records without images: the largest index is 11.
BARE = {
    "images": "none",
    "fields": FIELDS | {"indices": dataclasses.replace(FIELDS["indices"], bits=4)},
}


def manifest(**changes):
    """Of records that are still to be written."""
    facts = {
        "what": "latents",
        "image_size": SIZE,
        "num_classes": 3,
        "fields": FIELDS,
        "views": {"crop": "center", "flip": False},
        "source": {"name": "photos", "num_images": COUNT},
        "records_per_shard": PER_SHARD,
    }
    return Manifest(**facts | changes)


def pixels(record):
    """The noise that is record `record`'s image."""
    return np.random.default_rng(record).integers(0, 256, (SIZE, SIZE, 3), np.uint8)


def batch(records):
    """(images_u8, labels, arrays) of records: the record's number is in every array."""
    numbers = np.array(records)
    arrays = {
        "moments": np.broadcast_to(numbers[:, None, None, None], (len(numbers), 2, 2, 4)),
        "indices": np.stack([numbers, numbers + 1, numbers + 2], -1),
    }
    arrays = {name: array.astype(FIELDS[name].dtype) for name, array in arrays.items()}
    return np.stack([pixels(record) for record in records]), numbers % 3, arrays


def writer(folder, places=None, **changes):
    """The writer of the ten records; `changes` are of the manifest."""
    return RecordWriter(folder, manifest(**changes), -(-COUNT // PER_SHARD), **places or {})


def write_missing(records, number=None):
    """Writes the first `number` of a writer's missing shards, each in two batches."""
    for shard in records.missing()[:number]:
        numbers = list(range(COUNT))[shard * PER_SHARD : (shard + 1) * PER_SHARD]
        with records.shard(shard) as file:
            file.write(*batch(numbers[:1]))
            file.write(*batch(numbers[1:]))


def write(folder, **changes):
    """Writes all of it to `folder`."""
    records = writer(folder, **changes)
    records.begin()
    write_missing(records)
    return records.finish()
