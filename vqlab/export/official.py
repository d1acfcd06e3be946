"""Whose released files a network's weights are read from and written to, told by its paths.

A further scheme is a module with names and layouts, and a line in `SCHEMES`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from vqlab.export import gpt_names, kl_names, semanticist_names, titok_names
from vqlab.export.kl_weights import kl_from_state, kl_to_state
from vqlab.export.state_dicts import read_state_dict
from vqlab.export.torch_weights import from_torch_state, to_torch_state

State = Mapping[str, np.ndarray]
Variables = Mapping[str, Any]


class Scheme(NamedTuple):
    """Names and layouts of one group's releases.

    fits: whether the paths of variables are those of its networks. from_state: (official state
    dict, shapes of variables) -> variables. to_state: the other way.
    """

    fits: Callable[[Iterable[str]], bool]
    from_state: Callable[[State, Variables], Variables]
    to_state: Callable[[Variables], State]


def _from_kl(state: State, template: Variables) -> Variables:
    return {"params": kl_from_state(state, template["params"])}


def _to_kl(variables: Variables) -> State:
    return kl_to_state(variables["params"], naming="ldm")


def _from_torch(state: State, template: Variables) -> Variables:
    params, variables = from_torch_state(state, template)
    return {"params": params, **variables}


def _to_torch(variables: Variables) -> State:
    collections = dict(variables)
    return to_torch_state(collections.pop("params"), collections)


def _from_gpt(state: State, template: Variables) -> Variables:
    return _from_torch(gpt_names.fitted_state(state), template)


def _to_gpt(variables: Variables) -> State:
    return gpt_names.released_state(_to_torch(variables))


def _from_titok(state: State, template: Variables) -> Variables:
    leaves = flatten_dict(dict(template), sep="/")
    titok_names.check_form(state, leaves)
    others = {name: shapes for name, shapes in template.items() if name != "params"}
    variables = _from_torch(state, {"params": template["params"]})
    return variables | jax.tree_util.tree_map_with_path(_uncounted, others)


def _to_titok(variables: Variables) -> State:
    return _to_torch({"params": variables["params"]})


def _uncounted(path: Any, leaf: Any) -> np.ndarray:
    """What a quantizer's count of its codewords begins with; see `CountingBottleneck`."""
    return np.full(leaf.shape, -1 if path[-1].key == "recent_indices" else 0, leaf.dtype)


# The first that fits; MGVQ's names say themselves which paths they do not know.
SCHEMES = {
    "kl": Scheme(kl_names.is_kl, _from_kl, _to_kl),
    "second_stage": Scheme(gpt_names.is_second_stage, _from_gpt, _to_gpt),
    "titok": Scheme(titok_names.is_titok, _from_titok, _to_titok),
    "semanticist": Scheme(semanticist_names.is_semanticist, _from_torch, _to_torch),
    "mgvq": Scheme(lambda paths: True, _from_torch, _to_torch),
}


def scheme_of(variables: Variables) -> str:
    """The scheme of a network with these variables, or shapes of them."""
    paths = list(flatten_dict(dict(variables), sep="/"))
    return next(name for name, scheme in SCHEMES.items() if scheme.fits(paths))


def read_variables(path: str, template: Variables, part: str = "") -> dict[str, Any]:
    """Variables of a network from a part of the official file, strictly; see `read_state_dict`.

    Raises:
      ValueError: the file cannot be read, or what in it does not fit `template`, in one line.
    """
    state = read_state_dict(path, part)
    try:
        return dict(SCHEMES[scheme_of(template)].from_state(state, template))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def to_state(variables: Variables) -> State:
    """The official state dict of a network's variables."""
    return SCHEMES[scheme_of(variables)].to_state(variables)
