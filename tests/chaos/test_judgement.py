"""A chaos run that cannot fail proves nothing: what it must notice, it does."""

from __future__ import annotations

import base64
import random
from typing import Any

import httpx
import numpy as np
import pytest

from tests.chaos.traffic import Asked, Traffic

RIGHT = np.arange(6, dtype=np.float32).reshape(2, 3)
ASKED = Asked(seeds=(3,))


def result(raw: Any = RIGHT, code: str | None = None) -> dict[str, Any]:
    data = base64.b64encode(np.asarray(raw, np.float32).tobytes()).decode()
    found = {"map": {"shape": list(np.shape(raw)), "data": data}}
    return {"explanations": [] if code else [found], "error": {"code": code} if code else None}


def problem(status: int, code: str, **headers: str) -> httpx.Response:
    return httpx.Response(status, json={"code": code}, headers={"content-type": "application/problem+json", **headers})


class Server:
    """Answers as it is told."""

    def __init__(self, answer: httpx.Response | Exception) -> None:
        self.answer = answer

    def __call__(self, _request: httpx.Request) -> httpx.Response:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


async def verdict(answer: httpx.Response | Exception, asked: Asked = ASKED) -> tuple[str, Traffic]:
    traffic = Traffic("http://chaos.test", random.Random(0))
    traffic._quiet[asked.model, 3, asked.layer, asked.method] = RIGHT
    await traffic.client.aclose()
    traffic.client = httpx.AsyncClient(base_url="http://chaos.test", transport=httpx.MockTransport(Server(answer)))
    answered = await traffic.ask(asked)
    await traffic.close()
    return answered.verdict, traffic


def answer(*results: dict[str, Any]) -> httpx.Response:
    return httpx.Response(200, json={"results": list(results)})


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (answer(result()), "right"),
        (answer(result(RIGHT + 9e-5)), "right"),
        (answer(result(RIGHT + 2e-4)), "wrong"),
        (answer(result(RIGHT.T)), "wrong"),
        (answer(), "wrong"),
        (answer(result(), result()), "wrong"),
        (answer(result(code="internal_error")), "error"),
        (answer(result(code="invalid_image")), "wrong"),
        (problem(429, "overloaded", **{"retry-after": "2"}), "error"),
        (problem(503, "not_ready"), "wrong"),
        (httpx.Response(502, text="Bad Gateway"), "wrong"),
        (httpx.ReadError("cut off"), "lost"),
        (httpx.ReadTimeout("never"), "lost"),
        (httpx.ConnectError("refused"), "error"),
    ],
)
async def test_what_is_wrong_or_lost_is_noticed(response: httpx.Response | Exception, expected: str) -> None:
    found, traffic = await verdict(response)
    assert found == expected
    assert bool(traffic.complaints) == (expected in {"wrong", "lost"})
    assert traffic.counts == {"none": {expected: 1}}


async def test_faulty_pictures_have_their_own_codes() -> None:
    traffic = Traffic("http://chaos.test", random.Random(0))
    asked = Asked(seeds=(3,), files=(b"bad", b"good"))
    traffic._quiet[asked.model, 3, asked.layer, asked.method] = RIGHT
    judged = traffic.judge(asked, answer(result(), result(code="invalid_image"), result()))
    assert (judged.verdict, judged.codes) == ("right", ["invalid_image", None])
    await traffic.close()
