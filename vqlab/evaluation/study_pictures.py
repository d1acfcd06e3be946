"""The same held-out tiles as every arm of a study gives them back, under one slider."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple

import numpy as np
from PIL import Image

from vqlab.evaluation import sliders
from vqlab.evaluation.panels import count_label
from vqlab.evaluation.plane import Look
from vqlab.evaluation.study_tables import ArmView

# To the eye without loss, at a fifth of a PNG's size: a page of twenty arms has some megabytes.
QUALITY = 90


class Pictures(NamedTuple):
    """uint8: originals [n, H, W, 3]; made [L, n, H, W, 3] with `levels` [L] units kept, 0 for a
    code that is kept whole."""

    originals: np.ndarray
    made: np.ndarray
    levels: tuple[int, ...]


def gallery(
    arms: Sequence[ArmView], pictures: Mapping[str, Pictures], look: Mapping[str, Look], count: int
) -> str:
    """A row an arm, a column a tile; "" without pictures.

    Args:
      arms: in their order; those without pictures are left out.
      pictures: of one run of each arm, by the arm's name, all of the same tiles.
      look: of each family.
      count: tiles, evenly spread over those there are.
    """
    arms = [arm for arm in arms if arm.name in pictures]
    if not arms:
        return ""
    originals = pictures[arms[0].name].originals
    count = min(count, len(originals))
    tiles = [i * len(originals) // count for i in range(count)]
    first = "".join(f'<div class="shot">{_image(originals[i], "original")}</div>' for i in tiles)
    rows = f'<div class="row originals"><div class="name"><b>original</b></div>{first}</div>'
    for arm in arms:
        rows += _row(arm, pictures[arm.name], look[arm.family], tiles)
    levels = sorted({k for arm in arms for k in pictures[arm.name].levels if k}) or [1]
    nouns = list(dict.fromkeys(arm.noun for arm in arms if arm.noun)) or ["units"]
    body = f'<div class="gallery" style="--tiles:{len(tiles)}">{rows}</div>'
    return sliders.scope(body, levels, " or ".join(nouns))


def _row(arm: ArmView, pictures: Pictures, look: Look, tiles: Sequence[int]) -> str:
    captions = {kept: escape(_caption(arm, kept, pictures.levels[-1])) for kept in pictures.levels}
    name = f"<b>{look.swatch()} {escape(arm.label)}</b>{sliders.steps(captions)}"
    shots = ""
    for i in tiles:
        shown = {
            kept: _image(made[i], arm.label)
            for kept, made in zip(pictures.levels, pictures.made, strict=True)
        }
        shots += f'<div class="shot">{sliders.steps(shown)}</div>'
    name = f'<div class="name">{name}</div>'
    return f'<div class="row" data-arm="{escape(arm.name)}">{name}{shots}</div>'


def _caption(arm: ArmView, kept: int, total: int) -> str:
    """How many units, and the PSNR over all evaluated images."""
    way = f"first_{kept}/" if kept else ""
    psnr = arm.metrics.get(f"reconstruction/{way}psnr")
    parts = []
    if kept and total > 1:
        parts.append(f"{kept} of {count_label(total, arm.noun)}")
    if psnr is not None:
        parts.append(f"{psnr[0]:.2f} dB")
    return ", ".join(parts)


def _image(pixels: np.ndarray, alt: str) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "WEBP", quality=QUALITY, method=4)
    data = base64.b64encode(buffer.getvalue()).decode()
    height, width = pixels.shape[:2]
    return (
        f'<img alt="{escape(alt)}" width="{width}" height="{height}" loading="lazy" '
        f'src="data:image/webp;base64,{data}">'
    )
