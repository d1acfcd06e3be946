"""`python -m vqlab.main` that also writes down which images it is given.

Each process appends a line a batch to $SEEN/PROCESS.jsonl: the global position of its first row and
a digest of each row.
"""

import hashlib
import json
import os
import pathlib

import jax

from vqlab import main
from vqlab.data.pipeline import TrainBatches
from vqlab.host import cli

given = TrainBatches.__next__


def record(batches):
    state = batches.get_state()
    batch = given(batches)
    rows = [hashlib.sha256(image.tobytes()).hexdigest()[:16] for image in batch["images"]]
    line = {"position": state["next_example"] + jax.process_index() * len(rows), "rows": rows}
    path = pathlib.Path(os.environ["SEEN"]) / f"{jax.process_index()}-{os.getpid()}.jsonl"
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    return batch


if __name__ == "__main__":
    TrainBatches.__next__ = record
    cli.start(main.main)
