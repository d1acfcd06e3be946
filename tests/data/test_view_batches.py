import gc
import time
from multiprocessing import resource_tracker

import numpy as np
import pytest

from vqlab.data import (
    CenterViews,
    CorruptDataError,
    RandomViews,
    TenCropViews,
    TrainTransform,
    ViewBatches,
)
from vqlab.data.sources import build_source
from vqlab.data.transforms import CenterCrop


def crops(batches, shards=None):
    """The real crops of some shards, shard by shard, and their labels."""
    read = list(batches.read(range(batches.num_shards) if shards is None else shards))
    images = np.concatenate([batch["images_u8"][batch["mask"]] for batch in read])
    return images, np.concatenate([batch["labels"][batch["mask"]] for batch in read])


def test_centre_crops_and_their_mirror_images_in_order():
    source = build_source("photos")
    batches = ViewBatches(source, CenterViews(16, flip=True), 4, records_per_shard=8, limit=5)
    assert (batches.count, batches.num_shards) == (10, 2)
    assert [batches.batches_in(shard) for shard in range(2)] == [2, 1]
    images, labels = crops(batches)
    assert labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    np.testing.assert_array_equal(images[1::2], images[::2, :, ::-1])
    np.testing.assert_array_equal(images[4], CenterCrop(16)(source[2]["image"]))


@pytest.fixture
def lent(monkeypatch):
    """Names of the shared memory that this process holds; cycles of references keep theirs."""
    names = set()

    def follow(change):
        original = getattr(resource_tracker, change)

        def followed(name, kind):
            original(name, kind)
            if kind == "shared_memory":
                names.add(name) if change == "register" else names.discard(name)

        monkeypatch.setattr(resource_tracker, change, followed)

    follow("register")
    follow("unregister")
    gc.disable()
    yield names
    gc.enable()


def is_soon_empty(names):
    deadline = time.monotonic() + 10  # grain gives memory back in a thread
    while names and time.monotonic() < deadline:
        time.sleep(0.01)
    return not names


def test_a_shard_is_the_same_wherever_a_job_begins(lent):
    views = RandomViews(TrainTransform(16), num_views=3, seed=5)
    settings = {"records_per_shard": 4, "limit": 5}
    images, labels = crops(ViewBatches(build_source("photos"), views, 4, **settings))
    assert labels.tolist() == np.repeat(range(5), 3).tolist()
    assert len(np.unique(images.reshape(15, -1), axis=0)) == 15
    # Other batches, other workers, and from the third shard on.
    batches = ViewBatches(build_source("photos"), views, 2, **settings, num_workers=1)
    late, _ = crops(batches, [2, 3])
    assert is_soon_empty(lent)
    np.testing.assert_array_equal(late, images[8:])
    other = RandomViews(TrainTransform(16), num_views=3, seed=6)
    assert (crops(ViewBatches(build_source("photos"), other, 4, **settings))[0] != images).any()


def test_an_image_is_opened_once_for_its_views():
    class Counted:
        num_classes, opened = 2, 0

        def __len__(self):
            return 2

        def __getitem__(self, record):
            self.opened += 1
            return {"image": np.full((20, 20, 3), record, np.uint8), "label": record}

    source = Counted()
    views = TenCropViews(16, (1.1, 1.05))
    batches = ViewBatches(source, views, 20, records_per_shard=20, num_threads=1)
    images, labels = crops(batches)
    assert labels.tolist() == [0] * 20 + [1] * 20
    np.testing.assert_array_equal(images[:, 0, 0, 0], labels)
    assert source.opened == 2


def test_corrupt_images_are_left_out_and_counted(image_folder):
    source = build_source("folder", path=image_folder(8, corrupt=[2]))
    batches = ViewBatches(source, CenterViews(16, flip=True), 4, records_per_shard=4)
    assert len(crops(batches)[0]) == 14
    assert batches.corrupt.names == {2: source.name(2)}
    strict = ViewBatches(source, CenterViews(16), 4, records_per_shard=4, max_corrupt_share=0.0)
    with pytest.raises(CorruptDataError, match=r"002\.png"):
        list(strict.read([0, 1]))


def test_numbers_out_of_range():
    source = build_source("photos")
    with pytest.raises(ValueError, match="records_per_shard=10 is no multiple of batch_size=4"):
        ViewBatches(source, CenterViews(16), 4, records_per_shard=10)
    with pytest.raises(ValueError, match="limit is 0"):
        ViewBatches(source, CenterViews(16), 4, records_per_shard=8, limit=0)
