"""Which pages of other origins may read answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from pydantic import ValidationError

from service.settings import load_settings
from tests.toys import png
from tests.web.application import faked
from tests.web.test_keys import bearer, key
from tests.web.test_problems import CASES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import httpx

    from tests.web.application import Application

LABELS = "https://labels.example"
ALLOWED = "Access-Control-Allow-Origin"
EXPLAIN = "/api/v1/explain"


@pytest.fixture
async def application() -> AsyncIterator[Application]:
    limits: dict[str, Any] = {"max_queue": 2, "max_images": 2, "max_body_bytes": 100_000, "max_image_pixels": 10_000}
    async with faked(cors_origins=f"{LABELS} http://127.0.0.1:9000", **limits) as application:
        yield application


@pytest.fixture
async def guarded() -> AsyncIterator[httpx.AsyncClient]:
    """An application that also asks for keys."""
    async with (
        faked(cors_origins=[LABELS], keys=(key("asks"),)) as application,
        application.client() as client,
    ):
        yield client


async def ask_first(client: httpx.AsyncClient, origin: str, headers: str = "authorization") -> httpx.Response:
    """What a browser sends before a request that is not a plain one."""
    asked = {"Origin": origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": headers}
    return await client.options(EXPLAIN, headers=asked)


@pytest.mark.parametrize("origin", [LABELS, "http://127.0.0.1:9000"])
async def test_a_listed_origin_reads_answers(client: httpx.AsyncClient, origin: str) -> None:
    headers = {"Origin": origin, "Content-Type": "image/png"}
    response = await client.post(EXPLAIN, content=png(), headers=headers)
    assert response.status_code == 200
    assert response.headers[ALLOWED] == origin
    assert set(response.headers["Access-Control-Expose-Headers"].split(", ")) == {"X-Request-ID", "Retry-After"}
    assert "Access-Control-Allow-Credentials" not in response.headers
    assert "Origin" in response.headers["Vary"]


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "http://labels.example", f"{LABELS}.evil.example", f"{LABELS}:444", "null"]
)
async def test_others_do_not(client: httpx.AsyncClient, origin: str) -> None:
    response = await client.get("/api/v1/methods", headers={"Origin": origin})
    assert ALLOWED not in response.headers
    before = await ask_first(client, origin)
    assert before.status_code == 400
    assert ALLOWED not in before.headers


@pytest.mark.parametrize("code", [code for code in CASES if code != "origin_not_allowed"])  # this one is
async def test_errors_are_readable_too(application: Application, client: httpx.AsyncClient, code: str) -> None:
    case = CASES[code]
    case.before(application)
    headers = {**case.headers, "Origin": LABELS}
    response = await client.request(case.method, case.path, params=case.query, content=case.content, headers=headers)
    assert response.json()["code"] == code
    assert response.headers[ALLOWED] == LABELS


async def test_an_unexpected_error_is_readable_too(
    application: Application, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(application.pool, "statuses", None)
    response = await client.get("/readyz", headers={"Origin": LABELS})
    assert response.status_code == 500
    assert response.headers[ALLOWED] == LABELS


async def test_what_is_asked_before_needs_no_key_and_carries_the_security_headers(guarded: httpx.AsyncClient) -> None:
    wanted = "authorization, content-type, x-request-id, x-request-timeout-ms"
    response = await ask_first(guarded, LABELS, wanted)
    assert response.status_code == 200
    assert response.headers[ALLOWED] == LABELS
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    allowed = {name.strip().lower() for name in response.headers["Access-Control-Allow-Headers"].split(",")}
    assert set(wanted.split(", ")) <= allowed
    assert (await ask_first(guarded, LABELS, "x-other")).status_code == 400


async def test_a_refusal_at_the_door_is_readable_too(guarded: httpx.AsyncClient) -> None:
    for headers, status in (({}, 401), (bearer("asks"), 200)):
        response = await guarded.get("/api/v1/methods", headers={"Origin": LABELS, **headers})
        assert response.status_code == status
        assert response.headers[ALLOWED] == LABELS


async def test_by_default_nobody_reads_answers() -> None:
    async with faked() as application, application.client() as client:
        assert ALLOWED not in (await client.get("/api/v1/methods", headers={"Origin": LABELS})).headers
        assert ALLOWED not in (await ask_first(client, LABELS)).headers


async def test_everybody_may_load_static_files_and_read_answers_where_any_origin_may() -> None:
    async with faked(cors_origins="*") as application, application.client() as client:
        for path in ("/api/v1/methods", "/static/page/main.js"):
            assert (await client.get(path, headers={"Origin": LABELS})).headers.get_list(ALLOWED) == ["*"]


@pytest.mark.parametrize(
    ("origin", "why"),
    [
        ("https://*.labels.example", "wildcard"),
        ("https://labels.example:*", "wildcard"),
        ("labels.example", "no origin"),
    ],
)
def test_origins_are_named_one_by_one(origin: str, why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        load_settings(cors_origins=[origin])
