"""State dicts as PyTorch's own files, for scripts that read them with torch.load."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np


def write_torch(path: Path, state: Mapping[str, np.ndarray]) -> None:
    """Writes {"model": {name: tensor}}, what the scripts of MGVQ and MAR read.

    Raises:
      ValueError: torch is missing, or the file cannot be written.
    """
    try:
        import torch
    except ImportError as error:
        raise ValueError(
            f"{path}: writing {path.suffix} needs torch: install it (pip install torch) "
            "or name a .safetensors file"
        ) from error
    tensors = {name: torch.from_numpy(np.array(array)) for name, array in state.items()}
    try:
        torch.save({"model": tensors}, path)
    except (RuntimeError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{path} cannot be written: {reason}") from error
