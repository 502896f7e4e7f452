"""What benchmarks measure with: that it counts right, and that a check without its machine says so."""

from __future__ import annotations

import asyncio
import base64
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import torch

from benchmarks import precisions as precisions_of
from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu.networks import SIDE, fragile, hungry
from benchmarks.peers.load import Served, load, uploads
from benchmarks.peers.servers import _compared
from benchmarks.peers.systems import check
from benchmarks.precisions import left_out, precisions
from tests.toys import png

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_PNG = base64.b64encode(png(size=(8, 8))).decode()
_PREDICTIONS = [{"index": index, "probability": 0.2} for index in range(5)]


@asynccontextmanager
async def answering(status: str) -> AsyncIterator[tuple[int, list[bytes]]]:
    """A server that takes 10 ms for each answer; its port and what it was sent."""
    sent: list[bytes] = []
    serving: set[asyncio.Task[Any] | None] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.add(asyncio.current_task())
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                sent.append(await reader.readexactly(length))
                await asyncio.sleep(0.01)
                writer.write(f"HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\n{{}}".encode())
        except asyncio.IncompleteReadError:  # the client has gone
            writer.close()
            await writer.wait_closed()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1], sent
        await asyncio.gather(*filter(None, serving))


async def test_every_client_waits_for_its_answer_and_all_are_counted() -> None:
    requests = uploads("/explain")[:3]
    async with answering("200 OK") as (port, sent):
        found = await load(port, requests, 2, 0.1)
        assert len(found.seconds) == len(sent)
        assert 2 <= len(sent) <= 22, "two clients, of whom each is answered after 10 ms at the soonest"
        assert found.per_second * 0.1 == pytest.approx(len(sent), abs=2)  # two may end after their time
        assert found.seconds == sorted(found.seconds)
        assert found.seconds[0] >= 0.01
        assert len(set(sent)) == min(3, len(sent))


async def test_an_answer_that_is_none_ends_the_measurement() -> None:
    async with answering("503 Service Unavailable") as (port, _):
        with pytest.raises(RuntimeError, match="503"):
            await load(port, uploads("/explain")[:1], 1, 1.0)


def test_quantiles() -> None:
    served = Served(1.0, [float(number) for number in range(100)])
    assert (served.at(0.5), served.at(0.99), served.at(1.0)) == (50.0, 99.0, 99.0)


@pytest.mark.parametrize(
    ("ours", "met"), [((50.0, 0.1), True), ((49.0, 0.1), False), ((50.0, 2.0), False), ((500.0, 2.0), False)]
)
def test_both_the_throughput_and_the_slowest_count(ours: tuple[float, float], met: bool) -> None:
    here = {"float32": Served(20.0, [0.5]), "bfloat16": Served(ours[0], [ours[1]])}
    line = _compared("a", Served(10.0, [1.0]), here)
    assert line.met is met
    assert f"float32 2.0 × · bfloat16 {ours[0] / 10:.1f} ×" in line.text


@pytest.mark.parametrize(
    "answer",
    [
        {"predictions": _PREDICTIONS, "heatmap": _PNG},
        [{"predictions": _PREDICTIONS, "heatmap": _PNG}],
        {"results": [{"predictions": _PREDICTIONS, "explanations": [{"heatmap": {"data": _PNG}}]}]},
    ],
    ids=["peers", "BentoML", "ours"],
)
def test_answers_are_looked_at(answer: Any) -> None:
    check(json.dumps(answer).encode())
    worse = json.dumps(answer).replace('{"index": 4, "probability": 0.2}', "").replace("0.2}, ]", "0.2}]")
    with pytest.raises(AssertionError):
        check(worse.encode())


def test_without_a_gpu_the_check_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["benchmarks.gpu"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main() == 2
    assert capsys.readouterr().err.startswith(f"No GPU: torch {torch.__version__} sees no CUDA device.")


def test_a_step_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["benchmarks.gpu", "--device", "cpu", "assrt"])
    with pytest.raises(SystemExit):
        gpu.main()
    assert "no such step: assrt; there are maps, inprocess, http, assert, memory, tests" in capsys.readouterr().err


def test_only_a_red_picture_fails_the_network_of_the_check() -> None:
    pictures = torch.rand(4, 3, SIDE, SIDE)
    assert fragile()(pictures).shape == (4, 5)
    assert torch.equal(fragile()(pictures), hungry()(pictures))
    pictures[2] = torch.tensor([1.0, 0.0, 0.0])[:, None, None]
    with pytest.raises(IndexError):
        fragile()(pictures)


@pytest.mark.parametrize(
    ("lacking", "measured", "said"),
    [
        (None, ("float32", "bfloat16"), []),
        ("The CPU has it not.", ("float32",), ["bfloat16 is not measured: The CPU has it not."]),
    ],
)
def test_what_a_machine_emulates_is_not_measured_and_said_so(
    lacking: str | None, measured: tuple[str, ...], said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precisions_of, "why_not_native", lambda _device: lacking)

    assert precisions() == measured
    assert list(left_out()) == said
