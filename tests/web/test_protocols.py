"""A protocol is a row: with a made-up one in the table, everything around the routes speaks it on its paths."""

from __future__ import annotations

import logging
import pkgutil
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest
from fastapi import APIRouter
from starlette.applications import Starlette
from starlette.routing import Mount

import service.protocols
from service import web
from service.problems import MEDIA_TYPE, STATUS
from service.protocols import WireProtocol, key_scope
from service.settings import KeyConfig, Settings
from service.web.app import _ALWAYS, PROTOCOLS, create_app
from service.web.keys import digest_of
from service.web.protocol_table import ProtocolTable, routes_of
from tests.documents import inlined
from tests.toys import png
from tests.web.application import Application, Exchange, faked, until
from tests.web.made_up import MADE_UP
from tests.web.sockets import Reply, head, listening
from tests.web.test_headers import check

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import httpx
    from fastapi import FastAPI


WITH_IT = (*PROTOCOLS, MADE_UP)
LOOK, HELLO = "/made-up/look", "/made-up/hello"
PICTURE = png()


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest.fixture
async def application() -> AsyncIterator[Application]:
    keys = (
        KeyConfig(name="asks", sha256=digest_of("asks")),
        KeyConfig(name="watches", sha256=digest_of("watches"), scopes=frozenset({"metrics"})),
        KeyConfig(name="seldom", sha256=digest_of("seldom"), requests_per_minute=1),
    )
    async with faked(WITH_IT, keys=keys, max_queue=2, max_body_bytes=50_000, max_inflight_bytes=50_000) as application:
        yield application


@pytest.fixture
async def client(application: Application) -> AsyncIterator[httpx.AsyncClient]:
    async with application.client(headers=bearer("asks")) as client:
        yield client


def says_oops(response: httpx.Response, code: str) -> None:
    """The response is the error ``code`` in the made-up protocol's words, with all that goes with any error."""
    assert (response.status_code, response.json()["oops"]) == (STATUS[code], code)
    assert response.headers["Content-Type"] == "application/oops+json"
    assert response.json()["id"] == response.headers["X-Request-ID"]
    assert ("Retry-After" in response.headers) == (response.status_code in {429, 503})
    check(response, LOOK)


# -- the made-up protocol ---------------------------------------------------------------------------------------------


async def test_it_is_answered(client: httpx.AsyncClient) -> None:
    response = await client.post(LOOK, content=PICTURE)
    assert (response.status_code, response.json()) == (200, {"saw": "dog"})


@pytest.mark.parametrize(("token", "code"), [("nobody's", "unauthorized"), ("watches", "forbidden")])
async def test_keys_are_asked_for(application: Application, client: httpx.AsyncClient, token: str, code: str) -> None:
    response = await client.post(LOOK, content=PICTURE, headers=bearer(token))
    says_oops(response, code)
    assert ("WWW-Authenticate" in response.headers) == (code == "unauthorized")
    assert application.metric("camserve_rejected_total", code=code) == 1


async def test_its_open_path_is_open_and_nothing_else_is(client: httpx.AsyncClient) -> None:
    assert (await client.get(HELLO, headers=bearer("nobody's"))).status_code == 200
    says_oops(await client.get(f"{HELLO}/again", headers=bearer("nobody's")), "unauthorized")


async def test_keys_are_limited(client: httpx.AsyncClient) -> None:
    assert (await client.post(LOOK, content=PICTURE, headers=bearer("seldom"))).status_code == 200
    says_oops(await client.post(LOOK, content=PICTURE, headers=bearer("seldom")), "rate_limited")


@pytest.mark.parametrize("announced", [True, False])
async def test_bodies_are_limited(client: httpx.AsyncClient, announced: bool) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(6):
            yield bytes(10_000)

    says_oops(await client.post(LOOK, content=bytes(60_000) if announced else pieces()), "body_too_large")


