"""Sets of images of other programs, and their batches by size."""

import numpy as np
import pytest
from PIL import Image

from vqlab.data import CROPS, CorruptDataError, SizeBatches
from vqlab.data.image_sets import SAMPLES, holds, open_images, pairs_by_name


def write(folder, **sizes):
    """PNG files by name, (width, height) of noise each."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, (name, (width, height)) in enumerate(sorted(sizes.items())):
        pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return folder


def pixels_of(path):
    return np.asarray(Image.open(path).convert("RGB"))


def test_mixed_sizes_come_in_batches_of_one_size_the_largest_first(tmp_path):
    folder = write(tmp_path / "x", a=(8, 6), b=(9, 20), c=(8, 6), d=(8, 6))
    images = open_images(folder)
    batches = list(SizeBatches([images], [(i,) for i in range(4)], 2))
    assert [batch["images"].shape for batch in batches] == [(2, 20, 9, 3)] + [(2, 6, 8, 3)] * 2
    assert [batch["mask"].tolist() for batch in batches] == [[1, 0], [1, 1], [1, 0]]
    np.testing.assert_array_equal(batches[1]["images"][1], pixels_of(folder / "c.png"))


def test_processes_share_each_batch(tmp_path):
    images = open_images(write(tmp_path / "x", a=(4, 4), b=(4, 4), c=(4, 4)))
    rows = [(i,) for i in range(3)]
    (whole,) = SizeBatches([images], rows, 4)
    parts = [next(iter(SizeBatches([images], rows, 4, (part,), 2))) for part in range(2)]
    joined = {name: np.concatenate([p[name] for p in parts]) for name in whole}
    for name, array in whole.items():
        np.testing.assert_array_equal(joined[name], array)


def test_pairs_are_of_one_name_whatever_the_extension(tmp_path):
    a = write(tmp_path / "a", x=(4, 4), y=(6, 4))
    b = write(tmp_path / "b", y=(6, 4), x=(4, 4))
    (b / "x.png").rename(b / "x.bmp")
    first, second = open_images(a), open_images(b)
    pairs = pairs_by_name(first, second)
    batches = list(SizeBatches([first, second], pairs, 1))
    np.testing.assert_array_equal(batches[0]["images1"][0], pixels_of(b / "y.png"))
    assert len(batches) == 2 and all(batch["mask"].all() for batch in batches)


def test_names_of_one_side_and_unequal_sizes_are_one_line(tmp_path):
    a, b = write(tmp_path / "a", x=(4, 4), y=(4, 4)), write(tmp_path / "b", x=(8, 4), z=(4, 4))
    with pytest.raises(ValueError, match=r"of the same names; only in .*a: 1 \(y\); only in .*z\)"):
        pairs_by_name(open_images(a), open_images(b))
    (a / "y.png").unlink()
    (b / "z.png").unlink()
    with pytest.raises(ValueError, match=r"x is 4x4 in .*a and 8x4 in .*b: give --image_size"):
        pairs_by_name(open_images(a), open_images(b))
    cropped = [open_images(folder, CROPS["adm"](4)) for folder in (a, b)]
    assert pairs_by_name(*cropped) == [(0, 0)]


def test_what_is_not_plain_is_one_line_each(tmp_path):
    folder = write(tmp_path / "x", small=(4, 4), a=(12, 12))
    Image.new("RGBA", (12, 12)).save(folder / "clear.png")
    Image.fromarray(np.full((12, 12), 40_000, np.uint16)).save(folder / "deep.png")
    images = open_images(folder, CROPS["adm"](8))
    assert images.notes == (
        "1 of 4 images have alpha, which is left out: clear",
        "1 of 4 images have 16 bits a channel, of which the upper 8 are taken: deep",
        "1 of 4 images are smaller than the crop of 8 pixels, and are enlarged: small",
    )
    assert images.read(2).max() == 40_000 >> 8


def test_one_corrupt_image_is_named_and_counted_many_end(tmp_path, caplog):
    folder = write(tmp_path / "x", a=(8, 8), b=(8, 8), c=(8, 8))
    (folder / "b.png").write_bytes((folder / "b.png").read_bytes()[:80])  # cut behind its header
    (folder / "d.png").write_bytes(b"no picture")
    images = open_images(folder)
    batches = SizeBatches([images], [(i,) for i in range(4)], 4, max_corrupt_share=0.5)
    (batch,) = batches
    assert batch["mask"].tolist() == [True, False, True, False] and len(batches.corrupt.names) == 2
    assert f"corrupt image skipped: {folder}: b" in caplog.text and f"{folder}: d" in caplog.text
    with pytest.raises(CorruptDataError, match="2 of 4 records tried"):
        list(SizeBatches([images], [(i,) for i in range(4)], 4))


def test_folders_without_images_are_one_line(tmp_path):
    with pytest.raises(ValueError, match="does not exist or is no folder"):
        open_images(tmp_path / "nowhere")
    (tmp_path / "x").mkdir()
    with pytest.raises(ValueError, match="no images in .*x: found no file"):
        open_images(tmp_path / "x")
    (tmp_path / "x/a.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="no image of 1 in .*x can be read: UnidentifiedImage"):
        open_images(tmp_path / "x")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_sample_batches_are_read_one_by_one(tmp_path, save):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 4, 6, 3), np.uint8)
    save(tmp_path / "samples.npz", pixels, np.arange(5))
    images = open_images(tmp_path / "samples.npz")
    assert len(images) == 5 and set(images.sizes) == {(4, 6)}
    for number in (3, 0, 4):
        np.testing.assert_array_equal(images.read(number), pixels[number])
    assert holds(tmp_path / "samples.npz", SAMPLES)
    np.savez(tmp_path / "floats.npz", pixels / 255)
    np.savez(tmp_path / "statistics.npz", mu=np.zeros(3))
    with pytest.raises(ValueError, match="arr_0 is float64 .*, not uint8"):
        open_images(tmp_path / "floats.npz")
    with pytest.raises(ValueError, match="holds no images arr_0"):
        open_images(tmp_path / "statistics.npz")
    assert not holds(tmp_path / "statistics.npz", SAMPLES) and not holds(tmp_path, SAMPLES)
