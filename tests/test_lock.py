"""One run in a workdir, and who has it."""

import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys

import pytest

from vqlab.host import lock
from vqlab.host.lock import only_run

HOLDER = """
import sys, time
from vqlab.host.lock import only_run
with only_run(sys.argv[1]):
    print("has it", flush=True)
    time.sleep(60)
"""


def test_the_second_run_is_told_who_has_the_workdir_until_that_one_is_killed(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "has it\n"
        owner = f"run is in use by process {process.pid} on {socket.gethostname()}: end that run"
        with pytest.raises(ValueError, match=owner), only_run(tmp_path / "run"):
            pass
        process.send_signal(signal.SIGKILL)
        process.communicate()
        with only_run(tmp_path / "run"):
            pass
    finally:
        process.kill()


def test_the_end_of_a_run_frees_its_workdir(tmp_path):
    with pytest.raises(RuntimeError), only_run(tmp_path):
        raise RuntimeError
    with only_run(tmp_path):
        with pytest.raises(ValueError, match=f"process {os.getpid()}"), only_run(tmp_path):
            pass


def test_another_machine_may_be_lost_and_is_waited_for(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(lock, "RETRY_AFTER", 0.01)
    monkeypatch.setattr(lock.log, "warning", lambda *words: said.append(words))
    with only_run(tmp_path):
        monkeypatch.setattr(socket, "gethostname", lambda: "elsewhere")
        with pytest.raises(ValueError, match="in use by"), only_run(tmp_path, patience=0.05):
            pass
    assert len(said) == 1
    with only_run(tmp_path, patience=0):
        pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL])
def test_without_locks_a_run_goes_on(tmp_path, monkeypatch, number):
    def refuse(file, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with only_run(tmp_path), only_run(tmp_path):
        assert (tmp_path / ".lock").exists()


def test_a_folder_that_cannot_be_made_is_for_others_to_name(tmp_path):
    (tmp_path / "file").write_text("")
    with only_run(tmp_path / "file" / "run"):
        assert (tmp_path / "file").is_file()
