import pytest
from PIL import Image

from vqlab.data.folder import FolderSource


def save(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(path)


def listing(source):
    return [(source.name(i).rsplit("/", 1)[-1], source[i]["label"]) for i in range(len(source))]


def test_flat_folder_in_sorted_order_with_label_0(tmp_path):
    save(tmp_path, "b.png", "a.JPG", "c.WebP", "d.jpeg")
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "._a.jpg").write_bytes(b"left by macOS")
    source = FolderSource(str(tmp_path))
    assert listing(source) == [("a.JPG", 0), ("b.png", 0), ("c.WebP", 0), ("d.jpeg", 0)]
    assert isinstance(source[0]["image"], bytes)


def test_class_folders_are_labelled_by_name_and_searched_deeply(tmp_path):
    save(tmp_path, "dog/x.png", "cat/deep/er/y.png")
    (tmp_path / "empty").mkdir()
    source = FolderSource(str(tmp_path), split="validation")
    assert listing(source) == [("y.png", 0), ("x.png", 1)]
    assert source.num_classes == 2


@pytest.mark.parametrize(
    ("train", "validation"),
    [("train", "validation"), ("Train", "VAL"), ("training", "Valid"), ("TRAIN", "test")],
)
def test_split_folders_share_their_labels(tmp_path, train, validation):
    save(tmp_path, f"{train}/cat/a.png", f"{train}/dog/b.png", f"{validation}/dog/c.png")
    for split, expected in (
        ("train", [("a.png", 0), ("b.png", 1)]),
        ("validation", [("c.png", 1)]),
    ):
        source = FolderSource(str(tmp_path), split)
        assert (listing(source), source.num_classes, source.notes) == (expected, 2, [])


def test_of_several_folders_of_a_split_the_first_known_name_is_taken(tmp_path):
    save(tmp_path, "train/a.png", "Val/b.png", "val/c.png", "test/d.png", "Validation/.e.png")
    assert listing(FolderSource(str(tmp_path), "validation")) == [("c.png", 0)]


def test_missing_split_folder_says_what_was_looked_for(tmp_path):
    save(tmp_path, "train/a.png")
    with pytest.raises(ValueError, match="validation or val or valid or test in .* only has train"):
        FolderSource(str(tmp_path), "validation")


def test_a_folder_that_serves_both_splits_says_so(tmp_path):
    save(tmp_path, "one/cat/a.png", "two/train/b.png")
    (tmp_path / "two" / "val").symlink_to("train")
    for folder in (tmp_path / "one", tmp_path / "two"):
        for split in ("train", "validation"):
            (note,) = FolderSource(str(folder), split).notes
            assert "serves both splits" in note


@pytest.mark.parametrize("flat", ["val/x.png", "val/images/x.png"])
def test_a_split_without_classes_beside_one_with_them_has_no_labels(tmp_path, flat):
    save(tmp_path, "train/cat/a.png", "train/dog/b.png", flat)
    source = FolderSource(str(tmp_path), "validation")
    assert (source.num_classes, listing(source)) == (0, [("x.png", 0)])
    source = FolderSource(str(tmp_path), "train")
    assert (source.num_classes, source.class_names) == (2, ["cat", "dog"])


def test_flat_splits_are_one_class(tmp_path):
    save(tmp_path, "train/a.png", "val/b.png")
    assert [FolderSource(str(tmp_path), s).num_classes for s in ("train", "validation")] == [1, 1]


def test_what_was_left_out_is_counted_in_one_line(tmp_path):
    save(tmp_path, "a.png")
    for name in ("b.txt", "c.txt", "d.SVG"):
        (tmp_path / name).write_text("no image")
    assert FolderSource(str(tmp_path)).notes[1:] == [
        f"left out in {tmp_path}, no images: 2 .txt, 1 .svg"
    ]


def test_missing_and_empty_folders(tmp_path):
    with pytest.raises(ValueError, match="nowhere' does not exist"):
        FolderSource(str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match=r"no images in .* looked for \.jpg, .*; found no file"):
        FolderSource(str(tmp_path))
    (tmp_path / "a.mp4").touch()
    with pytest.raises(ValueError, match=r"; found 1 \.mp4"):
        FolderSource(str(tmp_path))


def test_mixed_layout_and_unknown_split_are_refused(tmp_path):
    save(tmp_path, "a.png", "cat/b.png")
    with pytest.raises(ValueError, match="beside class sub-folders"):
        FolderSource(str(tmp_path))
    with pytest.raises(ValueError, match="no split 'test'; known"):
        FolderSource(str(tmp_path), "test")
