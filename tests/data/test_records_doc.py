"""The examples of docs/records.md, run as they stand there."""

import pathlib
import re

import numpy as np

from tests.data import small_records

DOC = pathlib.Path(__file__).parents[2] / "docs" / "records.md"


def examples():
    return re.findall(r"```python\n(.*?)```", DOC.read_text(), re.DOTALL)


def run(example, folder):
    """The function `read` that an example defines."""
    assert example.count('"RECORDS/train"') == 1
    names = {}
    exec(example.replace("RECORDS", str(folder)), names)  # our own text
    return names["read"]


def test_packed_indices_are_read_in_fifteen_lines(tmp_path):
    # The example reads what `tokenize` stores: one array beside the label.
    fields = {"indices": small_records.BARE["fields"]["indices"]}
    records = small_records.writer(tmp_path / "train", images="none", fields=fields)
    records.begin()
    for shard in records.missing():
        numbers = list(range(10))[shard * 4 : shard * 4 + 4]
        images, labels, arrays = small_records.batch(numbers)
        with records.shard(shard) as file:
            file.write(images, labels, {"indices": arrays["indices"]})
    records.finish()
    example, _ = examples()
    assert len([line for line in example.splitlines() if line]) <= 15
    assert "vqlab" not in example
    read = run(example, tmp_path)
    for number in range(10):
        label, indices = read(number)
        assert label == number % 3
        assert indices.tolist() == [number, number + 1, number + 2]


def test_arrays_are_read_beside_images(tmp_path):
    small_records.write(tmp_path / "train")
    read = run(examples()[1], tmp_path)
    label, indices, image = read(7)
    assert (label, indices.tolist()) == (1, [7, 8, 9])
    np.testing.assert_array_equal(image, small_records.pixels(7))


def test_every_fact_of_the_manifest_is_told():
    told = set(re.findall(r"^\| `(\w+)` \|", DOC.read_text(), re.MULTILINE))
    assert set(small_records.manifest().to_json()) <= told