async def test_bodies_together_are_limited(application: Application, client: httpx.AsyncClient) -> None:
    first = Exchange(LOOK, bytes(40_000), complete=False, authorization="Bearer asks")
    task = first.start(application)
    await until(lambda: first.reads > 1)
    says_oops(await client.post(LOOK, content=bytes(20_000)), "overloaded")
    first.gone.set()
    await task


async def test_the_queue_is_limited(application: Application, client: httpx.AsyncClient) -> None:
    application.explainer.admission.inside = 2
    says_oops(await client.post(LOOK, content=PICTURE), "overloaded")


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("GET", "/made-up/nothing", "not_found"),
        ("GET", "/made-up", "not_found"),
        ("GET", LOOK, "method_not_allowed"),
        ("GET", f"{HELLO}?times=often", "invalid_option"),
        ("POST", LOOK, "invalid_image"),
    ],
)
async def test_mistakes_are_named(client: httpx.AsyncClient, method: str, path: str, code: str) -> None:
    response = await client.request(method, path, content=b"no picture")
    says_oops(response, code)
    assert response.headers.get("Allow") == ("POST" if code == "method_not_allowed" else None)


async def test_the_unexpected_is_logged_and_says_nothing_internal(
    application: Application, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(application.explainer, "answer", None)
    says_oops(await client.post(LOOK, content=PICTURE), "internal_error")
    assert application.metric("camserve_requests_total", route=LOOK, status="500") == 1


async def test_while_draining_new_requests_are_refused_and_its_probe_is_answered(
    application: Application, client: httpx.AsyncClient
) -> None:
    await application.lifecycle.drain()
    says_oops(await client.post(LOOK, content=PICTURE), "not_ready")
    assert (await client.get(HELLO)).status_code == 200


async def test_requests_are_counted_by_route(
    application: Application, client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "camserve.access")
    await client.post(LOOK, content=PICTURE)
    await client.get(HELLO)
    await client.get("/made-up/nothing")
    for route, status in ((LOOK, "200"), (HELLO, "200"), ("unknown", "404")):
        assert application.metric("camserve_requests_total", route=route, status=status) == 1
    levels = {getattr(record, "route", None): record.levelname for record in caplog.records}
    assert (levels[LOOK], levels[HELLO]) == ("INFO", "DEBUG")


async def test_other_paths_keep_their_own_errors(client: httpx.AsyncClient) -> None:
    for path in ("/made-upon", "/nothing", "/api/v1/nothing", "/made-u", "//made-up/look"):
        response = await client.get(path)
        assert (response.status_code, response.headers["Content-Type"]) == (404, MEDIA_TYPE)


async def test_below_a_prefix_it_speaks_the_same(application: Application) -> None:
    exchange = Exchange(f"/cam{LOOK}", PICTURE, authorization="Bearer wrong")
    exchange.scope["root_path"] = "/cam"
    await exchange.start(application)
    assert exchange.status == 401
    assert b'"oops"' in exchange.sent[-1]["body"]


async def test_mounted_below_a_path_with_names_of_its_own_it_answers_as_well() -> None:
    async with faked() as application:
        outer = Starlette(routes=[Mount("/of/{tenant}", application.app)])
        async with Application(cast("FastAPI", outer), application.state).client() as client:
            for path in ("/api/v1/predict", "/api/v1/models/pets/predict", "/v2/health/live"):
                ask = client.get if path.endswith("live") else partial(client.post, content=PICTURE)
                response = await ask(f"/of/somebody{path}", headers={"Content-Type": "image/png"})
                assert response.status_code == 200, response.text


def test_the_document_describes_it() -> None:
    document = inlined(create_app(Settings(), protocols=WITH_IT).openapi())
    look, hello = document["paths"][LOOK]["post"], document["paths"][HELLO]["get"]
    assert (look["security"], hello.get("security")) == ([{"key": ["infer"]}, {}], None)
    assert {"200", "401", "403", "429"} <= set(look["responses"])
    content = look["responses"]["429"]["content"]["application/oops+json"]
    assert content["schema"] == {"type": "object", "required": ["oops"]}
    assert content["example"]["oops"] == "overloaded"
    assert set(look["responses"]["429"]["headers"]) == {"X-Request-ID", "Retry-After"}
    assert "Looks." in document["info"]["description"].split("\n\n")[-1]
    without = inlined(create_app(Settings()).openapi())
    assert {path for path in document["paths"] if path not in without["paths"]} == {LOOK, HELLO}
    assert all(document["paths"][path] == without["paths"][path] for path in without["paths"])


# -- its connections --------------------------------------------------------------------------------------------------


def reply_says_oops(reply: Reply, code: str) -> None:
    assert (reply.status, reply.problem["oops"]) == (STATUS[code], code)
    assert reply.headers["content-type"] == "application/oops+json"
    assert reply.headers["connection"] == "close"
    assert reply.problem["id"] == reply.headers["x-request-id"].upper()


CHUNKS = head(LOOK, content_type="image/png", transfer_encoding="chunked")

BROKEN = {
    "large headers": (head(LOOK, x=200_000 * "a"), "headers_too_large"),
    "a long path": (head(f"{LOOK}/{100_000 * 'a'}"), "headers_too_large"),
    "a bad header": (head(LOOK, content_length="5a"), "invalid_request"),
    "a bad chunk": (CHUNKS + b"xyz\r\n", "invalid_request"),
    "a whole address": (head(f"http://camserve.test{LOOK}", content_length="5a"), "invalid_request"),
    "an encoded path": (head(LOOK.replace("m", "%6d"), content_length="5a"), "invalid_request"),
}


@pytest.mark.parametrize(("data", "code"), BROKEN.values(), ids=BROKEN)
async def test_a_request_that_cannot_be_read_is_refused_in_its_words(data: bytes, code: str) -> None:
    async with listening(WITH_IT) as server:
        caller = await server.call()
        caller.writer.write(data)
        reply_says_oops(await caller.reply(), code)


@pytest.mark.parametrize("data", [head(LOOK)[:-2], CHUNKS], ids=["head", "body"])
async def test_a_request_that_does_not_arrive_is_refused_in_its_words(data: bytes) -> None:
    async with listening(WITH_IT, header_timeout_s=0.3, stall_timeout_s=0.3) as server:
        reply_says_oops(await (await server.call(data)).reply(), "request_timeout")


async def test_one_connection_too_many_is_refused_in_its_words() -> None:
    async with listening(WITH_IT, max_connections=1) as server:
        server.application.worker.held = True
        await server.call(head(LOOK, content_length=len(PICTURE)) + PICTURE)
        await until(lambda: server.application.worker.running)
        reply_says_oops(await (await server.call(head(LOOK, content_length=5))).reply(), "overloaded")
        assert (await (await server.call(head(HELLO, "GET"))).reply()).status == 200
        server.application.worker.finish()


async def test_an_error_behind_its_request_is_no_longer_its_own() -> None:
    async with listening(WITH_IT) as server:
        caller = await server.call(head(HELLO, "GET"))
        assert (await caller.reply()).status == 200
        await caller.send(b"\x00garbage\r\n\r\n")
        assert (await caller.reply()).headers["content-type"] == MEDIA_TYPE


async def test_a_request_without_a_path_is_refused_with_a_problem() -> None:
    async with listening(WITH_IT) as server:
        for data in (b"\x16\x03\x01", b"GET  HTTP/1.1\r\nHost: a\r\n\r\n"):
            reply = await (await server.call(data)).reply()
            assert (reply.status, reply.headers["content-type"]) == (400, MEDIA_TYPE)


# -- the table --------------------------------------------------------------------------------------------------------


def row(*prefixes: str, router: APIRouter | None = None, **parts: Any) -> WireProtocol:
    return WireProtocol(name="".join(prefixes), router=router or APIRouter(), prefixes=prefixes, **parts)


def test_the_longest_prefix_counts() -> None:
    outer, inner = row("/a"), row("/a/b", "/c")
    table = ProtocolTable((outer, inner))
    found = {path: table.protocol(path) for path in ("/a", "/a/bc", "/a/b", "/a/b/c", "/c/d", "/ab", "/", "")}
    expected = {"/a": outer, "/a/bc": outer, "/a/b": inner, "/a/b/c": inner, "/c/d": inner}
    assert found == {path: expected.get(path) for path in found}


def guarded() -> ProtocolTable:
    router = APIRouter()

    async def endpoint() -> None: ...

    router.add_api_route("/read", endpoint, methods=["GET"])
    router.add_api_route("/open", endpoint, methods=["GET", "POST"])
    router.add_api_route("/thing/{name}", endpoint, methods=["GET", "PUT", "DELETE"])
    router.add_api_route("/thing/{name}:look", key_scope("infer")(lambda: None), methods=["POST"])
    router.add_api_route("/folder/{path:path}", endpoint, methods=["GET"])
    return ProtocolTable((row("", router=router, open_paths=("/open", "/folder/{path:path}")),))


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("GET", "/read", "infer"),
        ("GET", "/open", None),
        ("POST", "/open", "manage"),
        ("GET", "/thing/a", "infer"),
        ("PUT", "/thing/a", "manage"),
        ("DELETE", "/thing/a", "manage"),
        ("POST", "/thing/a:look", "infer"),
        ("GET", "/folder/a/b", None),
        ("GET", "/folder", "infer"),
        ("OPTIONS", "/open", None),
        ("OPTIONS", "/thing/a", "infer"),
        ("POST", "/read", "infer"),
        ("GET", "/nowhere", "infer"),
        ("POST", "/nowhere", "infer"),
        ("GET", "/read/", "infer"),
        ("GET", "/OPEN", "infer"),
    ],
)
def test_a_route_needs_what_it_declares_and_otherwise_as_much_as_it_may_do(
    method: str, path: str, scope: str | None
) -> None:
    assert guarded().scope_needed(method, path) == scope


