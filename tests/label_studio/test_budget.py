"""More tasks than there is time for, on Label Studio itself: it asks again one by one, and none is lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import pytest

from tests.label_studio.conftest import SAMPLES, TOKEN
from tests.label_studio.test_walkthroughs import CONFIGS, SCENES
from tests.server import running_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.label_studio.conftest import LabelStudio
    from tests.server import Server

pytestmark = pytest.mark.slow

BUDGET_S = 6.0
IN_HAND = 2  # what a worker was computing when the time was up is given up
SLOW = """
import time
from pathlib import Path

from service.models.shapes_net import ShapesNet

SLOW = Path(__file__).with_name("slow")


class Slow(ShapesNet):
    def forward(self, x):
        if SLOW.exists():
            time.sleep(1.5)
        return super().forward(x)


def build():
    return Slow(num_classes=12)
"""


@pytest.fixture
def server(label_studio: LabelStudio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server whose model takes a second for each picture once it is loaded, and that has less time than all need."""
    (tmp_path / "slow_nets.py").write_text(SLOW, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    labels, weights = SAMPLES.parent / "labels.txt", SAMPLES.parent / "shapes.safetensors"
    model = f"slow=slow_nets.build:{weights},labels={labels},size=96,mean=0.5,std=0.5"
    where = ("--label-studio-url", label_studio.url, "--label-studio-token", TOKEN)
    limits = ("--label-studio-budget-s", str(BUDGET_S), "--max-batch-size", "1")
    with running_server("--device", "cpu", "--model", model, *limits, *where) as server:
        (tmp_path / "slow").touch()
        yield server


def counted(server: Server, name: str, label: str) -> float:
    """Add up the values of a metric that have a label."""
    lines = httpx.get(f"{server.url}/metrics", timeout=60).text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(f"{name}{{") and label in line)


def test_no_task_is_lost_and_what_was_ready_is_not_computed_again(label_studio: LabelStudio, server: Server) -> None:
    project = label_studio.connected(server.url, CONFIGS[3], *SCENES)
    predictions = label_studio.retrieve(project)
    tasks = label_studio.get("/api/tasks/", params={"project": project, "page_size": 100})["tasks"]
    assert sorted(each["task"] for each in predictions) == sorted(each["id"] for each in tasks)
    assert all(each["result"] for each in predictions)
    late = counted(server, "camserve_labelling_tasks_total", 'result="put_off"')
    assert 0 < late < len(SCENES), "some were ready in time"
    computed = counted(server, "camserve_batch_size_count", 'model="slow"')
    assert computed <= len(SCENES) + IN_HAND
