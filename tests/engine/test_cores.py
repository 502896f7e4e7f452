"""The quota of a container counts, wherever the kernel writes it. The trees are those of real machines, cut down."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from service.engine.cores import available_cores

if TYPE_CHECKING:
    from pathlib import Path

V2 = "0::/\n"
V2_NESTED = "0::/kubepods.slice/pod.slice/container\n"
V1 = "5:cpuset:/\n4:cpu,cpuacct:/docker/3f2a\n3:cpuacct:/elsewhere\n0::/\n"


@pytest.fixture(autouse=True)
def sixteen_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(16)))


def tree(root: Path, groups: str, files: dict[str, str]) -> Path:
    """A machine whose /proc/self/cgroup is ``groups``, with ``files`` under /sys/fs/cgroup."""
    for name, text in {
        "proc/self/cgroup": groups,
        **{f"sys/fs/cgroup/{at}": text for at, text in files.items()},
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("groups", "files", "cores"),
    [
        pytest.param(V2, {}, 16, id="no quota anywhere"),
        pytest.param(V2, {"cpu.max": "max 100000\n"}, 16, id="v2 without a quota"),
        pytest.param(V2, {"cpu.max": "200000 100000\n"}, 2, id="v2"),
        pytest.param(V2, {"cpu.max": "250000 100000\n"}, 2, id="a half core is none"),
        pytest.param(V2, {"cpu.max": "50000 100000\n"}, 1, id="but there is always one"),
        pytest.param(V2, {"cpu.max": "6400000 100000\n"}, 16, id="a quota beyond the mask"),
        pytest.param(V2_NESTED, {"kubepods.slice/pod.slice/cpu.max": "300000 100000\n"}, 3, id="v2, a group around it"),
        pytest.param(V2_NESTED, {"cpu.max": "400000 100000\n"}, 4, id="v2, the host's path is not there"),
        pytest.param("0::/\n", {"unified/cpu.max": "500000 100000\n"}, 5, id="v2 beside v1"),
        pytest.param(
            V1,
            {
                "cpu,cpuacct/docker/3f2a/cpu.cfs_quota_us": "150000\n",
                "cpu,cpuacct/docker/3f2a/cpu.cfs_period_us": "50000\n",
            },
            3,
            id="v1",
        ),
        pytest.param(
            V1,
            {"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"},
            2,
            id="v1, inside a container",
        ),
        pytest.param(
            V1, {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 16, id="v1 without a quota"
        ),
        pytest.param("", {"cpu.max": "200000 100000\n"}, 16, id="a machine without control groups"),
    ],
)
def test_the_smallest_of_mask_and_quotas_counts(tmp_path: Path, groups: str, files: dict[str, str], cores: int) -> None:
    assert available_cores(tree(tmp_path, groups, files)) == cores


def test_this_machine_has_some() -> None:
    assert 1 <= available_cores() <= 16
