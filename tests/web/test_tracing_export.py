"""A real server sends its spans to a collector: the protocol, the environment's say, and the last spans at the end."""

from __future__ import annotations

import gzip
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.server import running_server
from tests.toys import png

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.proto.trace.v1.trace_pb2 import Span

pytestmark = pytest.mark.slow

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@contextmanager
def collector() -> Iterator[tuple[str, list[Span]]]:
    """An OTLP collector: its address, and the spans that it got."""
    spans: list[Span] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            export = ExportTraceServiceRequest.FromString(body)
            spans.extend(span for each in export.resource_spans for scope in each.scope_spans for span in scope.spans)
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", spans
        server.shutdown()
        thread.join()


def test_spans_arrive_at_the_collector_that_the_environment_names(monkeypatch: pytest.MonkeyPatch) -> None:
    with collector() as (address, spans):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", address)
        with running_server("--tracing", "--model", "shapes", "--device", "cpu") as server:
            headers = {"Content-Type": "image/png", "traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}
            response = httpx.post(f"{server.url}/api/v1/explain", content=png(), headers=headers, timeout=60)
            assert response.status_code == 200
    found = {span.name: span for span in spans if span.trace_id.hex() == TRACE}
    assert found.keys() == {"POST /api/v1/explain", "picture", "decode", "queue", "compute", "render"}
    (batch,) = [span for span in spans if span.name == "batch"]
    assert [link.span_id for link in batch.links] == [found["picture"].span_id]
    assert [link.span_id for link in found["compute"].links] == [batch.span_id]


def test_a_collector_that_is_not_there_disturbs_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "2")  # how long the end may take
    with running_server("--tracing", "--model", "shapes", "--device", "cpu") as server:
        response = httpx.post(
            f"{server.url}/api/v1/predict", content=png(), headers={"Content-Type": "image/png"}, timeout=60
        )
        assert response.status_code == 200
    # running_server waits for the end: it would complain of a server that does not stop.
