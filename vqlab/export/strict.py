"""The checks that a state dict and a model fit exactly, before anything is converted."""

from collections.abc import Collection, Mapping

import ml_dtypes
import numpy as np

_SHOWN = 5  # names in a message about numbers, which are often all wrong together


def check_fit(
    shapes: Mapping[str, tuple[int, ...]],
    state: Mapping[str, np.ndarray],
    what: str,
    integers: Collection[str] = (),
) -> None:
    """Raises ValueError unless `state` has the names of `shapes`, each in its shape and numbers.

    Args:
      shapes: tensor name -> shape that the model needs.
      state: tensor name -> array.
      what: the model's name in the message, one line with every name that does not fit.
      integers: names of tensors that count or number something; all others hold floats.
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
    check_floats({name: state[name] for name in shapes if name not in integers}, what)
    check_finite(state, what)


def check_floats(arrays: Mapping[str, np.ndarray], what: str) -> None:
    """Raises ValueError unless all arrays hold floats.

    Integers in their place are quantized weights, which mean nothing without their scales.
    """
    wrong = [f"{name} is {array.dtype}" for name, array in arrays.items() if not is_float(array)]
    if wrong:
        raise ValueError(f"{what} needs weights in floats: {_some(wrong)}")


def check_finite(arrays: Mapping[str, np.ndarray], what: str) -> None:
    """Raises ValueError where an array of floats holds NaN or infinity."""
    wrong = [n for n, array in arrays.items() if is_float(array) and not np.isfinite(array).all()]
    if wrong:
        raise ValueError(f"{what} has NaN or infinite weights: {_some(wrong)}")


def is_float(array: np.ndarray) -> bool:
    """Whether an array holds floats of 16 bits or more."""
    return array.dtype.kind == "f" or array.dtype == ml_dtypes.bfloat16


def _some(texts: list[str]) -> str:
    more = len(texts) - _SHOWN
    return ", ".join(texts[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
