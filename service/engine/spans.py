"""OpenTelemetry spans of pictures and of the batches they share; none are made unless somebody records.

A batch serves several requests, so it belongs to none of their traces: its span begins a trace of its own, with a link
to every picture in it, and each picture's ``compute`` span has a link back.

Runs in the front process.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

from opentelemetry.context import Context
from opentelemetry.trace import Link, NoOpTracer, StatusCode, get_current_span

from service.errors import ServiceError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from opentelemetry.trace import Span, Tracer

    from service.engine.entry import Entry
    from service.engine.messages import Lane, Ran
    from service.engine.worker import WorkerSnapshot

__all__ = ["Spans", "current_trace_id"]


def current_trace_id() -> str:
    """Return the id of the trace that the running code belongs to, 32 hexadecimal digits; empty where there is none."""
    context = get_current_span().get_span_context()
    return f"{context.trace_id:032x}" if context.is_valid else ""


class Spans:
    """Makes spans with ``tracer``, and none without one."""

    def __init__(self, tracer: Tracer | None = None) -> None:
        self._tracer = tracer or NoOpTracer()
        self._are_made = tracer is not None

    def image(self, index: int, lane: Lane) -> AbstractContextManager[None]:
        """Span of one image's way through; what it raises is the span's error."""
        return self._image(index, lane) if self._are_made else nullcontext()

    @contextmanager
    def _image(self, index: int, lane: Lane) -> Iterator[None]:
        attributes = {"camserve.index": index, **_asked(lane)}
        with self._tracer.start_as_current_span(
            "picture", attributes=attributes, record_exception=False, set_status_on_exception=False
        ) as span:
            try:
                yield
            except ServiceError as error:
                _fail(span, error.code, error.title)  # not its message, which may repeat what the caller sent
                raise
            except asyncio.CancelledError:
                _fail(span, "given_up", "The client went away, the deadline passed, or the request failed otherwise.")
                raise

    def stage(self, name: str) -> AbstractContextManager[object]:
        """Time a stage of the current picture. What it raises is the picture's error, and told there."""
        if not self._are_made:
            return nullcontext()
        return self._tracer.start_as_current_span(name, record_exception=False, set_status_on_exception=False)

    def waited(self, entry: Entry) -> None:
        """Tell how long the current picture waited for a worker and, if it came to that, was computed."""
        if not _sampled(entry):
            return
        left = _epoch_ns(entry.started_at) if entry.started_at else time.time_ns()
        self._tracer.start_span("queue", start_time=_epoch_ns(entry.queued_at)).end(left)
        if entry.started_at:
            links = [Link(entry.batch)] if entry.batch else []
            attributes = {"camserve.attempts": entry.attempts + 1}
            self._tracer.start_span("compute", start_time=left, links=links, attributes=attributes).end()

    def batch(self, worker: WorkerSnapshot, entries: list[Entry], ran: Ran) -> None:
        """Tell of a batch that was computed, where one of its pictures is recorded."""
        links = [Link(entry.span.get_span_context()) for entry in entries if entry.span and _sampled(entry)]
        if not links:
            return
        attributes = {
            **_asked(entries[0].lane),
            "camserve.batch.size": len(entries),
            "camserve.batch.failed": sum(isinstance(outcome, ServiceError) for outcome in ran.outcomes),
            "camserve.batch.splits": ran.splits,
            "camserve.compute_s": ran.compute_s,
            "camserve.worker": worker.number,
            "camserve.device": worker.device,
        }
        span = self._tracer.start_span(
            "batch", context=Context(), links=links, attributes=attributes, start_time=_epoch_ns(entries[0].started_at)
        )
        for entry in entries:
            entry.batch = span.get_span_context()
        span.end()


def _asked(lane: Lane) -> dict[str, str | tuple[str, ...]]:
    return {
        "camserve.model": lane.model.name,
        "camserve.op": lane.op,
        "camserve.layers": lane.layers,
        "camserve.methods": lane.methods,
    }


def _sampled(entry: Entry) -> bool:
    return entry.span is not None and entry.span.get_span_context().trace_flags.sampled


def _fail(span: Span, kind: str, message: str) -> None:
    span.set_attribute("error.type", kind)
    span.set_status(StatusCode.ERROR, message)


def _epoch_ns(counter: float) -> int:
    """Return what a reading of ``time.perf_counter()`` was in nanoseconds since the epoch."""
    return time.time_ns() - int((time.perf_counter() - counter) * 1e9)
