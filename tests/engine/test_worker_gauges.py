"""What a scrape says of workers that start, load, answer, die and are replaced."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, get_args

import pytest

from service.engine import worker_gauges
from service.engine.pool import WorkerStatus
from service.engine.registry import ModelStatus
from service.metrics import Metrics
from service.settings import ModelConfig
from service.vocabulary import WorkerState

if TYPE_CHECKING:
    from pathlib import Path

    from service.vocabulary import ModelState


def worker(number: int = 0, **state: Any) -> WorkerStatus:
    fresh: dict[str, Any] = {"pid": os.getpid(), "device": "cpu", "models": (), "state": "ready", "device_bytes": {}}
    return WorkerStatus(number=number, batches=0, progress={}, deaths=0, last_exit=None, **{**fresh, **state})


def refreshed(*workers: WorkerStatus, metrics: Metrics | None = None, **models: ModelState) -> Metrics:
    metrics = metrics or Metrics()
    statuses = [ModelStatus(ModelConfig(name=name, architecture="toy"), state) for name, state in models.items()]
    worker_gauges.refresh(metrics, workers, statuses)
    return metrics


def labels(metrics: Metrics, name: str, label: str) -> set[str]:
    """The values of ``label`` among the series of a gauge that are not 0."""
    (family,) = [family for family in metrics.registry.collect() if family.name == name]
    return {sample.labels[label] for sample in family.samples if sample.value}


@pytest.mark.parametrize("state", get_args(WorkerState))
def test_a_worker_is_in_exactly_one_state(state: WorkerState) -> None:
    metrics = refreshed(worker(state=state))
    assert labels(metrics, "camserve_worker_state", "state") == {state}


def test_workers_with_a_model_are_ready() -> None:
    metrics = refreshed(worker(0, models=("m",)), worker(1), worker(2, models=("m",)))
    assert metrics.registry.get_sample_value("camserve_workers_ready") == 2


def test_memory_is_that_of_the_process() -> None:
    metrics = refreshed(worker(3))
    found = metrics.registry.get_sample_value("camserve_worker_resident_bytes", {"worker": "3", "device": "cpu"})
    own = metrics.registry.get_sample_value("process_resident_memory_bytes")
    assert found
    assert own
    assert 0.5 < found / own < 2


def test_a_process_that_has_just_ended_has_no_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(worker_gauges, "Path", lambda _: tmp_path / "statm")
    assert labels(refreshed(worker()), "camserve_worker_resident_bytes", "worker") == set()


def test_memory_of_the_device_where_the_worker_tells_of_it() -> None:
    metrics = refreshed(worker(device="cuda:0", device_bytes={"allocated": 5, "reserved": 7}))
    assert labels(metrics, "camserve_worker_device_bytes", "kind") == {"allocated", "reserved"}


def test_a_worker_that_is_gone_leaves_no_series() -> None:
    metrics = refreshed(worker(0), worker(1, device="auto"))
    refreshed(worker(1), metrics=metrics)
    assert labels(metrics, "camserve_worker_state", "worker") == {"1"}
    assert labels(metrics, "camserve_worker_state", "device") == {"cpu"}


def test_models() -> None:
    metrics = refreshed(worker(), a="ready", b="loading", c="failed")
    assert labels(metrics, "camserve_model_ready", "model") == {"a"}
    assert metrics.registry.get_sample_value("camserve_model_ready", {"model": "c"}) == 0
