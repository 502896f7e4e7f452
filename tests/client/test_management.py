"""What the clients send to change models."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from service import errors
from service.client.errors import ConnectionFailed
from service.protocols.native.examples import ANSWERS

ENTRY = httpx.Response(200, json=ANSWERS["model"])
ALIAS = httpx.Response(200, json=ANSWERS["put_alias"])
GONE = httpx.Response(204)


@pytest.mark.parametrize(
    ("method", "arguments", "options", "answer", "sent"),
    [
        ("put_model", ("a b",), {"architecture": "resnet18", "size": 96}, ENTRY, "PUT /models/a%20b?wait=300.0"),
        ("put_model", ("a",), {"architecture": "resnet18", "wait_s": 0}, ENTRY, "PUT /models/a?wait=0"),
        ("reload_model", ("a",), {"wait_s": 7}, ENTRY, "POST /models/a/reload?wait=7"),
        (
            "reload_model",
            ("a",),
            {"wait_s": 7, "layer": "a&b"},
            ENTRY,
            "POST /models/a/reload?wait=7&layer=a%26b",
        ),
        ("unload_model", ("a",), {}, ENTRY, "POST /models/a/unload"),
        ("remove_model", ("a",), {}, GONE, "DELETE /models/a"),
        ("aliases", (), {}, httpx.Response(200, json=ANSWERS["aliases"]), "GET /aliases"),
        ("put_alias", ("s", "a", "1"), {}, ALIAS, "PUT /aliases/s"),
        ("remove_alias", ("s/t",), {}, GONE, "DELETE /aliases/s%2Ft"),
    ],
)
def test_each_method_has_its_route(
    call: Any, server: Any, method: str, arguments: Any, options: dict[str, Any], answer: httpx.Response, sent: str
) -> None:
    server.answers = [answer]
    call(method, *arguments, **options)
    [request] = server.requests
    path = request.url.raw_path.decode().removeprefix("/api/v1")
    assert f"{request.method} {path}" == sent
    if method == "put_model":
        assert json.loads(request.content) == {name: options[name] for name in options if name != "wait_s"}
    if method == "put_alias":
        assert json.loads(request.content) == {"model": "a", "version": "1"}


def test_a_version_is_asked_by_its_label(call: Any, server: Any) -> None:
    server.answers = [server.answer()]
    call("explain", b"bytes", model="birds", version="a+b")
    assert server.requests[0].url.raw_path == b"/api/v1/models/birds/versions/a%2Bb/explain"
    with pytest.raises(ValueError, match="model="):
        call("predict", b"bytes", version="1")


def test_what_may_have_been_done_is_not_sent_again(call: Any, server: Any) -> None:
    server.answers = [httpx.ReadError("broken")]
    with pytest.raises(ConnectionFailed):
        call("reload_model", "a")
    assert len(server.requests) == 1


def test_a_refusal_has_its_class(call: Any, server: Any) -> None:
    server.answers = [server.problem(409, "model_busy")]
    with pytest.raises(errors.ModelBusy):
        call("reload_model", "a")
