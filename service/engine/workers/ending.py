"""The end of a process whose front has gone. Needs no torch to import.

Runs in the worker process.

Other processes that the front starts end in the same way.
"""

from __future__ import annotations

import ctypes
import signal
import sys

__all__ = ["die_with_the_front"]

_PR_SET_PDEATHSIG = 1  # of linux/prctl.h


def die_with_the_front() -> None:
    """Have the kernel kill this process when its parent is gone: one that hangs does not see its socket close."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
