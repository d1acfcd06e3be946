"""Stores what networks make of a data set: python -m vqlab.tokenize --config=FILE --output=DIR

--what=latents   moments of the autoencoder and REPA's targets, of a Semanticist config; training
                 reads them with --config.data.name=records --config.data.path=DIR
--what=indices   of a trained MGVQ, or another tokenizer with codewords, given as
                 --source=WORKDIR_OR_EXPORT, an export by its folder or as user/name on the Hugging
                 Face Hub
--what=concepts  of a trained Semanticist of numbers, given likewise

Of each training image --flip stores two views, --views=N so many random ones, and --ten_crop=1.1
--ten_crop=1.05 the twenty of LlamaGen's and MGVQ's second stages. Training draws one of them each
epoch.

DIR/train and DIR/validation hold array_record files with the crops beside the arrays, or, with
--images=none, indices or concepts alone; docs/records.md has the format. The same command, given
again, goes on at the first file that is missing, and refuses when an image was exchanged. With
several processes each writes its share of the files, to a folder that all can reach.
"""

from __future__ import annotations

import logging
import pathlib

import jax
from absl import flags

from vqlab import data
from vqlab.export import hub, package
from vqlab.host import cli, cluster
from vqlab.runs import precompute
from vqlab.runs.workdir import load_config
from vqlab.training import sharding
from vqlab.training.checkpoint import require_writable

_WHAT = flags.DEFINE_enum("what", "latents", precompute.WHAT, "What to store.")
_SOURCE = flags.DEFINE_string("source", None, "The tokenizer: a workdir, export or user/name.")
_OUTPUT = flags.DEFINE_string("output", None, "The folder to write.", required=True)
_SPLITS = flags.DEFINE_list("splits", list(precompute.SPLITS), "Which splits.")
_FLIP = flags.DEFINE_bool("flip", False, "Also store each training crop's mirror image.")
_VIEWS = flags.DEFINE_integer(
    "views", 0, "Random crops of each training image, by config.augment; 0: its centre crop."
)
_TEN_CROP = flags.DEFINE_multi_float(
    "ten_crop",
    [],
    "Corners and centre of each training image, and their mirror images, cut from its centre of so "
    "many times the size; may be given again. MGVQ's and LlamaGen's generators have 1.1 and 1.05.",
)
_DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "float16"], "Of moments and concepts.")
_IMAGES = flags.DEFINE_enum(
    "images", "webp", data.IMAGES, "The crops: lossless beside the arrays, or none."
)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "Images in a batch of each process.")
_RECORDS_PER_SHARD = flags.DEFINE_integer(
    "records_per_shard", 4096, "Records in a file, a multiple of the batch size."
)
_LIMIT = flags.DEFINE_integer("limit", 0, "Only the first so many images of a split; 0 for all.")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Delete the records of another job there.")
flags.adopt_module_key_flags(cli)  # so that --help has them
flags.adopt_module_key_flags(cluster)

log = logging.getLogger("vqlab")


def main() -> None:
    """Checks everything, then stores one split after the other."""
    with cluster.ending_with_peers(1), cli.exit_on_error():
        cluster.join()
        config = cli.CONFIG.value or _config_of_source()
        output = require_writable(_OUTPUT.value)
        jobs = build_jobs(config, output)
        for job in jobs:
            job.begin(overwrite=_OVERWRITE.value)
    for job in jobs:
        try:
            job.write()
        except (data.RecordFileError, data.CorruptDataError) as error:
            cli.fail(str(error))
    log.info("records   %s", output)
    if _WHAT.value == "latents":
        log.info("to train  %s", " ".join(precompute.training_flags(config, output)))


def _config_of_source():
    source = _SOURCE.value
    if not source or hub.is_name(source) or package.is_package(source):
        raise ValueError("--config must say which images, unless --source is a run's workdir")
    return load_config(source)


def build_jobs(config, output: pathlib.Path) -> list[precompute.Job]:
    """One job a split.

    Raises:
      ValueError: a setting cannot work.
    """
    if unknown := sorted(set(_SPLITS.value) - set(precompute.SPLITS)):
        raise ValueError(f"unknown splits {unknown}; choose from {', '.join(precompute.SPLITS)}")
    encoder = precompute.build_encoder(_WHAT.value, config, _SOURCE.value, _DTYPE.value)
    mesh = sharding.make_mesh(-1, 1, devices=jax.local_devices())
    return [
        precompute.Job(
            _WHAT.value,
            encoder,
            mesh,
            config,
            split,
            output,
            precompute.build_views(
                config, split, flip=_FLIP.value, num_random=_VIEWS.value, ten_crop=_TEN_CROP.value
            ),
            batch_size=_BATCH_SIZE.value,
            records_per_shard=_RECORDS_PER_SHARD.value,
            limit=_LIMIT.value or None,
            images=_IMAGES.value,
        )
        for split in _SPLITS.value
    ]


if __name__ == "__main__":
    cli.start(main)
