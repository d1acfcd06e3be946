"""What a run of a study leaves beside its workdir's own files: how it stands, and what it took."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import time

from vqlab.runs.resuming import changes
from vqlab.runs.studies.arms import Job
from vqlab.runs.workdir import CONFIG_FILE, load_config
from vqlab.training.disk import write_text
from vqlab.training.telemetry import METRICS_FILE

RECORD_FILE = "arm.json"

# Settings with which a run is the same on another machine.
_FREE = ("loader", "mesh", "checkpoint", "guards", "profile")


@dataclasses.dataclass
class Record:
    """Of one run.

    Attributes:
      is_finished: to its end, with results.
      error: why it ended before; "" for another reason, or none.
      seconds: of all attempts that ended.
      started: when the attempt began that has not ended, since the epoch; 0 without one.
      costs: what its network takes, as its kind of study counts it.
      device: it ran on.
    """

    is_finished: bool = False
    error: str = ""
    seconds: float = 0.0
    started: float = 0.0
    costs: dict[str, float] = dataclasses.field(default_factory=dict)
    device: str = ""


def read_record(folder: pathlib.Path) -> Record | None:
    """The record of a run; None where it has not begun.

    Raises:
      ValueError: it is cut short, or of another version.
    """
    path = folder / RECORD_FILE
    try:
        return Record(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (json.JSONDecodeError, TypeError) as error:
        raise ValueError(f"{path} is no record of a run: delete it, or its folder") from error


def begin(folder: pathlib.Path) -> Record:
    """The record of a run that starts now, or goes on."""
    record = read_record(folder) or Record()
    record.seconds += _unended(folder, record)
    record.started, record.error = time.time(), ""
    write(folder, record)
    return record


def end(folder: pathlib.Path, record: Record, **news) -> None:
    """Writes that the attempt is over, with what is new about the run."""
    record.seconds += max(time.time() - record.started, 0.0)
    record.started = 0.0
    write(folder, dataclasses.replace(record, **news))


def write(folder: pathlib.Path, record: Record) -> None:
    """Replaces the file in one move."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / RECORD_FILE, json.dumps(dataclasses.asdict(record), indent=2) + "\n")


def _unended(folder: pathlib.Path, record: Record) -> float:
    """Seconds from the start of a killed attempt to its last sign of life."""
    metrics = folder / METRICS_FILE
    if not record.started or not metrics.exists():
        return 0.0
    return max(metrics.stat().st_mtime - record.started, 0.0)


def check_unchanged(job: Job, folder: pathlib.Path) -> None:
    """Raises ValueError with the difference where the run began with another config."""
    if not (folder / CONFIG_FILE).exists():
        return
    old, new = (json.loads(config.to_json()) for config in (load_config(folder), _own(job)))
    found = [c for c in changes(old, new) if c.name.split(".")[0] not in _FREE]
    if not found:
        return
    record = read_record(folder)
    state = "finished" if record and record.is_finished else "begun"
    raise ValueError(
        f"{job.label} was {state} with other settings in {folder}: "
        f"{'; '.join(map(str, found[:5]))}{' and more' * (len(found) > 5)}: set them back, name "
        "another --workdir, or delete that folder"
    )


def _own(job: Job):
    return job.arm.config_of(job.seed)
