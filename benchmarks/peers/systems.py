"""The servers that are compared: how each is started, where it answers, and that its answer is what was asked for."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from benchmarks.peers.load import ask, uploads
from benchmarks.sockets import server_port
from tests.server import running_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager

MODELS = {"resnet50": "ResNet-50", "squeezenet1_0": "SqueezeNet 1.0"}

_START_TIMEOUT_S, _END_TIMEOUT_S = 120.0, 30.0
_NOT_YET = {0, 404, 503}  # what is answered before the model is there
_AROUND = "benchmarks.peers.around_gradcam"
_PYTHON = (sys.executable, "-m")
_BENTO = {"resnet50": "ResNet50", "squeezenet1_0": "SqueezeNet"}
# They would report that they are used, and to whom.
_SILENT = {"BENTOML_DO_NOT_TRACK": "True", "RAY_USAGE_STATS_ENABLED": "0", "LITSERVE_DISABLE_TELEMETRY": "1"}


@dataclass(frozen=True)
class System:
    """A server to compare.

    Attributes:
        path: where it explains.
        serving: starts it with an architecture, and gives its port.
    """

    path: str
    serving: Callable[[str], AbstractContextManager[int]]


def _peer(path: str, command: Callable[[str, int], tuple[str, ...]]) -> System:
    return System(path, lambda architecture: _process(path, lambda port: command(architecture, port)))


def _module(name: str) -> Callable[[str, int], tuple[str, ...]]:
    return lambda architecture, port: (*_PYTHON, f"{_AROUND}.{name}", architecture, str(port))


def _bentoml(architecture: str, port: int) -> tuple[str, ...]:
    service = f"{_AROUND}.bentoml_service:{_BENTO[architecture]}"
    return (*_PYTHON, "bentoml", "serve", service, "--host", "127.0.0.1", "--port", str(port))


PEERS: Mapping[str, System] = {
    "FastAPI": _peer("/explain", _module("plain_fastapi")),
    "LitServe": _peer("/predict", _module("litserve_api")),
    "BentoML": _peer("/explain", _bentoml),
    "Ray Serve": _peer("/explain", _module("ray_serve")),
}


def ours(precision: str) -> System:
    """Return camserve, computing in ``precision``."""
    return System("/api/v1/explain?output=heatmap", lambda architecture: _camserve(architecture, precision))


@contextmanager
def _camserve(architecture: str, precision: str) -> Iterator[int]:
    with running_server(f"--model={architecture}:random,precision={precision}", "--log-level=warning") as server:
        yield server_port(server)


@contextmanager
def _process(path: str, command: Callable[[int], tuple[str, ...]]) -> Iterator[int]:
    """Run a server until it has answered once and then as long as it is wanted; end it with all that it started."""
    port = _free_port()
    environment = {**os.environ, **_SILENT}  # noqa: TID251  # it is the servers' own, not our settings
    with (
        Path(os.devnull).open("w") as nowhere,
        subprocess.Popen(
            command(port), stdout=nowhere, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        ) as process,
    ):
        try:
            asyncio.run(_until_it_answers(process, port, uploads(path)[0]))
            yield port
        finally:
            _end(process)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


async def _until_it_answers(process: subprocess.Popen[bytes], port: int, request: bytes) -> None:
    deadline, status, body = time.monotonic() + _START_TIMEOUT_S, 0, b""
    while process.poll() is None and time.monotonic() < deadline and status in _NOT_YET:
        try:
            reply = await ask(port, request)
            status, body = reply.status, reply.body
        except (OSError, EOFError):
            await asyncio.sleep(0.5)
    if status != 200:
        raise RuntimeError(f"{process.args!r} does not explain: {status} {body[:300]!r}")
    check(body)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask it to end; then end what is left of its session, which began with it."""
    process.terminate()
    try:
        process.wait(_END_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def check(body: bytes) -> None:
    """See that an answer has classes and a heatmap.

    Raises:
        AssertionError: it does not.
    """
    answer: Any = json.loads(body)
    if isinstance(answer, list):
        [answer] = answer  # BentoML's batchable API
    if "results" in answer:
        [answer] = answer["results"]  # ours
        answer["heatmap"] = answer["explanations"][0]["heatmap"]["data"]
    predictions, heatmap = answer["predictions"], answer["heatmap"]
    assert len(predictions) == 5, predictions
    assert Image.open(io.BytesIO(base64.b64decode(heatmap))).format == "PNG"
