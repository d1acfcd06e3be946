"""Commands beside training do the same with two processes as with one: `make test-slow`."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from tests import seeded_inception, tiny_generator
from tests.processes.running import finish, launch
from tests.test_training_run import run_until
from vqlab.export.torch_weights import write_state_dict
from vqlab.runs.workdir import save_config

pytestmark = pytest.mark.slow

LAYOUTS = ((1, 2), (2, 1))  # processes and the CPU devices of each


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    return tmp_path_factory.mktemp("compiled")


def run(module, *arguments, compiled, layout):
    processes, devices = layout
    started = launch(module, *arguments, processes=processes, devices=devices, cache=compiled)
    codes, outputs = finish(started, timeout=600)
    assert not any(codes), "\n".join(outputs)


def test_images_are_measured_alike(tmp_path, compiled):
    """Nine images, of which the last batch has one: each is counted once."""
    for seed, folder in enumerate(("ours", "theirs")):
        write_images(tmp_path / folder, 9, seed)
    sides = f"--images={tmp_path / 'ours'}", f"--reference={tmp_path / 'theirs'}"
    found = []
    for layout in LAYOUTS:
        output = tmp_path / f"{layout[0]}.json"
        given = *sides, "--measures=fid,kid,is,psnr,ssim", f"--output={output}"
        run_evaluate(*given, compiled=compiled, layout=layout)
        found.append(json.loads(output.read_text())["results"])
    values = same_values(*found)
    assert values["images/clean/num_images"] == 9


def test_generators_are_measured_alike(tmp_path, compiled):
    """Nine samples in batches of four, beside as many held-out images."""
    tokenizer = tiny_generator.save(tmp_path / "tokenizer", tiny_generator.index_tokenizer())
    config = tiny_generator.config(tokenizer, num_steps=1)
    training, _ = run_until(config, tmp_path / "run", 1)
    training.run.close()
    write_images(tmp_path / "images" / "validation", 9, 0)
    with config.unlocked():
        config.data.update(name="folder", path=str(tmp_path / "images"))
    save_config(config, tmp_path / "run")
    found = []
    for layout in LAYOUTS:
        workdir = shutil.copytree(tmp_path / "run", tmp_path / f"run-{layout[0]}")
        given = f"--workdir={workdir}", "--protocol=adm", "--measures=fid,is", "--limit=9"
        run_evaluate(*given, compiled=compiled, layout=layout)
        found.append(json.loads((workdir / "evaluation.json").read_text())["results"])
    values = same_values(*found)
    assert values["generation/adm/num_images"] == 9


def write_images(folder, count, seed):
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for number in range(count):
        pixels = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")


def run_evaluate(*given, compiled, layout):
    """With seeded weights of Inception."""
    weights = compiled / "inception.safetensors"
    write_state_dict(weights, seeded_inception.official_state())
    given += f"--inception_weights={weights}", "--batch_size=4"
    run("vqlab.evaluate", *given, compiled=compiled, layout=layout)


def same_values(one, two):
    """{name: value} of two runs' results, which are the same."""
    assert one.keys() == two.keys()
    for name, result in one.items():
        np.testing.assert_allclose(two[name]["value"], result["value"], rtol=1e-5, err_msg=name)
    return {name: result["value"] for name, result in one.items()}


def test_images_are_drawn_alike(tmp_path, compiled):
    """To the last bit, and each process draws some."""
    generator = tiny_generator.save_generator(tmp_path / "gpt", tiny_generator.index_node())
    drawn = []
    for layout in LAYOUTS:
        output = tmp_path / f"samples-{layout[0]}"
        run(
            "vqlab.generate",
            f"--workdir={generator}",
            "--classes=0,7",
            "--num_per_class=3",
            "--guidance_scale=1.5",
            "--batch_size=2",
            f"--output={output}",
            compiled=compiled,
            layout=layout,
        )
        with np.load(output / "samples.npz") as batch:
            drawn.append((batch["arr_0"], batch["arr_1"]))
    (images, labels), (others, other_labels) = drawn
    assert images.shape == (6, 8, 8, 3)
    np.testing.assert_array_equal(labels, [0, 0, 0, 7, 7, 7])
    np.testing.assert_array_equal(other_labels, labels)
    np.testing.assert_array_equal(others, images)
