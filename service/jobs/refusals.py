"""What is said where no evaluation can be taken, or told of.

Runs in the front process.
"""

from __future__ import annotations

import errno
import logging

from service.errors import NotReady, ServiceError, Unavailable

__all__ = ["elsewhere", "ending", "unwritable"]

log = logging.getLogger("camserve.evaluations")


def unwritable(error: OSError | ServiceError) -> Unavailable:
    """Return what is said where the machine cannot take an evaluation: its disk, most likely."""
    log.error("no evaluation can be taken: %s", error)
    if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return Unavailable("There is no room on the disk here for an evaluation. Try again later.", retry_after_s=60)
    return Unavailable(
        "This machine cannot take an evaluation now. Try again later; where that does not help, whoever runs the "
        "service finds the reason in its log.",
        retry_after_s=60,
    )


def elsewhere() -> NotReady:
    """Return what is said where another process has the place in which evaluations are kept."""
    return NotReady("Another process still has the folder data_dir. Try again in a few seconds.", retry_after_s=5)


def ending() -> NotReady:
    """Return what is said where an evaluation would end with the service, which is about to."""
    return NotReady("The service is shutting down, and keeps no evaluations: data_dir is not set.", retry_after_s=5)
