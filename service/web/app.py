"""The application: wires engine, protocols, pages and middleware together. Nothing is constructed at import."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route

from service import __version__
from service.engine.explainer import Explainer
from service.engine.lifecycle import Lifecycle
from service.engine.spans import Spans
from service.engine.worker_process import WorkerProcess
from service.errors import InvalidOption, MethodNotAllowed, NotFound, ServiceError, closest
from service.metrics import Metrics
from service.protocols.native import routes as native
from service.web import health, pages
from service.web.headers import SecurityHeaders
from service.web.keys import Authentication
from service.web.middleware import PROBES, AdmissionControl, BodyLimit, RequestContext, problem_response, route_path
from service.web.openapi import document

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from fastapi.routing import APIRoute
    from fastapi.telemetry import TelemetryConfig
    from opentelemetry.sdk.trace import TracerProvider

    from service.engine.worker import Launcher
    from service.settings import Settings

__all__ = ["create_app"]

_ROUTERS = (native.router, health.router, pages.router)


def create_app(settings: Settings, launch: Launcher = WorkerProcess) -> FastAPI:
    """Build the application; workers, made by ``launch``, start with its lifespan."""
    metrics, lifecycle = Metrics(), Lifecycle(settings.drain_delay_s, settings.drain_timeout_s)
    provider = _tracer_provider(settings)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[dict[str, Any]]:
        spans = Spans(provider.get_tracer("camserve", __version__) if provider else None)
        explainer = Explainer(settings, metrics, spans, launch, lifecycle)
        await explainer.start()
        lifecycle.start()
        try:
            yield {"settings": settings, "explainer": explainer, "metrics": metrics, "lifecycle": lifecycle}
        finally:
            await lifecycle.drain(delay_s=0)  # whoever ends the lifespan has stopped sending requests
            await explainer.stop()
            if provider:
                await asyncio.to_thread(provider.shutdown)  # sends what is left

    app = FastAPI(
        title="camserve",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # it would send people to whatever the Host header says, and without a proxy's TLS
        middleware=[
            Middleware(SecurityHeaders, frame_ancestors=settings.frame_ancestors),
            *_cross_origin(settings),
            Middleware(RequestContext, metrics=metrics),
            Middleware(AdmissionControl, lifecycle=lifecycle),
            Middleware(Authentication, keys=settings.keys),
            Middleware(
                BodyLimit,
                max_bytes=settings.max_body_bytes,
                max_inflight=settings.max_inflight_bytes,
                stall_s=settings.stall_timeout_s,
                whole_s=settings.transfer_timeout_s,
            ),
        ],
        generate_unique_id_function=_operation_id,
        telemetry=_telemetry(provider),
    )
    for router in _ROUTERS:
        app.include_router(router)
    app.mount("/static/swagger", pages.swagger_files())
    app.mount("/static", pages.static_files())
    app.add_exception_handler(ServiceError, _on_service_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.state.lifecycle = lifecycle
    app.openapi = _cached_document(app)  # type: ignore[method-assign]  # FastAPI's documented way
    return app


def _cross_origin(settings: Settings) -> list[Middleware]:
    """Let pages of the listed origins read answers; around everything that answers, so that they read errors, too."""
    if not settings.cors_origins:
        return []
    options: dict[str, Any] = {
        "allow_origins": settings.cors_origins,
        "allow_methods": ("GET", "POST"),
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


def _telemetry(provider: TracerProvider | None) -> TelemetryConfig:
    """Let FastAPI make the spans of requests, and nothing else: the metrics and logs are our own."""
    return {
        "tracing": provider is not None,
        "tracer_provider": provider,
        "operation_spans": False,
        "metrics": False,
        "logs": False,
        "auto_configure": False,
        "exclude": lambda scope: route_path(scope) in PROBES,
    }


def _operation_id(route: APIRoute) -> str:
    return route.name


def _cached_document(app: FastAPI) -> Any:
    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = document(app)
        return app.openapi_schema

    return openapi


async def _on_service_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)
    return problem_response(request, error)


async def _on_validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    problems = "; ".join(f"{detail['loc'][-1]}: {detail['msg']}" for detail in error.errors()[:5])
    return problem_response(request, InvalidOption(f"{problems}."))


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        response = problem_response(request, MethodNotAllowed(f"{request.method} is not possible here."))
        response.headers["Allow"] = (error.headers or {}).get("Allow", "")
        return response
    known = [route.path for router in _ROUTERS for route in router.routes if isinstance(route, Route)]
    suggestions = closest(request.url.path, known)
    where = f" Did you mean {' or '.join(suggestions)}?" if suggestions else " GET /docs lists the routes."
    return problem_response(request, NotFound(f"There is nothing at this path.{where}", suggestions=suggestions))
