"""Freed memory stays: a block taken again costs no page faults."""

import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys
import numpy as np
from vqlab.host.memory import keep_freed_memory

if sys.argv[1] == "kept" and not keep_freed_memory():
    sys.exit("no glibc")

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def take():
    np.empty(64 << 20, np.uint8).fill(1)

take()
before = faults()
take()
print(faults() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is Linux's")
def test_a_second_block_is_mapped_again_only_by_default():
    def faults(how):
        command = [sys.executable, "-c", SCRIPT, how]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    assert faults("kept") < 8  # 64 MiB are 32 huge pages, or 16384 small ones
    assert faults("default") >= 32
