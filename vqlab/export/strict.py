"""The check that a state dict and a model fit exactly, before anything is converted."""

from collections.abc import Mapping

import numpy as np


def check_fit(
    shapes: Mapping[str, tuple[int, ...]], state: Mapping[str, np.ndarray], what: str
) -> None:
    """Raises ValueError unless `state` has the names of `shapes`, each in its shape.

    Args:
      shapes: tensor name -> shape that the model needs.
      state: tensor name -> array.
      what: the model's name in the message, one line with every name that does not fit.
    """
    faults = {
        "missing": sorted(shapes.keys() - state.keys()),
        "unexpected": sorted(state.keys() - shapes.keys()),
        "wrong shape": [
            f"{name} {tuple(state[name].shape)} instead of {tuple(shape)}"
            for name, shape in sorted(shapes.items())
            if name in state and tuple(state[name].shape) != tuple(shape)
        ],
    }
    if any(faults.values()):
        listed = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in faults.items() if names)
        raise ValueError(f"the state dict does not fit {what}: {listed}")
