"""The gauges that are read off workers and models when somebody looks, rather than kept up to date.

Runs in the front process.
"""

from __future__ import annotations

import resource
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from service.vocabulary import WorkerState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from service.engine.pool import WorkerStatus
    from service.engine.registry import ModelStatus
    from service.metrics import Metrics

__all__ = ["refresh"]


def refresh(metrics: Metrics, workers: Sequence[WorkerStatus], models: Sequence[ModelStatus]) -> None:
    """Set the gauges of ``metrics`` to what is so now; series of workers and models that are gone disappear."""
    of_workers = (metrics.worker_state, metrics.worker_resident, metrics.worker_device)
    of_models = (metrics.model_ready, metrics.model_precision, metrics.model_folded, metrics.model_parts)
    for gauge in (*of_workers, *of_models):
        gauge.clear()
    for worker in workers:
        _show(metrics, worker)
    for status in models:
        metrics.model_ready.labels(status.config.name).set(status.state == "ready")
        if status.info is not None:
            metrics.model_precision.labels(status.config.name, status.info.dtype).set(1)
            metrics.model_folded.labels(status.config.name).set(status.info.computing.folded)
            metrics.model_parts.labels(status.config.name).set(status.info.computing.parts)
    metrics.workers_ready.set(sum(bool(worker.models) for worker in workers))


def _show(metrics: Metrics, worker: WorkerStatus) -> None:
    # By number, not by process id: a replacement continues the series of the worker that it replaces.
    number = str(worker.number)
    for state in get_args(WorkerState):
        metrics.worker_state.labels(number, worker.device, state).set(state == worker.state)
    resident = _resident_bytes(worker.pid) if worker.pid else None
    if resident is not None:
        metrics.worker_resident.labels(number, worker.device).set(resident)
    for kind, held in worker.device_bytes.items():
        metrics.worker_device.labels(number, worker.device, kind).set(held)


def _resident_bytes(pid: int) -> int | None:
    """Return what Linux says of a process; None where it has ended, or on another system."""
    try:
        pages = Path(f"/proc/{pid}/statm").read_text(encoding="utf-8").split()[1]
    except (OSError, IndexError):
        return None
    return int(pages) * resource.getpagesize()
