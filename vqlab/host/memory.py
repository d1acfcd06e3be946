"""Memory that stays with the process between steps, for runs on CPUs."""

import ctypes
import sys

# Parameters of mallopt(3).
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> bool:
    """Makes malloc keep what is freed; False where the C library is not glibc.

    On CPUs XLA takes the results and temporaries of a step from malloc, which gives blocks of that
    size back to the system at once: every step then waits for the same gigabytes to be cleared and
    mapped again, a tenth to a half of its time. The price is that the process holds its peak for as
    long as it lives. To be called before threads allocate.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    # Never trim; no separate mappings; one heap, so that any thread gets what another one freed.
    return all([mallopt(_TRIM_THRESHOLD, -1), mallopt(_MMAP_MAX, 0), mallopt(_ARENA_MAX, 1)])
