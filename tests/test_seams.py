"""A new quantizer, tokenizer, evaluator or source is one class, one registry line and a config.

Each is registered here alone, and goes the whole way: build, train, evaluate, report, export, load,
tokenize, plan. Nothing else in vqlab knows it. docs/code.md tells users the same.
"""

from typing import ClassVar

import flax.linen as nn
import jax
import numpy as np
import pytest
from einops import rearrange

import vqlab
from tests import tiny
from tests.test_training_run import run_until
from vqlab import data, models
from vqlab.evaluation.evaluator import Evaluator
from vqlab.evaluation.evaluators import EVALUATORS
from vqlab.models.codecs import IndexCodec
from vqlab.models.tokenizer import Reconstruction
from vqlab.runs import estimate, precompute, trainer
from vqlab.runs.results import read_results
from vqlab.training import sharding


def config_of(model, **changes):
    """A run of one step of this model on the photographs, without a discriminator."""
    config = tiny.config().unlock()
    config.model = model
    config.num_steps, config.image_size = 1, 16
    config.evals.reconstruction.image_size = 16
    config.objective.adversarial_weight = 0.0
    config.update_from_flattened_dict(changes)
    return config.lock()


def go_the_whole_way(config, tmp_path):
    """Trains to the end; returns the export, loaded, and the records of its training images."""
    workdir = tmp_path / "run"
    training, state = run_until(config, workdir, 1)
    with jax.set_mesh(training.mesh):
        trainer.finish(config, workdir, training, state)
    training.run.close()
    loaded = vqlab.load(workdir / "export")
    images = tiny.images(2, config.image_size)
    code = loaded.encode(images)
    np.testing.assert_array_equal(vqlab.load(workdir).encode(images), code)
    assert loaded.decode(code, num_kept=1).shape == images.shape
    name = loaded.codec.name
    job = precompute.Job(
        name,
        precompute.build_encoder(name, config, workdir / "export", "float32"),
        sharding.make_mesh(1, 1, devices=jax.devices()[:1]),
        config,
        "train",
        tmp_path / "records",
        data.CenterViews(config.image_size),
        batch_size=2,
        records_per_shard=4,
    )
    job.begin()
    job.write()
    program = estimate.trace_step(config, jax.devices())
    assert program.batch["images"].dtype == np.uint8
    return loaded, data.RecordArrays(str(tmp_path / "records"), "train")


def test_a_quantizer(tmp_path):
    """FSQ, which came in by a file, a line in `MODULES` and nothing else."""
    model = tiny.tokenizer_node()
    small = {"widths": (16, 16), "depths": (0, 1), "block_types": ("res", "res")}
    model["encoder"] |= small | {"latent_channels": 4}
    model["decoder"] |= small | {"norms": ("batch_norm", "rms_norm"), "acts": ("relu", "silu")}
    model["quantizer"] = {"name": "fsq", "levels": (4, 5, 2, 5)}
    loaded, records = go_the_whole_way(config_of(model), tmp_path)
    assert (loaded.num_groups, loaded.codebook_size, loaded.stride) == (1, 200, 2)
    indices = loaded.encode(tiny.images(2, 16))
    assert indices.shape == (2, 8, 8, 1) and 0 <= indices.min() <= indices.max() < 200
    assert loaded.lookup(indices).shape == (2, 8, 8, 4)
    results = read_results(tmp_path / "run")
    assert results["reconstruction/bits_per_pixel"] == pytest.approx(np.log2(200) / 4)
    assert 0 < results["reconstruction/usage_g0"] < 1
    page = (tmp_path / "run" / "report.html").read_text()
    card = (tmp_path / "run" / "export" / "README.md").read_text()
    for text in (page, card):
        assert "FSQ" in text and "1 x 200" in text and "Gaussian bottleneck" not in text
    assert records[0]["indices"].shape == (8, 8, 1)
    assert records.manifest.tokenizer["codebook_size"] == 200


