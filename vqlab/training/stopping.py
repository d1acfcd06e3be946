"""A request to stop, sent as a signal to any process, on which all act at the same point."""

from __future__ import annotations

import collections
import functools
import signal
import threading

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

SIGNALS = (signal.SIGTERM, signal.SIGINT)

# An answer is read so many questions later, when it has arrived anyway and nobody waits for it.
QUESTIONS_IN_FLIGHT = 2


class StopRequested(Exception):
    """Raised where all processes agreed to stop, outside of the train loop's own steps."""


class StopSignal:
    """SIGTERM or SIGINT to any process, as one decision of all.

    With several processes each `agreed` is a question to all of them, which they must ask equally
    often and in the same order: between steps and between batches of an evaluation. They get the
    same answer, so none waits in a collective operation that another has left.
    """

    def __init__(self):
        self._received: int | None = None
        self._is_agreed = False
        self._answers: collections.deque[jax.Array] = collections.deque()
        self._before = {}
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._receive) for number in SIGNALS}

    def agreed(self) -> bool:
        """Whether all stop now. Once True, always True."""
        if self._is_agreed:
            return True
        is_asked = self._received is not None
        if jax.process_count() == 1:
            self._is_agreed = is_asked
            return is_asked
        self._answers.append(_any_process(is_asked))
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
        if self._received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt  # Ctrl-C twice: not even the step is waited for
        self._received = number


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
