"""What models take, on a real server: within a budget, side by side, and the same with every worker."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest

from tests.server import running_server
from tests.toys import png

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [pytest.mark.slow, pytest.mark.alone]

MODELS = "/api/v1/models"
FLOATS = 30_000_000
NETS = f"""
import time
from pathlib import Path

import torch
from torch import nn

from service.models.shapes_net import ShapesNet

def drawn():
    return ShapesNet(num_classes=12)

def large():
    network = drawn()
    network.ballast = nn.Parameter(torch.ones({FLOATS}))
    return network

GO, MARKS = Path(__file__).with_name("go"), Path(__file__).with_name("marks")

def mark(letter):
    with MARKS.open("a") as marks:
        marks.write(letter)

def slow_on_white():
    network = drawn()

    def wait(_module, inputs):
        if float(inputs[0].amin()) > 1.5:  # what noise never is all over
            mark("(")
            while not GO.exists():
                time.sleep(0.02)
            mark(")")

    network.register_forward_pre_hook(wait)
    return network
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "memory_nets.py").write_text(NETS, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path


@pytest.fixture
def serve(folder: Path) -> Iterator[Callable[..., httpx.Client]]:
    """Start a server with options; return a client of it."""
    del folder
    opened: list[Any] = []

    def start(*options: str) -> httpx.Client:
        common = ("--device", "cpu", "--management", "--management-modules", "memory_nets")
        context = running_server(*common, *options)
        server = context.__enter__()
        client = httpx.Client(base_url=server.url, timeout=120)
        opened.extend([context, client])
        return client

    yield start
    for each in reversed(opened):
        each.__exit__(None, None, None)


def put(client: httpx.Client, name: str, function: str) -> dict[str, Any]:
    body = {"architecture": f"memory_nets.{function}", "size": 96}
    response = client.put(f"{MODELS}/{name}", params={"wait": 110}, json=body)
    assert response.status_code == 200, response.text
    entry: dict[str, Any] = response.json()
    return entry


def predict(client: httpx.Client, name: str, picture: bytes) -> dict[str, Any]:
    response = client.post(f"{MODELS}/{name}/predict", files={"image": picture})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def states(client: httpx.Client) -> dict[str, str]:
    return {entry["name"]: entry["state"] for entry in client.get(MODELS).json()["models"]}


def resident(client: httpx.Client) -> int:
    return sum(
        int(Path(f"/proc/{worker['pid']}/statm").read_text(encoding="utf-8").split()[1]) * 4096
        for worker in client.get("/readyz").json()["workers"]
    )


def until(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_beyond_the_budget_memory_falls_and_what_was_put_out_comes_again(serve: Callable[..., httpx.Client]) -> None:
    """Two of three models fit, of 120 MB each."""
    client, picture = serve("--model", "shapes", "--memory-budget", f"{int(4 * FLOATS * 2.5)}"), png(size=(96, 96))
    before = resident(client)
    taken = put(client, "a", "large")["memory_bytes"]
    assert 4 * FLOATS < taken < 4.2 * FLOATS
    put(client, "b", "large")
    both = resident(client)
    assert both - before > 1.8 * taken
    predict(client, "shapes", picture)  # so that it is not the one that nobody has asked for
    put(client, "c", "large")
    until(lambda: states(client) == {"shapes": "ready", "a": "unloaded", "b": "ready", "c": "ready"})
    until(lambda: resident(client) - before < 2.4 * taken)
    predict(client, "c", picture)
    predict(client, "a", picture)
    until(lambda: states(client) == {"shapes": "ready", "a": "ready", "b": "unloaded", "c": "ready"})
    until(lambda: resident(client) - before < 2.4 * taken)


def test_two_models_compute_side_by_side_and_one_never_twice_at_once(
    serve: Callable[..., httpx.Client], folder: Path
) -> None:
    client = serve("--model", "shapes", "--threads", "1")
    put(client, "slow", "slow_on_white")
    white = png(np.full((96, 96, 3), 255, np.uint8))
    marks = folder / "marks"

    def ask() -> None:
        with httpx.Client(base_url=client.base_url, timeout=120) as mine:
            predict(mine, "slow", white)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    threads[0].start()
    until(marks.exists)
    threads[1].start()
    for _ in range(3):
        predict(client, "shapes", white)
        time.sleep(0.2)  # time enough for the second one to be computed, too, if it could be
    assert marks.read_text(encoding="utf-8") == "(", "another model has answered meanwhile"
    (folder / "go").touch()
    for thread in threads:
        thread.join()
    assert marks.read_text(encoding="utf-8") == "()()", "one after the other"


def test_random_weights_are_the_same_with_every_worker(serve: Callable[..., httpx.Client]) -> None:
    client = serve("--model", "shapes", "--workers", "2")
    entry = put(client, "drawn", "drawn")
    assert [version["reason"] for version in entry["versions"]] == [None]
    until(lambda: all("drawn" in worker["models"] for worker in client.get("/readyz").json()["workers"]))
    again = client.post(f"{MODELS}/drawn/reload", params={"wait": 110}).json()
    assert again["digest"] == entry["digest"]