class Strips(nn.Module):
    """A 1-D tokenizer: an image of 16 pixels is cut into strips, each of them one token."""

    quantizer: nn.Module
    num_tokens: int = 4

    objective: ClassVar[str] = "reconstruction"
    beginning: ClassVar[str] = ""
    position_axes: ClassVar[tuple[str, ...]] = ("S",)
    example_side: ClassVar[int] = 16

    def setup(self):
        self.inner = nn.Dense(self.quantizer.input_channels)
        self.outer = nn.Dense(16 // self.num_tokens * 16 * 3)

    @property
    def sizes(self):
        return {"num_tokens": self.num_tokens, "image_size": 16}

    @property
    def facts(self):
        return {"tokens": f"{self.num_tokens}"}

    @nn.nowrap
    def codec(self, sampling=None):
        return IndexCodec(self)

    @nn.nowrap
    def frozen_parts(self):
        return {}

    @nn.nowrap
    def post_update(self, params, update):
        return {**params, "quantizer": self.quantizer.post_update(params["quantizer"], update)}

    @nn.nowrap
    def check_image_size(self, size, name):
        if size != 16:
            raise ValueError(f"{name}={size} is not 16")

    @nn.nowrap
    def check_images(self, images):
        self.check_image_size(images.shape[1], "height")

    @nn.nowrap
    def num_positions(self, height, width):
        return self.num_tokens

    def __call__(self, images, *, train=False):
        quantized = self._quantize(images, train)
        return Reconstruction(self.decode(quantized.latents), quantized)

    def encode(self, images):
        return self._quantize(images, False)

    def decode(self, latents):
        strips = self.outer(latents)
        return rearrange(strips, "b s (h w c) -> b (s h) w c", w=16, c=3)

    def _quantize(self, images, train):
        strips = rearrange(images, "b (s h) w c -> b s (h w c)", s=self.num_tokens)
        return self.quantizer(self.inner(strips), train=train)


def test_a_tokenizer_of_one_dimension(tmp_path, monkeypatch):
    monkeypatch.setitem(models.MODULES, "strips", Strips)
    quantizer = tiny.tokenizer_node()["quantizer"]
    config = config_of({"name": "strips", "quantizer": quantizer})
    loaded, records = go_the_whole_way(config, tmp_path)
    assert loaded.num_tokens == 4
    indices = loaded.encode(tiny.images(2, 16))
    assert indices.shape == (2, 4, 2)
    with pytest.raises(ValueError, match=r"indices \(2, 4, 3\) must be \[B, S, 2\]"):
        loaded.decode(np.zeros((2, 4, 3), int))
    results = read_results(tmp_path / "run")
    assert results["reconstruction/bits_per_pixel"] == 4 * 2 * 4 / 256
    assert results["reconstruction/first_1/psnr"] > 0 and "reconstruction/usage_g1" in results
    assert records[0]["indices"].shape == (4, 2)
    assert "[B, S, 2]" in (tmp_path / "run" / "report.html").read_text()


class Brightness(Evaluator):
    """How bright reconstructions are, in [-1, 1]."""

    def __init__(self, codec, make_batches, *, offset=0.0):
        self._make_batches, self._offset = make_batches, offset
        self._decode = jax.jit(
            lambda weights, images: codec.decode(
                weights, codec.encode(weights, images), codec.units.total, jax.random.key(0)
            )
        )

    def measure(self, weights, frozen):
        means = [
            np.asarray(self._decode(weights, batch["images"]))[np.asarray(batch["mask"])].mean()
            for batch in self._make_batches("validation")
        ]
        self.protocol = {"brightness": "mean of all pixels"}
        return {"brightness": float(np.mean(means)) + self._offset}


class Stripes(data.Source):
    """Striped images of two classes, as many as the data node says."""

    num_classes = 2

    def __init__(self, split, path):
        self._count = int(path)

    def __len__(self):
        return self._count

    def __getitem__(self, record):
        pixels = np.zeros((16, 16, 3), np.uint8)
        pixels[:, :: 2 + record % 2] = 255
        return {"image": pixels, "label": record % 2}

    def name(self, record):
        return f"stripes {record}"


def test_an_evaluator_and_a_source(tmp_path, monkeypatch):
    monkeypatch.setitem(EVALUATORS, "brightness", Brightness)
    monkeypatch.setitem(data.SOURCES, "stripes", Stripes)
    monkeypatch.setitem(models.MODULES, "strips", Strips)
    model = {"name": "strips", "quantizer": tiny.tokenizer_node()["quantizer"]}
    config = config_of(model, **{"data.name": "stripes", "data.path": "8"}).unlock()
    common = config.evals.reconstruction.to_dict()
    del common["num_images_kept"]
    config.evals.bright = common | {"name": "brightness", "offset": 10.0}
    _, records = go_the_whole_way(config.lock(), tmp_path)
    assert len(records) == 8 and records.num_classes == 2
    results = read_results(tmp_path / "run")
    assert 9 < results["bright/brightness"] < 11
    assert "mean of all pixels" in (tmp_path / "run" / "report.html").read_text()
    config.unlock().evals.bright.ofset = 1.0
    with pytest.raises(ValueError, match=r"brightness has no arguments \['ofset'\]; choose from"):
        run_until(config, tmp_path / "other", 1)


def test_unknown_names_have_one_error(tmp_path):
    for setting, kind in (
        ("data.name", "data source"),
        ("evals.reconstruction.name", "evaluator"),
        ("model.quantizer.name", "module"),
        ("objective.name", "objective"),
    ):
        config = tiny.config().unlock()
        config.objective.name = "reconstruction"
        config.update_from_flattened_dict({setting: "nonsense"})
        with pytest.raises(ValueError, match=f"unknown {kind} 'nonsense'; choose from "):
            run_until(config, tmp_path, 1)
