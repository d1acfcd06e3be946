"""Joins the processes of a run on several machines; on one machine alone it does nothing.

The engine is jax.distributed, which finds the other processes by itself under SLURM, under Open MPI
and on Cloud TPU. Anywhere else three flags or environment variables say where they are.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import sys
from collections.abc import Iterator
from typing import NoReturn

import jax
from absl import flags

from vqlab.host.accelerators import has_tpu_devices

_ADDRESS = flags.DEFINE_string(
    "coordinator_address",
    None,
    "HOST:PORT of process 0, for runs of several processes; default: $JAX_COORDINATOR_ADDRESS, or "
    "found under SLURM, Open MPI and on Cloud TPU.",
)
_COUNT = flags.DEFINE_integer(
    "num_processes", None, "How many processes the run has; default: $JAX_NUM_PROCESSES."
)
_INDEX = flags.DEFINE_integer(
    "process_id", None, "Which of them this one is, from 0; default: $JAX_PROCESS_ID."
)
_HEARTBEAT = flags.DEFINE_integer(
    "heartbeat_timeout", 100, "Seconds without a sign of life after which a process counts as dead."
)
_PATIENCE = flags.DEFINE_integer(
    "initialization_timeout", 300, "Seconds to wait for all processes to appear."
)

_VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


def join() -> None:
    """Connects to the other processes, if there are any; before anything touches a device.

    Raises:
      ValueError: where they are is said in part only, or makes no sense.
      OSError: they did not all appear in time.
    """
    _have_threads_to_spare()
    told = _told()
    if not told and not _is_managed():
        return
    # SIGTERM is ours (vqlab.training.stopping); JAX's own service would take it.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            **told,
            cluster_detection_method="deactivate" if told else None,
            heartbeat_timeout_seconds=_HEARTBEAT.value,
            initialization_timeout=_PATIENCE.value,
            shutdown_timeout_seconds=_HEARTBEAT.value,
        )
    except RuntimeError as error:
        raise OSError(f"the processes of this run did not find each other: {error}") from error


def _have_threads_to_spare() -> None:
    """Gives XLA more threads than cores where this process has several CPU devices.

    XLA's CPU client launches and runs programs on one pool of threads, $NPROC of them, or as many
    as there are cores or devices. A launch that waits for room on one device holds a thread which
    the programs that the other devices wait for may need: on a busy machine all wait for ever.
    """
    forced = re.search(
        r"--xla_force_host_platform_device_count=(\d+)", os.environ.get("XLA_FLAGS", "")
    )
    num_devices = max(_num_cpu_devices(), int(forced[1]) if forced else 1)
    if num_devices > 1:
        os.environ.setdefault("NPROC", str(max(32, 4 * num_devices)))


def _num_cpu_devices() -> int:
    """As $JAX_NUM_CPU_DEVICES or the program said; -1 where neither did."""
    return jax.config.jax_num_cpu_devices


# What a collective operation says when a process that takes part in it is gone.
_LOST_PEER = re.compile(
    r"connection (closed|reset|refused)|broken pipe|unavailable|heartbeat|aborted|timed out"
    r"|socket closed|gloo|nccl",
    re.IGNORECASE,
)


def end(message: str) -> NoReturn:
    """Ends this process with one line and exit code 1, at once: the others notice, and end too."""
    _exit(f"error: {message}", 1)


@contextlib.contextmanager
def ending_with_peers(code: int) -> Iterator[None]:
    """Ends this process with exit code `code` and one line when another one of the run has died.

    A process that notices nothing is ended by JAX's own watch after `--heartbeat_timeout`.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1 or not _LOST_PEER.search(str(error)):
            raise
        reason = (str(error).splitlines() or ["no reason given"])[0][:200]
        _exit(
            f"error: another process of this run has ended ({reason}); give the same command again",
            code,
        )


def _exit(message: str, code: int) -> NoReturn:
    print(message, file=sys.stderr)
    if jax.process_count() == 1:
        sys.exit(code)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # a regular exit would wait for the others


def _told() -> dict:
    """What flags and environment say, as arguments of jax.distributed.initialize; {} if nothing."""
    given = {
        "coordinator_address": _ADDRESS.value,
        "num_processes": _COUNT.value,
        "process_id": _INDEX.value,
    }
    for (name, value), variable in zip(given.items(), _VARIABLES, strict=True):
        if value is None and (text := os.environ.get(variable)):
            given[name] = text if name == "coordinator_address" else _number(variable, text)
    missing = [name for name, value in given.items() if value is None]
    if len(missing) == len(given):
        return {}
    if missing:
        raise ValueError(f"several processes need all of {', '.join(given)}; missing: {missing}")
    host, _, port = given["coordinator_address"].rpartition(":")
    if not host or not port.isdigit():
        raise ValueError(f"coordinator_address={given['coordinator_address']} is no HOST:PORT")
    if not 0 <= given["process_id"] < given["num_processes"]:
        raise ValueError(
            f"process_id={given['process_id']} does not lie in 0..{given['num_processes'] - 1}, "
            f"with num_processes={given['num_processes']}"
        )
    return given


def _number(variable: str, text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise ValueError(f"${variable}={text} is no whole number") from error


def _is_managed() -> bool:
    """Whether jax.distributed can find the other processes by itself."""
    in_slurm_step = "SLURM_STEP_NODELIST" in os.environ and int(os.environ["SLURM_NTASKS"]) > 1
    in_open_mpi = int(os.environ.get("OMPI_COMM_WORLD_SIZE", 1)) > 1
    return in_slurm_step or in_open_mpi or _is_tpu_host()


def _is_tpu_host() -> bool:
    return has_tpu_devices() and importlib.util.find_spec("libtpu") is not None
