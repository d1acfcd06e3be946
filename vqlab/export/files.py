"""Writing the files of an export: arrays with a new file's rights, folders that are not mixed."""

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file


def save_arrays(
    path: str | Path, arrays: Mapping[str, np.ndarray], metadata: dict[str, str] | None = None
) -> None:
    """Writes name -> array as .safetensors, readable by whom the umask says.

    safetensors renames a temporary file, which only its owner may read. Raises what it raises,
    SafetensorError and OSError.
    """
    save_file({name: np.array(a, order="C") for name, a in arrays.items()}, path, metadata)
    with contextlib.suppress(PermissionError):  # mounts that keep no rights refuse to set them
        Path(path).chmod(0o666 & ~_umask())


def read_arrays(path: str | Path) -> dict[str, Any]:
    """What `save_arrays` wrote, nested by the slashes in the names.

    Raises:
      ValueError: the file is damaged.
    """
    try:
        return traverse_util.unflatten_dict(load_file(path), sep="/")
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def require_free(path: Path, own_file: str) -> None:
    """Raises ValueError where a folder holds other files and no `own_file` of an export before.

    Hidden files do not count: a killed write leaves one.
    """
    if not path.is_dir() or (path / own_file).exists():
        return
    if any(not file.name.startswith(".") for file in path.iterdir()):
        raise ValueError(f"{path} holds other files, and none is replaced; name a new folder")


def _umask() -> int:
    """The umask, which can only be read by setting it: for a moment no one else may read."""
    umask = os.umask(0o077)
    os.umask(umask)
    return umask
