"""API keys: who gets in, for what, and how often."""

from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import ValidationError
from starlette.routing import BaseRoute, Mount, Route

from service.errors import RateLimited
from service.settings import KeyConfig, Settings, load_settings, reason_not_to_listen
from service.web import keys as keys_module
from service.web.app import create_app
from service.web.keys import digest_of, make_key
from tests.toys import png
from tests.web.application import Exchange, faked, until
from tests.web.test_problems import well_put

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator

    import httpx

    from tests.web.application import Application

EXPLAIN = "/api/v1/explain"
OPEN = {"/", "/docs", "/embed", "/errors", "/openapi.json", "/livez", "/readyz", "/version"}
OPEN |= {"/ping", "/v2/health/live", "/v2/health/ready"}
READING = {"GET", "HEAD"}
# What a route needs that is neither open nor read with the scope "infer".
SCOPES = {
    ("GET", "/metrics"): "metrics",
    ("POST", "/api/v1/explain"): "infer",
    ("POST", "/api/v1/models/pets/explain"): "infer",
    ("POST", "/api/v1/predict"): "infer",
    ("POST", "/api/v1/models/pets/predict"): "infer",
    ("POST", "/api/v1/models/pets/versions/1/explain"): "infer",
    ("POST", "/api/v1/models/pets/versions/1/predict"): "infer",
    ("POST", "/integrations/cvat/api/function_invocations"): "infer",
    ("POST", "/api/v1/evaluations"): "infer",
    ("DELETE", "/api/v1/evaluations/x"): "infer",
}
PETS = [f"pets{version}" for version in ("", "/versions/1")]
SCOPES |= {("POST", f"/v1/models/{pets}:{verb}"): "infer" for pets in PETS for verb in ("predict", "explain")}
SCOPES |= {("POST", f"/v1/projects/p/locations/l/endpoints/pets:{verb}"): "infer" for verb in ("predict", "explain")}
SCOPES |= {("POST", f"/v2/models/{pets}/infer"): "infer" for pets in PETS} | {("POST", "/v2/repository/index"): "infer"}
SCOPES |= {
    (method, f"/{verb}/{pets}"): "infer"
    for method in ("POST", "PUT")
    for verb in ("predictions", "explanations")
    for pets in ("pets", "pets/1")
}
LABELS = [f"/integrations/label-studio{place}" for place in ("", "/pets", "/pets/conv1", "/pets/conv1/gradcam")]
SCOPES |= {("POST", f"{place}/{name}"): "infer" for place in LABELS for name in ("setup", "predict")}
# What anybody may post, since it counts for nothing.
OPEN_POSTS = {f"{place}/webhook" for place in LABELS}


def key(name: str, **options: Any) -> KeyConfig:
    """A key that is its own name."""
    return KeyConfig(name=name, sha256=digest_of(name), **options)


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


PICTURE = {"Content-Type": "image/png"}


@pytest.fixture
async def guarded() -> AsyncIterator[Application]:
    """An application with keys; its worker is a fake one."""
    keys = (
        key("asks"),
        key("watches", scopes="metrics"),
        key("manages", scopes="manage"),
        key("everything", scopes="infer+metrics+manage"),
        key("one-at-once", max_concurrent=1),
        key("two-a-minute", requests_per_minute=2),
    )
    async with faked(keys=keys, management=True) as application:
        yield application


@pytest.fixture
async def client(guarded: Application) -> AsyncIterator[httpx.AsyncClient]:
    async with guarded.client() as client:
        yield client


def registered(routes: Iterable[BaseRoute]) -> Iterator[Route | Mount]:
    """Every route, those of included routers too; fails for a kind of route that the door does not know."""
    for route in routes:
        router = getattr(route, "original_router", None)
        if router is not None:
            yield from registered(router.routes)
        else:
            assert isinstance(route, Route | Mount)
            yield route


