"""Inception's features and the resizes before it, beside torch-fidelity, pytorch-fid, clean-fid."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from tests import seeded_inception
from tests.parity.official import to_nhwc
from tests.parity.report import Report, relative_error
from vqlab.models.pretrained.inception import inception_features, inception_maps
from vqlab.models.pretrained.inception_inputs import PREPARATIONS, prepare_images

# The library's name in the arrays -> ours of its preparation.
LIBRARIES = {"torchfid": "tf1", "pytorchfid": "torch", "clean": "clean"}
RESIZES = {"tf1": "tf1", "torch": "torch", "clean": "clean"}
BLOCKS = ("64", "192", "768")  # block0, block1, block2 of pytorch-fid
FITS = 1e-2  # weights of another seed are off by far more

_prepare = jax.jit(prepare_images, static_argnums=1)


@jax.jit
def _look(params, x):
    """Of each image: features, maps at three places, [mean, std, max] of every convolution."""
    stats = {}

    def observe(name, y):
        axes = (1, 2, 3)
        stats[name] = jnp.stack([jnp.mean(y, axes), jnp.std(y, axes), jnp.max(y, axes)], axis=1)

    maps = inception_maps(params, x, observe)
    pixels = {}
    for name in BLOCKS:
        n = maps[name].shape[1]
        places = ((0, 0), (n // 2, n // 3), (n - 1, n - 1))
        pixels[name] = jnp.stack([maps[name][:, i, j] for i, j in places], axis=1)
    return inception_features(params, x), pixels, stats


def check_inception_features(report: Report, config: dict, path: Path) -> None:
    """Every feature of every image by each library's way of preparing it."""
    images = {n.removeprefix("in/img"): n for n in report.arrays if n.startswith("in/img")}
    pixels = {size: jnp.asarray(to_nhwc(report.take(name))) for size, name in images.items()}
    keys = [(library, size) for library in LIBRARIES for size in pixels]
    prepared = [_prepare(pixels[size], LIBRARIES[library]) for library, size in keys]
    # One program, of one batch.
    looked = _look(_params(report, config, path), jnp.concatenate(prepared))
    ends = np.cumsum([len(x) for x in prepared])
    for (library, size), end in zip(keys, ends, strict=True):
        rows = slice(end - len(pixels[size]), end)
        features, places, stats = jax.tree.map(lambda x, rows=rows: np.asarray(x[rows]), looked)
        values = features | {f"block{i}_mean": features[n] for i, n in enumerate(BLOCKS)}
        values |= {f"block{i}_pixels": places[n] for i, n in enumerate(BLOCKS)}
        if "stats_names" in config:
            values["stats"] = np.stack([_joint(stats[n]) for n in config["stats_names"]])
        for key, value in values.items():
            if (stored := f"out/{library}/{size}/{key}") in report.arrays:
                report.close(stored, value)


def _joint(stats: np.ndarray) -> list[float]:
    """[mean, std, max] over images of those [B, 3] of each."""
    mean, std, most = stats.astype(np.float64).T
    variance = np.mean(std**2 + mean**2) - np.mean(mean) ** 2
    return [np.mean(mean), np.sqrt(variance), np.max(most)]


def check_inception_resize(report: Report, config: dict) -> None:
    """Rows of the resized images, before they are normalised."""
    images = {n.removeprefix("in/img"): n for n in report.arrays if n.startswith("in/img")}
    for size, name in images.items():
        pixels = jnp.asarray(to_nhwc(report.take(name)), jnp.float32)
        made = {name: jax.jit(PREPARATIONS[own].resized)(pixels) for name, own in RESIZES.items()}
        made["clean_legacy_pytorch"] = 255.0 * made["torch"]
        for kind, resized in made.items():
            if (stored := f"out/{kind}/{size}") in report.arrays:
                rows = config.get(f"rows_{kind}", config["rows"])
                report.close(stored, np.moveaxis(np.asarray(resized)[:, rows], -1, 1))


def _params(report: Report, config: dict, path: Path) -> dict:
    """Of the seed that the file or the recipe beside it names; where they differ, what fits."""
    seeds = [config[key] for key in ("weights_seed", "seed") if key in config]
    seeds += [json.loads(p.read_text())["seed"] for p in path.parent.glob("*recipe.json")]
    candidates = list(dict.fromkeys(seeds))
    if len(candidates) == 1:
        return seeded_inception.params(candidates[0])
    size, stored = next(
        (name.split("/")[2], array)
        for name, array in report.arrays.items()
        if name.startswith("out/torchfid/") and name.endswith("/64")
    )
    x = _prepare(jnp.asarray(to_nhwc(report.arrays[f"in/img{size}"])), "tf1")
    for seed in candidates:
        params = seeded_inception.params(seed)
        if relative_error(_look(params, x)[0]["64"], stored) < FITS:
            return params
    return seeded_inception.params(candidates[0])
