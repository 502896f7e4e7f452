"""Spans of requests, of their pictures and of the batches these share, as a collector gets them."""

from __future__ import annotations

import asyncio
import logging
import sys
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from service.errors import InternalError, ServiceError
from service.settings import Settings
from service.web.app import create_app
from tests.toys import png
from tests.web.application import Exchange, faked, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from opentelemetry.sdk.trace import ReadableSpan

    from tests.web.application import Application

EXPLAIN = "/api/v1/explain"
IMAGE = {"Content-Type": "image/png"}
TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{CALLER}-01"


class Traced:
    """An application whose spans end up here."""

    def __init__(self, application: Application, exporter: InMemorySpanExporter) -> None:
        self.application, self._exporter = application, exporter

    async def explain(self, headers: dict[str, str] | None = None, data: bytes | None = None) -> None:
        async with self.application.client() as client:
            await client.post(EXPLAIN, content=data or png(), headers={**IMAGE, **(headers or {})})

    def spans(self, name: str) -> list[ReadableSpan]:
        return [span for span in self._exporter.get_finished_spans() if span.name == name]

    def span(self, name: str) -> ReadableSpan:
        (span,) = self.spans(name)
        return span

    def all(self) -> tuple[ReadableSpan, ...]:
        return self._exporter.get_finished_spans()

    def names(self) -> set[str]:
        return {span.name for span in self._exporter.get_finished_spans()}


@asynccontextmanager
async def tracing(patch: pytest.MonkeyPatch) -> AsyncIterator[Traced]:
    exporter = InMemorySpanExporter()
    patch.setattr("service.web.otel.OTLPSpanExporter", lambda: exporter)
    patch.setattr("service.web.otel.BatchSpanProcessor", SimpleSpanProcessor)
    async with faked(tracing=True) as application:
        yield Traced(application, exporter)


@pytest.fixture
async def traced(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Traced]:
    async with tracing(monkeypatch) as made:
        yield made


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def began(span: ReadableSpan) -> int:
    assert span.start_time is not None
    return span.start_time


def ended(span: ReadableSpan) -> int:
    assert span.end_time is not None
    return span.end_time


async def test_a_request_continues_the_callers_trace(traced: Traced) -> None:
    await traced.explain({"traceparent": TRACEPARENT, "X-Request-ID": "find-me"})
    request = traced.span(f"POST {EXPLAIN}")
    assert request.kind is SpanKind.SERVER
    assert request.parent is not None
    assert f"{request.context.trace_id:032x}" == TRACE
    assert f"{request.parent.span_id:016x}" == CALLER
    assert attributes(request)["camserve.request_id"] == "find-me"
    assert attributes(request)["http.response.status_code"] == 200


async def test_a_request_without_a_trace_begins_one(traced: Traced) -> None:
    await traced.explain()
    assert traced.span(f"POST {EXPLAIN}").parent is None


async def test_the_stages_of_a_picture_follow_each_other_within_its_request(traced: Traced) -> None:
    await traced.explain({"traceparent": TRACEPARENT})
    request, picture = traced.span(f"POST {EXPLAIN}"), traced.span("picture")
    assert picture.parent == request.context
    assert attributes(picture)["camserve.model"] == "pets"
    assert attributes(picture)["camserve.op"] == "explain"
    assert attributes(picture)["camserve.layers"] == ("conv2",)
    assert attributes(picture)["camserve.methods"] == ("gradcam",)
    stages = [traced.span(name) for name in ("decode", "queue", "compute", "render")]
    slack_ns = 20_000_000  # the wall clock and the other one are not read at the same instant
    for earlier, later in pairwise(stages):
        assert ended(earlier) <= began(later) + slack_ns
    for stage in stages:
        assert stage.parent == picture.context
        assert began(picture) - slack_ns <= began(stage) <= ended(stage) <= ended(picture) + slack_ns


async def test_a_batch_is_linked_to_its_pictures_and_they_to_it(traced: Traced) -> None:
    traced.application.worker.held = True
    first = asyncio.create_task(traced.explain())
    await until(lambda: traced.application.worker.running)
    others = [asyncio.create_task(traced.explain({"traceparent": TRACEPARENT})), asyncio.create_task(traced.explain())]
    await until(lambda: traced.application.metric("camserve_queue_depth") == 2)
    traced.application.worker.held = False
    traced.application.worker.finish()
    await asyncio.gather(first, *others)

    alone, shared = traced.spans("batch")
    assert attributes(alone)["camserve.batch.size"] == 1
    assert attributes(shared)["camserve.batch.size"] == 2
    assert attributes(shared) | {
        "camserve.worker": 0,
        "camserve.device": "cpu",
        "camserve.model": "pets",
    } == attributes(shared)
    members = {link.context.span_id for link in shared.links}
    pictures = {span.context.span_id: span for span in traced.spans("picture") if span.context.span_id in members}
    assert len(members) == len(pictures) == 2
    assert shared.parent is None
    assert shared.context.trace_id not in {span.context.trace_id for span in pictures.values()}
    for compute in traced.spans("compute"):
        assert compute.parent is not None
        expected = shared if compute.parent.span_id in members else alone
        assert [link.context for link in compute.links] == [expected.context]


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics"])
async def test_probes_make_no_spans(traced: Traced, path: str) -> None:
    async with traced.application.client() as client:
        await client.get(path, headers={"traceparent": TRACEPARENT})
        await client.get("/version")
    assert traced.names() == {"GET /version"}