def addresses() -> list[tuple[str, str]]:
    """Every verb and address of the application, whoever registered it."""
    found = []
    for route in registered(create_app(Settings()).routes):
        path = f"{route.path}/x" if isinstance(route, Mount) else route.path
        path = path.replace("{model}", "pets").replace("{name}", "x").replace("{alias}", "x").replace("{version}", "1")
        path = path.replace("{layer}", "conv1").replace("{method}", "gradcam").replace("{endpoint}", "pets")
        path = path.replace("{project}", "p").replace("{location}", "l").replace("{evaluation}", "x")
        assert "{" not in path
        found += [(verb, path) for verb in (["GET", "POST"] if isinstance(route, Mount) else route.methods or ())]
    return sorted(found)


# -- who gets in ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("verb", "path"), addresses())
async def test_every_route_needs_a_key_but_those_that_are_open(client: httpx.AsyncClient, verb: str, path: str) -> None:
    response = await client.request(verb, path)
    if path in OPEN or path.startswith("/static/") or path in OPEN_POSTS:
        assert response.status_code != 401
    else:
        assert response.status_code == 401


@pytest.mark.parametrize(("verb", "path"), addresses())
@pytest.mark.parametrize(("token", "has"), [("asks", "infer"), ("watches", "metrics"), ("manages", "manage")])
async def test_every_route_needs_the_scope_that_it_declares(
    client: httpx.AsyncClient, verb: str, path: str, token: str, has: str
) -> None:
    response = await client.request(verb, path, headers=bearer(token))
    is_open = path in OPEN or path.startswith("/static/") or path in OPEN_POSTS
    needs = SCOPES.get((verb, path), "infer" if verb in READING else "manage")
    assert (response.status_code == 403) == (not is_open and needs != has)


def test_there_are_routes_to_try() -> None:
    assert {("POST", EXPLAIN), ("GET", "/metrics"), ("GET", "/"), ("GET", "/static/x")} <= set(addresses())
    assert set(SCOPES) <= set(addresses())


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/methods/",
        "//api/v1/methods",
        "/static/../api/v1/methods",
        "/static/%2e%2e/api/v1/methods",
        "/livez/../api/v1/methods",
        "/API/v1/methods",
        "/api/v1/methods%00",
        "/docs/../metrics",
        "/v1/models",
        "/metrics/",
        "/nowhere",
    ],
)
async def test_no_way_of_writing_an_address_leads_around_the_door(guarded: Application, path: str) -> None:
    exchange = Exchange(path)
    exchange.scope["method"] = "GET"
    exchange.scope["path"] = path.replace("%2e", ".").replace("%00", "\0")  # as a server that decodes hands it on
    await exchange.start(guarded)
    assert exchange.status in {401, 404}
    assert b"gradcam" not in b"".join(message.get("body", b"") for message in exchange.sent)


async def test_an_application_below_a_prefix_knows_its_addresses(guarded: Application) -> None:
    for path, status in {"/cam/livez": 200, "/cam/api/v1/methods": 401, "/cam/static/text.css": 200}.items():
        exchange = Exchange(path)
        exchange.scope.update(method="GET", root_path="/cam")
        await exchange.start(guarded)
        assert exchange.status == status


@pytest.mark.parametrize("prefix", ["/cam", "/cam/", "/"])
async def test_the_scope_is_that_of_the_route_that_is_reached_below_a_prefix(guarded: Application, prefix: str) -> None:
    for path, status in {"/livez": 200, "/metrics": 403}.items():
        exchange = Exchange(f"{prefix}{path}", authorization="Bearer asks")  # as uvicorn puts the two together
        exchange.scope.update(method="GET", root_path=prefix)
        await exchange.start(guarded)
        assert exchange.status == status


