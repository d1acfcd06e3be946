"""Which part of a checkpoint is read: averaged or plain weights, never by a guess.

Averages come before plain weights, as they are what is evaluated. Names and buffers that they lack
come from the plain weights beside them. What could be meant in two ways is refused.
"""

from __future__ import annotations

from typing import Any

from vqlab.export.checkpoint_parts import MODEL_KEYS, Part, Stored, find_parts, names_average
from vqlab.export.inert_pickle import Inert
from vqlab.export.torch_names import BUFFERS

_SHOWN = 5  # names in a message
_OPTION = "vqlab.convert from-official --weights"


def choose(checkpoint: Any, weights: str = "") -> tuple[dict[str, Stored], str]:
    """The state dict of a checkpoint, and a sentence that says which part it is.

    Args:
      checkpoint: nested dicts and lists with `Stored` tensors, as read from a file.
      weights: "ema", "model" or the label of a part; "" for the averaged weights if there are any,
        else the plain ones.

    Returns:
      name -> tensor, and the sentence, "" where the file holds nothing else.

    Raises:
      ValueError: no such part, several, or one that cannot be read.
    """
    parts = list(find_parts(checkpoint))
    if not parts:
        raise ValueError(f"holds no state dict{_what_else(checkpoint)}")
    part = _chosen(parts, weights)
    plain = [other for other in parts if not other.is_averaged]
    if isinstance(part.tensors, str):
        hint = f"; {_OPTION}=model reads {_place(plain[0])}" if plain else ""
        raise ValueError(
            f"its averaged weights {_place(part)} cannot be read: {part.tensors}{hint}"
        )
    if not part.is_averaged:
        return part.tensors, _sentence(part, parts, [], checkpoint)
    state = _named(part, plain)
    buffers = {}
    if len(plain) == 1:
        buffers = {
            name: tensor
            for name, tensor in plain[0].tensors.items()
            if name not in state and name.rpartition(".")[2] in BUFFERS
        }
    return state | buffers, _sentence(part, parts, list(buffers), checkpoint)


def _chosen(parts: list[Part], weights: str) -> Part:
    averaged = [part for part in parts if part.is_averaged]
    plain = [part for part in parts if not part.is_averaged]
    known = {"": averaged or plain, "ema": averaged, "model": plain}
    labelled = [part for part in parts if part.label and part.label == weights]
    candidates = labelled or known.get(weights, [])
    if len(candidates) == 1:
        return candidates[0]
    places = ", ".join(map(_place, candidates or parts))
    if candidates:
        raise ValueError(f"holds several weights: {places}; name one: {_OPTION}=NAME")
    what = {"ema": "averaged weights", "model": "plain weights"}.get(weights, f"part {weights!r}")
    raise ValueError(f"--weights={weights}: no {what}, only {places}")


def _sentence(part: Part, parts: list[Part], buffers: list[str], checkpoint: Any) -> str:
    kind = "averaged" if part.is_averaged else "plain"
    sentence = f"read are the {kind} weights {_place(part)}"
    if buffers:
        plain = next(other for other in parts if not other.is_averaged)
        sentence += f", and from {_place(plain)} the buffers that they lack ({_some(buffers)})"
    others = [_place(other) for other in parts if other is not part]
    if others:
        sentence += f"; not {', '.join(others)}"
    if part.label or buffers or others:
        return sentence
    left_out = [str(key) for key, value in checkpoint.items() if not isinstance(value, Stored)]
    return f"left out, as no tensors: {_some(left_out)}" if left_out else ""


def _place(part: Part) -> str:
    return repr(part.label) if part.label else "at its top"


def _some(names: list[str]) -> str:
    shown, more = ", ".join(names[:_SHOWN]), len(names) - _SHOWN
    return f"{shown} and {more} more" if more > 0 else shown


def _named(part: Part, plain: list[Part]) -> dict[str, Stored]:
    """The tensors of an average under the names of the plain weights."""
    if len(plain) != 1:
        if isinstance(part.tensors, list):
            raise ValueError(f"{_place(part)} is a list, and nothing in the file names its tensors")
        return part.tensors
    model = plain[0].tensors
    if isinstance(part.tensors, list):
        return _aligned(part, model)
    # LitEma makes a buffer of each average, in whose name no dot may stand.
    spelled = {name.replace(".", ""): name for name in model}
    if len(spelled) != len(model) or not part.tensors.keys() <= spelled.keys():
        return part.tensors
    return {spelled[name]: tensor for name, tensor in part.tensors.items()}


def _aligned(part: Part, model: dict[str, Stored]) -> dict[str, Stored]:
    """A list of averages under the names of the parameters, whose order it has.

    Buffers and frozen parameters are not in the list. It fits in one way only if the places found
    from the front and from the back are the same.
    """
    names = [
        name
        for name, tensor in model.items()
        if tensor.is_float and name.rpartition(".")[2] not in BUFFERS
    ]
    front = _places(part.tensors, names, model)
    back = _places(part.tensors[::-1], names[::-1], model)[::-1]
    if len(front) != len(part.tensors) or front != back:
        ways = "in more than one way" if len(front) == len(part.tensors) else "in no way"
        raise ValueError(
            f"{_place(part)} is a list of {len(part.tensors)} tensors without names, which fits "
            f"the {len(names)} plain parameters {ways}; {_OPTION}=model reads those"
        )
    return dict(zip(front, part.tensors, strict=True))


def _places(tensors: list[Stored], names: list[str], model: dict[str, Stored]) -> list[str]:
    """The first names, in order, whose tensors have the shapes of `tensors`."""
    found, rest = [], iter(names)
    for tensor in tensors:
        name = next((name for name in rest if model[name].shape == tensor.shape), None)
        if name is None:
            break
        found.append(name)
    return found


def _what_else(checkpoint: Any) -> str:
    """What a file without a state dict holds, and how to save one where its classes are known."""
    if isinstance(checkpoint, Inert):
        return _resave("", checkpoint)
    if not isinstance(checkpoint, dict) or not checkpoint:
        return ""
    for key, value in checkpoint.items():
        if isinstance(value, Inert) and (key in MODEL_KEYS or names_average(str(key))):
            return _resave(f"[{key!r}]", value)
    return f", but {_some([f'{key} ({_kind(value)})' for key, value in checkpoint.items()])}"


def _kind(value: Any) -> str:
    if isinstance(value, Stored):
        return "tensor"
    return value.name if isinstance(value, Inert) else type(value).__name__


def _resave(index: str, value: Inert) -> str:
    where = f"under {index[1:-1]} " if index else ""
    return (
        f", but {where}an object of {value.name}, which is not made, as that runs stored code. "
        "Where you trust it and its class is installed: checkpoint = torch.load(FILE, "
        f"weights_only=False); torch.save(checkpoint{index}.state_dict(), 'weights.pt')"
    )
