"""Every error that can come over HTTP, provoked; a new code without a case here fails."""

from __future__ import annotations

import asyncio
import logging
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from service.engine import pipeline
from service.engine.cost import Cost
from service.errors import InternalError, ModelOutputError, ServiceError, Unavailable
from service.problems import MEDIA_TYPE, STATUS
from service.wire import Problem
from tests.toys import png
from tests.web.application import Exchange, faked, until

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

    from tests.web.application import Application

GOOD = png()
EXPLAIN = "/api/v1/explain"


@dataclass(frozen=True)
class Case:
    """A request, or what goes with a good one, that is answered with an error."""

    method: str = "POST"
    path: str = EXPLAIN
    query: dict[str, Any] = field(default_factory=dict)
    content: bytes = GOOD
    headers: dict[str, str] = field(default_factory=lambda: {"Content-Type": "image/png"})
    before: Callable[[Application], object] = lambda _: None
    says: str = ""
    suggests: list[str] | None = None


def option(says: str, suggests: list[str] | None = None, **query: Any) -> Case:
    return Case(query=query, says=says, suggests=suggests)


def outcome(error: ServiceError, says: str) -> Case:
    return Case(before=lambda application: setattr(application.worker, "outcome", lambda *_: error), says=says)


def fill_the_queue(application: Application) -> None:
    admission = application.explainer.admission
    admission.inside, admission._moved_at = 2, asyncio.get_running_loop().time()


def drain(application: Application) -> None:
    application.lifecycle.end()


def hold(application: Application) -> None:
    application.worker.held = True


JSON = {"Content-Type": "application/json"}
FORM = {"Content-Type": "multipart/form-data; boundary=B"}
PARTS = b"".join(
    b'--B\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n' + GOOD + b"\r\n" for _ in range(3)
)

CASES: dict[str, Case] = {
    "invalid_image": Case(content=b"not a picture", says="not a picture in a known format"),
    "no_image": Case(content=b"", says="no picture"),
    "invalid_request": Case(content=b"{", headers=JSON, says="not a JSON object"),
    "host_not_allowed": Case("GET", "/livez", headers={"Host": "evil.test"}, says="allowed_hosts"),
    "origin_not_allowed": Case(
        headers={"Content-Type": "image/png", "Origin": "https://evil.test"}, says="cors_origins"
    ),
    "not_found": Case("GET", "/api/v1/methodes", says="/api/v1/methods", suggests=["/api/v1/methods"]),
    "unknown_model": Case(path="/api/v1/models/pet/explain", says="no model 'pet'", suggests=["pets"]),
    "unknown_version": Case(path="/api/v1/models/pets/versions/11/predict", says="no version '11'", suggests=["1"]),
    "management_off": Case("DELETE", "/api/v1/models/pets", says="setting management"),
    "method_not_allowed": Case("GET", says="GET is not possible"),
    "body_too_large": Case(content=bytes(100_001), says="more than 100000 bytes"),
    "image_too_large": Case(content=png(np.zeros((101, 100, 3), np.uint8)), says="the limit is 10,000"),
    "too_many_images": Case(content=PARTS + b"--B--\r\n", headers=FORM, says="send 2 at most"),
    "request_too_costly": Case(
        query={"output": ["heatmap", "overlay"], "target": "top-3", "image_format": "png"},
        before=lambda application: setattr(application.explainer, "_most", Cost(1000, 1000, 1_000_000)),
        says="pixels decoded and drawn",
    ),
    "unsupported_media_type": Case(headers={"Content-Type": "text/plain"}, says="'text/plain'"),
    "invalid_option": option("'alpha'", alpha=2),
    "unknown_layer": option("no layer 'conv3'", ["conv2", "conv1"], layer="conv3"),
    "unknown_label": option("no class 'cats'", ["cat"], target="cats"),
    "unknown_method": option("no method 'grad-cam'", ["gradcam"], method="grad-cam"),
    "unknown_colormap": option("no colormap 'turbos'", ["turbo"], colormap="turbos"),
    "layer_not_explainable": option("no grid", ["conv2"], layer="fc"),
    "unknown_head": option("one output; leave the head out", head="aux"),
    "method_not_applicable": option("no sign by definition", method="fullgrad", signed="true"),
    "unknown_evaluation": Case("GET", "/api/v1/evaluations/01M8M517XD1M8CBHZWXDCDBQ12", says="lists yours"),
    "overloaded": Case(before=fill_the_queue, says="2 of 2 pictures"),
    "internal_error": outcome(InternalError("The model failed on this picture."), "The model failed"),
    "model_output": outcome(ModelOutputError("The model gave values that are not finite."), "not finite"),
    "not_ready": Case(before=drain, says="shutting down"),
    "deadline_exceeded": Case(
        before=hold, headers={"Content-Type": "image/png", "X-Request-Timeout-Ms": "40"}, says="0.04 s"
    ),
}

