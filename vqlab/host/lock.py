"""One run in a workdir: a lock that the system frees when the process ends, however it ends."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import pathlib
import socket
import time
from collections.abc import Iterator
from typing import IO

LOCK_FILE = ".lock"
# A lost machine's lock on a shared file system is freed after a while: NFS takes 90 seconds.
PATIENCE = 150
RETRY_AFTER = 2

log = logging.getLogger("vqlab")


class InUse(ValueError):
    """Another process has the workdir."""


@contextlib.contextmanager
def only_run(workdir: str | pathlib.Path, patience: float = PATIENCE) -> Iterator[None]:
    """Inside, no other process has the workdir; of several processes of a run one is to ask.

    Where locks or the folder are not to be had, nothing is locked and nothing said.

    Raises:
      ValueError: another process has it. If that is on another machine, which may be lost, only
        after `patience` seconds.
    """
    file = _open(pathlib.Path(workdir).expanduser() / LOCK_FILE)
    if file is None:
        yield
        return
    with file:  # closing it frees the lock
        _take(file, str(workdir), time.monotonic() + patience)
        yield


@contextlib.contextmanager
def if_free(workdir: str | pathlib.Path) -> Iterator[bool]:
    """Inside, the workdir is this process's, as by `only_run`; or False at once: it is not."""
    file = _open(pathlib.Path(workdir).expanduser() / LOCK_FILE)
    if file is None:
        yield True
        return
    with file:
        try:
            _take(file, str(workdir), deadline=time.monotonic())
            is_free = True
        except InUse:
            is_free = False
        yield is_free


def _open(path: pathlib.Path) -> IO[str] | None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return open(path, "a+", encoding="utf-8")
    except OSError:  # for those to say who cannot do without the folder
        return None


def _take(file: IO[str], workdir: str, deadline: float) -> None:
    is_said = False
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = _owner(file)
        except OSError:  # a file system without locks
            return
        else:
            with contextlib.suppress(OSError):  # who has it is for others to read
                file.truncate(0)
                print(json.dumps(_self()), file=file, flush=True)
            return
        text = f"workdir {workdir} is in use by process {owner['pid']} on {owner['host']}"
        if owner["host"] == _self()["host"] or time.monotonic() >= deadline:
            raise InUse(f"{text}: end that run first, or name another --workdir")
        if not is_said:
            log.warning("%s; waiting, in case that machine is lost", text)
            is_said = True
        time.sleep(RETRY_AFTER)


def _self() -> dict[str, str | int]:
    return {"host": socket.gethostname(), "pid": os.getpid()}


def _owner(file: IO[str]) -> dict[str, str | int]:
    """As it wrote it down, if it had the time and the room."""
    file.seek(0)
    try:
        owner = json.loads(file.read())
        return {"host": owner["host"], "pid": owner["pid"]}
    except (OSError, ValueError, KeyError, TypeError):
        return {"host": "an unknown machine", "pid": "?"}
