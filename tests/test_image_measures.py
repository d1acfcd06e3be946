"""Images of other programs measured against each other, and whole images through a tokenizer."""

import json

import jax
import numpy as np
import pytest
from absl.testing import flagsaver
from PIL import Image, ImageFilter

from tests import seeded_inception
from tests.commands import imported
from tests.data.test_image_sets import write
from tests.evaluation import features, stubs
from vqlab.data.photos import PhotoSource
from vqlab.evaluation.protocols import protocols_of
from vqlab.export.torch_weights import write_state_dict
from vqlab.models.padding import pad_to_stride
from vqlab.runs import image_sets, whole_images
from vqlab.runs.image_sets import Reader, measure_sets
from vqlab.training import sharding


@pytest.fixture(scope="module")
def mesh():
    return sharding.make_mesh(-1, 1, devices=jax.devices()[:1])


@pytest.fixture
def evaluate():
    with imported("evaluate") as command:
        yield command


@pytest.fixture
def cheap_features(monkeypatch):
    """Features that cost nothing, and a network of one number."""
    features.stand_in(monkeypatch)
    return {"inception": {"fc": {"bias": np.zeros(1, np.float32)}}}


def measured(images, reference, names, networks, mesh, protocols="clean", **reading):
    chosen = dict.fromkeys(protocols_of(protocols, "whole"), names)
    reader = Reader(mesh, 2, **reading)
    return measure_sets(str(images), str(reference), chosen, networks, reader)


@pytest.mark.usefixtures("cheap_features")
def test_folders_samples_and_statistics_give_the_same_numbers(tmp_path, mesh, cheap_features):
    sizes = dict.fromkeys("abcdefghijkl", (8, 8))
    a, b = write(tmp_path / "a", **sizes), write(tmp_path / "b", **dict(sizes, m=(8, 8)))
    pixels = np.stack([np.asarray(Image.open(p)) for p in sorted(b.iterdir())])
    np.savez(tmp_path / "b.npz", pixels)
    names = ("fid", "sfid", "kid", "is", "pr")
    values, texts = measured(a, b, names, cheap_features, mesh)
    assert set(values) == {
        f"images/clean/{m}"
        for m in ("fid", "sfid", "kid", "is", "is_std", "precision", "recall", "num_images")
    }
    assert all(text.startswith("clean: ") for text in texts.values())
    assert measured(a, tmp_path / "b.npz", names, cheap_features, mesh)[0] == values
    arguments = str(b), protocols_of("clean", "whole")[0], names, cheap_features, Reader(mesh, 2)
    image_sets.write_statistics(str(tmp_path / "statistics.npz"), *arguments)
    again = measured(a, tmp_path / "statistics.npz", names, cheap_features, mesh)[0]
    for name, value in values.items():
        np.testing.assert_allclose(again[name], value, rtol=1e-6)


@pytest.mark.usefixtures("cheap_features")
def test_statistics_of_another_kind_are_refused(tmp_path, mesh, cheap_features):
    a = write(tmp_path / "a", x=(8, 8), y=(8, 8), z=(8, 8))
    file = str(tmp_path / "statistics.npz")
    reader, clean = Reader(mesh, 2), protocols_of("clean", "whole")[0]
    image_sets.write_statistics(file, str(a), clean, ("fid",), cheap_features, reader)
    with pytest.raises(ValueError, match="another kind: protocol 'clean' instead of 'adm'"):
        measured(a, file, ("fid",), cheap_features, mesh, "adm")
    other = {"inception": {"fc": {"bias": np.ones(1, np.float32)}}}
    with pytest.raises(ValueError, match="another kind: network '"):
        measured(a, file, ("fid",), other, mesh)
    with pytest.raises(ValueError, match="pr: the reference's statistics do not hold what is need"):
        np.savez(tmp_path / "adm.npz", mu=np.zeros(6), sigma=np.eye(6))
        measured(a, tmp_path / "adm.npz", ("pr",), cheap_features, mesh)
    np.savez(tmp_path / "wide.npz", mu=np.zeros(7), sigma=np.eye(7))
    with pytest.raises(ValueError, match=r"other features than Inception's: mu \(7,\)"):
        measured(a, tmp_path / "wide.npz", ("fid",), cheap_features, mesh)
    (tmp_path / "cut.npz").write_bytes((tmp_path / "adm.npz").read_bytes()[:300])
    with pytest.raises(ValueError, match="cut.npz is damaged or no .npz file"):
        measured(a, tmp_path / "cut.npz", ("fid",), cheap_features, mesh)
    values, _ = measured(a, tmp_path / "adm.npz", ("fid",), cheap_features, mesh)
    assert values["images/clean/fid"] > 0  # others' files do not say of what they are


