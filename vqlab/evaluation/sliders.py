"""A slider over groups or concepts, which moves all pictures in its scope at once.

The HTML holds the pictures of every number kept; `assets/units.js` shows one number at a time, and
without scripts all of them are there to be seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

ASSETS = ("units.css", "units.js")


def scope(body: str, levels: Sequence[int], noun: str, *, can_show_all: bool = False) -> str:
    """Around everything that one slider moves.

    Args:
      body: holds `steps`, of as many levels as they like.
      levels: that the slider stops at, growing; it starts at the last one.
      noun: what is counted, in the plural.
      can_show_all: whether a box beside the slider shows every number side by side.
    """
    if len(levels) < 2:
        return body
    every = '<label><input type="checkbox" class="every"> side by side</label>' * can_show_all
    last, noun = len(levels) - 1, escape(noun)
    slider = f'<input type="range" min="0" max="{last}" step="1" value="{last}">'
    return (
        f'<div class="units" data-levels="{" ".join(map(str, levels))}" data-noun="{noun}">'
        f'<div class="units-bar"><label>{noun} kept {slider}</label><output></output>{every}</div>'
        f"{body}</div>"
    )


def steps(shown: Mapping[int, str], tag: str = "div") -> str:
    """{number kept: HTML}, each in an element `tag`, of which one is shown at a time."""
    inner = "".join(f'<{tag} data-kept="{kept}">{html}</{tag}>' for kept, html in shown.items())
    return f'<{tag} class="steps">{inner}</{tag}>'
