"""How many CPU cores this process may keep busy: the affinity mask, and the quotas of its control groups.

A container with ``--cpus=2`` on a machine with 64 cores sees all 64. Threads for each of them would use the quota up in
a fraction of every period, and stand still for the rest of it.

Runs in the front process.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from service.settings import Settings

__all__ = ["available_cores", "threads_of"]


def available_cores(root: Path = Path("/")) -> int:
    """Return how many cores may be kept busy, at least 1.

    A quota of two and a half cores counts as two: with a thread too many, all of them would be throttled.

    Args:
        root: where ``proc`` and ``sys`` are.
    """
    quotas = [quota for group in _groups(root) if (quota := _quota(group)) is not None]
    return max(1, int(min([len(os.sched_getaffinity(0)), *quotas])))


def threads_of(settings: Settings) -> int:
    """Return how many threads a worker has on the CPU."""
    return settings.threads or max(1, available_cores() // settings.workers)


def _groups(root: Path) -> Iterator[Path]:
    """Yield the folders of the control groups that this process is in, and of those around them; cgroup v1 and v2.

    Inside a container the path may be the host's, which is not there: the files of its own group are then at the mount.
    """
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        inner = Path(path.lstrip("/"))
        for mount in ("", "unified") if not controllers else (controllers, "cpu"):
            for group in (inner, *inner.parents):
                yield root / "sys/fs/cgroup" / mount / group


def _quota(group: Path) -> float | None:
    """Return the cores that a group may use; None where it has no quota."""
    quota, period = (_read(group / "cpu.max").split() or ["max", "0"])[:2]  # v2, "max 100000" without one
    if quota == "max":
        quota, period = _read(group / "cpu.cfs_quota_us"), _read(group / "cpu.cfs_period_us")  # v1, -1 without one
    return int(quota) / int(period) if quota.strip() and int(quota) > 0 else None


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""
