"""Loaded generators and the command: what is drawn depends on seed, class and number alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import vqlab
from tests import commands, tiny, tiny_generator
from vqlab import convert
from vqlab.evaluation.panels import Measured
from vqlab.evaluation.samples import Samples
from vqlab.export.files import load_file, save_arrays
from vqlab.export.package import load_package
from vqlab.models.generator import NUMBERS_PER_CLASS
from vqlab.runs import generating

CONFIG = """
from tests import tiny_generator

def get_config(argument=""):
    return tiny_generator.config("")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An exported generator with random weights."""
    path = tmp_path_factory.mktemp("generator") / "export"
    return tiny_generator.save_generator(path, tiny_generator.index_node())


@pytest.fixture(scope="module")
def loaded(folder):
    return vqlab.load(folder)


@pytest.fixture(scope="module")
def drawn(loaded):
    """Two images of classes 0 and 7 with guidance, which compiles what others take too."""
    return loaded.generate([0, 7], guidance_scale=1.5)


def job(loaded, output, count=1, **changes):
    """Three images of classes 7 and 0, one at a time on each of `count` devices."""
    settings = {"classes": (7, 0), "num_per_class": 3, "seed": 5, "batch_size": 1}
    sampling = loaded.changed(guidance_scale=1.5)
    devices = jax.devices()[:count]
    return generating.Job(loaded, sampling, output=output, devices=devices, **settings | changes)


@pytest.fixture(scope="module")
def written(loaded, tmp_path_factory):
    output = tmp_path_factory.mktemp("samples")
    made = job(loaded, output, count=2)
    made.begin()
    made.write()
    return output


def test_an_image_depends_on_label_seed_and_number_alone(loaded, drawn):
    assert drawn.shape == (2, 8, 8, 3) and drawn.dtype == np.float32
    assert drawn.min() >= -1 and drawn.max() <= 1
    turned = loaded.generate([7, 0], numbers=[1, 0], guidance_scale=1.5)
    np.testing.assert_allclose(turned[::-1], drawn, atol=1e-5)
    for changes in ({"seed": 1}, {"numbers": [2, 3]}):
        assert not np.array_equal(loaded.generate([0, 7], guidance_scale=1.5, **changes), drawn)


def test_other_settings_matter_and_compile_nothing(loaded, drawn):
    compiled = loaded._draw._cache_size()
    for settings in (
        {"guidance_scale": 30.0},
        {"guidance_scale": 30.0, "guidance_schedule": "linear"},
        {"guidance_scale": 30.0, "guidance_interval": 0},
        {"temperature": 0.0},
        {"top_k": 2},
        {"top_p": 0.2},
    ):
        images = loaded.generate([0, 7], **{"guidance_scale": 1.5} | settings)
        assert not np.array_equal(images, drawn), settings
    assert loaded._draw._cache_size() == compiled


def test_a_given_beginning_stays(loaded):
    code = loaded.encode(tiny.images(2, 8))
    assert code.shape == (2, 4, 4, 2)
    whole = loaded.complete(code, 16, [0, 7], guidance_scale=1.5)
    frozen = loaded.module.tokenizer_weights(loaded.weights.frozen)
    own = loaded.generator.codec.decode(frozen, jnp.asarray(code), 2, jax.random.key(0))
    np.testing.assert_allclose(whole, np.clip(own, -1, 1), atol=1e-5)
    part = loaded.complete(code, 8, [0, 7], guidance_scale=1.5)
    assert not np.array_equal(part, whole)
    others = code.copy()
    others[:, 2:] = (others[:, 2:] + 1) % 16  # rows that are not given
    np.testing.assert_array_equal(loaded.complete(others, 8, [0, 7], guidance_scale=1.5), part)


def test_the_report_has_a_row_for_each_class(loaded):
    samples = Samples(loaded.generator, None, classes=(7, 0), num_per_class=2, seed=3)
    asked = []

    def draw(weights, labels, seed, numbers, sampling):
        asked.append((labels.tolist(), int(seed), numbers.tolist()))
        return None, np.full((2, 8, 8, 3), labels[0] / 7, np.float32)

    samples._samples._draw = draw  # what is compiled is tested above
    results = samples.measure(loaded.weights, {})
    assert asked[0] == ([7, 7], 3, [7 * NUMBERS_PER_CLASS, 7 * NUMBERS_PER_CLASS + 1])
    first, others, headings = samples.pictures(results)
    assert first.shape == (2, 8, 8, 3) and others.shape == (1, 2, 8, 8, 3) and len(headings) == 2
    assert (first[0] == 1).all() and (first[1] == 0).all()
    (section,) = samples.sections("samples", Measured({"samples/images_per_second": 1.0}, {}))
    assert section.body.index("class 7") < section.body.index("class 0")
    with pytest.raises(ValueError, match="class 8 does not exist"):
        Samples(loaded.generator, None, classes=(8,))


def test_files_are_the_images_of_their_numbers(loaded, written):
    numbers = [7 * NUMBERS_PER_CLASS + n for n in range(2)]
    images = loaded.generate([7, 7], seed=5, numbers=numbers, guidance_scale=1.5)
    for number, image in enumerate(images):
        stored = np.asarray(Image.open(written / "0007" / f"{number:05d}.png"), np.float32)
        assert np.abs(stored - (image + 1) * 127.5).max() <= 1.01
    with np.load(written / "samples.npz") as batch:
        assert batch["arr_0"].shape == (6, 8, 8, 3) and batch["arr_0"].dtype == np.uint8
        np.testing.assert_array_equal(batch["arr_1"], [7, 7, 7, 0, 0, 0])
        np.testing.assert_array_equal(batch["arr_0"][1], Image.open(written / "0007/00001.png"))
    assert Image.open(written / "grid.png").size == (3 * 8 + 4, 2 * 8 + 2)


def test_a_job_goes_on_and_refuses_another(loaded, written):
    cut, kept = written / "0007" / "00001.png", written / "0000" / "00002.png"
    whole, time = cut.read_bytes(), kept.stat().st_mtime_ns
    cut.write_bytes(whole[:-3])
    (written / "0000" / "00000.png").unlink()
    again = job(loaded, written, count=2)
    again.begin()
    again.write()
    assert cut.read_bytes() == whole and kept.stat().st_mtime_ns == time
    assert (written / "0000" / "00000.png").exists()
    with pytest.raises(ValueError, match="holds images of another job .seed was 5, is 6"):
        job(loaded, written, seed=6).begin()


@pytest.mark.slow
def test_the_number_of_devices_changes_no_bit(loaded, written, tmp_path):
    one = job(loaded, tmp_path, count=1)
    one.begin()
    one.write()
    with np.load(tmp_path / "samples.npz") as spread, np.load(written / "samples.npz") as alone:
        np.testing.assert_array_equal(spread["arr_0"], alone["arr_0"])


def test_bad_input_is_one_line(loaded, tmp_path):
    code = np.zeros((1, 4, 4, 2), int)
    (tmp_path / "notes.txt").write_text("")
    for call, message in (
        (lambda: loaded.generate([8]), "class 8 does not exist: this generator's are 0..7"),
        (lambda: loaded.generate([0.5]), "must be whole numbers"),
        (lambda: loaded.generate([0], guidance_scale=-1), "guidance_scale=-1 must be finite"),
        (lambda: loaded.generate([0], top_k=17), "top_k=17 is more than the 16 codewords"),
        (lambda: loaded.generate([0], cfg=2), "has no settings .'cfg'.; choose from"),
        (lambda: loaded.generate([0], seed=-1), "seed=-1 is out of range"),
        (lambda: loaded.generate([0], numbers=[0, 1]), "2 numbers for 1 labels"),
        (lambda: loaded.complete(code, 17, [0]), "num_given=17 is out of range: choose 0..16"),
        (lambda: loaded.complete(code + 16, 1, [0]), "indices lie in .16, 16."),
        (lambda: loaded.complete(code[:, :, :2], 1, [0]), "was trained on 16 positions"),
        (lambda: loaded.complete(code, 1, [0, 1]), "1 codes for 2 labels"),
        (lambda: job(loaded, tmp_path).begin(), "holds other files; name a new folder"),
        (lambda: job(loaded, tmp_path, classes=(0, 0)), "class 0 is given twice"),
        (lambda: generating.parse_classes("1,x"), "must be numbers, such as 0,7 or 0-9"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    assert generating.parse_classes("0,7,10-12") == [0, 7, 10, 11, 12]


def test_to_official_and_back_gives_the_same_generator(folder, tmp_path, capsys):
    official, config, back = (tmp_path / n for n in ("gpt.npz", "config.py", "back"))
    config.write_text(CONFIG)
    tokenizer = tiny_generator.save(tmp_path / "tokenizer", tiny_generator.index_tokenizer())
    convert.main(["to-official", str(folder), str(official)])
    with np.load(official) as arrays:
        assert "ar_head.causal_space_blocks.0.attention.query.weight" in arrays
    arguments = ["from-official", str(official), str(back), f"--config={config}"]
    with pytest.raises(SystemExit):
        convert.main(arguments)
    assert "give the tokenizer that made them as --tokenizer=DIR" in capsys.readouterr().err
    convert.main([*arguments, f"--tokenizer={tokenizer}"])
    jax.tree.map(
        np.testing.assert_array_equal, load_package(back).weights, load_package(folder).weights
    )


def test_the_command_refuses_before_it_compiles(folder, tmp_path, capsys):
    broken = tmp_path / "broken"
    node = tiny_generator.index_node()
    tiny_generator.save_generator(broken, node)
    arrays = load_file(broken / "model.safetensors")
    arrays["params/norm/scale"][:] = np.nan
    save_arrays(broken / "model.safetensors", arrays)
    tokenizer = tiny_generator.save(tmp_path / "tokenizer", node["tokenizer"])
    for flags, message in (
        ({"workdir": tokenizer}, "holds a tokenizer, and a generator is needed"),
        ({"workdir": broken}, "params/norm/scale"),
        ({"workdir": folder, "classes": "8"}, "class 8 does not exist"),
        ({"workdir": folder, "top_k": "17"}, "top_k=17 is more than"),
    ):
        with commands.imported("generate") as generate:
            known = generate.flags.FLAGS
            for name, value in ({"output": tmp_path / "out"} | flags).items():
                known[name].parse(str(value))
            try:
                with pytest.raises(SystemExit):
                    generate.main()
            finally:
                for name in ("output", *flags):
                    known[name].unparse()
        error = capsys.readouterr().err
        assert message in error and len(error.splitlines()) == 1
    assert not list((tmp_path / "out").iterdir())  # nothing was begun
