"""Measures tokenizers and images, each number by the protocol that it names.

python -m vqlab.evaluate --workdir=DIR                             as the run's config says
python -m vqlab.evaluate --workdir=DIR --protocol=mgvq,semanticist --inception_weights=FILE
python -m vqlab.evaluate --workdir=DIR --images=FOLDER             reconstructs whole images
python -m vqlab.evaluate --images=FOLDER --reference=FOLDER_OR_NPZ --inception_weights=FILE
python -m vqlab.evaluate --images=FOLDER --write_statistics=FILE.npz --inception_weights=FILE

With --workdir, evaluation.json, report.html and a picture go to the workdir, that of a training
run, measured in the dtype that it trains in, as training measures it; `--source` takes an exported
or converted folder instead, or user/name of one on the Hugging Face Hub, with `--config` for the
data to measure on. Without it images that any program made are measured: folders, whose files are
paired by name, or ADM's .npz files of samples and of statistics; `--output` keeps the numbers.
docs/measures.md has the protocols.
"""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import jax
from absl import flags
from clu import parameter_overview

from vqlab.evaluation.evaluators import EvaluationError, run_evaluators
from vqlab.evaluation.measures import NETWORKS, check_measures, of_text
from vqlab.evaluation.protocols import DEFAULT, protocols_of
from vqlab.evaluation.report import REPORT_FILE, format_table
from vqlab.export.frozen import read_networks
from vqlab.generation import LoadedGenerator
from vqlab.host import cli, cluster
from vqlab.inference import Loaded, load
from vqlab.models.codec import Codec
from vqlab.models.generator import Generator
from vqlab.runs import image_sets, parts, results, whole_images
from vqlab.runs.comparison import format_curves, read_comparison
from vqlab.runs.evals import build_evaluators, protocol_node, used_networks
from vqlab.runs.workdir import load_config
from vqlab.training import sharding
from vqlab.training.checkpoint import require_writable
from vqlab.training.disk import naming
from vqlab.training.telemetry import show_progress

_WORKDIR = flags.DEFINE_string("workdir", None, "A training run's folder.")
_STEP = flags.DEFINE_string("step", "latest", "Which checkpoint: latest, best or a number.")
_SOURCE = flags.DEFINE_string(
    "source", None, "Measure this exported folder instead of the workdir's checkpoint."
)
_LPIPS = flags.DEFINE_string(
    "lpips_weights", None, "vgg16.pth,vgg.pth, to measure LPIPS; '' for not; default: the config's."
)
_INCEPTION = flags.DEFINE_string(
    "inception_weights",
    None,
    "FID's Inception: pytorch-fid's or torch-fidelity's .pth, clean-fid's .pt; default: the "
    "config's.",
)
_COMPARE = flags.DEFINE_list(
    "compare", [], "Workdirs of evaluated runs, to draw and print their curves beside this one's."
)
_PROTOCOL = flags.DEFINE_string(
    "protocol", None, "mgvq, semanticist, clean, adm, or several with commas between."
)
_MEASURES = flags.DEFINE_string(
    "measures", "", "fid, sfid, kid, is, pr, psnr, ssim, lpips; default: the protocol's."
)
_NUM_STEPS = flags.DEFINE_integer(
    "num_steps", None, "Of a decoder that samples; default: the run's or the export's."
)
_GUIDANCE = flags.DEFINE_float("guidance_scale", None, "Likewise.")
_LEVELS = flags.DEFINE_bool("levels", False, "By protocol, also each number of units kept.")
_IMAGES = flags.DEFINE_string("images", None, "A folder of images, or ADM's samples (.npz).")
_REFERENCE = flags.DEFINE_string(
    "reference", None, "What --images are compared with: a folder, samples or statistics (.npz)."
)
_STATISTICS = flags.DEFINE_string(
    "write_statistics", None, "A .npz file for the statistics of --images, as a later reference."
)
_IMAGE_SIZE = flags.DEFINE_integer(
    "image_size", 0, "Side of the protocol's crops; 0: the config's, or whole --images."
)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 0, "Images in a batch; 0: the config's, or 8.")
_LIMIT = flags.DEFINE_integer(
    "limit", 0, "By protocol, only so many images; 0: the config's, or all."
)
_OUTPUT = flags.DEFINE_string("output", None, "A .json file for the numbers of --images.")
flags.adopt_module_key_flags(cli)  # so that --help has them
flags.adopt_module_key_flags(cluster)

BATCH_SIZE = 8  # of images of unknown size


def main() -> None:
    """Loads, evaluates, prints and writes."""
    if _WORKDIR.value is None and _SOURCE.value is None:
        evaluate_images()
    else:
        evaluate_tokenizer()


def evaluate_images() -> None:
    """Images against a reference, or their statistics."""
    with cli.exit_on_error():
        cluster.join()
        if not _IMAGES.value or not (_REFERENCE.value or _STATISTICS.value):
            raise ValueError(
                "nothing to evaluate: give --workdir of a run, or --images with --reference or "
                "--write_statistics"
            )
        networks = _networks(dict.fromkeys(NETWORKS, ""), NETWORKS)
        crop = _crop()
        protocols = protocols_of(_PROTOCOL.value or DEFAULT, crop or "whole")
        asked = check_measures(of_text(_MEASURES.value) or ("fid", "kid"), networks)
        reader = _reader(sharding.make_mesh(-1, 1), crop)
        with jax.set_mesh(reader.mesh):
            networks = jax.device_put(networks, sharding.replicated(reader.mesh))
            if _STATISTICS.value:
                image_sets.write_statistics(
                    _STATISTICS.value, _IMAGES.value, protocols[0], asked, networks, reader
                )
                print(f"statistics  {_STATISTICS.value}")
            if not _REFERENCE.value:
                return
            values, texts = image_sets.measure_sets(
                _IMAGES.value,
                _REFERENCE.value,
                dict.fromkeys(protocols, asked),
                networks,
                reader,
            )
    print(format_table(values, texts))
    if _OUTPUT.value:
        path = pathlib.Path(_OUTPUT.value).expanduser()
        sides = {"images": _IMAGES.value, "reference": _REFERENCE.value}
        image_sets.save_values(path, values, texts, **sides)


