"""What is said where no evaluation can be taken, or told of.

Runs in the front process.
"""

from __future__ import annotations

import logging

from service.errors import NotReady, Unavailable

__all__ = ["elsewhere", "no_room"]

log = logging.getLogger("camserve.evaluations")


def no_room(error: OSError) -> Unavailable:
    """Return what is said where the disk takes no more."""
    log.error("no evaluation can be taken: %s", error)
    return Unavailable("There is no room on the disk here for an evaluation. Try again later.", retry_after_s=60)


def elsewhere() -> NotReady:
    """Return what is said where another process has the place in which evaluations are kept."""
    return NotReady("Another process still has the folder data_dir. Try again in a few seconds.", retry_after_s=5)
