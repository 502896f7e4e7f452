"""What the clients raise, and when they try again."""

from __future__ import annotations

import pickle
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from service import errors
from service.client import ClientError, ConnectionFailed, TimedOut, UnexpectedResponse
from service.client import clients as clients_module
from service.client import errors as client_errors

KINDS = [
    kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, errors.ServiceError) and "code" in vars(kind)
]


@pytest.fixture(autouse=True)
def _no_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients_module, "_jitter", lambda: 1.0)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_code_becomes_its_class(call: Any, server: Any, kind: type[errors.ServiceError]) -> None:
    server.answers = [server.problem(422, kind.code, suggestions=["layer4"], loc=["layer"])]
    with pytest.raises(kind) as caught:
        call("explain", b"bytes")
    error = caught.value
    assert isinstance(error, ClientError)
    assert error.code == kind.code
    assert str(error) == error.message == "Said why."
    assert error.details == {"suggestions": ["layer4"], "loc": ["layer"]}
    assert (error.status, error.request_id) == (422, "01J")
    assert len(server.requests) == 1


def test_there_are_codes_to_check() -> None:
    assert {errors.UnknownLayer, errors.Overloaded, errors.InternalError} < set(KINDS)


def test_the_clients_classes_add_no_codes() -> None:
    assert not [kind for kind in client_errors._CLASSES.values() if "code" in vars(kind)]


@pytest.mark.parametrize(("status", "kind"), [(418, errors.BadInput), (500, errors.ServiceError)])
def test_a_code_of_a_newer_server(call: Any, server: Any, status: int, kind: type[errors.ServiceError]) -> None:
    server.answers = [server.problem(status, "brand_new")]
    with pytest.raises(kind) as caught:
        call("models")
    assert isinstance(caught.value, ClientError)
    assert caught.value.details == {"code": "brand_new"}