@pytest.mark.parametrize("authorization", ["Bearer asks", "bearer asks", "BEARER  asks "])
async def test_a_key_lets_in(client: httpx.AsyncClient, authorization: str) -> None:
    headers = {"Authorization": authorization, **PICTURE}
    assert (await client.post(EXPLAIN, content=png(), headers=headers)).status_code == 200


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer ask",
        "Bearer askss",
        "Bearer Asks",
        "Basic asks",
        "asks",
        "Bearer asks asks",
        f"Bearer {digest_of('asks')}",
        f"Bearer {'x' * 100_000}",
        b"Bearer \xff\xfe",
    ],
)
async def test_anything_else_does_not(client: httpx.AsyncClient, authorization: str | bytes | None) -> None:
    headers: dict[bytes, bytes] = {b"Content-Type": b"image/png"}
    if authorization is not None:
        headers[b"Authorization"] = authorization if isinstance(authorization, bytes) else authorization.encode()
    response = await client.post(EXPLAIN, content=png(), headers=headers)
    problem = well_put(response, "unauthorized")
    assert response.headers["WWW-Authenticate"] == "Bearer"
    assert "Authorization: Bearer" in problem.detail
    assert "ask " not in response.text


@pytest.mark.parametrize("tokens", [("asks", "nobody's"), ("nobody's", "asks"), ("asks", "asks")])
async def test_two_keys_are_none(client: httpx.AsyncClient, tokens: tuple[str, str]) -> None:
    headers = [("Content-Type", "image/png"), *(("Authorization", f"Bearer {token}") for token in tokens)]
    assert (await client.post(EXPLAIN, content=png(), headers=headers)).status_code == 401


@pytest.mark.parametrize("address", [f"{EXPLAIN}?key=asks", f"{EXPLAIN}?access_token=asks", f"{EXPLAIN}?api_key=asks"])
async def test_a_key_in_the_address_is_none(client: httpx.AsyncClient, address: str) -> None:
    assert (await client.post(address, content=png(), headers=PICTURE)).status_code == 401


async def test_nothing_of_the_body_is_read_before(guarded: Application) -> None:
    exchange = Exchange(EXPLAIN, png(), content_type="image/png", authorization="Bearer wrong")
    await exchange.start(guarded)
    assert exchange.status == 401
    assert exchange.reads == 0


