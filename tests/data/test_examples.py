import numpy as np

from vqlab.data.examples import BatchRows, EvalExamples, TrainExamples
from vqlab.data.transforms import TrainTransform


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
        process_index=1,
        process_count=2,
    )
    first, second = rows(0), rows(1)
    assert (first["labels"].tolist(), first["mask"].tolist()) == ([2, 0], [True, False])
    assert [failure.record for failure in first["failures"]] == [3]
    assert (second["mask"].tolist(), second["failures"]) == ([False, False], [])
