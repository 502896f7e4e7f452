"""What browsers are told with every answer."""

from __future__ import annotations

import base64
import hashlib
import re
from typing import TYPE_CHECKING

import pytest
from pydantic import ValidationError

from service.evaluation.style import STYLE
from service.settings import load_settings
from tests.web.application import faked
from tests.web.test_pages import LOADED
from tests.web.test_problems import CASES

if TYPE_CHECKING:
    import httpx

    from tests.web.application import Application

PAGES = ["/", "/docs", "/errors", "/embed"]
FILES = ["/static/page/main.js", "/static/favicon.svg", "/static/samples.json", "/static/swagger/swagger-ui.css"]
REST = ["/livez", "/readyz", "/version", "/metrics", "/openapi.json", "/api/v1/models", "/nowhere"]


def policy(response: httpx.Response) -> dict[str, list[str]]:
    """The content security policy: directive to sources."""
    directives = [part.split() for part in response.headers["Content-Security-Policy"].split(";")]
    assert len({name for name, *_ in directives}) == len(directives), "a second one of a name would be ignored"
    return {name: sources for name, *sources in directives}


def check(response: httpx.Response, path: str) -> None:
    """What every answer carries, whatever it is."""
    allowed = policy(response)
    assert allowed["default-src"] == allowed["script-src"] == ["'self'"]
    digest = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    assert allowed["style-src"] == ["'self'", f"'sha256-{digest}'"]  # the report's, which the page opens
    assert allowed["object-src"] == allowed["base-uri"] == allowed["form-action"] == ["'none'"]
    assert not {"'unsafe-inline'", "'unsafe-eval'", "*"} & {each for sources in allowed.values() for each in sources}
    assert allowed["frame-ancestors"] == (["'self'"] if path == "/embed" else ["'none'"])
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Referrer-Policy"] == "no-referrer"
    assert response.headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert "camera=()" in response.headers["Permissions-Policy"]
    public = path.startswith("/static/")
    assert response.headers["Cross-Origin-Resource-Policy"] == ("cross-origin" if public else "same-origin")
    assert response.headers.get("Access-Control-Allow-Origin") == ("*" if public else None)


@pytest.mark.parametrize("path", [*PAGES, *FILES, *REST])
async def test_every_answer_has_them(client: httpx.AsyncClient, path: str) -> None:
    check(await client.get(path), path)


@pytest.mark.parametrize("code", CASES)
async def test_every_error_has_them(application: Application, client: httpx.AsyncClient, code: str) -> None:
    case = CASES[code]
    case.before(application)
    response = await client.request(
        case.method, case.path, params=case.query, content=case.content, headers=case.headers
    )
    assert response.json()["code"] == code
    check(response, case.path)


async def test_an_unexpected_error_has_them(
    application: Application, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(application.pool, "statuses", None)
    response = await client.get("/readyz")
    assert response.status_code == 500
    check(response, "/readyz")


@pytest.mark.parametrize("path", PAGES)
async def test_pages_keep_to_the_policy(client: httpx.AsyncClient, path: str) -> None:
    page = (await client.get(path)).text
    assert not re.search(r"<script(?![^>]*\bsrc=)", page), "an inline script would not run"
    assert not re.search(r"<style\b|<[^>]+\s(style|on[a-z]+)=", page), "an inline style or handler would be ignored"
    assert not re.search(r"<(base|object|embed|iframe)\b", page)
    assert not re.search(r"<(form|button|input)\b[^>]*\s(action|formaction)=", page), "no form is sent anywhere"
    for address in LOADED.findall(page):
        assert not re.match(r"[a-z+]+:", address), "nothing is loaded from elsewhere"


async def test_other_origins_may_show_the_embedded_page_in_a_frame_and_nothing_else() -> None:
    async with (
        faked(frame_ancestors="https://labels.example https://*.example.org:8443") as application,
        application.client() as client,
    ):
        allowed = policy(await client.get("/embed"))["frame-ancestors"]
        assert allowed == ["'self'", "https://labels.example", "https://*.example.org:8443"]
        for path in ("/", "/embed/", "/embedded", "/docs", "/api/v1/models"):
            assert policy(await client.get(path))["frame-ancestors"] == ["'none'"]


@pytest.mark.parametrize("origin", ["*", "http://127.0.0.1:9000", "https://a.example", "https://*.a.example:*"])
def test_origins(origin: str) -> None:
    assert load_settings(frame_ancestors=origin).frame_ancestors == (origin,)


def test_origins_are_kept_as_browsers_write_them() -> None:
    assert load_settings(cors_origins="https://Labels.Example:8443").cors_origins == ("https://labels.example:8443",)


@pytest.mark.parametrize(
    "origin", ["a.example", "https://a.example/", "https://a.example;script-src", "ftp://a.example", "'none'", "https:"]
)
def test_what_is_no_origin_is_refused(origin: str) -> None:
    with pytest.raises(ValidationError, match="is no origin"):
        load_settings(frame_ancestors=[origin])
