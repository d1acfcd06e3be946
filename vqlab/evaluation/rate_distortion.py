"""What a tokenizer's codes cost and what comes back, for each way of sending them.

A point of the rate-distortion plane is a way of sending (`vqlab.models.codings`) and a number of
units kept, with its rates in bits per pixel and its distortions.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from html import escape
from typing import Any, ClassVar

import jax
import numpy as np
from clu.metrics import Average

from vqlab.evaluation import names
from vqlab.evaluation.batches import MakeBatches, read, to_host
from vqlab.evaluation.evaluator import Evaluator
from vqlab.evaluation.image_metrics import UNIFORM_WINDOW, add_to
from vqlab.evaluation.needs import Needs
from vqlab.evaluation.panels import Measured, Section, count_label, format_value
from vqlab.evaluation.points import CODING_TITLES, RATE_TITLES, Point, point_name, read_points
from vqlab.evaluation.reconstruction import PROTOCOLS, Quality
from vqlab.evaluation.symbols import SymbolCounts
from vqlab.models.codec import Codec, Weights
from vqlab.models.codings import Coding
from vqlab.models.pretrained.lpips import MIN_SIDE

RATES = {
    "fixed": "bits per pixel, every index at its fixed length",
    "entropy": "bits per pixel of an ideal static code: the empirical entropy, on these images, of "
    "each group's or channel's symbols, which the table that a decoder needs is not counted in; a "
    "prefix costs its part of the whole",
    "kl": "bits per pixel, the posterior's KL divergence from its prior: what bits-back coding "
    "reaches in the ideal; distortions are those of decoded posterior samples",
}
SSIM = ("ssim",)
STEPS = (2.0, 1.0, 0.5, 0.25)


class RateDistortion(Evaluator):
    """Sends the images in every way that the codec has, decodes them, and measures both ends.

    Of indices: at fixed length and by their entropy, for each number of groups kept. Of a VAE: its
    KL with decoded samples, and its means rounded to several steps. Of other continuous codes:
    the numbers, rounded.

    Args:
      codec: of the tokenizer.
      make_batches: gives the batches of a split; "validation" is read, of a continuous code twice.
      steps: of quantization, in units of the latents' root mean square over the images.
      networks: frozen networks that are given; with "lpips" LPIPS is measured.
      seed: of posterior samples and of the decoder's noise.

    Raises:
      ValueError: a continuous code without steps, or a step that is not above 0.
    """

    uses: ClassVar[tuple[str, ...]] = ("lpips",)

    def __init__(
        self,
        codec: Codec,
        make_batches: MakeBatches,
        *,
        steps: Sequence[float] = STEPS,
        networks: Collection[str] = (),
        seed: int = 0,
    ):
        if not all(step > 0 for step in steps):
            raise ValueError(f"steps={tuple(steps)} must all be above 0")
        self._codec = codec
        self._codings = codec.codings(tuple(steps))
        if not self._codings.ways:
            raise ValueError(f"{codec.name} are numbers: give steps to which they are rounded")
        self._levels = codec.units.levels or (codec.units.total,)
        self._make_batches = make_batches
        self._lpips = lpips = "lpips" in networks
        self._key = jax.random.key(seed)
        self.needs = Needs({"validation": 1}, side=max(UNIFORM_WINDOW, MIN_SIDE if lpips else 1))
        self.protocol: dict[str, str] = {}
        self._prepare = jax.jit(self._codings.prepare)
        # One program for all the ways that differ in their step.
        self._encode = {way.encode: jax.jit(way.encode) for way in self._codings.ways}
        self._decode = jax.jit(codec.decode)
        self._score = jax.jit(Quality.add)
        self._add_spread = jax.jit(self._add_mean_squares) if self._codings.spread else None

    def measure(self, weights: Weights, frozen: Mapping[str, Any]) -> dict[str, float]:
        """Rates and distortions of each point, named as `evaluation.points` has it, and `spread`.

        Raises:
          ValueError: there are no images, or LPIPS is wanted and its parameters are absent.
        """
        if self._lpips and "lpips" not in frozen:
            raise ValueError("LPIPS is to be measured but its weights were not given")
        lpips_params = frozen["lpips"] if self._lpips else None
        spread = self._measure_spread(weights)
        sums = [_Sums(way, self._levels, self._lpips) for way in self._codings.ways]
        for number, batch in read(self._make_batches, "validation"):
            images, mask = batch["images"], batch["mask"]
            prepared = self._prepare(weights, images)
            key = jax.random.fold_in(self._key, number)
            for one in sums:
                encode, step = self._encode[one.way.encode], one.way.step * spread
                sent = encode(weights, prepared, key, step)
                one.add_bits(sent, mask)
                for k in self._levels:
                    made = self._decode(weights, sent.code, k, key)
                    one.qualities[k] = self._score(
                        one.qualities[k], lpips_params, images, made, mask
                    )
        pixels = math.prod(images.shape[1:3])
        results = {"spread": spread} if self._add_spread else {}
        for one in sums:
            results |= self._results(one, pixels)
        self.protocol = {name: self._describe(name) for name in results}
        return results

    def sections(self, name: str, measured: Measured) -> list[Section]:
        """A row for each point."""
        own = measured.own(name)
        points = read_points(own)
        kinds = [kind for kind in RATE_TITLES if any(kind in point.rates for point in points)]
        text = "".join(f"<li>{RATE_TITLES[kind]}: {RATES[kind]}</li>" for kind in kinds)
        table = _table(points, kinds, self._codec.units.noun)
        return [Section("Rate and distortion", f"<ul>{text}</ul>{table}")]

    def _measure_spread(self, weights: Weights) -> float:
        """Root mean square of the latents over all images; 1 where no way has steps."""
        if self._add_spread is None:
            return 1.0
        total = Average.empty()
        for _, batch in read(self._make_batches, "validation"):
            total = self._add_spread(total, weights, batch["images"], batch["mask"])
        # Latents that are all zero have no step either; any does.
        return float(to_host(total.compute())) ** 0.5 or 1.0

    def _add_mean_squares(self, total, weights, images, mask):
        prepared = self._codings.prepare(weights, images)
        return add_to(total, self._codings.spread(weights, prepared), mask)

    def _results(self, one: _Sums, pixels: int) -> dict[str, float]:
        way, results = one.way, {}
        for k in self._levels:
            is_whole = k == self._codec.units.total
            values = {f"{rate}_bits_per_pixel": x / pixels for rate, x in one.rates(k).items()}
            if one.symbols and is_whole:
                values["num_symbols"] = one.symbols.num_symbols
            values |= {name: float(to_host(x)) for name, x in one.qualities[k].compute().items()}
            ways = [names.first(k)] if self._codec.units.levels else []
            ways += [""] if is_whole else []
            for kept in ways:
                point = point_name(way.name, way.step)
                prefix = f"{kept}/{point}" if kept else point
                results |= {f"{prefix}/{name}": x for name, x in values.items()}
        return results

    def _describe(self, name: str) -> str:
        metric = name.rpartition("/")[2]
        if metric == "spread":
            return "root mean square of the latents on these images, the unit of the steps"
        if metric == "num_symbols":
            return "symbols of each group or channel behind its entropy: images x positions"
        rate = metric.removesuffix("_bits_per_pixel")
        return RATES[rate] if rate != metric else PROTOCOLS[metric]


def _table(points: Sequence[Point], kinds: Sequence[str], noun: str) -> str:
    """A row a point."""
    metrics = list(dict.fromkeys(name for p in points for name in p.quality if name in PROTOCOLS))
    heads = [*(f"{RATE_TITLES[kind]}, bits per pixel" for kind in kinds), *metrics]
    head = "".join(f"<th>{escape(text)}</th>" for text in heads)
    body = ""
    for point in points:
        values = [point.rates.get(kind) for kind in kinds] + [point.quality[m] for m in metrics]
        cells = ("" if value is None else format_value(value) for value in values)
        body += f"<tr><td>{escape(_label(point, noun))}</td>"
        body += "".join(f'<td class="number">{cell}</td>' for cell in cells) + "</tr>\n"
    return f"<table><tr><th>sent</th>{head}</tr>\n{body}</table>"


def _label(point: Point, noun: str) -> str:
    label = CODING_TITLES[point.coding]
    if point.step:
        label += f" to {point.step:g} of their spread"
    return f"{label}, {count_label(point.kept, noun)}" if point.kept else label


class _Sums:
    """What a way of sending has cost and given so far.

    Attributes:
      qualities: {number kept: metric states}.
    """

    def __init__(self, way: Coding, levels: Sequence[int], lpips: bool):
        self.way, self._total = way, levels[-1]
        self.symbols: SymbolCounts | None = None
        self.qualities = {k: Quality.empty(lpips=lpips, ssim=SSIM) for k in levels}
        self._positions = 0
        self._bits, self._images = 0.0, 0

    def add_bits(self, sent, mask) -> None:
        """With a batch."""
        rows = to_host(mask)
        if sent.bits is not None:
            self._bits += float(to_host(sent.bits)[rows].sum(dtype=np.float64))
            self._images += int(rows.sum())
        if sent.symbols is not None:
            symbols = to_host(sent.symbols)[rows]
            self._positions = math.prod(symbols.shape[1:-1])
            self.symbols = self.symbols or SymbolCounts(symbols.shape[-1], self.way.tables)
            self.symbols.add(symbols)

    def rates(self, kept: int) -> dict[str, float]:
        """{rate: bits of an image} with the first so many units."""
        rates = {}
        if self.symbols:
            bits = self.symbols.entropies()
            count = kept * len(bits) // self._total
            if fixed := self.way.symbol_bits:
                rates["fixed"] = self._positions * sum(fixed[:count])
            rates["entropy"] = self._positions * float(sum(bits[:count]))
        if self._images:
            rates["kl"] = self._bits / self._images
        return rates
