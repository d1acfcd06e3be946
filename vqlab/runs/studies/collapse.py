"""The study of codebook collapse: codebooks alone, fitted to tokens that stay where they are.

An arm's config has `quantizer`, `num_groups` of it side by side, and `channels` of the tokens; see
`configs/studies/collapse.py` for the rest.
"""

from __future__ import annotations

import functools
import logging
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
import numpy as np

from vqlab import models
from vqlab.data.token_clouds import Cloud
from vqlab.evaluation import codebook_figure, codebook_use, sortable
from vqlab.evaluation.bjontegaard import mean_and_error
from vqlab.evaluation.codebook_figure import Case, Fitted
from vqlab.evaluation.panels import Section
from vqlab.evaluation.plane import said
from vqlab.evaluation.sortable import Cell
from vqlab.runs.results import write_numbers
from vqlab.runs.studies.arms import Arm, Config
from vqlab.runs.studies.clouds import build_cloud, read_tokens
from vqlab.runs.studies.kinds import Finished, Shown, StudyKind
from vqlab.runs.workdir import save_config
from vqlab.training.codebook_fit import CodebookFit, FitState
from vqlab.training.disk import naming
from vqlab.training.optim import build_optimizer
from vqlab.training.stopping import StopSignal

FITTED_FILE = "fitted.npz"
SHOWN_TOKENS = 1500  # in a panel
EVALUATOR = "codebook"  # in front of the numbers' names

log = logging.getLogger("vqlab")

# What MGVQ's figure says of its four cases, large channels first, and in each few codes first.
_TITLES = (
    "many channels, few codes",
    "many channels, many codes",
    "few channels, few codes",
    "few channels, many codes",
)
_CURVES = {
    "usage": "Share of codes in use",
    "perplexity": "Perplexity",
    "distortion": "Share of the variance that is lost",
}


class CollapseStudy(StudyKind):
    """Which codes are in use, and what is lost, by channels, codes and how codebooks learn."""

    equal: ClassVar[tuple[str, ...]] = (
        "data",
        "latents",
        "tokens",
        "num_steps",
        "batch_size",
        "deviation",
    )

    def __init__(self, study: Config, arms: Mapping[str, Arm]):
        super().__init__(study, arms)
        self._read_tokens = functools.cache(lambda: read_tokens(study.base))
        sizes = {(_channels(arm), _num_codes(arm.config)) for arm in arms.values()}
        ordered = sorted(sizes, key=lambda one: (-one[0], one[1]))
        titles = _TITLES if len(ordered) == len(_TITLES) else [""] * len(ordered)
        self._cases = {
            size: Case(*size, title) for size, title in zip(ordered, titles, strict=True)
        }

    def check(self, arm: Arm) -> None:
        """See `StudyKind`."""
        fit = _build_fit(arm.config)
        tokens = jax.ShapeDtypeStruct((1, _channels(arm)), np.float32)
        jax.eval_shape(fit.init, jax.eval_shape(jax.random.key, 0), tokens)
        if not 0 < arm.config.measure_every <= arm.config.num_steps:
            raise ValueError(f"measure_every={arm.config.measure_every}: choose 1..num_steps")

    def describe_data(self) -> str:
        """See `StudyKind`."""
        node = self._study.base
        if node.latents:
            return f"latents of {node.latents} on {super().describe_data()}"
        return f"{node.tokens.count:,} tokens, deviation 1/i along the i-th axis"

    def train(
        self, config: Config, folder: pathlib.Path, stop: StopSignal, description: str
    ) -> dict[str, float] | None:
        """See `StudyKind`; seconds, and from the start again where it was stopped."""
        try:
            cloud = build_cloud(config, self._read_tokens())
            stop.listen()
            fitted = _fit(config, cloud, stop)
        finally:
            stop.close()
        if fitted is None:
            return None
        numbers = {name: float(values[-1]) for name, values in fitted.numbers.items()}
        log.info("%s: %s", description, ", ".join(f"{k} {v:.4g}" for k, v in numbers.items()))
        if jax.process_index() == 0:
            save_config(config, folder)
            _write(folder, fitted)
            write_numbers(
                folder,
                {f"{EVALUATOR}/{name}": value for name, value in numbers.items()},
                {f"{EVALUATOR}/{name}": codebook_use.PROTOCOL[name] for name in numbers},
                step=config.num_steps,
            )
        size = config.quantizer.codebook_size
        return {"numbers": size * config.channels}  # of all codewords

    def show(self, runs: Sequence[Finished]) -> Shown:
        """Scatters, curves, and a table over all seeds."""
        rows = list(dict.fromkeys(arm.family for arm in self._arms.values()))
        grid = {}
        for run in runs:
            grid.setdefault((run.job.arm.family, self._case(run.job.arm)), _read(run.folder))
        cases = list(self._cases.values())
        scatter = codebook_figure.scatter_grid(grid, rows, cases)
        sections = [
            Section("Tokens and codewords", scatter + _NOTE),
            Section("Over the steps", codebook_figure.curve_grid(grid, rows, cases, _CURVES)),
            Section("In numbers", self._table(runs)),
        ]
        findings = [
            {
                "arm": name,
                "channels": _channels(arm),
                "codes": _num_codes(arm.config),
                **{metric: mean_and_error(values) for metric, values in found.items()},
            }
            for name, (arm, found) in self._found(runs).items()
        ]
        assets = (*codebook_figure.ASSETS, *sortable.ASSETS)
        return Shown(sections if runs else [], {"codebooks": findings}, assets)

    def _case(self, arm: Arm) -> Case:
        return self._cases[_channels(arm), _num_codes(arm.config)]

    def _found(self, runs: Sequence[Finished]) -> dict[str, tuple[Arm, dict[str, list[float]]]]:
        """{arm: (it, {metric: a value a seed})} of arms with a run."""
        found: dict[str, tuple[Arm, dict[str, list[float]]]] = {}
        for run in runs:
            arm = run.job.arm
            own = found.setdefault(arm.name, (arm, {name: [] for name in codebook_use.PROTOCOL}))
            for name, values in own[1].items():
                values.append(run.results[f"{EVALUATOR}/{name}"])
        return found

    def _table(self, runs: Sequence[Finished]) -> str:
        headings = [("codebook", ""), ("channels", ""), ("codes", "")]
        headings += [(name, text) for name, text in codebook_use.PROTOCOL.items()]
        headings += [("numbers", "in all codewords"), ("seeds", "")]
        rows = []
        costs = {run.job.arm.name: run.record.costs for run in runs}
        for name, (arm, found) in self._found(runs).items():
            cells = [Cell(arm.label), *map(_count, (_channels(arm), _num_codes(arm.config)))]
            for values in found.values():
                value = mean_and_error(values)
                cells.append(Cell(said(value), value[0]))
            cells += [_count(costs[name]["numbers"]), _count(len(values))]
            rows.append(cells)
        return sortable.table(headings, rows)


