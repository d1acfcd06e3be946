import os
import signal

import pytest
from PIL import Image

from tests.data.test_folder import save
from vqlab.data import listing
from vqlab.data.listing import describe_skipped, list_images


def files(folder):
    return list_images(folder).files


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_a_file_without_extension_is_known_by_its_content(tmp_path, kind):
    Image.new("RGB", (8, 8)).save(tmp_path / "picture", kind)
    (tmp_path / "LICENSE").write_text("BM, as in a bitmap")
    assert list_images(tmp_path) == (["picture"], {"without extension": 1})


def test_what_pillow_reads_is_listed_whatever_the_case(tmp_path, monkeypatch):
    names = ["a.JPG", "b.jfif", "c.bmp", "d.Gif", "e.tif", "f.TIFF", "g.avif", "h.webp", "i.ppm"]
    for name in [*names, "j.pdf", "k.jpg.txt", ".l.jpg"]:
        (tmp_path / name).touch()
    listing.known_extensions.cache_clear()
    assert list_images(tmp_path) == (names, {".pdf": 1, ".txt": 1})
    listing.known_extensions.cache_clear()
    monkeypatch.setattr(listing.features, "check", lambda name: False)  # a Pillow without AVIF
    assert "g.avif" not in files(tmp_path)
    listing.known_extensions.cache_clear()


def test_links_to_folders_above_are_not_followed(tmp_path):
    """Two of them made the listing endless."""
    save(tmp_path, "set/cat/deep/a.png", "set/dog/b.png", "other/c.png")
    for number, target in enumerate(("set", "set", "set/cat", ".")):
        (tmp_path / f"set/cat/link{number}").symlink_to(tmp_path / target)
    assert files(tmp_path / "set") == ["cat/deep/a.png", "dog/b.png"]
    # Neither when a link led there, and from there another one to the folder that holds all.
    (tmp_path / "way").mkdir()
    (tmp_path / "way/in").symlink_to(tmp_path / "set/cat")
    assert files(tmp_path / "way") == ["in/deep/a.png"]


def test_other_links_are_followed(tmp_path):
    save(tmp_path, "pool/a.png", "pool/sub/b.png")
    for name in ("cat", "dog"):
        (tmp_path / "set" / name).mkdir(parents=True)
        (tmp_path / "set" / name / "pool").symlink_to(tmp_path / "pool")
    (tmp_path / "set/cat/c.png").symlink_to(tmp_path / "pool/a.png")
    assert files(tmp_path / "set") == [
        *("cat/c.png", "cat/pool/a.png", "cat/pool/sub/b.png"),
        *("dog/pool/a.png", "dog/pool/sub/b.png"),
    ]
    (tmp_path / "entry").symlink_to(tmp_path / "set")
    assert files(tmp_path / "entry") == files(tmp_path / "set")


def test_only_regular_files_are_images(tmp_path):
    save(tmp_path, "a.png")
    os.mkfifo(tmp_path / "b.jpg")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "c.jpg").symlink_to(tmp_path / "b.jpg")
    (tmp_path / "d.jpg").symlink_to(tmp_path / "nowhere")
    (tmp_path / "e.jpg").symlink_to(tmp_path / "e.jpg")
    assert list_images(tmp_path) == (["a.png"], {"pipes, devices or broken links": 5})


@pytest.mark.parametrize(
    "name",
    ["@eaDir", ".thumbnails", "__MACOSX", ".ipynb_checkpoints", "$RECYCLE.BIN", "lost+found"],
)
def test_folders_that_systems_make_are_left_out(tmp_path, name):
    save(tmp_path, "cat/a.png", f"cat/{name}/a.png", f"{name}/cat/a.png")
    assert list_images(tmp_path) == (["cat/a.png"], {})
    assert listing.sub_folders(tmp_path) == ["cat"]


def test_a_folder_that_cannot_be_listed_is_an_error(tmp_path, monkeypatch):
    """Its images would be missing without a word."""
    save(tmp_path, "cat/a.png", "dog/b.png")
    scandir = os.scandir

    def refusing(path):
        if str(path).endswith("dog"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(PermissionError, match="dog"):
        files(tmp_path)


def test_a_signal_ends_the_listing(tmp_path, monkeypatch):
    """What its handler raises while a file is looked into does not make that file no image."""
    (tmp_path / "picture").touch()
    monkeypatch.setattr(Image, "open", lambda *_, **__: signal.raise_signal(signal.SIGINT))
    # A shell that starts the tests in its background has SIGINT ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            files(tmp_path)
    finally:
        signal.signal(signal.SIGINT, before)


def test_the_commonest_reasons_are_named_first():
    skipped = {".a": 1, ".txt": 1200, **{f".{number}": 2 for number in range(3)}}
    assert describe_skipped(skipped, most=3) == "1,200 .txt, 2 .0, 2 .1, 3 others"
    assert describe_skipped({}) == ""
