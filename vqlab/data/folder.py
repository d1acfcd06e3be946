"""A folder of images."""

import os
from pathlib import Path

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp")
SPLIT_FOLDERS = {"train": ("train",), "validation": ("validation", "val")}


class FolderSource:
    """JPEG, PNG and WebP files below a folder.

    `path` may hold `train` and `validation` (or `val`) folders; without any of these the whole
    folder serves for every split. Sub-folders are classes, labelled by sorted name over all
    splits and searched recursively; images that lie flat have label 0. Names that begin with a
    dot are ignored, upper and lower case extensions are alike.

    Raises:
      ValueError: the folder, the split's folder or images in it are missing, or images lie
        beside class folders.
    """

    def __init__(self, path: str, split: str = "train"):
        if split not in SPLIT_FOLDERS:
            raise ValueError(f"a folder has no split {split!r}; known: {list(SPLIT_FOLDERS)}")
        root = Path(path).expanduser()
        if not path or not root.is_dir():
            raise ValueError(f"image folder {str(path)!r} does not exist or is no folder")
        folder, folders = _split_folder(root, split)
        self.class_names = sorted({name for each in folders for name in _class_names(each)})
        self._root = folder
        self._files = _image_files(folder)
        if not self._files:
            raise ValueError(
                f"no images in {folder}: looked for {', '.join(EXTENSIONS)} (any case), directly"
                " in it or in class sub-folders"
            )
        flat = [name for name in self._files if os.sep not in name]
        if flat and len(flat) < len(self._files):
            raise ValueError(
                f"{folder} holds images ({flat[0]}, ...) beside class sub-folders; use one layout"
            )
        labels = {name: label for label, name in enumerate(self.class_names)}
        self._labels = [0 if flat else labels[n.split(os.sep, 1)[0]] for n in self._files]
        self.num_classes = max(1, len(self.class_names))

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, record: int) -> dict:
        """{"image": encoded bytes, "label": int}."""
        return {
            "image": (self._root / self._files[record]).read_bytes(),
            "label": self._labels[record],
        }

    def name(self, record: int) -> str:
        """The file's path."""
        return str(self._root / self._files[record])


def _split_folder(root: Path, split: str) -> tuple[Path, list[Path]]:
    """The folder of a split, and the folders of all splits that exist."""
    present = {
        known: root / folder
        for known, choices in SPLIT_FOLDERS.items()
        for folder in reversed(choices)  # "validation" wins over "val"
        if (root / folder).is_dir()
    }
    if not present:
        return root, [root]
    if split not in present:
        wanted = " or ".join(str(root / folder) for folder in SPLIT_FOLDERS[split])
        held = ", ".join(folder.name for folder in present.values())
        raise ValueError(f"no {split} images: looked for {wanted}; {root} only has {held}")
    return present[split], list(present.values())


def _class_names(folder: Path) -> list[str]:
    """Sub-folders that hold at least one image, at any depth."""
    names = (entry.name for entry in os.scandir(folder) if entry.is_dir())
    return [n for n in names if not n.startswith(".") and any(_walk(folder / n))]


def _image_files(folder: Path) -> list[str]:
    """Paths of all images relative to `folder`, sorted: the order must not hang on the disk's."""
    return sorted(os.path.relpath(path, folder) for path in _walk(folder))


def _walk(folder: Path):
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if name.lower().endswith(EXTENSIONS) and not name.startswith("."):
                yield os.path.join(parent, name)
