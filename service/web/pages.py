"""Pages for people: the page itself, the API reference, and the meaning of errors. All of them work offline."""

from __future__ import annotations

import asyncio
import html
import importlib.util
import inspect
from functools import cache
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles

from service.errors import NotFound, ServiceError
from service.http.requests import wants_json
from service.problems import STATUS
from service.protocols import WireProtocol, operation_id

__all__ = ["EMBED", "PAGES", "STATIC", "static_files", "swagger_files"]

EMBED, STATIC = "/embed", "/static"

router = APIRouter(include_in_schema=False, generate_unique_id_function=operation_id)

_STATIC = Path(__file__).parent / "static"
_SAMPLES = Path(__file__).parents[1] / "demo" / "samples"


class _CurrentFiles(StaticFiles):
    """Has browsers ask each time whether a file is still the same: half an old page and half a new one fail."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        """As ``StaticFiles``, with a header."""
        response: Response = super().file_response(*args, **kwargs)
        response.headers["Cache-Control"] = "no-cache"
        return response


def static_files() -> StaticFiles:
    """Serve the page's own files."""
    return _CurrentFiles(directory=_STATIC)


def swagger_files() -> StaticFiles:
    """Serve Swagger UI from the installed package fastapi-offline; nothing of that package is imported."""
    package = importlib.util.find_spec("fastapi_offline")
    assert package is not None
    assert package.origin is not None
    return StaticFiles(directory=Path(package.origin).parent / "static")


@router.head("/")
@router.get("/")
async def page(request: Request) -> Response:
    """The page; or, for whoever asks for JSON, that the process is alive, which KServe's clients ask for here."""
    headers = {"Cache-Control": "no-cache", "Vary": "Accept"}
    if wants_json(request):
        return JSONResponse({"status": "alive"}, headers=headers)
    return FileResponse(_STATIC / "index.html", headers=headers)


@router.get(EMBED)
async def embed() -> FileResponse:
    """The viewer alone, for frames in pages of other origins: docs/embedding.md."""
    return FileResponse(_STATIC / "embed.html", headers={"Cache-Control": "no-cache"})


@router.get(f"{STATIC}/samples.json")
async def samples() -> list[dict[str, str]]:
    """The sample pictures, in the order in which the page shows them."""
    return [{"name": name, "title": _title(path.stem)} for name, path in _samples().items()]


@router.get(f"{STATIC}/samples/{{name}}")
async def sample(name: str) -> FileResponse:
    """A sample picture."""
    if name not in _samples():
        raise NotFound("There is no such sample. GET /static/samples.json lists them.")
    return FileResponse(_samples()[name])


@cache
def _samples() -> dict[str, Path]:
    return {path.name: path for path in sorted(_SAMPLES.glob("*.png")) if not path.name.endswith(".mask.png")}


def _title(stem: str) -> str:
    kind, label = stem.split("-", 1)
    return f"{label} with a watermark" if kind == "watermark" else label


@router.get("/docs")
async def docs() -> FileResponse:
    """The API reference."""
    return FileResponse(_STATIC / "reference.html")


@router.get("/openapi.json")
async def openapi(request: Request) -> Response:
    """The OpenAPI document; half a second of work when it is first asked for, in a thread."""
    return await asyncio.to_thread(_document, request.app, request.scope.get("root_path", "").rstrip("/"))


def _document(app: FastAPI, root_path: str) -> Response:
    """Return the document, for an application that a server has mounted below ``root_path``."""
    mounted = {"servers": [{"url": root_path}]} if root_path else {}
    return JSONResponse(app.openapi() | mounted)


@router.get("/errors")
async def errors() -> HTMLResponse:
    """What every error code means: where the `type` of a problem leads."""
    return HTMLResponse(_errors_page())


@cache
def _errors_page() -> str:
    by_code = {error.code: error for error in _classes(ServiceError) if "code" in vars(error)}
    sections = [
        f'<h2 id="{code.replace("_", "-")}">{error.title} <small>{STATUS[code]} {code}</small></h2>'
        f"<p>{html.escape(inspect.getdoc(error) or '')}</p>"
        for code, error in by_code.items()
    ]
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>camserve: errors</title>'
        '<link rel="icon" href="static/favicon.svg" type="image/svg+xml">'
        '<link rel="stylesheet" href="static/text.css"><h1>Errors</h1>'
        "<p>Every error is a problem document (RFC 9457) with a stable <code>code</code>.</p>"
        f"{''.join(sections)}</html>"
    )


def _classes(root: type[ServiceError]) -> list[type[ServiceError]]:
    return [root, *(found for child in root.__subclasses__() for found in _classes(child))]


PAGES = WireProtocol(
    name="pages",
    router=router,
    open_paths=("/", "/docs", EMBED, "/errors", "/openapi.json", f"{STATIC}/{{path:path}}"),
)
