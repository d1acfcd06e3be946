"""Reads pickles without running anything that is stored in them.

A pickle is a program: it names functions and classes of any module, and calls them. Here no name
is looked up. Each becomes an inert class, made for this one reading, whose objects keep what they
were called with and do nothing. Only what pickle builds itself (numbers, text, lists, tuples,
dicts) and ordered dicts are what they were.
"""

from __future__ import annotations

import pickle
import re
import struct
from collections.abc import Callable
from typing import IO, Any

# What a file that is cut short, damaged or no pickle makes Python's unpickler raise.
ERRORS = (
    pickle.UnpicklingError,
    AttributeError,
    EOFError,
    IndexError,
    KeyError,
    MemoryError,
    OverflowError,
    RecursionError,
    struct.error,
    TypeError,
    ValueError,
)

# Before protocol 4, a class within a class is named by taking it from there.
_GETATTR = ("builtins.getattr", "__builtin__.getattr")


class Inert:
    """An object that was not made.

    Attributes:
      name: its class or the function that returns it, as in "argparse.Namespace".
      args: what that was called with.
      state: what its attributes were to be set from; None if nothing.
      items: its entries, where it is a kind of dict.
    """

    name = ""

    def __new__(cls, *args, **_):
        self = super().__new__(cls)
        self.args, self.state, self.items = args, None, {}
        return self

    def __call__(self, *args, **_):
        """What a stored function would return that was itself returned by one."""
        return type(self)(*args)

    def __setstate__(self, state):
        self.state = state

    def __setitem__(self, key, value):
        self.items[key] = value

    def append(self, item):
        """Called for a kind of list; its items are not kept."""

    extend = add = append

    @property
    def is_tensor(self) -> bool:
        """Whether one of PyTorch's functions that make a tensor again was called."""
        return re.match(r"torch\.\w+\._rebuild_", self.name) is not None


class Ordered(dict):
    """An ordered dict without the attributes that are stored with it."""

    def __setstate__(self, state):
        pass


def load(file: IO[bytes], persistent: Callable[[Any], Any]) -> Any:
    """The next object in `file`.

    Args:
      file: at the start of a pickle; afterwards, at its end.
      persistent: gives what stands for an object that is stored elsewhere, from its identifier.

    Raises:
      One of `ERRORS` for a file that is damaged or no pickle.
    """
    return _Unpickler(file, persistent).load()


class _Unpickler(pickle._Unpickler):
    """Python's own in Python: the one in C takes 16 bytes for each number up to a memo's.

    So a few damaged bytes could ask for 64 GB there.
    """

    def __init__(self, file, persistent):
        super().__init__(file)
        self._persistent, self._classes = persistent, {}

    def find_class(self, module, name):
        full = f"{module}.{name}"
        if full == "collections.OrderedDict":
            return Ordered
        members = {}
        if full in _GETATTR:
            members["__new__"] = lambda _, owner, name: self._class(f"{owner.name}.{name}")
        return self._class(full, **members)

    def _class(self, name, **members):
        if name not in self._classes:
            self._classes[name] = type("Inert", (Inert,), {"name": name, **members})
        return self._classes[name]

    def persistent_load(self, identifier):
        return self._persistent(identifier)
