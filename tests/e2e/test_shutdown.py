"""The end of the real process, under load: exit codes, answers, and no worker that outlives it."""

from __future__ import annotations

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.server import Server, running_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [pytest.mark.slow, pytest.mark.alone]

SAMPLE = Path("service/demo/samples/03-star.png")
PATIENCE_S = 60.0


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture
def server(log: Path) -> Iterator[Server]:
    with running_server("--model=shapes", log=log) as server:
        yield server


def workers(server: Server) -> list[int]:
    found: list[int] = [worker["pid"] for worker in httpx.get(f"{server.url}/readyz", timeout=60).json()["workers"]]
    assert found
    return found


def alive(pid: int) -> bool:
    """Whether the process runs; one that ended and that nobody asks for its exit code does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def explain(url: str, answers: list[int], stop: threading.Event) -> None:
    """Ask until told to stop, or until nobody listens."""
    picture = SAMPLE.read_bytes()
    with httpx.Client(base_url=url, timeout=PATIENCE_S) as client:
        while not stop.is_set():
            try:
                response = client.post("/api/v1/explain", files={"image": picture})
            except httpx.TransportError:
                return  # it came too late
            answers.append(response.status_code)
            if response.status_code == 503:
                assert response.headers["Connection"] == "close"
                assert int(response.headers["Retry-After"]) >= 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_under_load_it_answers_what_it_took_and_ends_with_0(server: Server, log: Path, number: int) -> None:
    pids = workers(server)
    answers: list[int] = []
    stop = threading.Event()
    with ThreadPoolExecutor(8) as threads:
        asking = [threads.submit(explain, server.url, answers, stop) for _ in range(8)]
        until(lambda: len(answers) > 20)
        server.process.send_signal(number)
        code = server.process.wait(PATIENCE_S)
        stop.set()
    assert code == 0
    assert [each.result() for each in asking]
    assert not any(map(alive, pids))
    lines = log.read_text().splitlines()
    assert set(answers) <= {200, 503}
    assert answers.count(200) == sum(" /api/v1/explain 200 " in line for line in lines), "all that it took it answered"
    assert not [line for line in lines if "Traceback" in line or " 499 " in line or line.startswith(("ERROR", "WARN"))]
    assert sum("drain" in line for line in lines) == 2, "a line for the begin and one for the end"


def test_ctrl_c_does_not_reach_its_workers(server: Server) -> None:
    """A terminal sends it to the whole group of processes: workers would fall over it while they still import."""
    assert [os.getpgid(pid) for pid in workers(server)] == workers(server)
    assert os.getpgid(server.process.pid) not in workers(server)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_second_signal_ends_it_at_once(log: Path, number: int, code: int) -> None:
    with running_server("--model=shapes", "--drain-delay-s=600", log=log) as server:
        pids = workers(server)
        server.process.terminate()
        until(lambda: httpx.get(f"{server.url}/readyz", timeout=60).json()["status"] == "draining")
        server.process.send_signal(number)
        assert server.process.wait(PATIENCE_S) == code
        until(lambda: not any(map(alive, pids)))
    assert "a second time" in log.read_text()


def test_workers_notice_that_the_front_was_killed(server: Server) -> None:
    pids = workers(server)
    server.process.kill()
    until(lambda: not any(map(alive, pids)))


def test_a_worker_that_hangs_does_not_outlive_the_front_either(server: Server) -> None:
    pids = workers(server)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    server.process.kill()
    until(lambda: not any(map(alive, pids)))


def test_it_ends_while_models_are_loading() -> None:
    with running_server("--model=shapes", wait=False) as server:
        server.process.terminate()
        assert server.process.wait(PATIENCE_S) == 0