@pytest.mark.parametrize(
    "error",
    [
        client_errors.make_error("UnknownLayer", "No.", {"suggestions": ["a"]}, 422, "01J"),
        ConnectionFailed("No."),
        UnexpectedResponse("No."),
    ],
)
def test_errors_survive_pickling(error: ClientError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert (copy.message, copy.details, copy.status) == (error.message, error.details, error.status)


@pytest.mark.parametrize(
    ("response", "says"),
    [
        (httpx.Response(502, html="<html>Bad Gateway</html>"), "502 with text/html.*proxy.*Bad Gateway"),
        (httpx.Response(401, text="who?"), "api_key="),
        (httpx.Response(307, headers={"Location": "/x"}), "307 with no content type"),
        (httpx.Response(200, json={"hello": 1}), "200 with application/json"),
        (httpx.Response(200, content=b"\xff\x00"), "no answer of camserve"),
    ],
)
def test_what_is_not_camserve(call: Any, server: Any, response: httpx.Response, says: str) -> None:
    server.answers = [response]
    with pytest.raises(UnexpectedResponse, match=says) as caught:
        call("models")
    assert caught.value.status == response.status_code
    assert len(server.requests) == 1


def test_a_full_server_is_asked_again_when_it_says(call: Any, server: Any) -> None:
    full = server.problem(429, "overloaded", headers={"Retry-After": "7"})
    server.answers = [full, server.problem(503, "not_ready", headers={"Retry-After": "0"}), server.answer()]
    assert call("explain", b"bytes").label == "tabby"
    assert call.slept == [7, 0]
    assert [len(request.content) for request in server.requests] == [len(server.requests[0].content)] * 3


@pytest.mark.parametrize(
    ("said", "slept"),
    [
        ("99999", [60.0, 60.0]),
        (None, [0.5, 1.0]),
        ("-5", [0.5, 1.0]),
        ("Wed, 21 Oct 2015 07:28:00 GMT", [0.5, 1.0]),
    ],
)
def test_pauses(call: Any, server: Any, said: str | None, slept: list[float]) -> None:
    call.configure(retries=2)
    server.answers = [server.problem(503, "not_ready", headers={} if said is None else {"Retry-After": said})]
    with pytest.raises(errors.NotReady):
        call("models")
    assert call.slept == slept


@pytest.mark.parametrize(
    ("status", "code"), [(500, "internal_error"), (504, "deadline_exceeded"), (413, "body_too_large")]
)
def test_what_would_go_the_same_way_again_is_not_asked_again(call: Any, server: Any, status: int, code: str) -> None:
    server.answers = [server.problem(status, code)]
    with pytest.raises(errors.ServiceError):
        call("models")
    assert (len(server.requests), call.slept) == (1, [])


def test_the_last_refusal_is_raised(call: Any, server: Any) -> None:
    server.answers = [server.problem(429, "overloaded", headers={"Retry-After": "2"})]
    with pytest.raises(errors.Overloaded) as caught:
        call("models")
    assert caught.value.retry_after_s == 2
    assert len(server.requests) == 4
    assert call.slept == [2, 2, 2]


def test_pauses_grow_to_a_minute(call: Any, server: Any) -> None:
    call.configure(retries=9)
    server.answers = [httpx.Response(503, text="proxy")]
    with pytest.raises(UnexpectedResponse):
        call("models")
    assert call.slept == [0.5, 1, 2, 4, 8, 16, 32, 60, 60]


def test_without_retries(call: Any, server: Any) -> None:
    call.configure(retries=0)
    server.answers = [server.problem(503, "not_ready")]
    with pytest.raises(errors.NotReady):
        call("models")
    assert (len(server.requests), call.slept) == (1, [])


def test_a_failed_connection_is_tried_again(call: Any, server: Any) -> None:
    server.answers = [httpx.ConnectError("refused"), httpx.ReadError(""), server.answer()]
    assert call("explain", b"bytes").label == "tabby"
    assert call.slept == [0.5, 1]


def test_no_server(call: Any, server: Any) -> None:
    call.configure(base_url="http://cam.example:81")
    server.answers = [httpx.ConnectError("refused")]
    says = r"http://cam\.example:81 \(refused\)\. Is the server running"
    with pytest.raises(ConnectionFailed, match=says) as caught:
        call("models")
    assert isinstance(caught.value, errors.Unavailable)
    assert caught.value.status is None
    assert isinstance(caught.value.__cause__, httpx.ConnectError)
    assert len(server.requests) == 4


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        (httpx.ReadTimeout("slow"), TimedOut, "timeout="),
        (httpx.ReadTimeout("slow"), errors.DeadlineExceeded, "slow"),
        (httpx.LocalProtocolError("bad header"), ConnectionFailed, "bad header"),
        (httpx.DecodingError("gzip"), UnexpectedResponse, "gzip"),
    ],
)
def test_what_is_not_tried_again(call: Any, server: Any, error: Exception, kind: type[Exception], says: str) -> None:
    server.answers = [error]
    with pytest.raises(kind, match=says):
        call("models")
    assert (len(server.requests), call.slept) == (1, [])


@pytest.mark.parametrize(
    ("answer", "ready"),
    [
        (httpx.Response(200), True),
        (httpx.Response(503, headers={"Retry-After": "9"}), False),
        (httpx.ConnectError("refused"), False),
        (httpx.ReadTimeout("slow"), False),
    ],
)
def test_ready_asks_once(call: Any, server: Any, answer: Any, ready: bool) -> None:
    server.answers = [answer]
    assert call("ready") is ready
    assert [request.url.path for request in server.requests] == ["/readyz"]
    assert call.slept == []


def test_ready_of_something_else(call: Any, server: Any) -> None:
    server.answers = [httpx.Response(404, text="nginx")]
    with pytest.raises(UnexpectedResponse, match="404"):
        call("ready")


def with_a_clock(call: Any, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(clients_module, "time", SimpleNamespace(monotonic=lambda: clock.now))

    def pass_time(seconds: float) -> None:
        clock.now += seconds

    call.on_sleep = pass_time
    return clock


def test_waiting_until_ready(call: Any, server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with_a_clock(call, monkeypatch)
    server.answers = [httpx.ConnectError("refused"), httpx.Response(503), httpx.Response(200)]
    assert call("wait_until_ready", 5) is None
    assert call.slept == [0.25, 0.25]


def test_waiting_in_vain(call: Any, server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = with_a_clock(call, monkeypatch)
    server.answers = [httpx.Response(503)]
    with pytest.raises(errors.NotReady, match="in time") as caught:
        call("wait_until_ready", 0.6)
    assert isinstance(caught.value, ClientError)
    assert clock.now == pytest.approx(100.6)
    assert len(server.requests) == 4
