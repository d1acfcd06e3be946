"""Signals to commands that have nothing to save, also where Python does not get to its handlers."""

import signal
import subprocess
import sys

import pytest

import vqlab
from vqlab.host import interrupts

# As `python -m vqlab.COMMAND` begins; then C code that no handler in Python interrupts.
COMMAND = """
import hashlib, sys
sys.argv = ["-m"]
import vqlab
print("began", flush=True)
hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)
"""


def signalled(*numbers, command=(sys.executable, "-c", COMMAND)):
    """(exit code, stderr) of a command that is sent the signals."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert process.stdout.readline() == "began\n"
        for number in numbers:
            process.send_signal(number)
        _, error = process.communicate(timeout=30)
    finally:
        process.kill()
    return process.returncode, error


@pytest.mark.parametrize("number", interrupts.SIGNALS)
def test_a_signal_ends_a_command_at_once_with_one_line(number):
    assert signalled(number) == (128 + number, f"stopped by {number.name}\n")


def test_under_nohup_the_end_of_the_terminal_is_none_of_the_command():
    command = ("nohup", sys.executable, "-c", COMMAND)
    code, error = signalled(signal.SIGHUP, signal.SIGTERM, command=command)
    assert (code, error.splitlines()[-1]) == (143, "stopped by SIGTERM")


def test_a_program_that_imports_vqlab_keeps_its_own_handlers():
    assert vqlab.__version__
    for number in interrupts.SIGNALS:
        assert getattr(signal.getsignal(number), "__module__", "") != interrupts.__name__
