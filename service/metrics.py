"""Every metric, by name, in one place. One object per application, on a registry of its own."""

from __future__ import annotations

import platform
from contextlib import suppress
from importlib.metadata import version
from typing import Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client.exposition import choose_encoder

from service import __version__
from service.vocabulary import EvaluationState, Operation, PrecisionRefusal, Verdict

__all__ = ["Ending", "Metrics", "Stage"]

Stage = Literal["decode", "queue", "compute", "render"]

Ending = Literal["exited", "signal", "hung", "start_timeout", "not_started"]

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Counters, gauges and histograms; times are in seconds. ``docs/operations.md`` has a row for each."""

    def __init__(self) -> None:
        # Otherwise a second series, which nobody reads, stands beside every counter and histogram.
        disable_created_metrics()  # type: ignore[no-untyped-call]
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
        self.cost = Counter(
            "camserve_cost",
            "Estimated work of accepted requests: passes of a model, pixels decoded and drawn, bytes sent.",
            ["part"],
            registry=registry,
        )
        self.cost_inside = Gauge(
            "camserve_cost_inside",
            "Estimated work of requests not yet answered, by part.",
            ["part"],
            registry=registry,
        )
        self.verifications = Counter(
            "camserve_verifications",
            "Maps put to the proof (`verify`), by verdict: supported, not_supported, undecided.",
            ["verdict"],
            registry=registry,
        )
        self.labelling_tasks = Counter(
            "camserve_labelling_tasks",
            "Tasks of labelling tools: predicted, failed for good, or put off until the tool asks again.",
            ["tool", "result"],
            registry=registry,
        )
        self.ready = Gauge("camserve_ready", "1 where `/readyz` says 200, else 0.", registry=registry)
        self._count_models(registry)
        self.workers_ready = Gauge("camserve_workers_ready", "Workers with at least one model.", registry=registry)
        self.worker_state = Gauge(
            "camserve_worker_state",
            "1 for the state that a worker is in, 0 for the others.",
            ["worker", "device", "state"],
            registry=registry,
        )
        self.worker_resident = Gauge(
            "camserve_worker_resident_bytes",
            "Main memory that a worker holds.",
            ["worker", "device"],
            registry=registry,
        )
        self.worker_device = Gauge(
            "camserve_worker_device_bytes",
            "Memory of its device that a worker holds, where the device has its own.",
            ["worker", "device", "kind"],
            registry=registry,
        )
        self.evaluations = Counter(
            "camserve_evaluations", "Evaluations that are over, by how they ended.", ["state"], registry=registry
        )
        self.evaluations_open = Gauge(
            "camserve_evaluations_open", "Evaluations that wait or run, by state.", ["state"], registry=registry
        )
        self.evaluation_seconds = Counter(
            "camserve_evaluation_seconds", "Time that processes of evaluations have run.", registry=registry
        )
        self.evaluation_restarts = Counter(
            "camserve_evaluation_restarts",
            "Processes of evaluations that ended too early, and were started again.",
            registry=registry,
        )
        self.rejected = Counter("camserve_rejected", "Refused requests, by error code.", ["code"], registry=registry)
        self.connections = Gauge("camserve_connections", "Open connections.", registry=registry)
        self.connections_ended = Counter(
            "camserve_connections_ended",
            "Connections that the server broke off, by reason.",
            ["reason"],
            registry=registry,
        )
        self.picture_errors = Counter(
            "camserve_picture_errors", "Pictures answered with an error, by its code.", ["code"], registry=registry
        )
        self.cancelled = Counter(
            "camserve_cancelled",
            "Pictures given up because their client went away, by the stage they were in.",
            ["stage"],
            registry=registry,
        )
        self.expired = Counter(
            "camserve_expired",
            "Pictures given up because their deadline passed, by the stage they were in.",
            ["stage"],
            registry=registry,
        )
        self.worker_restarts = Counter(
            "camserve_worker_restarts", "Workers replaced, by how they ended.", ["reason"], registry=registry
        )
        self.retried = Counter(
            "camserve_retried",
            "Pictures computed again after their worker ended, by how it did.",
            ["reason"],
            registry=registry,
        )
        self.isolated = Counter(
            "camserve_batch_splits", "Batches cut in two after an error, by its kind.", ["reason"], registry=registry
        )
        self.build_info = Gauge(
            "camserve_build_info",
            "Always 1; what is running is in the labels.",
            ["version", "python", "torch"],
            registry=registry,
        )
        self.build_info.labels(__version__, platform.python_version(), version("torch")).set(1)
        ProcessCollector(registry=registry)
        self._begin_at_zero()

    def _count_models(self, registry: CollectorRegistry) -> None:
        self.model_ready = Gauge(
            "camserve_model_ready", "1 where some worker answers for the model, else 0.", ["model"], registry=registry
        )
        self.model_loads = Counter(
            "camserve_model_loads",
            "Versions of models that a worker has loaded, or could not load.",
            ["result"],
            registry=registry,
        )
        self.model_precision = Gauge(
            "camserve_model_precision",
            "1 for what the model that answers computes in.",
            ["model", "precision"],
            registry=registry,
        )
        self.model_folded = Gauge(
            "camserve_model_folded",
            "1 where convolutions of the model that answers compute what comes next, too, else 0.",
            ["model"],
            registry=registry,
        )
        self.model_parts = Gauge(
            "camserve_model_parts",
            "In how many parts the model that answers computes a batch, side by side.",
            ["model"],
            registry=registry,
        )
        self.precision_refused = Counter(
            "camserve_precision_refused",
            "Loads in float32 where bfloat16 or auto was asked for, by why: hardware, source, failed, check.",
            ["reason"],
            registry=registry,
        )
        self.models_put_out = Counter(
            "camserve_models_put_out",
            "Models put out of the workers' memory, by what for.",
            ["reason"],
            registry=registry,
        )

    def _begin_at_zero(self) -> None:  # noqa: C901  # one loop for each vocabulary
        """Create the series whose labels are known: what appears with its first event cannot be seen to rise."""
        for stage in ("decode", "queue", "render"):
            self.stage_seconds.labels(stage)
        for counter in (self.cancelled, self.expired):
            for stage in get_args(Stage):
                counter.labels(stage)
        for counter in (self.worker_restarts, self.retried):
            for ending in get_args(Ending):
                counter.labels(ending)
        for part in ("forward", "pixels", "bytes"):
            self.cost.labels(part)
            self.cost_inside.labels(part)
        for verdict in get_args(Verdict):
            self.verifications.labels(verdict)
        for result in ("loaded", "failed"):
            self.model_loads.labels(result)
        for reason in get_args(PrecisionRefusal):
            self.precision_refused.labels(reason)
        for reason in ("asked", "budget"):
            self.models_put_out.labels(reason)
        for state in get_args(EvaluationState):
            family = self.evaluations_open if state in {"queued", "running"} else self.evaluations
            family.labels(state)
        for reason in ("error", "memory"):
            self.isolated.labels(reason)

    def forget_model(self, model: str) -> None:
        """Drop the series of a model that is gone: names come and go, and series would stay for ever."""
        for family in (self.batch_seconds, self.batch_size):
            for op in get_args(Operation):
                with suppress(KeyError):
                    family.remove(model, op)

    def expose(self, accept: str = "") -> tuple[bytes, str]:
        """Return all metrics and their media type: OpenMetrics where ``accept`` asks for it, else Prometheus's own."""
        encode, media_type = choose_encoder(accept)
        return encode(self.registry), media_type
