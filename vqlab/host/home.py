"""The `~` of a command line, which shells leave alone behind a `=` or a comma."""

import os


def expand_home(words: list[str]) -> list[str]:
    """The words of a command line with the home folder in place of `~`.

    At the start of a word or of a flag's value, and of each part between commas:
    `--source=~/run`, `~/vgg16.pth,~/vgg.pth`, `--config=~/mine.py:groups=8`.
    """
    return [_expand_word(word) for word in words]


def _expand_word(word: str) -> str:
    if not word.startswith("-"):
        return _expand(word)
    name, equals, value = word.partition("=")
    return name + equals + _expand(value)


def _expand(value: str) -> str:
    return ",".join(map(os.path.expanduser, value.split(",")))
