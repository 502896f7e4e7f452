"""Clients that ask for much and leave: nobody else notices, and nothing is done for them any more."""

from __future__ import annotations

import io
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from PIL import Image

from tests.server import running_server
from tests.toys import png

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.server import Server

pytestmark = pytest.mark.slow

METHODS = ("gradcam", "gradcam++", "xgradcam", "hirescam", "layercam", "eigencam", "eigengradcam", "finercam")
MUCH: dict[str, Any] = {
    "method": METHODS,
    "target": "top-4",
    "output": ("heatmap", "overlay", "mask"),
    "max_side": 3000,
}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running_server("--device", "cpu", "--decode-threads", "2") as server:
        yield server


@pytest.fixture(scope="module")
def large() -> bytes:
    """64 million pixels in some ten thousand bytes."""
    buffer = io.BytesIO()
    Image.new("L", (8000, 8000), 128).save(buffer, "PNG")
    return buffer.getvalue()


def leave(url: str, picture: bytes) -> None:
    """Ask for a minute of drawing, and leave when it is under way."""
    with httpx.Client(timeout=httpx.Timeout(30, read=4)) as client, pytest.raises(httpx.ReadTimeout):
        client.post(f"{url}/api/v1/explain", params=MUCH, files={"image": picture})


def ask(url: str) -> tuple[int, float]:
    began = time.monotonic()
    answered = httpx.post(f"{url}/api/v1/explain", files={"image": png()}, timeout=60)
    return answered.status_code, time.monotonic() - began


def test_nobody_waits_for_those_who_left(server: Server, large: bytes) -> None:
    _, quiet = ask(server.url)
    with ThreadPoolExecutor(2) as clients:
        gone = [clients.submit(leave, server.url, large) for _ in range(2)]
        time.sleep(2)
        status, while_they_wait = ask(server.url)
        for each in gone:
            each.result()
    assert status == 200
    assert while_they_wait < quiet + 5, "room and threads are not all theirs"
    left_at = time.monotonic()
    while (metric := _inside(server.url)) and time.monotonic() < left_at + 120:
        time.sleep(0.1)
    assert metric == 0, "what was theirs is free when the map that was being drawn is done"
    assert ask(server.url)[0] == 200


def _inside(url: str) -> float:
    lines = httpx.get(f"{url}/metrics", timeout=60).text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith('camserve_cost_inside{part="pixels"}'))


def test_the_process_ends_whatever_threads_draw(large: bytes) -> None:
    with running_server("--device", "cpu", "--drain-timeout-s", "0.5") as server, ThreadPoolExecutor(1) as clients:
        gone = clients.submit(leave, server.url, large)
        time.sleep(2)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) == 0
        gone.exception()


def test_what_is_too_much_says_what_would_do(server: Server, large: bytes) -> None:
    answered = httpx.post(
        f"{server.url}/api/v1/explain", params=MUCH | {"max_side": 8000}, files={"image": large}, timeout=60
    )
    problem = answered.json()
    assert (answered.status_code, problem["code"]) == (413, "request_too_costly")
    assert problem["factor"] in MUCH
    assert 0 < problem["allowed"] < problem["asked"]
