"""The model card of an exported network: its README.md, as model hubs read it.

It begins with the metadata that the Hugging Face Hub files models by
(https://huggingface.co/docs/hub/model-cards): library_name, license, pipeline_tag and tags.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from vqlab.models.codec import Card

# Of the Hub's list, for weights whose owner has said nothing.
UNKNOWN_LICENSE = "unknown"
_TAGS = ("jax", "flax")
_LOADED = re.compile(r'vqlab\.load\("([^"\n]+)"\)')

_TEXT = """---
library_name: vqlab
license: {license}
pipeline_tag: {pipeline_tag}
tags:
{tags}---

# {name}

An image {noun} exported by vqlab: {title}.

| | |
|---|---|
{rows}
```python
import vqlab

{noun} = vqlab.load("{name}")
{usage}
```
"""


def model_type(card: Card) -> str:
    """The method as a word for configs and tags: "mgvq" of "MGVQ"."""
    return re.sub(r"[^a-z0-9]+", "-", card.title.lower()).strip("-")


def check_license(license: str) -> None:
    """Raises ValueError unless `license` may be an identifier of the Hub's list, as "apache-2.0".

    The list itself (https://huggingface.co/docs/hub/repositories-licenses) grows, and is the Hub's.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", license):
        raise ValueError(
            f"license={license!r} is no identifier such as apache-2.0, cc-by-nc-4.0 or other"
        )


def write_card(name: str, card: Card, facts: Mapping[str, Any], license: str) -> str:
    """The text of the card.

    Args:
      name: what `vqlab.load` is given in the example.
      card: what the network says of itself.
      facts: further rows of the table.
      license: of the weights, an identifier of the Hub's list.
    """
    title = f"{card.title} ([paper]({card.paper}))" if card.paper else card.title
    tags = (model_type(card), *card.tags, f"image-{card.noun}", *_TAGS)
    return _TEXT.format(
        license=license,
        pipeline_tag=card.task,
        noun=card.noun,
        tags="".join(f"- {tag}\n" for tag in tags),
        name=name,
        title=title,
        rows="".join(f"| {key} | {value} |\n" for key, value in (card.facts | facts).items()),
        usage=card.usage,
    )


def renamed(text: str, name: str) -> str:
    """A card, edited or not, whose example and heading say another name."""
    loaded = _LOADED.search(text)
    if not loaded:
        return text
    heading = rf"(?m)^# {re.escape(loaded.group(1))}$"
    text = text.replace(loaded.group(), f'vqlab.load("{name}")')
    return re.sub(heading, f"# {name}", text, count=1)


def licensed(text: str, license: str) -> str:
    """A card whose metadata name another license.

    Raises:
      ValueError: it has no metadata, as those of before.
    """
    head, mark, rest = text.partition("\n---\n")
    changed, times = re.subn(r"(?m)^license:.*$", f"license: {license}", head)
    if not head.startswith("---\n") or times != 1:
        raise ValueError("the model card begins with no metadata that name a license: export anew")
    return changed + mark + rest