NOT_OVER_HTTP = {
    "bad_input": "only its subclasses are raised",
    "request_timeout": "takes a slow client on a socket, see test_connections.py",
    "headers_too_large": "is found out before there is a request, see test_connections.py",
    "unavailable": "takes a full disk: tests/jobs/test_refused.py; the client raises it for a lost connection",
    "evaluation_not_done": "takes an evaluation: tests/jobs/test_routes.py",
    "too_many_evaluations": "takes evaluations: tests/jobs/test_routes.py",
    "model_load_failed": "only where models may be changed: tests/web/test_management.py",
    "path_not_allowed": "only where models may be changed: tests/web/test_management.py",
    "source_not_allowed": "only where models may be changed: tests/web/test_management.py",
    "model_busy": "only where models may be changed: tests/web/test_management.py",
    "model_superseded": "only where models may be changed: tests/web/test_management.py",
    "default_model": "only where models may be changed: tests/web/test_management.py",
    "name_taken": "only where models may be changed: tests/web/test_management.py",
    "unknown_alias": "only where models may be changed: tests/web/test_management.py",
    "unknown_function": "only where there are functions: tests/protocols/cvat/test_functions.py",
    "address_not_allowed": "only where addresses decide: tests/protocols/cvat/test_states.py",
    "unauthorized": "only where there are keys: tests/web/test_keys.py",
    "picture_not_fetched": "only where tools name pictures by their URLs: tests/protocols/label_studio",
    "forbidden": "only where there are keys: tests/web/test_keys.py",
    "rate_limited": "only where there are keys: tests/web/test_keys.py",
}


def codes(root: type[ServiceError] = ServiceError) -> set[str]:
    """Every code declared in ``service.errors``."""
    below = {code for child in root.__subclasses__() for code in codes(child)}
    return below | ({root.code} if root.__module__ == "service.errors" else set())


def test_every_code_has_a_status_and_a_case_or_a_reason() -> None:
    assert codes() == set(STATUS)
    assert codes() == set(CASES) | set(NOT_OVER_HTTP)
    assert not set(CASES) & set(NOT_OVER_HTTP)


@pytest.mark.parametrize("code", CASES)
async def test_a_problem_says_what_and_what_to_do(application: Application, code: str) -> None:
    case = CASES[code]
    case.before(application)
    async with application.client(headers={"X-Request-ID": "mine-1"}) as client:
        response = await client.request(
            case.method, case.path, params=case.query, content=case.content, headers=case.headers
        )

    problem = well_put(response, code)
    assert problem.request_id == "mine-1"
    assert case.says in problem.detail
    if case.suggests is not None:
        assert problem.suggestions is not None
        assert problem.suggestions[: len(case.suggests)] == case.suggests, "the closest come first"


LISTED: dict[str, str] = {
    "unknown_model": "There is no model 'pet'. Did you mean 'pets'? GET /api/v1/models lists them.",
    "unknown_layer": "There is no layer 'conv3'. Did you mean 'conv2' or 'conv1'? "
    "GET /api/v1/models/pets/layers lists them.",
    "unknown_label": "There is no class 'cats'. Did you mean 'cat'? "
    "GET /api/v1/models/pets/classes?q=… searches the labels.",
    "unknown_method": "There is no method 'grad-cam'. Did you mean 'gradcam' or 'xgradcam' or 'gradcam++'? "
    "GET /api/v1/methods lists them.",
    "layer_not_explainable": "Layer 'fc' of model 'pets' cannot be explained: no grid. "
    "Try 'conv2', or GET /api/v1/models/pets/layers?explainable=true.",
    "unknown_head": "There is no head 'aux'. It has one output; leave the head out.",
}


@pytest.mark.parametrize("code", LISTED)
async def test_unknown_names_come_with_the_route_that_lists_the_known(application: Application, code: str) -> None:
    case = CASES[code]
    async with application.client() as client:
        response = await client.request(
            case.method, case.path, params=case.query, content=case.content, headers=case.headers
        )

    assert response.json()["detail"] == LISTED[code]