def test_a_router_within_a_router_is_refused_for_its_scopes_would_not_be_known() -> None:
    outer, inner = APIRouter(), APIRouter(prefix="/inner")
    inner.add_api_route("/change", lambda: None, methods=["POST"])
    outer.include_router(inner)
    with pytest.raises(TypeError, match="declare each route"):
        ProtocolTable((row("/inner", router=outer),))


# -- the rows that there are ------------------------------------------------------------------------------------------


def test_every_package_of_protocols_has_a_row() -> None:
    assert {each.name for each in PROTOCOLS} == {each.name for each in pkgutil.iter_modules(service.protocols.__path__)}


@pytest.mark.parametrize("each", [*WITH_IT, *_ALWAYS], ids=lambda each: each.name)
def test_a_row_is_of_a_piece(each: WireProtocol) -> None:
    routes = {route.path for route in routes_of(each)}
    table = ProtocolTable((each,))
    if each.prefixes:
        assert all(table.protocol(path) is each for path in routes), "or its errors would not be in its words"
        assert set(each.open_paths) <= routes
    assert set(each.probes) <= routes


@pytest.mark.parametrize("name", ["keys", "middleware", "openapi", "headers", "connection", "protocol_table"])
def test_nothing_around_the_routes_names_a_path(name: str) -> None:
    text = (Path(web.__path__[0]) / f"{name}.py").read_text(encoding="utf-8")
    prefixes = [prefix for each in PROTOCOLS + _ALWAYS for prefix in (*each.prefixes, *each.open_paths)]
    assert not [prefix for prefix in prefixes if f'"{prefix}' in text and prefix != "/"]
