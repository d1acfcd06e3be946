"""Commands inside of the tests' process, where two of them would define flags of one name."""

import contextlib
import functools
import importlib

from absl import flags

from vqlab.host import cli, cluster  # noqa: F401 whose flags they share

COMMANDS = ("main", "evaluate", "generate", "tokenize", "plan", "study")


@contextlib.contextmanager
def imported(name):
    """The module `vqlab.NAME`; its flags, and those of no other command, are there meanwhile."""
    module, own = _load(name)
    with _only_shared_flags() as known:
        known.update(own)
        yield module


@functools.cache
def _load(name):
    """(module, its flags by name)."""
    with _only_shared_flags() as known:
        shared = set(known)
        module = importlib.import_module(f"vqlab.{name}")
        return module, {flag: known[flag] for flag in known if flag not in shared}


@contextlib.contextmanager
def _only_shared_flags():
    """All flags by name but those of commands, which are back afterwards."""
    known = flags.FLAGS._flags()
    before = dict(known)
    defined = flags.FLAGS.flags_by_module_dict()
    for command in COMMANDS:
        for flag in defined.get(f"vqlab.{command}", ()):
            known.pop(flag.name, None)
    try:
        yield known
    finally:
        known.clear()
        known.update(before)