def evaluate_tokenizer() -> None:
    """A run or an exported folder."""
    with cli.exit_on_error():
        cluster.join()
        if _WORKDIR.value is None:
            raise ValueError("--source needs --workdir, for what is written")
        for flag in (_REFERENCE, _STATISTICS, _OUTPUT):
            if flag.value is not None:
                raise ValueError(
                    f"--{flag.name} is for --images alone; a run is compared with images of its "
                    f"config.data, and {results.EVALUATION_FILE} in --workdir has its numbers"
                )
        workdir = pathlib.Path(_WORKDIR.value).expanduser().absolute()
        config = cli.CONFIG.value or load_config(workdir)
        require_writable(workdir)
        others = read_comparison(_WORKDIR.value, _COMPARE.value)
        loaded = load(_SOURCE.value or workdir, _STEP.value, dtype="config")  # as in training
        subject = _subject(loaded)
        if _PROTOCOL.value:
            config = protocol_node(
                config,
                _PROTOCOL.value,
                subject.card().noun,
                measures=_MEASURES.value,
                levels=_LEVELS.value,
                image_size=_IMAGE_SIZE.value,
                batch_size=_BATCH_SIZE.value,
                limit=_LIMIT.value,
            )
        used = NETWORKS if _IMAGES.value else used_networks(config)
        frozen = _networks(parts.frozen_files(config), used)
        mesh = sharding.make_mesh(-1, 1)
        evaluators = _evaluators(config, workdir, subject, loaded, mesh, frozen)
    weights, frozen = jax.device_put((loaded.weights, frozen), sharding.replicated(mesh))
    try:
        with jax.set_mesh(mesh):
            values = run_evaluators(evaluators, weights, frozen)
    except EvaluationError as error:
        cluster.end(str(error))
    if not values:
        cluster.end("nothing could be evaluated")
    print(format_table(values, results.protocols(evaluators)))
    with naming(workdir / REPORT_FILE):
        page = results.write_results(
            workdir,
            config,
            subject.card(),
            evaluators,
            values,
            step=_STEP.value,
            parameters=parameter_overview.count_parameters(loaded.params),
            load_path=str(_SOURCE.value or workdir),
            comparison=others,
        )
    if curves := format_curves({workdir.name: values} | others):
        print(curves)
    print(f"report  {page}")


def _subject(loaded: Loaded | LoadedGenerator) -> Codec | Generator:
    """The network in use, sampling as the flags say."""
    given = {"num_steps": _NUM_STEPS.value, "guidance_scale": _GUIDANCE.value}
    given = {name: value for name, value in given.items() if value is not None}
    subject = loaded.subject
    if not given:
        return subject
    if subject.sampling is None:
        raise ValueError(f"this tokenizer draws nothing: it takes no {', '.join(given)}")
    return loaded.module.codec(subject.sampling.changed(**given))


def _evaluators(config, workdir: pathlib.Path, codec: Any, loaded, mesh, frozen) -> dict:
    """Those of the config, or with --images one for whole images."""
    if _IMAGES.value and (noun := codec.card().noun) != "tokenizer":
        raise ValueError(f"--images are reconstructed by a tokenizer; {workdir} holds a {noun}")
    if _IMAGES.value:
        protocols = _PROTOCOL.value or DEFAULT
        reader = _reader(mesh, _crop())
        evaluator, largest = whole_images.whole_evaluator(
            codec,
            _IMAGES.value,
            frozen,
            reader,
            protocols=protocols,
            measures=_MEASURES.value,
            levels=_LEVELS.value,
        )
        with jax.set_mesh(mesh):
            whole_images.log_memory(codec, loaded.weights, largest, reader)
        return {"images": evaluator}
    read_source = functools.partial(
        parts.evaluated_source, config, loaded.node, loaded.weights.frozen
    )
    evaluators = build_evaluators(
        config,
        codec,
        mesh,
        frozen,
        read_source,
        workdir=workdir,
        show=show_progress,
    )
    if not evaluators:
        raise ValueError(f"nothing to evaluate: of config.evals {list(config.evals)} none is left")
    return evaluators


def _networks(files: Mapping[str, str], used: Iterable[str]) -> dict:
    """Variables of the frozen networks that are given, by flag or in a config."""
    given = {"inception": _INCEPTION.value, "lpips": _LPIPS.value}
    files = {**files, **{name: file for name, file in given.items() if file is not None}}
    return read_networks(files, {}, needed=(), used=used)


def _crop() -> str:
    """How --images are cropped to --image_size; "" for whole images."""
    if not _IMAGE_SIZE.value:
        return ""
    crops = {p.name: p.crop for p in protocols_of(_PROTOCOL.value or DEFAULT)}
    if len(set(crops.values())) > 1:
        raise ValueError(f"--image_size with protocols of several crops: {crops}; give one of them")
    return next(iter(crops.values()))


def _reader(mesh, crop: str) -> image_sets.Reader:
    parts = sharding.batch_parts(mesh)
    batch_size = _BATCH_SIZE.value or -(-BATCH_SIZE // parts) * parts
    return image_sets.Reader(mesh, batch_size, crop, _IMAGE_SIZE.value, show_progress)


if __name__ == "__main__":
    cli.start(main)
