"""The arms of a study's config: each a training config that differs from the base in what it says.

A study's config (see `configs/studies/`) has

  kind, title, question     which `StudyKind`, and two texts for the page
  base                      a whole training config
  seeds                     of every arm that names none of its own
  arms.NAME                 label, family, changes; seeds and note where they differ
  order                     the names of all arms, as they are run and shown
  may_differ                settings in which arms are meant to differ where they otherwise may not

and what its kind takes. `changes` is merged into the base; a part, which has a `name`, takes the
place of the base's part whole.
"""

from __future__ import annotations

import copy
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import ml_collections

from vqlab import data
from vqlab.ops.counts import check_seed
from vqlab.registry import check_choice, choose
from vqlab.runs.resuming import changes

Config = ml_collections.ConfigDict

# Settings that only some networks have, which a base of others therefore lacks.
_OF_SOME = re.compile(r"sampling|evals\.\w+\.piece_size")


class Arm(NamedTuple):
    """An arm: one config, run with several seeds.

    name: of its folder. label: for people. family: the method, whose arms are one curve and have
    one colour. config: of its runs, but for the seed. note: a line for the page; "" for none.
    """

    name: str
    label: str
    family: str
    config: Config
    seeds: tuple[int, ...]
    note: str

    def config_of(self, seed: int) -> Config:
        """The whole config of one run."""
        config = self.config.copy_and_resolve_references().unlock()
        config.seed = seed
        return config.lock()


class Job(NamedTuple):
    """One run of a study."""

    arm: Arm
    seed: int

    @property
    def folder(self) -> str:
        """Where it lies in the study's workdir."""
        return f"{self.arm.name}/seed{self.seed}"

    @property
    def label(self) -> str:
        """In messages."""
        return f"{self.arm.name} seed {self.seed}"


def read_arms(study: Config, equal: Iterable[str]) -> dict[str, Arm]:
    """The arms of a study's config by name, compared with each other.

    Args:
      study: see above.
      equal: settings in which arms have to be equal, but for the study's `may_differ`.

    Raises:
      ValueError: a seed twice, a name that is no folder's, a change of what the base lacks, or arms
        that differ in what makes them comparable.
    """
    if not study.arms:
        raise ValueError("the study has no arms")
    _check_once("arm in the study's order", study.order)
    if missing := set(study.arms) ^ set(study.order):
        raise ValueError(f"the study's arms and its order differ: {', '.join(sorted(missing))}")
    arms = {name: _read_arm(study, name) for name in study.order}
    _check_equal(arms, set(equal), study.may_differ)
    return arms


def choose_jobs(
    arms: Mapping[str, Arm],
    names: Iterable[str] | None = None,
    seed: int | None = None,
) -> list[Job]:
    """The runs of the arms `names` (None: all), with one seed or all of theirs.

    The first seeds of all arms come first, so that a study that is cut short compares something.

    Raises:
      ValueError: an arm that the study does not have, twice the same, or a seed that an arm lacks.
    """
    names = list(arms) if names is None else list(names)
    for name in names:
        check_choice("arm", name, arms)
    _check_once("arm", names)
    for name in names:
        if seed is not None and seed not in arms[name].seeds:
            seeds = ", ".join(map(str, arms[name].seeds))
            raise ValueError(f"arm {name!r} has no seed {seed}; its seeds are {seeds}")
    jobs = [
        (place, Job(arms[name], each))
        for name in names
        for place, each in enumerate(arms[name].seeds)
        if seed in (None, each)
    ]
    return [job for _, job in sorted(jobs, key=lambda pair: pair[0])]  # stable: as in the study


def with_data(base: Config, text: str) -> None:
    """Gives the base other data: `folder:DIR`, `tfds:NAME`, `records:DIR` or `photos`.

    Raises:
      ValueError: an unknown source, or a place for one that has none.
    """
    name, _, place = text.partition(":")
    setting = choose("data source", name, data.SOURCES).setting
    if bool(place) != bool(setting):
        wanted = f"{name}:{setting.upper()}" if setting else name
        raise ValueError(f"data {text!r} is not to be understood: give {wanted}")
    base.data.name = name
    if setting:
        base.data[setting] = place


def _read_arm(study: Config, name: str) -> Arm:
    node = study.arms[name]
    if not name.isidentifier():  # it is a folder, and a part of flags
        raise ValueError(f"arm {name!r}: letters, digits and '_' make an arm's name")
    seeds = tuple(node.get("seeds", ())) or tuple(study.seeds)
    if not seeds:
        raise ValueError(f"arm {name!r} has no seeds")
    _check_once(f"seed of arm {name!r}", seeds)
    for seed in seeds:
        check_seed(seed)
    base = study.base.copy_and_resolve_references().to_dict()
    settings = merged(base, node.changes.to_dict(), f"arm {name!r}")
    return Arm(name, node.label, node.family, Config(settings).lock(), seeds, node.get("note", ""))


def merged(base: dict[str, Any], new: Mapping[str, Any], of: str, path: str = "") -> dict[str, Any]:
    """The settings of `base` with those of `new` in their place; a part is exchanged whole.

    Raises:
      ValueError: naming `of` and a setting that the base lacks, and all of its networks would have.
    """
    result = copy.deepcopy(base)
    for key, value in new.items():
        if key not in base and not _OF_SOME.fullmatch(path + key):
            raise ValueError(f"{of} changes {path}{key}, which the base does not have")
        is_branch = isinstance(value, dict) and isinstance(base.get(key), dict)
        if is_branch and "name" not in value:
            value = merged(base[key], value, of, f"{path}{key}.")
        result[key] = value
    return result


def _check_once(what: str, values: Iterable[Any]) -> None:
    if twice := [str(value) for value, times in Counter(values).items() if times > 1]:
        raise ValueError(f"{what} twice: {', '.join(twice)}")


def _check_equal(arms: Mapping[str, Arm], equal: set[str], may_differ: Iterable[str]) -> None:
    """Raises ValueError with the first difference that is neither free nor meant."""
    first, *others = arms.values()
    meant = tuple(may_differ)

    def fixed(config: Config) -> dict[str, Any]:
        return {key: value for key, value in json.loads(config.to_json()).items() if key in equal}

    for other in others:
        for change in changes(fixed(first.config), fixed(other.config)):
            if not any(f"{change.name}.".startswith(f"{name}.") for name in meant):
                raise ValueError(
                    f"arms {first.name!r} and {other.name!r} are not comparable: {change.name} is "
                    f"{json.dumps(change.old)} and {json.dumps(change.new)}; if that is meant, add "
                    f"{change.name!r} to the study's may_differ"
                )