async def test_every_key_is_compared_whichever_is_right(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[str] = []

    def compare(kept: str, given: str) -> bool:
        compared.append(kept)
        return kept == given

    monkeypatch.setattr("hmac.compare_digest", compare)
    counts = []
    for token in ("asks", "two-a-minute", "wrong"):
        compared.clear()
        await client.get("/api/v1/methods", headers=bearer(token))
        counts.append(len(compared))
    assert counts == [6, 6, 6]


async def test_refusals_are_counted(guarded: Application, client: httpx.AsyncClient) -> None:
    await client.get("/api/v1/methods")
    await client.get("/metrics", headers=bearer("asks"))
    assert guarded.metric("camserve_rejected_total", code="unauthorized") == 1
    assert guarded.metric("camserve_rejected_total", code="forbidden") == 1


# -- what for ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("token", ["asks", "watches", "manages", "everything"])
@pytest.mark.parametrize(("path", "scope"), [("/api/v1/methods", "infer"), ("/metrics", "metrics")])
async def test_a_key_is_good_for_its_scopes_alone(client: httpx.AsyncClient, token: str, path: str, scope: str) -> None:
    scopes = {"asks": {"infer"}, "watches": {"metrics"}, "manages": {"manage"}}.get(token, {"infer", "metrics"})
    response = await client.get(path, headers=bearer(token))
    if scope in scopes:
        assert response.status_code == 200
    else:
        problem = well_put(response, "forbidden")
        assert repr(scope) in problem.detail
        assert (problem.model_extra or {})["scope"] == scope
        assert "WWW-Authenticate" not in response.headers


@pytest.mark.parametrize("token", ["manages", "everything", "asks", "wrong", None])
async def test_who_manages_sees_the_workers_and_the_others_whether_it_is_ready(
    client: httpx.AsyncClient, token: str | None
) -> None:
    response = await client.get("/readyz", headers=bearer(token) if token else {})
    assert response.status_code == 200
    body = response.json()
    assert body["status"] == "ready"
    if token in {"manages", "everything"}:
        assert body["models"] == {"pets": "ready"}
        assert body["workers"][0]["pid"] == 4242
    else:
        assert body == {"status": "ready", "models": {}, "workers": []}


async def test_without_keys_everybody_may_do_everything() -> None:
    async with faked() as application, application.client() as client:
        assert (await client.post(EXPLAIN, content=png(), headers=PICTURE)).status_code == 200
        assert (await client.get("/metrics")).status_code == 200
        assert (await client.get("/readyz")).json()["workers"]


# -- how often --------------------------------------------------------------------------------------------------------


async def test_so_many_at_once_and_no_more(guarded: Application, client: httpx.AsyncClient) -> None:
    guarded.worker.held = True
    first = Exchange(EXPLAIN, png(), content_type="image/png", authorization="Bearer one-at-once")
    task = first.start(guarded)
    await until(lambda: guarded.worker.running)

    response = await client.get("/api/v1/methods", headers=bearer("one-at-once"))
    assert "1 requests" in well_put(response, "rate_limited").detail
    assert (await client.get("/api/v1/methods", headers=bearer("asks"))).status_code == 200, "each for itself"
    assert (await client.get("/livez", headers=bearer("one-at-once"))).status_code == 200

    guarded.worker.held = False
    guarded.worker.finish()
    await task
    assert first.status == 200
    assert (await client.get("/api/v1/methods", headers=bearer("one-at-once"))).status_code == 200


@pytest.mark.parametrize("how", ["gone", "refused", "broken"])
async def test_a_place_is_given_back_however_a_request_ends(
    guarded: Application, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    body = b"no picture" if how == "refused" else png()
    exchange = Exchange(EXPLAIN, body, content_type="image/png", authorization="Bearer one-at-once")
    with monkeypatch.context() as patch:
        if how == "broken":
            patch.setattr(guarded.explainer, "answer", None)
        guarded.worker.held = how == "gone"
        task = exchange.start(guarded)
        if how == "gone":
            await until(lambda: guarded.worker.running)
            exchange.gone.set()
        await task
    assert exchange.status == {"gone": None, "refused": 400, "broken": 500}[how]
    assert (await client.get("/api/v1/methods", headers=bearer("one-at-once"))).status_code == 200


async def test_a_key_that_asked_enough_is_told_when_to_come_back(client: httpx.AsyncClient) -> None:
    ask = [await client.get("/api/v1/methods", headers=bearer("two-a-minute")) for _ in range(3)]
    assert [response.status_code for response in ask] == [200, 200, 429]
    assert "2 times a minute" in well_put(ask[2], "rate_limited").detail
    assert 1 <= int(ask[2].headers["Retry-After"]) <= 30


def test_a_minutes_worth_comes_back_within_a_minute() -> None:
    now = 0.0
    used = keys_module._Key(key("k", requests_per_minute=6), lambda: now)

    def asks(times: int) -> list[int]:
        """Ask so often; 0 where it is let in, otherwise the seconds to wait."""
        answers = []
        for _ in range(times):
            try:
                used.enter()
                answers.append(0)
            except RateLimited as error:
                answers.append(error.retry_after_s)
        return answers

    assert asks(8) == [0] * 6 + [10, 10]
    now = 4.0
    assert asks(1) == [6]
    now = 10.0
    assert asks(2) == [0, 10], "after the time that it was told, one more"
    now = 3600.0
    assert asks(8) == [0] * 6 + [10, 10], "what is not used does not add up beyond a minute"


def test_who_asked_too_often_does_not_count_as_running() -> None:
    now = 0.0
    used = keys_module._Key(key("k", requests_per_minute=1, max_concurrent=1), lambda: now)
    used.enter()
    used.leave()
    for _ in range(3):
        with pytest.raises(RateLimited, match="1 times a minute"):
            used.enter()
    now = 60.0
    used.enter()


async def test_refused_requests_use_nothing_up() -> None:
    keys = (key("watches", scopes="metrics", requests_per_minute=1),)
    async with faked(keys=keys) as application, application.client() as client:
        codes = [
            (await client.get(path, headers=bearer("watches"))).status_code
            for path in ("/api/v1/methods", "/readyz", "/metrics", "/metrics")
        ]
    assert codes == [403, 200, 200, 429]


# -- keys and settings ------------------------------------------------------------------------------------------------


def test_a_new_key_has_256_bits_and_is_no_other() -> None:
    made = {make_key() for _ in range(100)}
    assert len(made) == 100
    for each in made:
        prefix, _, secret = each.partition("_")
        assert prefix == "camserve"
        assert len(secret) == 43, "32 bytes in base64"
        assert digest_of(each) == hashlib.sha256(each.encode()).hexdigest()


D = digest_of("a key")
E = digest_of("another")


def test_keys_in_one_string() -> None:
    text = f"web={D} watch={E},scopes=metrics+manage,requests_per_minute=60,max_concurrent=2"
    scopes = frozenset({"metrics", "manage"})
    assert load_settings(keys=text).keys == (
        KeyConfig.model_validate({"name": "web", "sha256": D, "scopes": frozenset({"infer"})}),
        KeyConfig.model_validate(
            {"name": "watch", "sha256": E, "scopes": scopes, "requests_per_minute": 60, "max_concurrent": 2}
        ),
    )


def test_keys_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAMSERVE_KEYS", f"web={D}")
    assert [each.name for each in load_settings().keys] == ["web"]


def test_keys_in_a_file(tmp_path: Any) -> None:
    file = tmp_path / "camserve.toml"
    file.write_text(f'[[keys]]\nname = "web"\nsha256 = "{D}"\nscopes = ["infer", "metrics"]\nmax_concurrent = 4\n')
    expected = KeyConfig(name="web", sha256=D, scopes=frozenset({"infer", "metrics"}), max_concurrent=4)
    assert load_settings(file).keys == (expected,)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("web=a-key-itself", "should match pattern"),
        (f"web={D.upper()}", "should match pattern"),
        (D, "should match pattern"),
        (f"a b={D}", "should match pattern"),
        (f"we/b={D}", "should match pattern"),
        (f"web={D},scopes=root", "'infer', 'metrics' or 'manage'"),
        (f"web={D},scopes=", "'infer', 'metrics' or 'manage'"),
        (f"web={D},scope=infer", "Extra inputs"),
        (f"web={D},requests_per_minute=0", "greater than or equal to 1"),
        (f"web={D},max_concurrent=0", "greater than or equal to 1"),
        (f"web={D},fast", "must look like key=value"),
        (f"web={D} web={E}", "same name"),
        (f"web={D} app={D}", "same digest"),
    ],
)
def test_mistakes_are_named_and_no_key_is_repeated(text: str, why: str) -> None:
    with pytest.raises(ValidationError, match=why) as caught:
        load_settings(keys=text)
    assert "a-key-itself" not in str(caught.value)


@pytest.mark.parametrize(
    ("host", "open_to_strangers"),
    [
        ("127.0.0.1", False),
        ("127.8.8.8", False),
        ("localhost", False),
        ("::1", False),
        ("0.0.0.0", True),
        ("::", True),
        ("", True),
        ("192.168.0.7", True),
        ("camserve.example", True),
        ("localhost.example", True),
    ],
)
def test_a_server_is_not_opened_to_strangers_by_oversight(host: str, open_to_strangers: bool) -> None:
    reason = reason_not_to_listen(Settings(host=host))
    assert (reason is not None) == open_to_strangers
    assert reason is None or ("camserve key" in reason and "expose_without_keys" in reason)
    assert reason_not_to_listen(Settings(host=host, keys=(key("k"),))) is None
    assert reason_not_to_listen(Settings(host=host, expose_without_keys=True)) is None


async def test_many_at_once_leave_the_count_right(guarded: Application, client: httpx.AsyncClient) -> None:
    answers = await asyncio.gather(*(client.get("/api/v1/methods", headers=bearer("one-at-once")) for _ in range(20)))
    assert {response.status_code for response in answers} <= {200, 429}
    assert (await client.get("/api/v1/methods", headers=bearer("one-at-once"))).status_code == 200