def test_devices_share_the_pairs(tmp_path, mesh):
    a, b = (write(tmp_path / n, x=(16, 12), y=(20, 12), z=(16, 12)) for n in "ab")
    Image.open(a / "y.png").transpose(Image.Transpose.ROTATE_180).save(a / "y.png")
    names, all_devices = ("psnr", "ssim"), sharding.make_mesh(-1, 1)
    chosen = dict.fromkeys(protocols_of("clean,semanticist", "whole"), names)
    arguments = str(a), str(b), chosen, {}
    one, _ = measure_sets(*arguments, Reader(mesh, 2))
    eight, _ = measure_sets(*arguments, Reader(all_devices, 8))
    assert one.keys() == eight.keys() and one["images/clean/num_images"] == 3
    np.testing.assert_allclose(list(one.values()), list(eight.values()), rtol=1e-5)
    with pytest.raises(ValueError, match="batch_size=4 does not divide over 8 devices"):
        Reader(all_devices, 4)


def test_of_a_reference_with_images_and_statistics_both_are_used(tmp_path, mesh, cheap_features):
    """As of ADM's: FID by its statistics, precision by its images; `clean` by its images alone."""
    a = write(tmp_path / "a", **dict.fromkeys("abcdef", (8, 8)))
    pixels = np.random.default_rng(5).integers(0, 256, (6, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "images.npz", pixels)
    far = {"mu": np.full(6, 9.0), "sigma": np.eye(6)}
    np.savez(tmp_path / "both.npz", pixels, **far)
    np.savez(tmp_path / "statistics.npz", **far)
    chosen = ("fid", "pr"), cheap_features, mesh, "clean,adm"
    both, _ = measured(a, tmp_path / "both.npz", *chosen)
    images, _ = measured(a, tmp_path / "images.npz", *chosen)
    by_statistics, _ = measured(a, tmp_path / "statistics.npz", ("fid",), *chosen[1:])
    assert (
        both["images/adm/fid"] == by_statistics["images/adm/fid"] > 100 > images["images/adm/fid"]
    )
    for name in ("images/clean/fid", "images/clean/precision", "images/adm/precision"):
        assert both[name] == images[name]


def test_pairs_need_no_network(tmp_path, mesh):
    a = write(tmp_path / "a", x=(16, 12), y=(20, 12))
    values, _ = measured(a, a, ("psnr", "ssim"), {}, mesh)
    assert values["images/clean/psnr"] == 100 and values["images/clean/num_images"] == 2
    np.testing.assert_allclose(values["images/clean/ssim"], 1)
    np.savez(tmp_path / "statistics.npz", mu=np.zeros(6), sigma=np.eye(6))
    with pytest.raises(ValueError, match="need images as reference"):
        measured(a, tmp_path / "statistics.npz", ("psnr",), {}, mesh)
    with pytest.raises(ValueError, match="fid needs the weights of Inception"):
        measured(a, a, ("fid",), {}, mesh)


def test_whole_images_are_padded_and_cropped_back(tmp_path, mesh):
    a = write(tmp_path / "a", x=(13, 18), y=(17, 12), z=(16, 16))
    codec = stubs.codec_of(stubs.autoencoder())
    weights = stubs.weights_of(codec.module)
    evaluator, largest = whole_images.whole_evaluator(
        codec, str(a), {}, Reader(mesh, 1), measures="psnr"
    )
    assert largest == (16, 16)
    results = evaluator.measure(weights, {})
    assert set(results) == {"clean/psnr", "clean/num_images"} and results["clean/num_images"] == 3
    errors = []
    for path in sorted(a.iterdir()):
        images = np.asarray(Image.open(path))[None] / np.float32(127.5) - 1
        padded = pad_to_stride(images, stubs.STRIDE)
        made = jax.jit(
            lambda x: codec.decode(weights, codec.encode(weights, x), 1, jax.random.key(0))
        )(padded)
        made = made[:, : images.shape[1], : images.shape[2]]
        unit = [(np.clip(x, -1, 1) + 1) / 2 for x in (images, made)]
        errors.append(np.square(unit[0] - unit[1]).mean())
    np.testing.assert_allclose(results["clean/psnr"], -10 * np.log10(np.mean(errors)), rtol=1e-4)


def test_memory_is_said_before_anything_runs(mesh, caplog, monkeypatch):
    codec = stubs.codec_of(stubs.autoencoder())
    monkeypatch.setattr(whole_images.log, "propagate", True)
    with caplog.at_level("INFO", "vqlab"):
        weights = stubs.weights_of(codec.module)
        whole_images.log_memory(codec, weights, (18, 30), Reader(mesh, 2))
    assert "a batch of 2 of 30x18 takes about 0.00 GiB" in caplog.text


def test_fid_and_kid_of_damaged_images_grow_with_the_damage(
    evaluate, tmp_path, capsys, mesh, monkeypatch
):
    """The whole command, with seeded weights of Inception."""
    monkeypatch.setattr(evaluate.sharding, "make_mesh", lambda *_: mesh)
    photos = PhotoSource("validation")
    places = ((0, 50), (0, 350), (1, 350))
    crops = [photos[n]["image"].crop((x, 100, x + 64, 164)) for n, x in places]
    ways = {
        "same": lambda image: image,
        "soft": lambda image: image.filter(ImageFilter.GaussianBlur(1)),
        "softer": lambda image: image.filter(ImageFilter.GaussianBlur(4)),
    }
    for name, damage in ways.items():
        (tmp_path / name).mkdir()
        for number, crop in enumerate(crops):
            damage(crop).save(tmp_path / name / f"{number}.png")
    weights, statistics = tmp_path / "inception.safetensors", tmp_path / "reference.npz"
    write_state_dict(weights, seeded_inception.official_state())
    found = {}
    common = {"inception_weights": str(weights), "measures": "fid,kid", "batch_size": 3}
    given = common | {"images": str(tmp_path / "same"), "write_statistics": str(statistics)}
    with flagsaver.flagsaver(**given):
        evaluate.main()
    for name in ways:
        output = tmp_path / f"{name}.json"
        sides = {"images": str(tmp_path / name), "reference": str(statistics)}
        with flagsaver.flagsaver(output=str(output), **sides, **common):
            evaluate.main()
        saved = json.loads(output.read_text())["results"]
        found[name] = [saved[f"images/clean/{m}"]["value"] for m in ("fid", "kid")]
        assert "biased upwards, of 3 images" in saved["images/clean/fid"]["protocol"]
    assert "images/clean/kid" in capsys.readouterr().out
    np.testing.assert_allclose(found["same"], 0, atol=1e-4)
    for i in range(2):
        assert 1e-3 < found["soft"][i] < found["softer"][i]


def test_a_command_that_lacks_something_is_one_line(evaluate, tmp_path, capsys):
    for given, message in {
        "": "nothing to evaluate: give --workdir of a run, or --images with --reference",
        "images": "fid needs the weights of Inception",
        "protocol": "unknown protocol 'best'; choose from mgvq",
        "crop": "--image_size with protocols of several crops",
        "run": "--output is for --images alone; a run is compared with images of its config.data",
    }.items():
        settings = {
            "": {},
            "images": {"images": str(tmp_path), "reference": str(tmp_path)},
            "protocol": {"images": "a", "reference": "b", "protocol": "best"},
            "crop": {"images": "a", "reference": "b", "protocol": "adm,mgvq", "image_size": 8},
            "run": {"workdir": "a", "output": "b.json"},
        }[given]
        with flagsaver.flagsaver(**settings), pytest.raises(SystemExit) as end:
            evaluate.main()
        assert end.value.code == 2 and message in capsys.readouterr().err
