"""Signals to a command that has nothing to save: they end it at once, with one line.

Only the standard library is imported here, so that the imports of a command, which take seconds,
can be interrupted like everything after them.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def end_at_once() -> None:
    """From now on a signal ends this process with one line and exit code 128 + its number.

    Not a handler in Python: it would wait until the library that is at work, such as a compiler,
    comes back to Python. A thread waits for the signals instead. Whoever replaces the handler of a
    signal takes it over; one that is ignored, as SIGHUP under nohup, stays ignored.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _left_to_the_thread)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_wait, args=(reader,), daemon=True).start()
    # Shared memory that workers leave behind is freed by Python's own tracker, which need not say
    # so: it is the interpreter's flags that the tracker is started with.
    sys.warnoptions.append("ignore:resource_tracker")


def _left_to_the_thread(number, frame) -> None:
    """Stands for the thread among the handlers."""


def _wait(reader: int) -> None:
    while data := os.read(reader, 1):
        number = signal.Signals(data[0])
        if signal.getsignal(number) is _left_to_the_thread:
            with contextlib.suppress(OSError):  # the terminal may be what has gone
                os.write(2, f"stopped by {number.name}\n".encode())
            os._exit(128 + number)
