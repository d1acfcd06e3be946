"""What went wrong in a run, or nearly: events.jsonl, which the report shows.

Only process 0 writes; elsewhere the same calls do nothing.
"""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path

import jax

EVENTS_FILE = "events.jsonl"

log = logging.getLogger("vqlab")


class EventLog:
    """Appends {"step", "time", "event", "message"} to events.jsonl and logs the message.

    Events are never dropped, also where the run went back to an earlier step.
    """

    def __init__(self, workdir: str | Path):
        self._path = Path(workdir) / EVENTS_FILE

    def write(self, step: int, event: str, message: str) -> None:
        """One event: "skipped", "rollback", "codebook", "stopped", "checkpoint", ..."""
        if jax.process_index() != 0:
            return
        log.warning("step %d, %s: %s", step, event, message)
        line = {"step": step, "time": round(time.time(), 1), "event": event, "message": message}
        try:
            with open(self._path, "a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:  # a full disk is often what there is to tell
            log.warning("%s cannot be written: %s", self._path, error.strerror)


def read_events(workdir: str | Path) -> list[dict]:
    """The events of a run, oldest first; a line cut short is left out."""
    path = Path(workdir) / EVENTS_FILE
    if not path.exists():
        return []
    events = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            events.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return events
