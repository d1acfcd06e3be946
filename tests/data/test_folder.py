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


@pytest.mark.parametrize("validation", ["validation", "val"])
def test_split_folders_share_their_labels(tmp_path, validation):
    save(tmp_path, "train/cat/a.png", "train/dog/b.png", f"{validation}/dog/c.png")
    assert listing(FolderSource(str(tmp_path), "train")) == [("a.png", 0), ("b.png", 1)]
    assert listing(FolderSource(str(tmp_path), "validation")) == [("c.png", 1)]


def test_missing_split_folder_says_what_was_looked_for(tmp_path):
    save(tmp_path, "train/a.png")
    with pytest.raises(ValueError, match="validation or .*val; .* only has train"):
        FolderSource(str(tmp_path), "validation")


def test_missing_and_empty_folders(tmp_path):
    with pytest.raises(ValueError, match="nowhere' does not exist"):
        FolderSource(str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match=r"no images in .* looked for \.jpg, \.jpeg, \.png"):
        FolderSource(str(tmp_path))


def test_mixed_layout_and_unknown_split_are_refused(tmp_path):
    save(tmp_path, "a.png", "cat/b.png")
    with pytest.raises(ValueError, match="beside class sub-folders"):
        FolderSource(str(tmp_path))
    with pytest.raises(ValueError, match="no split 'test'; known"):
        FolderSource(str(tmp_path), "test")
