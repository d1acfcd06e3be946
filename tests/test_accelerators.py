import os

import pytest

from vqlab.host import accelerators


@pytest.mark.parametrize(
    ("devices", "environment", "told"),
    [
        ([], {}, True),
        (["/dev/vfio/0"], {}, False),
        (["/dev/accel0"], {}, False),
        ([], {"TPU_WORKER_HOSTNAMES": "t1v-0,t1v-1"}, False),
    ],
)
def test_libtpu_is_told_only_where_there_is_no_tpu(devices, environment, told, monkeypatch):
    """What a TPU's own machine or the user says is left alone."""
    monkeypatch.setattr(os, "environ", dict(environment))
    monkeypatch.setattr(
        accelerators.glob, "glob", lambda pattern: [d for d in devices if d[:9] == pattern[:9]]
    )
    accelerators.quiet_libtpu()
    assert ("TPU_ACCELERATOR_TYPE" in os.environ) == told
    assert told or os.environ == environment
