"""Commands beside training do the same with two processes as with one: `make test-slow`."""

import json

import numpy as np
import pytest
from PIL import Image

from tests import seeded_inception, tiny_generator
from tests.processes.running import finish, launch
from vqlab.export.torch_weights import write_state_dict

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
    rng = np.random.default_rng(0)
    for folder in ("ours", "theirs"):
        (tmp_path / folder).mkdir()
        for number in range(9):
            pixels = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / folder / f"{number}.png")
    weights = tmp_path / "inception.safetensors"
    write_state_dict(weights, seeded_inception.official_state())
    found = []
    for layout in LAYOUTS:
        output = tmp_path / f"{layout[0]}.json"
        run(
            "vqlab.evaluate",
            f"--images={tmp_path / 'ours'}",
            f"--reference={tmp_path / 'theirs'}",
            "--measures=fid,kid,is,psnr,ssim",
            f"--inception_weights={weights}",
            "--batch_size=4",
            f"--output={output}",
            compiled=compiled,
            layout=layout,
        )
        results = json.loads(output.read_text())["results"]
        found.append({name: result["value"] for name, result in results.items()})
    one, two = found
    assert one.keys() == two.keys()
    assert one["images/clean/num_images"] == two["images/clean/num_images"] == 9
    for name, value in one.items():
        np.testing.assert_allclose(two[name], value, rtol=1e-5, err_msg=name)


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
