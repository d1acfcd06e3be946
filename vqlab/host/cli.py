"""What every command shares: quiet logs, and errors as one line and an exit code."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
import traceback
from collections.abc import Callable
from typing import NoReturn

import jax
from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags

from vqlab.host.accelerators import quiet_libtpu
from vqlab.host.home import expand_home

# Defined once, so that one process can import several commands.
CONFIG = config_flags.DEFINE_config_file(
    "config", help_string="Config file, such as configs/mgvq_f16.py:groups=8."
)

# The exit code of a command that was asked for something impossible.
USAGE_ERROR = 2
# Of a command that Ctrl-C ended, as shells have it: 128 + SIGINT.
INTERRUPTED = 130
# Seconds that process 0, whose end ends the others, leaves them to say what is wrong themselves.
GRACE = 5


def start(main: Callable[[], None]) -> None:
    """Parses the flags, starts the logs and calls `main`; a wrong flag is one line, exit code 2."""

    def checked(argv: list[str]) -> None:
        if len(argv) > 1:
            fail(f"unknown arguments: {' '.join(argv[1:])}")
        start_logging()
        keep_compiled()
        with last_words():
            main()

    app.run(checked, flags_parser=_parse_flags)


@contextlib.contextmanager
def last_words():
    """One line for what is no fault of the program: a file, a full disk, Ctrl-C given twice."""
    try:
        yield
    except KeyboardInterrupt:
        _end("stopped by SIGINT, without a save", INTERRUPTED)
    except OSError as error:
        _end(f"error: {_last_line(error)}", 1)
    except Exception:
        if not jax.distributed.is_initialized():
            raise
        traceback.print_exc()
        _leave(1)


def _end(message: str, code: int) -> NoReturn:
    print(message, file=sys.stderr)
    if jax.distributed.is_initialized():
        _leave(code)
    raise SystemExit(code)


def _leave(code: int) -> NoReturn:
    """Ends one of several processes at once: a regular exit waits for the others, then aborts."""
    sys.stdout.flush()
    sys.stderr.flush()
    if jax.process_index() == 0:
        time.sleep(GRACE)
    os._exit(code)


def _parse_flags(argv: list[str]) -> list[str]:
    try:
        return flags.FLAGS(expand_home(argv))
    except (AttributeError, LookupError) as error:  # a setting that the config does not have
        cause = error.args[0]  # ml_collections wraps the KeyError of a last part, no other
        text = str(cause.args[0] if isinstance(cause, KeyError) else cause)
        # A name with a suggestion, or a sentence that ends with the path.
        fail(f"no such setting: {' '.join(text.rpartition('to lookup: ')[2].split())}")
    except flags.Error as error:
        fail(_last_line(error))


def _last_line(error: Exception) -> str:
    """What went wrong, without the lines above it that say where."""
    return str(error).strip().splitlines()[-1].strip()


def fail(message: str) -> NoReturn:
    """Ends the command with one line on stderr and exit code 2."""
    _end(f"error: {message}", USAGE_ERROR)


def keep_compiled() -> None:
    """Compiled programs are kept in $JAX_COMPILATION_CACHE_DIR or ~/.cache/vqlab/compiled.

    A run that goes on where it stopped starts in seconds then. An empty variable turns it off.
    """
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        jax.config.update("jax_compilation_cache_dir", os.path.join(cache, "vqlab", "compiled"))


def start_logging() -> None:
    """Our own messages on stderr; the libraries' only from errors on."""
    quiet_libtpu()
    absl_logging.set_verbosity(absl_logging.ERROR)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("vqlab")
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.INFO)


@contextlib.contextmanager
def exit_on_error():
    """Ends the command with the message of a ValueError or OSError and exit code 2.

    Only for the parts of a command that check what the user gave: every setting is checked before
    anything compiles, and answers with a ValueError that fits on a line.
    """
    try:
        yield
    except ValueError as error:
        fail(str(error))
    except OSError as error:  # a file that a setting names, the config's own included
        fail(_last_line(error))
