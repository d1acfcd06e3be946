"""Statistics of a set of images in a file, so that they are worked out once.

A .npz file with `mu` and `sigma` of the pooled features, `mu_s` and `sigma_s` of the spatial ones,
as ADM's and torch-fidelity's files have them; `rows`, the pooled features themselves, where they
were kept; and `facts`, a text in JSON that says of what they are. Files of others have no facts.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vqlab.evaluation.set_measures import POOLED, SPATIAL
from vqlab.evaluation.summary import Gaussian, Summary

_KEYS = {POOLED: ("mu", "sigma"), SPATIAL: ("mu_s", "sigma_s")}
_SIZES = {POOLED: 2048, SPATIAL: 2023}
_UNREADABLE = (OSError, ValueError, zipfile.BadZipFile, EOFError, KeyError)


def save_statistics(path: str | Path, summary: Summary, facts: Mapping[str, Any]) -> None:
    """Writes a file in one move: all of it or nothing.

    Args:
      path: a .npz file.
      summary: of the set.
      facts: in JSON types, compared by `load_statistics`; "count" is added.

    Raises:
      OSError: naming the file.
      ValueError: another suffix.
    """
    path = Path(path).expanduser()
    if path.suffix != ".npz":
        raise ValueError(f"{path}: statistics are written as .npz")
    arrays = {"facts": json.dumps({**facts, "count": summary.count})}
    for name, gaussian in summary.gaussians.items():
        arrays |= dict(zip(_KEYS[name], gaussian, strict=True))
    if POOLED in summary.rows:
        arrays["rows"] = summary.rows[POOLED].astype(np.float32)
    part = path.with_name(f"{path.name}.part")
    try:
        with open(part, "wb") as file:
            np.savez(file, **arrays)
        os.replace(part, path)
    except OSError as error:
        error.filename = str(path)
        raise


def load_statistics(path: str | Path, facts: Mapping[str, Any]) -> Summary:
    """What a file of ours or of others holds.

    Raises:
      ValueError: damaged, of other facts than these, without statistics, or of another number of
        features; one line.
    """
    try:
        with np.load(Path(path).expanduser(), allow_pickle=False) as stored:
            # Images, of which a file may hold gigabytes beside them, are read elsewhere.
            arrays = {name: stored[name] for name in stored.files if name != "arr_0"}
    except _UNREADABLE as error:
        raise ValueError(f"{path} is damaged or no .npz file: {error}") from error
    stored_facts = _facts(arrays, path)
    wrong = [
        f"{name} {stored_facts[name]!r} instead of {value!r}"
        for name, value in facts.items()
        if name in stored_facts and stored_facts[name] != value
    ]
    if wrong:
        raise ValueError(f"{path} holds statistics of another kind: {', '.join(wrong)}")
    gaussians = {
        name: Gaussian(*(arrays[key].astype(np.float64) for key in keys))
        for name, keys in _KEYS.items()
        if all(key in arrays for key in keys)
    }
    if not gaussians:
        raise ValueError(f"{path} holds no statistics (mu, sigma), only {sorted(arrays)}")
    for name, (mean, covariance) in gaussians.items():
        size = _SIZES[name]
        if mean.shape != (size,) or covariance.shape != (size, size):
            raise ValueError(
                f"{path} holds statistics of other features than Inception's: mu {mean.shape} and "
                f"sigma {covariance.shape} instead of ({size},) and ({size}, {size})"
            )
    rows = {POOLED: arrays["rows"]} if "rows" in arrays else {}
    return Summary(int(stored_facts.get("count", 0)), gaussians, rows)


def _facts(arrays: Mapping[str, np.ndarray], path: str | Path) -> dict[str, Any]:
    if "facts" not in arrays:
        return {}
    try:
        return dict(json.loads(str(arrays["facts"])))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: its facts are damaged ({error})") from error


class ReferenceCache:
    """Statistics of references, worked out once, here and in a folder if there is one.

    Args:
      folder: where files are kept; None for this process alone.
      facts: of the images and the network, by which a file is known again.
    """

    def __init__(
        self,
        folder: Path | None = None,
        facts: Mapping[str, Any] | None = None,
    ):
        self._folder, self._facts = folder, dict(facts or {})
        self._known: dict[tuple, Summary] = {}

    def get(self, **key: Any) -> Summary | None:
        """What was put with this key; None where nothing was, or it is of other images."""
        known = tuple(sorted(key.items()))
        if known not in self._known and self._folder is not None:
            path = self._file(key)
            if path.exists():
                try:
                    self._known[known] = load_statistics(path, self._facts | key)
                except ValueError:  # of other images, or cut short: made anew, and replaced
                    return None
        return self._known.get(known)

    def put(self, summary: Summary, **key: Any) -> None:
        """Keeps a summary."""
        self._known[tuple(sorted(key.items()))] = summary
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
            save_statistics(self._file(key), summary, self._facts | key)

    def _file(self, key: Mapping[str, Any]) -> Path:
        return self._folder / ("_".join(str(value) for value in key.values()) + ".npz")
