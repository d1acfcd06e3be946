"""Names in configs become parts: a table for each kind, one way to build, one error.

The tables lie beside what they list: `models.MODULES`, `training.objectives.OBJECTIVES`,
`evaluation.evaluators.EVALUATORS`, `data.sources.SOURCES`, `export.frozen.NETWORKS`. A part joins
by its line there; nothing else asks for it by name or by type.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

Part = TypeVar("Part")


def check_choice(kind: str, name: Any, known: Iterable[str]) -> None:
    """Raises ValueError with the choices unless `name` is one of them."""
    known = list(known)
    if name not in known:
        raise ValueError(f"unknown {kind} {name!r}; choose from {', '.join(known)}")


def choose(kind: str, name: Any, known: Mapping[str, Part]) -> Part:
    """known[name]; ValueError with the choices for another name."""
    check_choice(kind, name, known)
    return known[name]


def build(kind: str, node: Mapping[str, Any], known: Mapping[str, Callable], *given: Any) -> Any:
    """known[node["name"]](*given, **the node's other entries).

    Raises:
      ValueError: an unknown name, with those known; unknown arguments, with those known; missing
        ones.
    """
    arguments = dict(node.items())
    name = arguments.pop("name", None)
    part = choose(kind, name, known)
    parameters = list(inspect.signature(part).parameters.values())[len(given) :]
    check_arguments(
        name,
        set(arguments),
        known=[p.name for p in parameters if p.kind is not p.VAR_POSITIONAL],
        required=[p.name for p in parameters if p.default is p.empty],
    )
    return part(*given, **arguments)


def check_arguments(
    name: str, given: set[str], *, known: Iterable[str], required: Iterable[str]
) -> None:
    """Raises ValueError for arguments that `name` does not take, or lacks."""
    known = list(known)
    if unknown := sorted(given - set(known)):
        raise ValueError(f"{name} has no arguments {unknown}; choose from {known}")
    if missing := sorted(set(required) - given):
        raise ValueError(f"{name} lacks the arguments {missing}")


def accepted(part: Callable, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `settings` that `part` takes by name: of a node that serves several parts."""
    parameters = inspect.signature(part).parameters
    return {name: value for name, value in settings.items() if name in parameters}