def well_put(response: httpx.Response, code: str) -> Problem:
    """The problem document of ``code`` that the response is, with what every problem has."""
    assert response.status_code == STATUS[code]
    assert response.headers["Content-Type"] == MEDIA_TYPE
    problem = Problem.model_validate_json(response.content)
    assert problem.status == response.status_code
    assert problem.code == code
    assert problem.type == f"/errors#{code.replace('_', '-')}"
    assert problem.request_id == response.headers["X-Request-ID"]
    assert problem.detail[0].isupper() or problem.detail[0] in "'\"0123456789"
    assert problem.detail[-1] in ".?"
    assert problem.title
    assert problem.title != problem.detail
    assert ("Retry-After" in response.headers) == (response.status_code in {429, 503})
    if "Retry-After" in response.headers:
        assert 1 <= int(response.headers["Retry-After"]) <= 60
    return problem


def test_what_is_unavailable_always_says_when_to_come_back() -> None:
    assert Unavailable("Not now.").retry_after_s >= 1


async def test_refusals_are_counted_by_code(application: Application, client: httpx.AsyncClient) -> None:
    for code in ("overloaded", "not_ready", "body_too_large", "image_too_large", "too_many_images"):
        case = CASES[code]
        application.explainer.admission.inside = 0
        application.lifecycle.start()
        case.before(application)
        await client.post(case.path, content=case.content, headers=case.headers)
        assert application.metric("camserve_rejected_total", code=code) == 1


async def test_a_full_queue_is_found_out_before_a_byte_is_read(application: Application) -> None:
    fill_the_queue(application)
    exchange = Exchange(EXPLAIN, GOOD, content_type="image/png")
    await exchange.start(application)
    assert exchange.status == 429
    assert exchange.reads == 0


