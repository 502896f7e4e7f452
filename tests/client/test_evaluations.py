"""What the clients send for evaluations, how they wait, and what they make of the end."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from PIL import Image

from service import errors
from service.client import AsyncClient, Client
from service.protocols.native.evaluations_openapi import ANSWERS

if TYPE_CHECKING:
    from pathlib import Path

QUEUED, DONE = ANSWERS["evaluate"], ANSWERS["evaluation"]
RUNNING = ANSWERS["evaluation_list"]["evaluations"][1]
TAKEN = httpx.Response(202, json=QUEUED)


def answers(*entries: Any) -> list[httpx.Response]:
    return [httpx.Response(200, json=entry) for entry in entries]


def sent(server: Any) -> list[str]:
    return [f"{each.method} {each.url.path.removeprefix('/api/v1')}" for each in server.requests]


def test_it_waits_and_tells_how_far_it_is(call: Any, server: Any) -> None:
    server.answers = [TAKEN, *answers(RUNNING, DONE)]
    told: list[tuple[str, float]] = []
    done = call("evaluate", [b"a"], progress=lambda found: told.append((found.state, found.progress)))
    assert told == [("queued", 0.0), ("running", 0.42), ("done", 1.0)]
    assert done.result.recommendations[0].layer == "layer4"
    assert sent(server) == ["POST /evaluations", *[f"GET /evaluations/{QUEUED['id']}"] * 2]
    assert call.slept == [0.5, 0.5]


def test_files_and_options_of_all_kinds(call: Any, server: Any, tmp_path: Path) -> None:
    (tmp_path / "käfer.png").write_bytes(b"from a file")
    server.answers = [TAKEN]
    picture = Image.new("L", (2, 2))
    call(
        "start_evaluation",
        {"cats/1.png": b"bytes", "2.png": tmp_path / "käfer.png", "3.png": picture},
        masks=[tmp_path / "käfer.png"],
        layer=["layer3", "layer4"],
        method="gradcam",
        purpose=None,
        seed=7,
    )
    files = [(name, filename, content) for name, filename, content in server.parts if filename is not None]
    assert [each[:2] for each in files] == [
        ("image", "cats/1.png"),
        ("image", "2.png"),
        ("image", "3.png"),
        ("mask", "käfer.png"),
    ]
    assert [files[0][2], files[1][2], files[3][2]] == [b"bytes", b"from a file", b"from a file"]
    assert Image.open(io.BytesIO(files[2][2])).size == (2, 2)
    assert server.form == {"layer": ["layer3", "layer4"], "method": ["gradcam"], "seed": ["7"]}


def test_a_name_may_be_any_bytes(call: Any, server: Any) -> None:
    server.answers = [TAKEN]
    call("start_evaluation", {"a\udcff/1.png": b"a"})
    assert [name for _, name, content in server.parts if content == b"a"] == ["a\ufffd/1.png"]


@pytest.mark.parametrize("kind", ["path", "bytes", "object"])
def test_annotations_of_all_kinds(call: Any, server: Any, tmp_path: Path, kind: str) -> None:
    coco: dict[str, Any] = {"images": [], "annotations": []}
    (tmp_path / "coco.json").write_text(json.dumps(coco))
    given = {"path": tmp_path / "coco.json", "bytes": json.dumps(coco).encode(), "object": coco}[kind]
    server.answers = [TAKEN]
    call("start_evaluation", [b"a"], annotations=given)
    (content,) = [content for name, _, content in server.parts if name == "annotations"]
    assert json.loads(content) == coco


def test_a_file_is_sent_again_whole(call: Any, server: Any, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(bytes(range(256)) * 1000)
    server.answers = [server.problem(429, "too_many_evaluations", {"Retry-After": "1"}), TAKEN]
    call("start_evaluation", [tmp_path / "a.png"])
    assert [content for _, content in server.files] == [bytes(range(256)) * 1000]
    assert len(server.requests) == 2


def test_what_may_have_been_taken_is_not_sent_again(call: Any, server: Any) -> None:
    server.answers = [httpx.ReadError("broken")]
    with pytest.raises(errors.Unavailable):
        call("start_evaluation", [b"a"])
    assert len(server.requests) == 1


@pytest.mark.parametrize("images", ["a.png", b"a", []])
def test_several_pictures_are_expected(call: Any, server: Any, images: Any) -> None:
    server.answers = [TAKEN]
    with pytest.raises((TypeError, ValueError)):
        call("start_evaluation", images)
    assert server.requests == []


def test_one_that_fails_says_why(call: Any, server: Any) -> None:
    server.answers = [TAKEN, *answers({**RUNNING, "state": "failed", "reason": "Too little memory."})]
    with pytest.raises(errors.EvaluationNotDone, match=r"has failed: Too little memory\."):
        call("evaluate", [b"a"])
    assert "DELETE" not in " ".join(sent(server))


def test_given_up_it_is_cancelled(call: Any, server: Any) -> None:
    server.answers = [TAKEN, httpx.Response(204)]

    def give_up(_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        call("evaluate", [b"a"], progress=give_up)
    assert sent(server) == ["POST /evaluations", f"DELETE /evaluations/{QUEUED['id']}"]


def test_reading(call: Any, server: Any) -> None:
    server.answers = [
        *answers(ANSWERS["evaluation_list"], DONE),
        httpx.Response(200, text="<!doctype html>"),
        httpx.Response(204),
    ]
    assert [each.state for each in call("evaluations").evaluations] == ["done", "running"]
    assert call("evaluation", "a/b").result is not None
    assert call("evaluation_report", "x") == "<!doctype html>"
    assert call("remove_evaluation", "x") is None
    assert sent(server) == [
        "GET /evaluations",
        "GET /evaluations/a/b",
        "GET /evaluations/x/report",
        "DELETE /evaluations/x",
    ]
    assert server.requests[1].url.raw_path.endswith(b"a%2Fb")


EVENTS = "".join(
    f"event: {name}\ndata: {json.dumps({key: value for key, value in entry.items() if key != 'result'})}\n\n"
    for name, entry in {"progress": RUNNING, "done": DONE}.items()
)


class TestEvents:
    def transport(self, response: httpx.Response) -> httpx.MockTransport:
        def answer(_: httpx.Request) -> httpx.Response:
            return httpx.Response(response.status_code, headers=response.headers, content=response.content)

        return httpx.MockTransport(answer)

    def test_one_after_the_other(self) -> None:
        transport = self.transport(httpx.Response(200, text=f": still there\n\n{EVENTS}"))
        with Client(transport=transport) as client:
            assert [found.state for found in client.evaluation_events("x")] == ["running", "done"]

    async def test_one_after_the_other_awaited(self) -> None:
        async with AsyncClient(transport=self.transport(httpx.Response(200, text=EVENTS))) as client:
            assert [found.state async for found in client.evaluation_events("x")] == ["running", "done"]

    async def test_of_none(self, server: Any) -> None:
        response = server.problem(404, "unknown_evaluation")
        with Client(transport=self.transport(response)) as client, pytest.raises(errors.UnknownEvaluation):
            list(client.evaluation_events("x"))
        async with AsyncClient(transport=self.transport(response)) as client:
            with pytest.raises(errors.UnknownEvaluation):
                [found async for found in client.evaluation_events("x")]

    def test_a_lost_connection(self) -> None:
        def lost(_: httpx.Request) -> httpx.Response:
            raise httpx.ReadError("broken")

        with Client(transport=httpx.MockTransport(lost)) as client, pytest.raises(errors.Unavailable):
            list(client.evaluation_events("x"))