async def test_an_error_of_a_picture_is_its_spans(traced: Traced) -> None:
    traced.application.worker.outcome = lambda _lane, _question: InternalError("no luck")
    await traced.explain()
    picture = traced.span("picture")
    assert not picture.status.is_ok
    assert picture.status.description == "Internal error", "a message may repeat what the caller sent"
    assert attributes(picture)["error.type"] == "internal_error"
    assert attributes(traced.span("batch"))["camserve.batch.failed"] == 1
    assert not traced.span(f"POST {EXPLAIN}").status.is_ok


async def test_a_mistake_of_the_caller_is_not_an_error_of_the_request(traced: Traced) -> None:
    await traced.explain(data=b"no picture")
    assert attributes(traced.span("picture"))["error.type"] == "invalid_image"
    assert traced.span(f"POST {EXPLAIN}").status.is_ok or traced.span(f"POST {EXPLAIN}").status.description is None
    assert "queue" not in traced.names()


async def test_a_picture_given_up_in_the_queue_shows_that_it_waited(traced: Traced) -> None:
    traced.application.worker.held = True
    leaving = Exchange(EXPLAIN, png(), content_type="image/png")
    task = leaving.start(traced.application)
    await until(lambda: traced.application.worker.running)
    await traced.explain({"X-Request-Timeout-Ms": "50"})
    leaving.gone.set()
    await task
    expired, left = traced.spans("picture")
    assert [attributes(span)["error.type"] for span in (expired, left)] == ["given_up", "given_up"]
    waited = next(span for span in traced.spans("queue") if span.parent == expired.context)
    assert ended(waited) - began(waited) > 1_000_000
    assert [span.parent for span in traced.spans("compute")] == [left.context]


async def test_what_the_caller_does_not_sample_is_not_recorded(traced: Traced) -> None:
    await traced.explain({"traceparent": TRACEPARENT[:-1] + "0"})
    assert traced.names() == set()


async def test_a_batch_is_kept_where_a_picture_in_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_off")
    async with tracing(monkeypatch) as traced:
        await traced.explain()
        assert traced.names() == set()
        await traced.explain({"traceparent": TRACEPARENT})
        assert {"picture", "compute", "batch"} <= traced.names()


async def test_the_log_names_the_trace(traced: Traced, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "camserve.access")
    await traced.explain({"traceparent": TRACEPARENT})
    (line,) = [record.getMessage() for record in caplog.records if record.name == "camserve.access"]
    assert line.endswith(f" {TRACE}")


async def test_the_service_has_a_name_that_the_environment_can_change(monkeypatch: pytest.MonkeyPatch) -> None:
    async with tracing(monkeypatch) as traced:
        await traced.explain()
        assert traced.span("batch").resource.attributes["service.name"] == "camserve"
    monkeypatch.setenv("OTEL_SERVICE_NAME", "mine")
    async with tracing(monkeypatch) as traced:
        await traced.explain()
        assert traced.span("batch").resource.attributes["service.name"] == "mine"


async def test_off_by_default(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "camserve.access")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("FASTAPI_OTEL_AUTO_CONFIGURE", "true")
    monkeypatch.setattr("service.web.otel.make_provider", lambda: pytest.fail("nobody asked for spans"))
    async with faked() as application, application.client() as client:
        response = await client.post(EXPLAIN, content=png(), headers={**IMAGE, "traceparent": TRACEPARENT})
    assert response.status_code == 200
    assert not [record for record in caplog.records if TRACE in record.getMessage()]


def test_without_the_extra_the_start_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "service.web.otel", None)
    with pytest.raises(ServiceError, match=r"camserve\[otel\]"):
        create_app(Settings(tracing=True))


async def test_spans_carry_no_query_strings_keys_or_file_names(monkeypatch: pytest.MonkeyPatch) -> None:
    async with tracing(monkeypatch) as traced, traced.application.client() as client:
        await client.post(
            EXPLAIN,
            params={"target": "predicted", "layer": "conv2"},
            files={"image": ("secret-name.png", png(), "image/png")},
            headers={"Authorization": "Bearer secret-key", "Cookie": "secret=cookie"},
        )
        await client.get("/api/v1/models/pets/classes?q=secret-query")
        said = [(span.name, attributes(span), [event.name for event in span.events]) for span in traced.all()]
    assert len(said) >= 4
    assert "secret" not in str(said)
    assert "?" not in str(said)
    assert not [name for _, told, _ in said for name in told if "query" in name]