async def test_a_refusal_takes_no_thread(
    application: Application, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def threads(*_: object, **__: object) -> None:
        raise AssertionError("a thread was taken")

    monkeypatch.setattr("anyio.to_thread.run_sync", threads)
    fill_the_queue(application)
    assert (await client.post(EXPLAIN, content=GOOD, headers={"Content-Type": "image/png"})).status_code == 429


async def test_the_queue_counts_pictures_not_requests(application: Application, client: httpx.AsyncClient) -> None:
    application.worker.held = True
    one = Exchange(EXPLAIN, GOOD, content_type="image/png")
    task = one.start(application)
    await until(lambda: application.worker.running)
    two = [("image", ("a.png", GOOD)), ("image", ("b.png", GOOD))]
    refused = await client.post(EXPLAIN, files=two)
    assert refused.status_code == 429
    application.worker.held = False
    application.worker.finish()
    await task
    assert one.status == 200
    assert (await client.post(EXPLAIN, files=two)).status_code == 200


async def test_a_deadline_is_kept_and_its_picture_given_up(application: Application, client: httpx.AsyncClient) -> None:
    application.worker.held = True
    first = Exchange(EXPLAIN, GOOD, content_type="image/png")
    task = first.start(application)
    await until(lambda: application.worker.running)

    headers = {"Content-Type": "image/png", "X-Request-Timeout-Ms": "100"}
    response = await client.post(EXPLAIN, content=GOOD, headers=headers)
    assert response.status_code == 504
    assert application.metric("camserve_queue_depth") == 0

    application.worker.held = False
    application.worker.finish()
    await task
    assert first.status == 200
    assert len(application.worker.sent) == 1, "the one whose time was up is not computed"


@pytest.mark.parametrize("stage", ["decode", "compute", "render"])
async def test_a_deadline_is_kept_in_every_stage(
    application: Application, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    reached, go_on = threading.Event(), threading.Event()

    def stuck(*_arguments: object) -> None:
        reached.set()
        go_on.wait(30)

    with monkeypatch.context() as patch:
        if stage != "compute":
            patch.setattr(pipeline, "_open" if stage == "decode" else "_draw", stuck)
        application.worker.held = stage == "compute"
        exchange = Exchange(EXPLAIN, GOOD, content_type="image/png")
        task = exchange.start(application)
        await until(lambda: reached.is_set() or (stage == "compute" and application.worker.running))
        (deadline,) = application.explainer._deadlines
        deadline.reschedule(0)  # now it passes: by the clock, a busy machine would not have come so far
        await task
    assert exchange.status == 504
    assert application.metric("camserve_expired_total", stage=stage) == 1
    threads = application.explainer.pipeline.threads
    assert (threads.used > 0) == (stage != "compute"), "held while a thread works on it"

    go_on.set()
    application.worker.held = False
    application.worker.finish()
    await until(lambda: threads.used == 0)
    assert (await client.post(EXPLAIN, content=GOOD, headers={"Content-Type": "image/png"})).status_code == 200


@pytest.mark.parametrize("value", ["0", "000", "-1", "1.5", "abc", "", "1e3", "٣"])
async def test_an_impossible_deadline_is_refused(client: httpx.AsyncClient, value: str) -> None:
    headers = {b"Content-Type": b"image/png", b"X-Request-Timeout-Ms": value.encode()}
    response = await client.post(EXPLAIN, content=GOOD, headers=headers)
    assert response.status_code == 422
    assert "X-Request-Timeout-Ms" in response.json()["detail"]


@pytest.mark.parametrize("value", ["3600000", "3600001", "9" * 400])
async def test_a_longer_deadline_is_cut_to_what_the_operator_allows(
    application: Application, client: httpx.AsyncClient, value: str
) -> None:
    loop = asyncio.get_running_loop()
    application.worker.held = True
    headers = {"Content-Type": "image/png", "X-Request-Timeout-Ms": value}
    task = asyncio.create_task(client.post(EXPLAIN, content=GOOD, headers=headers))
    await until(lambda: application.worker.running)
    (deadline,) = application.explainer._deadlines
    left = (deadline.when() or 0) - loop.time()
    assert 200 < left <= 300
    application.worker.held = False
    application.worker.finish()
    assert (await task).status_code == 200


# -- our own fault ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["route", "picture"])
async def test_an_unexpected_exception_is_logged_and_says_nothing_internal(
    application: Application,
    client: httpx.AsyncClient,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    where: str,
) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise RuntimeError("secret of /srv/models")

    monkeypatch.setattr(application.explainer, {"route": "answer", "picture": "_image"}[where], broken)
    headers = {"Content-Type": "image/png", "X-Request-ID": "find-me"}
    response = await client.post(EXPLAIN, content=GOOD, headers=headers)
    assert response.status_code == 500
    assert response.headers["Content-Type"] == MEDIA_TYPE
    assert response.headers["X-Request-ID"] == "find-me"
    assert response.json()["code"] == "internal_error"
    assert "secret" not in response.text
    assert "RuntimeError" not in response.text
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert "find-me" in record.getMessage()
    assert record.exc_info is not None
    assert application.metric("camserve_requests_total", route=EXPLAIN, status="500") == 1
    assert application.explainer.admission.inside == 0

    monkeypatch.undo()
    assert (await client.post(EXPLAIN, content=GOOD, headers=headers)).status_code == 200


# -- FastAPI's own ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/api/v1/models/pets/layers?explainable=perhaps", "explainable"),
        ("/api/v1/models/pets/layers?kind=convolution", "kind"),
        ("/api/v1/models/pets/classes?limit=0", "limit"),
        ("/api/v1/models/pets/classes?limit=many", "limit"),
        (f"/api/v1/models/pets/classes?q={'x' * 201}", "q"),
    ],
)
async def test_a_bad_query_is_a_problem_too(client: httpx.AsyncClient, path: str, says: str) -> None:
    response = await client.get(path)
    assert response.status_code == 422
    assert response.headers["Content-Type"] == MEDIA_TYPE
    assert response.json()["code"] == "invalid_option"
    assert response.json()["detail"].startswith(f"{says}: ")


@pytest.mark.parametrize("path", ["/api/v1/explian", "/api/v1", "/api/v1/models/pets/layer", "/nowhere", "/%00"])
async def test_an_unknown_path_is_a_problem_too(client: httpx.AsyncClient, path: str) -> None:
    response = await client.get(path)
    assert response.status_code == 404
    assert response.headers["Content-Type"] == MEDIA_TYPE
    assert response.json()["code"] == "not_found"


async def test_nobody_is_sent_where_the_host_header_says() -> None:
    async with faked(allowed_hosts=("*",)) as application, application.client() as client:
        response = await client.get("/docs/", headers={"Host": "elsewhere.test"})
    assert (response.status_code, response.json()["suggestions"]) == (404, ["/docs"])
    assert "Location" not in response.headers


