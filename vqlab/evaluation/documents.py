"""HTML documents that need nothing beside themselves: styles and scripts of `assets/` inside."""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Iterable
from html import escape

ASSETS = pathlib.Path(__file__).parent / "assets"


@functools.cache
def asset(name: str) -> str:
    """The text of a file in `assets/`."""
    return (ASSETS / name).read_text(encoding="utf-8")


def document(title: str, body: str, assets: Iterable[str] = ("page.css",)) -> str:
    """A page; `assets` are styles (.css) and scripts (.js), which run after the body is there."""
    names = list(assets)
    styles = "\n".join(asset(name) for name in names if name.endswith(".css"))
    scripts = "\n".join(asset(name) for name in names if name.endswith(".js"))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{styles}</style></head>\n<body>{body}\n"
        + (f"<script>{scripts}</script>\n" if scripts else "")
        + "</body></html>\n"
    )
