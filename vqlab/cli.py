"""What every command shares: quiet logs, and errors as one line and an exit code."""

from __future__ import annotations

import contextlib
import logging
import sys

from absl import logging as absl_logging

# The exit code of a command that was asked for something impossible.
USAGE_ERROR = 2


def start_logging() -> None:
    """Our own messages on stderr; the libraries' only from errors on."""
    absl_logging.set_verbosity(absl_logging.ERROR)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("vqlab")
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.INFO)


@contextlib.contextmanager
def exit_on_error():
    """Ends the command with the message of a ValueError and exit code 2.

    Only for the parts of a command that check what the user gave: every setting is checked before
    anything compiles, and answers with a ValueError that fits on a line.
    """
    try:
        yield
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(USAGE_ERROR) from error
