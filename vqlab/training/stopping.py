"""A request to stop, sent as a signal to any process, on which all act at the same point."""

from __future__ import annotations

import collections
import functools
import os
import signal
import threading

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

# The exit code of what was stopped by a signal, or left alone by another process; what there was to
# save is saved. Give the same command again: EX_TEMPFAIL, which schedulers can be told to requeue
# on.
EXIT_STOPPED = 75

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

# An answer is read so many questions later, when it has arrived anyway and nobody waits for it.
QUESTIONS_IN_FLIGHT = 2


class StopRequested(Exception):
    """Raised where all processes agreed to stop, outside of the train loop's own steps."""


class StopSignal:
    """SIGTERM, SIGINT, SIGHUP or `request` in any process, as one decision of all.

    With several processes each `agreed` is a question to all of them, which they must ask equally
    often and in the same order: between steps and between batches of an evaluation. They get the
    same answer, so none waits in a collective operation that another has left.

    Attributes:
      reason: why this process asked to stop, or that it was another one.
    """

    def __init__(self):
        self.reason = "by another process of the run"
        self._is_signalled = self._is_asked = self._is_agreed = False
        self._answers: collections.deque[jax.Array] = collections.deque()
        self._before = {}

    def listen(self) -> None:
        """From now on there is something to save: signals, which ended the process, wait for it.

        Does nothing the second time. One that is ignored stays so, as SIGHUP under nohup.
        """
        if self._before or threading.current_thread() is not threading.main_thread():
            return
        for number in SIGNALS:
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._receive)

    def request(self, reason: str) -> None:
        """Asks all processes to stop."""
        if not self._is_asked:
            self._is_asked, self.reason = True, reason

    def agreed(self) -> bool:
        """Whether all stop now. Once True, always True."""
        if self._is_agreed:
            return True
        if jax.process_count() == 1:
            self._is_agreed = self._is_asked
            return self._is_agreed
        self._answers.append(_any_process(self._is_asked))
        if len(self._answers) > QUESTIONS_IN_FLIGHT:
            self._is_agreed = bool(self._answers.popleft())
        return self._is_agreed

    def check(self) -> None:
        """Raises StopRequested where `agreed` says so."""
        if self.agreed():
            raise StopRequested

    def close(self) -> None:
        """Gives the signals back to whoever had them."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _receive(self, number, frame) -> None:
        del frame
        if self._is_signalled and number == signal.SIGINT:
            raise KeyboardInterrupt  # Ctrl-C twice: not even the step is waited for
        self._is_signalled = True
        if number == signal.SIGHUP:
            leave_terminals()
        self.request(f"by {signal.Signals(number).name}")


def leave_terminals(descriptors: tuple[int, ...] = (1, 2)) -> None:
    """What is said from now on goes nowhere where it went to a terminal, which is closing.

    Writing to one that is closed is an error, which would end the run before it is saved.
    """
    with open(os.devnull, "w") as nowhere:
        for descriptor in descriptors:
            if os.isatty(descriptor):
                os.dup2(nowhere.fileno(), descriptor)


def _any_process(flag: bool) -> jax.Array:
    """A scalar that is True on all processes if `flag` is on one, once the devices have met."""
    mesh, places, anywhere = meeting(tuple(jax.devices()))
    with jax.set_mesh(mesh):  # not the run's, which has all devices
        return anywhere(jax.make_array_from_process_local_data(places, np.array([flag])))


@functools.cache
def meeting(devices: tuple[jax.Device, ...]):
    """(mesh of a row a process, sharding of one flag for each row, jitted "any" of these).

    All devices take part: TPU slices run no program on one device of each host.
    """
    num_processes = 1 + max(device.process_index for device in devices)
    rows = sorted(devices, key=lambda device: (device.process_index, device.id))
    grid = np.array(rows).reshape(num_processes, -1)
    mesh = Mesh(grid, ("process", "local"), axis_types=(AxisType.Auto,) * 2)
    anywhere = jax.jit(
        lambda flags: flags.any(), out_shardings=NamedSharding(mesh, PartitionSpec())
    )
    return mesh, NamedSharding(mesh, PartitionSpec("process")), anywhere
