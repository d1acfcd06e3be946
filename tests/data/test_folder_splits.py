import pytest

from tests.data.test_folder import save
from vqlab.data.folder import FolderSource


@pytest.mark.parametrize(
    ("names", "message"),
    [
        # The parent of a data set, and classes that are split themselves.
        (["set/train/cat/a.png", "set/val/cat/b.png"], r"set/train is called .*path=\S+/set, or"),
        (["cat/Train/a.png", "cat/Val/b.png", "dog/Train/c.png"], "cat/Train is called like a spl"),
        # A split inside another one.
        (["train/cat/a.png", "train/val/b.png", "val/cat/c.png"], "train/val is called like a spl"),
        (["train/train/cat/a.png", "train/val/cat/b.png"], "train/train is called like a split"),
        # A class, or a split that lies beside classes.
        (["bus/a.png", "train/b.png"], "train is called like a split but lies beside other .*bus"),
        (["train2017/a.png", "val2017/b.png"], "train2017 and val2017 in .* like splits, not like"),
        (["set_train_HR/a.png", "set_valid_HR/b.png"], "set_train_HR and set_valid_HR in .* like"),
    ],
)
def test_a_class_called_like_a_split_is_refused(tmp_path, names, message):
    save(tmp_path, *names)
    with pytest.raises(ValueError, match=message):
        FolderSource(str(tmp_path), "train")


def test_a_class_of_both_splits_may_be_called_like_one(tmp_path):
    """CIFAR-100 has a class of trains."""
    save(tmp_path, "train/bus/a.png", "train/train/b.png", "test/train/c.png")
    assert FolderSource(str(tmp_path), "train").class_names == ["bus", "train"]
    assert FolderSource(str(tmp_path), "validation")[0]["label"] == 1


def test_a_split_in_the_name_of_one_class_alone_is_no_split(tmp_path):
    save(tmp_path, "bullet_train/a.png", "bus/b.png")
    assert FolderSource(str(tmp_path)).class_names == ["bullet_train", "bus"]