def _channels(arm: Arm) -> int:
    return arm.config.channels


def _num_codes(config: Config) -> int:
    """Tokens that it tells apart."""
    return config.quantizer.codebook_size**config.num_groups


def _count(value: float) -> Cell:
    return Cell(f"{value:,.0f}", value)


def _build_fit(config: Config) -> CodebookFit:
    return CodebookFit(
        models.build(config.quantizer),
        config.num_groups,
        build_optimizer(num_steps=config.num_steps, **config.optimizer),
        config.batch_size,
        config.deviation,
    )


def _fit(config: Config, cloud: Cloud, stop: StopSignal) -> Fitted | None:
    """Fits and measures by turns; None where it was stopped."""
    fit = _build_fit(config)
    init_key, key = jax.random.split(jax.random.key(config.seed))
    state = fit.init(init_key, cloud.train)
    size, every = config.quantizer.codebook_size, config.measure_every
    measured = [_measure(fit, state, cloud, size)]
    for _ in range(config.num_steps // every):
        if stop.agreed():
            return None
        state = fit.advance(state, key, cloud.train, every)
        measured.append(_measure(fit, state, cloud, size))
    numbers = {name: np.array([one[name] for one in measured]) for name in measured[0]}
    _, indices = fit.quantize(state, cloud.held_out)
    codewords = codebook_use.joint_codewords(np.asarray(fit.codewords(state, size)))
    codes = codebook_use.joint_codes(np.asarray(indices), size)
    return Fitted(
        tokens=cloud.held_out[:SHOWN_TOKENS] @ cloud.axes,
        codewords=codewords @ cloud.axes,
        is_used=np.bincount(codes, minlength=len(codewords)) > 0,
        steps=every * np.arange(len(measured)),
        numbers=numbers,
    )


def _measure(fit: CodebookFit, state: FitState, cloud: Cloud, size: int) -> dict[str, float]:
    latents, indices = fit.quantize(state, cloud.held_out)
    return codebook_use.measure(cloud.held_out, np.asarray(latents), np.asarray(indices), size)


def _write(folder: pathlib.Path, fitted: Fitted) -> None:
    arrays: dict[str, Any] = fitted._asdict()
    arrays |= arrays.pop("numbers")
    with naming(folder / FITTED_FILE), open(folder / FITTED_FILE, "wb") as file:
        np.savez_compressed(file, **arrays)


def _read(folder: pathlib.Path) -> Fitted:
    with np.load(folder / FITTED_FILE) as file:
        arrays = dict(file)
    numbers = {name: arrays.pop(name) for name in codebook_use.PROTOCOL}
    return Fitted(**arrays, numbers=numbers)


_NOTE = """
<p class="note">Along the two largest principal axes of the tokens, which are the same in all
panels; a dot that lies outside is left out. A code is an index, or one of each group: groups of the
same capacity tell as many tokens apart with fewer codewords, and each of their combinations is a
dot. Used means that one of the held-out tokens has it. First seeds.</p>
"""
