"""Files of a run: errors that name them, and texts that are whole or not there."""

from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Iterator


@contextlib.contextmanager
def naming(path: str | pathlib.Path) -> Iterator[None]:
    """An OSError from inside names the file; the system names one only where it opens it."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


def write_text(path: str | pathlib.Path, text: str) -> None:
    """Replaces the file in one move, so that a killed process leaves the old one or the new.

    Raises:
      OSError: naming the file; the old one is as it was.
    """
    part = pathlib.Path(f"{path}.part")
    with naming(path):
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)
