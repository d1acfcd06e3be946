"""Answers that took minutes, kept as JSON files by what they depend on."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import pathlib
from typing import Any


def folder() -> pathlib.Path:
    """Of this user."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return pathlib.Path(base).expanduser() / "vqlab" / "plan"


def path_of(question: dict[str, Any]) -> pathlib.Path:
    """Where the answer to a question is kept; a question is anything that JSON can hold."""
    text = json.dumps(question, sort_keys=True)
    return folder() / "programs" / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.json.gz"


def read(path: pathlib.Path) -> dict[str, Any] | None:
    """A kept answer; None when there is none, or the file is cut short."""
    try:
        return json.loads(gzip.decompress(path.read_bytes()))
    except (OSError, EOFError, ValueError):
        return None


def write(path: pathlib.Path, answer: dict[str, Any]) -> None:
    """Keeps an answer, whole or not at all; compressed where the name ends in .gz."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = (json.dumps(answer, indent=2) + "\n").encode()
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    part.replace(path)
