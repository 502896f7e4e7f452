"""Every metric, by name, in one place. One object per application, on a registry of its own."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

__all__ = ["Metrics"]

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Counters, gauges and histograms; times are in seconds. ``docs/operations.md`` has a row for each."""

    content_type = CONTENT_TYPE_PLAIN_0_0_4

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter("camserve_requests", "Answered requests.", ["route", "status"], registry=registry)
        self.request_seconds = Histogram(
            "camserve_request_seconds", "Time to answer.", ["route"], buckets=_SECONDS, registry=registry
        )
        self.stage_seconds = Histogram(
            "camserve_stage_seconds",
            "Time of a picture in a stage: decode, queue, render.",
            ["stage"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.batch_seconds = Histogram(
            "camserve_batch_seconds", "Time to compute a batch.", ["model", "op"], buckets=_SECONDS, registry=registry
        )
        self.batch_size = Histogram(
            "camserve_batch_size", "Pictures in a batch.", ["model", "op"], buckets=_SIZES, registry=registry
        )
        self.queue_depth = Gauge("camserve_queue_depth", "Pictures that wait for a worker.", registry=registry)
        self.in_flight = Gauge("camserve_in_flight", "Pictures accepted and not yet answered.", registry=registry)
        self.workers_ready = Gauge("camserve_workers_ready", "Workers with at least one model.", registry=registry)
        self.rejected = Counter("camserve_rejected", "Refused requests, by error code.", ["code"], registry=registry)
        self.connections = Gauge("camserve_connections", "Open connections.", registry=registry)
        self.connections_ended = Counter(
            "camserve_connections_ended",
            "Connections that the server broke off, by reason.",
            ["reason"],
            registry=registry,
        )
        self.worker_restarts = Counter("camserve_worker_restarts", "Workers replaced.", registry=registry)
        self.retried = Counter("camserve_retried", "Pictures computed again after a worker died.", registry=registry)
        self.isolated = Counter("camserve_batch_splits", "Batches cut in two after an error.", registry=registry)

    def expose(self) -> bytes:
        """Return the Prometheus text format."""
        return generate_latest(self.registry)
