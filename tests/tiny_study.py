"""A study of the smallest networks, and made-up runs of it that took no time."""

import json

import ml_collections
import numpy as np

from configs import _common
from tests import tiny
from vqlab.runs.results import EVALUATION_FILE
from vqlab.runs.studies import record, training
from vqlab.runs.studies.arms import choose_jobs, read_arms
from vqlab.runs.workdir import save_config

SMALL = {"widths": (16, 16), "depths": (0, 1), "block_types": ("res", "res")}
LEVELS = {"mgvq": (1, 2)}


def config(**changes):
    """Three arms of two seeds on 16-pixel crops of the photographs; `changes` by flat names."""

    base = tiny.config().unlock()
    base.model.encoder.update(SMALL)
    base.model.decoder.update({**SMALL, "norms": ("batch_norm", "rms_norm")})
    base.model.decoder.acts = ("relu", "silu")
    base.objective.adversarial_weight = 0.0
    base.num_steps, base.image_size = 2, 16
    base.mesh.update(data=-1, fsdp=1)
    base.evals.rate_distortion = _common.evaluation("rate_distortion", 16, 8)
    base.evals.rate_distortion.update(limit=8, steps=(1.0, 0.5))
    base.evals.reconstruction.update(image_size=16, limit=8)
    gaussian = {"name": "gaussian_bottleneck", "latent_channels": 4}
    study = {
        "kind": "rate_distortion",
        "title": "Which <one>?",
        "question": "Is it this & that?",
        "anchor": "VAE",
        "num_pictures": 2,
        "may_differ": (),
        "seeds": (0, 1),
        "order": ("vae_low", "vae_high", "mgvq"),
        "base": base,
        "arms": {
            name: {"label": label, "family": family, "seeds": (), "note": "", "changes": change}
            for name, label, family, change in (
                ("vae_low", "VAE, low", "VAE", {"model": {"quantizer": gaussian}}),
                (
                    "vae_high",
                    "VAE, high",
                    "VAE",
                    {"model": {"quantizer": gaussian}, "objective": {"quantizer_weight": 1e-9}},
                ),
                ("mgvq", "MGVQ 2x16", "MGVQ", {}),
            )
        },
    }
    study = ml_collections.ConfigDict(study)
    study.update_from_flattened_dict(changes)
    return study.lock()


def results(arm, seed):
    """{metric: value} of a made-up run: the VAE has 10 dB a decade, MGVQ is 1 dB above it."""
    better = 0.5 * seed
    if arm == "mgvq":
        found = {"reconstruction/usage_g0": 0.5, "reconstruction/usage_g1": 1.0}
        for kept, rate, psnr in ((1, 1, 19.0), (2, 2, 20 + 10 * np.log10(2) + 1)):
            for way in (f"first_{kept}/", "") if kept == 2 else (f"first_{kept}/",):
                found |= {
                    f"rate_distortion/{way}indices/fixed_bits_per_pixel": 2.0 * rate,
                    f"rate_distortion/{way}indices/entropy_bits_per_pixel": float(rate),
                    f"rate_distortion/{way}indices/psnr": float(psnr) + better,
                    f"rate_distortion/{way}indices/ssim": 0.5,
                    f"reconstruction/{way}psnr": float(psnr) + better,
                }
        return found
    rate, psnr = (1.0, 20.0) if arm == "vae_low" else (10.0, 30.0)
    return {
        "rate_distortion/samples/kl_bits_per_pixel": rate,
        "rate_distortion/samples/psnr": psnr + better,
        "rate_distortion/samples/ssim": 0.4,
        "reconstruction/psnr": psnr + 1,
        "reconstruction/images_per_second": 3.0,
    }


def make_up(job, workdir):
    """Leaves a finished run of the job, without any training."""
    folder = workdir / job.folder
    folder.mkdir(parents=True)
    save_config(job.arm.config_of(job.seed), folder)
    saved = {
        name: {"value": value, "protocol": f"of <{name}>"}
        for name, value in results(job.arm.name, job.seed).items()
    }
    (folder / EVALUATION_FILE).write_text(json.dumps({"step": 2, "results": saved}))
    levels = LEVELS.get(job.arm.name, (0,))
    tiles = np.arange(2 * 16 * 16 * 3, dtype=np.uint8).reshape(2, 16, 16, 3)
    made = np.stack([tiles // (place + 2) for place in range(len(levels))])
    with open(folder / training.PICTURES_FILE, "wb") as file:
        np.savez_compressed(file, originals=tiles, made=made, levels=np.array(levels))
    costs = {"parameters": 1000 + len(job.arm.name), "flops": 2e9, "image_side": 16}
    made_up = record.Record(is_finished=True, seconds=90.0, costs=costs, device="1 x made up")
    record.write(folder, made_up)


def arms_of(study):
    """The arms, compared as the command does."""
    from vqlab.runs.studies import KINDS

    return read_arms(study, KINDS[study.kind].equal)


def jobs_of(study):
    """All runs, in their order."""
    return choose_jobs(arms_of(study))


def get_config(argument=""):
    """For `--study=tests/tiny_study.py`, with as many steps as the argument says."""
    return config(**{"base.num_steps": int(argument or 2)})
