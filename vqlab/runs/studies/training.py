"""One run of a study through the ordinary trainer, and what it leaves for the page."""

from __future__ import annotations

import contextlib
import json
import logging
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from clu import parameter_overview

from vqlab.evaluation.evaluators import EVALUATORS
from vqlab.evaluation.image_metrics import to_uint8
from vqlab.models.codec import Codec, Units
from vqlab.planning.flops import traced_flops
from vqlab.registry import choose
from vqlab.runs import build, parts, trainer
from vqlab.runs.evals import evaluated
from vqlab.training.disk import naming
from vqlab.training.stopping import StopSignal

PICTURES_FILE, ARRAYS_FILE = "pictures.npz", "arrays.npz"

log = logging.getLogger("vqlab")


def check(config) -> None:
    """Raises ValueError where the network, the objective or their settings cannot work."""
    objective = parts.build_objective(config)
    parts.build_optimizers(config, objective.players)
    codec = parts.build_subject(config, objective)
    if (noun := codec.card().noun) != "tokenizer":
        raise ValueError(f"a study compares tokenizers; {config.model.name} is a {noun}")
    for name, node in config.evals.items():
        choose("evaluator", node.name, EVALUATORS)
        evaluated(codec, node, name)


def noun(config) -> str:
    """What the units of the config's network are called; "" where it has none."""
    return parts.build_objective(config).network.codec(parts.build_sampling(config)).units.noun


def prefixes(config) -> Units:
    """What the config's network keeps first where its prefixes are looked at."""
    codec = parts.build_objective(config).network.codec(parts.build_sampling(config))
    return codec.prefixes


def train(config, folder: pathlib.Path, stop: StopSignal, description: str) -> dict | None:
    """Trains a config to its end; what its network costs, or None where it was stopped before.

    The same as `vqlab.main` does, in this process: see `vqlab.runs.studies.runner`.

    Raises:
      CannotBegin: for a setting that cannot work.
      RunFailed: see `trainer.train_to_the_end`.
    """
    try:
        training = build.build_run(config, folder, stop)
    except ValueError as error:
        raise trainer.CannotBegin(f"{folder.parent.name}: {error}") from error
    training.run.description = description
    log.info("%s", trainer.overview(training, folder))
    with jax.set_mesh(training.mesh), contextlib.closing(training.run):
        if not trainer.train_to_the_end(config, folder, training, {}):
            return None
        if jax.process_index() == 0:
            _save_pictures(training, folder)
            _save_arrays(training, folder)
        return _costs(config, training)


def _costs(config, training: build.TrainingRun) -> dict[str, float]:
    """`parameters`, and `flops` of encoding and decoding one evaluated image."""
    weights = training.weights(training.run.state)
    name, node = max(config.evals.items(), key=lambda item: item[1].image_size)
    codec, side = evaluated(training.codec, node, name), node.image_size
    return {
        "parameters": int(parameter_overview.count_parameters(weights.variables["params"])),
        "flops": image_flops(codec, weights, side),
        "image_side": side,
    }


def image_flops(codec: Codec, weights, side: int) -> float:
    """FLOPs of encoding and decoding one image of so many pixels, with everything kept."""

    def there_and_back(weights, image, key):
        return codec.decode(weights, codec.encode(weights, image), codec.units.total, key)

    image = jax.ShapeDtypeStruct((1, side, side, 3), np.uint8)
    shapes = jax.eval_shape(lambda tree: tree, weights)
    traced = jax.jit(there_and_back).trace(shapes, image, jax.eval_shape(jax.random.key, 0))
    return traced_flops(traced).total


def _save_pictures(training: build.TrainingRun, folder: pathlib.Path) -> None:
    """Originals, and what each number of units makes of them, of the first evaluator with any."""
    for evaluator in training.evaluators.values():
        if (shown := evaluator.pictures({})) is not None:
            originals, made, _ = shown
            levels = training.codec.units.levels or (0,)
            with naming(folder / PICTURES_FILE), open(folder / PICTURES_FILE, "wb") as file:
                np.savez_compressed(
                    file,
                    originals=np.asarray(to_uint8(jnp.asarray(originals))),
                    made=np.asarray(to_uint8(jnp.asarray(made))),
                    levels=np.array(levels),
                )
            return


def _save_arrays(training: build.TrainingRun, folder: pathlib.Path) -> None:
    """What evaluators keep for figures of several runs, as `EVALUATOR/NAME`."""
    arrays = {
        f"{name}/{key}": value
        for name, evaluator in training.evaluators.items()
        for key, value in evaluator.arrays().items()
    }
    with naming(folder / ARRAYS_FILE), open(folder / ARRAYS_FILE, "wb") as file:
        np.savez_compressed(file, **arrays)


def read_arrays(folder: pathlib.Path, evaluator: str) -> dict[str, np.ndarray]:
    """What one of a run's evaluators kept; {} without any."""
    prefix = f"{evaluator}/"
    with np.load(folder / ARRAYS_FILE) as arrays:
        return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


def read_pictures(folder: pathlib.Path) -> tuple[np.ndarray, np.ndarray, tuple[int, ...]] | None:
    """(originals, what came back, numbers of units kept) that a run saved; None without any."""
    path = folder / PICTURES_FILE
    if not path.exists():
        return None
    with np.load(path) as arrays:
        return arrays["originals"], arrays["made"], tuple(arrays["levels"].tolist())


def read_speed(folder: pathlib.Path) -> float:
    """Median of the training images per second that a run wrote down; NaN without any."""
    path = folder / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    speeds = []
    for line in lines:
        with contextlib.suppress(json.JSONDecodeError):
            speeds.append(json.loads(line).get("train/images_per_second"))
    speeds = [speed for speed in speeds if speed]
    return float(np.median(speeds)) if speeds else float("nan")
