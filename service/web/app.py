"""The application: wires engine, protocols, pages and middleware together. Nothing is constructed at import."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from service import __version__
from service.engine.explainer import Explainer
from service.engine.lifecycle import Lifecycle
from service.engine.spans import Spans
from service.engine.worker_process import WorkerProcess
from service.errors import InvalidOption, MethodNotAllowed, NotFound, ServiceError, closest
from service.jobs.evaluations import Evaluations
from service.metrics import Metrics
from service.protocols.cvat.protocol import CVAT, at_root
from service.protocols.kserve_v1.protocol import KSERVE_V1
from service.protocols.kserve_v1.vertex_ai import VERTEX_AI
from service.protocols.label_studio.protocol import LABEL_STUDIO
from service.protocols.native.protocol import NATIVE
from service.protocols.open_inference.protocol import OPEN_INFERENCE
from service.protocols.torchserve.protocol import TORCHSERVE
from service.settings import is_loopback
from service.web import pages
from service.web.headers import SecurityHeaders
from service.web.health import OPERATIONS
from service.web.hosts import HostCheck
from service.web.imports import Imports
from service.web.keys import Authentication
from service.web.middleware import AdmissionControl, BodyLimit, RequestContext, error_response, route_path
from service.web.openapi import document
from service.web.protocol_table import ProtocolTable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from fastapi.telemetry import TelemetryConfig
    from opentelemetry.sdk.trace import TracerProvider

    from service.engine.worker import Launcher
    from service.protocols import WireProtocol
    from service.settings import Settings

__all__ = ["PROTOCOLS", "create_app"]

# What the service speaks, one row each.
PROTOCOLS: tuple[WireProtocol, ...] = (NATIVE, KSERVE_V1, VERTEX_AI, OPEN_INFERENCE, TORCHSERVE, LABEL_STUDIO, CVAT)

# What it has besides, whatever it speaks.
_ALWAYS = (OPERATIONS, pages.PAGES)


def create_app(
    settings: Settings, launch: Launcher = WorkerProcess, protocols: Sequence[WireProtocol] = PROTOCOLS
) -> FastAPI:
    """Build the application; workers start with its lifespan.

    Args:
        settings: all of them.
        launch: makes workers.
        protocols: what it can speak; the settings may leave out some.
    """
    spoken = _spoken(settings, protocols)
    rows = (*spoken, *(at_root(settings) if CVAT in spoken else ()), *_ALWAYS)
    table = ProtocolTable(rows, off=[row for row in protocols if row not in spoken])
    imports = Imports(table.rows)
    metrics, lifecycle = Metrics(), Lifecycle(settings.drain_delay_s, settings.drain_timeout_s)
    provider = _tracer_provider(settings)
    state = {"settings": settings, "metrics": metrics, "lifecycle": lifecycle, "protocols": table}

    def make_explainer() -> Explainer:
        spans = Spans(provider.get_tracer("camserve", __version__) if provider else None)
        return Explainer(settings, metrics, spans, launch, lifecycle)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[dict[str, Any]]:
        async with AsyncExitStack() as at_the_end:
            if provider:
                at_the_end.push_async_callback(asyncio.to_thread, provider.shutdown)  # sends what is left
            explainer = make_explainer()
            evaluations = Evaluations(settings, metrics, explainer)
            try:
                await explainer.start()
                at_the_end.push_async_callback(explainer.stop)
                imports.start()
                at_the_end.push_async_callback(imports.stop)
                await evaluations.start()
            except ServiceError as refused:
                app.state.refused = refused  # in words, for the host; ASGI passes on a traceback
                raise
            at_the_end.push_async_callback(evaluations.stop)
            lifecycle.start()
            at_the_end.push_async_callback(lifecycle.drain, delay_s=0)  # a host that ends this sends no more requests
            shared = {
                row.name: await at_the_end.enter_async_context(row.resources(settings))
                for row in table.rows
                if row.resources is not None
            }
            yield {**state, **shared, "explainer": explainer, "evaluations": evaluations}

    app = FastAPI(
        title="camserve",
        version=__version__,
        lifespan=lifespan,
        openapi_url=None,  # FastAPI would build the document in the event loop: service/web/pages.py
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # it would send people to whatever the Host header says, and without a proxy's TLS
        middleware=_middleware(settings, metrics, lifecycle, table, imports),
        telemetry=_telemetry(provider, table),
    )
    app.state.lifecycle, app.state.refused = lifecycle, None
    for row in table.rows:
        app.router.routes.extend(row.router.routes)  # a router within one is matched twice, at each request
    app.mount(f"{pages.STATIC}/swagger", pages.swagger_files())
    app.mount(pages.STATIC, pages.static_files())
    app.add_exception_handler(ServiceError, _on_service_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, partial(_on_http_error, table))
    app.openapi = _cached_document(app, table)  # type: ignore[method-assign]  # FastAPI's documented way
    return app


def _spoken(settings: Settings, protocols: Sequence[WireProtocol]) -> list[WireProtocol]:
    """Return the protocols that are on; the native one always is, for the page and the clients speak it."""
    on = settings.protocols
    return [row for row in protocols if row is NATIVE or "all" in on or row.name in on]


def _middleware(
    settings: Settings, metrics: Metrics, lifecycle: Lifecycle, table: ProtocolTable, imports: Imports
) -> list[Middleware]:
    """Return what a request passes on its way to a route, outermost first."""
    return [
        Middleware(
            SecurityHeaders, embedded=pages.EMBED, public=pages.STATIC, frame_ancestors=settings.frame_ancestors
        ),
        *_cross_origin(settings),
        Middleware(RequestContext, metrics=metrics, table=table),
        *_host_check(settings),
        Middleware(AdmissionControl, lifecycle=lifecycle, table=table, imports=imports),
        Middleware(Authentication, table=table, keys=settings.keys),
        Middleware(BodyLimit, table=table, settings=settings),
    ]


def _host_check(settings: Settings) -> list[Middleware]:
    """Where everybody on this machine may ask, and nobody else can, keep pages in its browsers out."""
    if settings.keys or not is_loopback(settings.host):
        return []
    return [Middleware(HostCheck, hosts=settings.allowed_hosts, origins=settings.cors_origins, public=pages.STATIC)]


def _cross_origin(settings: Settings) -> list[Middleware]:
    """Let pages of the listed origins read answers; around everything that answers, so that they read errors, too."""
    if not settings.cors_origins:
        return []
    options: dict[str, Any] = {
        "allow_origins": settings.cors_origins,
        "allow_methods": ("GET", "POST", "DELETE", *(("PUT",) if settings.management else ())),
        "allow_headers": ("Authorization", "X-Request-ID", "X-Request-Timeout-Ms"),
        "expose_headers": ("X-Request-ID", "Retry-After"),
    }
    return [Middleware(CORSMiddleware, **options)]


def _tracer_provider(settings: Settings) -> TracerProvider | None:
    if not settings.tracing:
        return None
    try:
        from service.web.otel import make_provider  # noqa: PLC0415  # costs time and needs the extra
    except ImportError as error:
        raise ServiceError(
            "Tracing needs OpenTelemetry's SDK: pip install 'camserve[otel]', or switch it off."
        ) from error
    return make_provider()


def _telemetry(provider: TracerProvider | None, table: ProtocolTable) -> TelemetryConfig:
    """Let FastAPI make the spans of requests, and nothing else: the metrics and logs are our own."""
    return {
        "tracing": provider is not None,
        "tracer_provider": provider,
        "operation_spans": False,
        "metrics": False,
        "logs": False,
        "auto_configure": False,
        "exclude": lambda scope: table.is_probe(route_path(scope)),
    }


def _cached_document(app: FastAPI, table: ProtocolTable) -> Any:
    building = Lock()

    def openapi() -> dict[str, Any]:
        with building:
            if app.openapi_schema is None:
                app.openapi_schema = document(app, table)
        return app.openapi_schema

    return openapi


async def _on_service_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)
    return error_response(request, error)


async def _on_validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    problems = "; ".join(f"{detail['loc'][-1]}: {detail['msg']}" for detail in error.errors()[:5])
    return error_response(request, InvalidOption(f"{problems}."))


async def _on_http_error(table: ProtocolTable, request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        response = error_response(request, MethodNotAllowed(f"{request.method} is not possible here."))
        response.headers["Allow"] = (error.headers or {}).get("Allow", "")
        return response
    if (off := table.protocol_off(route_path(request.scope))) is not None:
        message = (
            f"The protocol {off.name} is off here. Whoever runs this service can name it in the setting protocols."
        )
        return error_response(request, NotFound(message))
    suggestions = closest(request.url.path, table.paths())
    where = f" Did you mean {' or '.join(suggestions)}?" if suggestions else " GET /docs lists the routes."
    return error_response(request, NotFound(f"There is nothing at this path.{where}", suggestions=suggestions))
