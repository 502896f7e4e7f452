"""Where spans go: over OTLP to a collector. Imported only if tracing is on, for it needs the extra ``otel``.

The SDK reads its own standard variables: endpoint, headers, sampler, name of the service.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult

from service import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opentelemetry.context import Context
    from opentelemetry.trace import Link, SpanKind, TraceState
    from opentelemetry.util.types import Attributes

__all__ = ["make_provider"]


def make_provider() -> TracerProvider:
    """Return a provider of its own, not the process's: nothing but this application makes spans with it."""
    named = Resource({"service.name": "camserve", "service.version": __version__})
    resource = (
        Resource.create().merge(named).merge(OTELResourceDetector().detect())
    )  # the environment has the last word
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.sampler = _WithItsImages(provider.sampler)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


# What may hold options, keys and file names; the route says enough.
_UNTOLD = ("url.path", "url.query", "url.full", "http.url", "http.target", "http.request.method_original")


class _WithItsImages(Sampler):
    """Samples a batch if a picture in it is sampled; decides as ``usual`` otherwise. Drops what is the caller's own."""

    def __init__(self, usual: Sampler) -> None:
        self._usual = usual

    def should_sample(  # noqa: PLR0913  # the SDK's signature
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        """Decide about one span, when it starts."""
        attributes = {name: value for name, value in (attributes or {}).items() if name not in _UNTOLD}
        if any(link.context.trace_flags.sampled for link in links or ()):
            return SamplingResult(Decision.RECORD_AND_SAMPLE, attributes, trace_state)
        return self._usual.should_sample(parent_context, trace_id, name, kind, attributes, links, trace_state)

    def get_description(self) -> str:
        """Name the rule."""
        return f"WithItsPictures({self._usual.get_description()})"