async def test_the_closest_route_is_suggested(client: httpx.AsyncClient) -> None:
    body = (await client.post("/api/v1/explian")).json()
    assert body["suggestions"][0] == "/api/v1/explain"
    assert "/api/v1/explain" in body["detail"]


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", EXPLAIN, "POST"),
        ("PUT", "/api/v1/models/pets/predict", "POST"),
        ("DELETE", "/api/v1/models/pets/layers", "GET"),
        ("POST", "/livez", "GET"),
    ],
)
async def test_a_wrong_verb_names_the_right_one(
    client: httpx.AsyncClient, method: str, path: str, allowed: str
) -> None:
    response = await client.request(method, path)
    assert response.status_code == 405
    assert response.headers["Content-Type"] == MEDIA_TYPE
    assert allowed in response.headers["Allow"]


# -- request ids ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sane", ["a", "0af7651916cd43dd8448eb211c80319c", "A-b_c.d:e", "x" * 128])
async def test_a_sane_request_id_is_kept(client: httpx.AsyncClient, sane: str) -> None:
    response = await client.get("/livez", headers={"X-Request-ID": sane})
    assert response.headers["X-Request-ID"] == sane


@pytest.mark.parametrize(
    "insane", [b"", b"a b", b"x" * 129, b"<script>", b"a\tb", "é".encode(), b'"', b"a,b", b"a\xff"]
)
async def test_an_insane_request_id_is_replaced(client: httpx.AsyncClient, insane: bytes) -> None:
    response = await client.get("/livez", headers={b"X-Request-ID": insane})
    replaced = response.headers["X-Request-ID"]
    assert replaced.encode() != insane
    assert len(replaced) == 26
    assert replaced.isalnum()


async def test_every_request_has_an_id_of_its_own(client: httpx.AsyncClient) -> None:
    paths = ["/livez", "/livez", "/nowhere", "/metrics", "/docs", "/static/text.css", "/openapi.json"]
    ids = {(await client.get(path)).headers["X-Request-ID"] for path in paths}
    assert len(ids) == len(paths)


async def test_the_answer_carries_the_request_id(client: httpx.AsyncClient) -> None:
    response = await client.post(EXPLAIN, content=GOOD, headers={"Content-Type": "image/png"})
    assert response.json()["id"] == response.headers["X-Request-ID"]


# -- several pictures -------------------------------------------------------------------------------------------------


async def test_one_bad_picture_does_not_spoil_the_others(application: Application, client: httpx.AsyncClient) -> None:
    headers = {"X-Request-ID": "mine-2"}
    files = [("image", ("bad.png", b"GIF87a but not really")), ("image", ("good.png", GOOD))]
    response = await client.post(EXPLAIN, files=files, headers=headers)
    assert response.status_code == 200
    bad, good = response.json()["results"]
    assert (bad["image"]["index"], bad["image"]["filename"]) == (0, "bad.png")
    assert (bad["image"]["width"], bad["image"]["height"], bad["view"]) == (0, 0, None)
    assert (bad["predictions"], bad["explanations"]) == ([], [])
    problem = Problem.model_validate(bad["error"])
    assert (problem.code, problem.status, problem.request_id) == ("invalid_image", 400, "mine-2")
    assert good["image"]["filename"] == "good.png"
    assert good["error"] is None
    assert len(good["explanations"]) == 1
    assert [len(run.targets) for run in application.worker.sent] == [1]


async def test_where_all_are_bad_the_first_error_counts(client: httpx.AsyncClient) -> None:
    large = png(np.zeros((200, 200, 3), np.uint8))
    for order in ([b"nothing", large], [large, b"nothing"]):
        response = await client.post(EXPLAIN, files=[("image", ("a.png", data)) for data in order])
        code, status = ("image_too_large", 413) if order[0] is large else ("invalid_image", 400)
        assert response.status_code == status
        assert response.headers["Content-Type"] == MEDIA_TYPE
        assert response.json()["code"] == code


async def test_a_problem_of_one_picture_in_the_model_is_its_own(
    application: Application, client: httpx.AsyncClient
) -> None:
    answers = iter([InternalError("The model failed on this picture."), application.worker.outcome])
    usual = application.worker.outcome
    application.worker.outcome = lambda lane, question: (
        error if isinstance(error := next(answers), ServiceError) else usual(lane, question)
    )
    response = await client.post(EXPLAIN, files=[("image", ("a.png", GOOD)), ("image", ("b.png", GOOD))])
    assert response.status_code == 200
    assert sorted((result["error"] or {}).get("code", "") for result in response.json()["results"]) == [
        "",
        "internal_error",
    ]
