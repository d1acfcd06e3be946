"""Draws images of classes: python -m vqlab.generate --workdir=GENERATOR --output=DIR

    python -m vqlab.generate --workdir=runs/gpt --classes=0,7,10-19 --num_per_class=50 \\
        --guidance_scale=2 --top_k=4096 --seed=0 --output=samples

GENERATOR is a run's workdir, an exported folder, or user/name of one on the Hugging Face Hub. DIR
gets CLASS/NUMBER.png, a picture of the first ones, and samples.npz, ADM's sample batch, which
`vqlab.evaluate --images=DIR/samples.npz --reference=...` measures. The same command, given again,
goes on where it stopped. An image depends on the seed, its class and its number, whatever is drawn
beside it and on how many devices; several processes draw a share each, into a folder that all can
reach.
"""

from __future__ import annotations

import logging

from absl import flags

from vqlab.host import cli, cluster
from vqlab.inference import load_only
from vqlab.runs import generating
from vqlab.training.checkpoint import require_writable

_WORKDIR = flags.DEFINE_string(
    "workdir", None, "The generator: a workdir, export or user/name.", required=True
)
_STEP = flags.DEFINE_string("step", "latest", "Of a workdir: latest, best or a number.")
_OUTPUT = flags.DEFINE_string("output", None, "The folder to write.", required=True)
_CLASSES = flags.DEFINE_string("classes", "", "Such as 0,7,10-19; default: all.")
_COUNT = flags.DEFINE_integer("num_per_class", 50, "Images of each class.")
_SEED = flags.DEFINE_integer("seed", 0, "Of all images, 0..2**32-1.")
_GUIDANCE = flags.DEFINE_float(
    "guidance_scale", None, "1: none. Default, as of the flags below: the generator's."
)
_SCHEDULE = flags.DEFINE_string(
    "guidance_schedule", None, "constant, or linear: from 1 at the first position to the scale."
)
_INTERVAL = flags.DEFINE_integer(
    "guidance_interval", None, "Guidance ends so many positions after the first; -1: never."
)
_TEMPERATURE = flags.DEFINE_float("temperature", None, "0 takes the likeliest index.")
_TOP_K = flags.DEFINE_integer("top_k", None, "Only so many of the likeliest indices; 0: all.")
_TOP_P = flags.DEFINE_float("top_p", None, "Only the likeliest indices of so much probability.")
_NUM_STEPS = flags.DEFINE_integer("num_steps", None, "Of a head that draws continuous tokens.")
_SAMPLER = flags.DEFINE_string("sampler", None, "Likewise; '' for its process's own.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 16, "Images that each device draws at once.")
_DTYPE = flags.DEFINE_enum(
    "dtype", None, ["float32", "bfloat16", "config"], "Of activations; default: as vqlab.load."
)
flags.adopt_module_key_flags(cluster)  # so that --help has them

log = logging.getLogger("vqlab")


def main() -> None:
    """Checks everything, then draws what is missing."""
    with cluster.ending_with_peers(1), cli.exit_on_error():
        cluster.join()
        classes = generating.parse_classes(_CLASSES.value)
        loaded = load_only("generator", _WORKDIR.value, _STEP.value, _DTYPE.value)
        sampling = loaded.changed(
            guidance_scale=_GUIDANCE.value,
            guidance_schedule=_SCHEDULE.value,
            guidance_interval=_INTERVAL.value,
            temperature=_TEMPERATURE.value,
            top_k=_TOP_K.value,
            top_p=_TOP_P.value,
            num_steps=_NUM_STEPS.value,
            sampler=_SAMPLER.value,
        )
        job = generating.Job(
            loaded,
            sampling,
            classes=classes,
            num_per_class=_COUNT.value,
            seed=_SEED.value,
            output=require_writable(_OUTPUT.value),
            batch_size=_BATCH_SIZE.value,
        )
        job.begin()
    with cluster.ending_with_peers(1):
        job.write()
    log.info("images  %s", job.output)
    log.info("batch   %s", job.output / generating.BATCH_FILE)


if __name__ == "__main__":
    cli.start(main)
