"""How long a test may take, and what happens to one that does not end."""

from __future__ import annotations

import os
import sys
import threading
import traceback
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    import pytest
    from _pytest.capture import CaptureManager

# The longest waits of slow tests have limits of their own below this, which say more about what was waited for.
SLOW_S = 1800.0


def seconds_for(item: pytest.Item) -> float:
    """Return the time limit of a test, its fixtures included: its own marker's, ``SLOW_S``, or the configured one."""
    own = item.get_closest_marker("timeout")
    if own is not None:
        return float(own.args[0])
    return SLOW_S if item.get_closest_marker("slow") else float(item.config.getini("timeout"))


def end_the_run(item: pytest.Item) -> None:
    """Say which test does not end and where every thread is, and end this process."""
    capture = cast("CaptureManager | None", item.config.pluginmanager.getplugin("capturemanager"))
    if capture is not None:
        capture.suspend_global_capture(in_=True)
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    sys.stderr.write(f"\n{item.nodeid} goes on after its time limit; the run ends here.\n")
    for ident, frame in sys._current_frames().items():
        sys.stderr.write(f"\nThread {names.get(ident, ident)}:\n{''.join(traceback.format_stack(frame))}")
    sys.stderr.flush()
    os._exit(1)
