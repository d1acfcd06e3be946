"""Tables that a click on a heading sorts, by `assets/table.js`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

ASSETS = ("table.css", "table.js")


class Cell(NamedTuple):
    """html: what is shown. value: by which it is sorted; None: by the text, which is no number."""

    html: str
    value: float | None = None


MISSING = Cell("", math.nan)


def table(headings: Sequence[tuple[str, str]], rows: Sequence[Sequence[Cell]]) -> str:
    """Rows below headings, each (text, what it means in more words or "")."""
    head = "".join(
        f'<th scope="col" title="{escape(help)}"><button type="button">{escape(text)}</button></th>'
        for text, help in headings
    )
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>\n" for row in rows)
    return (
        f'<div class="wide"><table class="sortable"><thead><tr>{head}</tr></thead>\n'
        f"<tbody>{body}</tbody></table></div>"
    )


def _cell(cell: Cell) -> str:
    if cell.value is None:
        return f"<td>{cell.html}</td>"
    value = "" if math.isnan(cell.value) else f"{cell.value:.9g}"
    return f'<td class="number" data-value="{value}">{cell.html}</td>'
