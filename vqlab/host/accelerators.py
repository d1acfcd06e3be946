"""Which accelerators this machine has, as far as that shows before JAX starts."""

import glob
import os

# What libtpu asks a TPU machine's metadata server for, and prints errors where there is none. The
# values are those that planning works with (vqlab/planning/topologies.py).
_TOLD = {"TPU_WORKER_HOSTNAMES": "localhost", "TPU_ACCELERATOR_TYPE": "v5litepod-8"}


def has_tpu_devices() -> bool:
    """Whether a chip may be attached: TPUs appear as one of these files, in containers too."""
    return bool(glob.glob("/dev/accel*") or glob.glob("/dev/vfio/[0-9]*"))


def quiet_libtpu() -> None:
    """Keeps libtpu from printing six lines of errors on a machine without a TPU.

    It is installed there to plan with (`vqlab.plan`), and JAX tries each backend that it finds.
    Nothing is switched off: libtpu still looks for chips. Nothing is said where a chip may be
    attached, or where the environment speaks of TPUs already.
    """
    if not has_tpu_devices() and not any(name in os.environ for name in _TOLD):
        os.environ.update(_TOLD)
