import dataclasses

import numpy as np

from vqlab.data.corrupt import Failure
from vqlab.data.decode import Decoding
from vqlab.data.examples import BatchRows, EvalExamples, TrainExamples
from vqlab.data.transforms import CenterCrop, TrainTransform


class HalfCorrupt:
    """Odd records are unreadable."""

    num_classes = 1

    def __len__(self):
        return 6

    def __getitem__(self, record):
        pixels = np.full((8, 8, 3), record, np.uint8)
        return {"image": b"damaged" if record % 2 else pixels, "label": record}

    def name(self, record):
        return f"number {record}"


def test_examples_are_a_function_of_seed_and_position():
    one, other = (TrainExamples(HalfCorrupt(), TrainTransform(8), seed=3) for _ in range(2))
    forwards = [one(position).label for position in range(18)]
    backwards = [other(position).label for position in reversed(range(18))]
    assert forwards == backwards[::-1]
    assert sorted(one.record_at(position) for position in range(6, 12)) == list(range(6))


class ThreeViews(HalfCorrupt):
    """Three views of each of four images, and of a fifth two: records 0..13."""

    num_views = 3

    def __len__(self):
        return 14


def test_an_epoch_has_one_view_of_each_image_drawn_anew():
    one, other = (TrainExamples(ThreeViews(), TrainTransform(8), seed=3) for _ in range(2))
    records = np.reshape([one.record_at(position) for position in range(5 * 60)], (60, 5))
    # An epoch is five positions, each with another image.
    np.testing.assert_array_equal(np.sort(records // 3), np.tile(np.arange(5), (60, 1)))
    # All fourteen records come, those of an image about as often: of 60 epochs, 20 of each.
    counts = np.bincount(records.ravel(), minlength=14)
    assert counts[:12].min() > 8 and counts[12:].min() > 15 and len(counts) == 14
    assert (np.sort(records[0]) != np.sort(records[1])).any()
    assert [other.record_at(position) for position in (299, 7, 41)] == [
        records.ravel()[position] for position in (299, 7, 41)
    ]
    seeded = TrainExamples(ThreeViews(), TrainTransform(8), seed=4)
    assert [seeded.record_at(position) for position in range(300)] != records.ravel().tolist()


def test_corrupt_records_are_replaced_and_listed():
    examples = TrainExamples(HalfCorrupt(), TrainTransform(8), seed=0)
    for position in range(12):
        example = examples(position)
        assert (example.pixels == example.label).all() and example.label % 2 == 0
        assert bool(example.failures) == bool(examples.record_at(position) % 2)
        assert all(f.name == f"number {f.record}" and f.record % 2 for f in example.failures)


def test_rows_of_a_process():
    rows = BatchRows(
        EvalExamples(HalfCorrupt(), lambda image, rng: np.asarray(image), count=6),
        size=8,
        batch_size=4,
        parts=(1,),
        num_parts=2,
    )
    first, second = rows(0), rows(1)
    assert (first["labels"].tolist(), first["mask"].tolist()) == ([2, 0], [True, False])
    assert [failure.record for failure in first["failures"]] == [3]
    assert (second["mask"].tolist(), second["failures"]) == ([False, False], [])
    apart = dataclasses.replace(rows, parts=(0, 2), num_parts=4)
    assert list(apart.positions(0)) == [0, 2] and list(apart.positions(1)) == [4, 6]


class NoMemory(HalfCorrupt):
    """A MemoryError while record 0 is read."""

    def __getitem__(self, record):
        if record == 0:
            raise MemoryError
        return super().__getitem__(record)


def no_memory(image, rng):
    raise MemoryError("of the crop")


def test_an_image_too_large_for_the_memory_is_corrupt():
    example = EvalExamples(NoMemory(), TrainTransform(8), count=6)(0)
    assert (example.pixels, example.failures) == (None, (Failure(0, "number 0", "MemoryError"),))
    example = EvalExamples(HalfCorrupt(), no_memory, count=6)(2)
    assert example.failures == (Failure(2, "number 2", "MemoryError: of the crop"),)
    assert TrainExamples(HalfCorrupt(), no_memory, seed=0)(0).pixels is None


class Transparent(HalfCorrupt):
    decoding = Decoding(alpha="white")

    def __getitem__(self, record):
        return {"image": np.zeros((8, 8, 4), np.uint8), "label": record}


def test_images_are_decoded_as_their_source_says():
    example = EvalExamples(Transparent(), CenterCrop(8), count=6)(0)
    assert (example.pixels == 255).all()
