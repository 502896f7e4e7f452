"""A server of hand-made answers, and both clients behind one way of calling them."""

from __future__ import annotations

import asyncio
import base64
import email
import email.policy
import io
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from PIL import Image

from service.client import AsyncClient, Client

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Answer = httpx.Response | Exception


@dataclass
class Server:
    """Gives the answers in order, the last one for ever, and keeps the requests."""

    answers: list[Answer] = field(default_factory=list)
    requests: list[httpx.Request] = field(default_factory=list)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)

    @property
    def parts(self) -> list[tuple[str, str | None, bytes]]:
        """Name, file name and content of each part of the last request."""
        request = self.requests[-1]
        head = f"Content-Type: {request.headers['Content-Type']}\r\n\r\n".encode()
        message = email.message_from_bytes(head + request.content, policy=email.policy.HTTP)
        parts: list[Any] = list(message.iter_parts())
        name = {"param": "name", "header": "Content-Disposition"}
        return [(part.get_param(**name), part.get_filename(), part.get_payload(decode=True)) for part in parts]

    @property
    def form(self) -> dict[str, list[str]]:
        """The fields of the last request."""
        fields: dict[str, list[str]] = {}
        for name, filename, content in self.parts:
            if filename is None:
                fields.setdefault(name, []).append(content.decode())
        return fields

    @property
    def files(self) -> list[tuple[str | None, bytes]]:
        """File names and contents of the pictures of the last request."""
        return [(filename, content) for name, filename, content in self.parts if name == "image"]

    @staticmethod
    def encoded(picture: Image.Image, **options: Any) -> dict[str, Any]:
        buffer = io.BytesIO()
        picture.save(buffer, "PNG", **options)
        data = base64.b64encode(buffer.getvalue()).decode()
        return {"media_type": "image/png", "width": picture.width, "height": picture.height, "data": data}

    @staticmethod
    def explanation(**members: Any) -> dict[str, Any]:
        palette = Image.new("P", (4, 3), 1)
        palette.putpalette([0, 0, 0, 255, 0, 0])
        raw = struct.pack("<6f", 0.0, 1.5, -2.0, 0.25, 3.0, 1e-3)
        return {
            "layer": "layer4",
            "method": "gradcam",
            "target": {"index": 281, "label": "tabby", "probability": 0.61, "logit": 12.3},
            "against": None,
            "empty": False,
            "maximum": 3.0,
            "peak": {"x": 2.0, "y": 1.5},
            "heatmap": Server.encoded(palette, transparency=0),
            "overlay": Server.encoded(Image.new("RGB", (4, 3), (10, 20, 30))),
            "mask": None,
            "map": {"dtype": "float32", "shape": [2, 3], "data": base64.b64encode(raw).decode()},
            "regions": None,
        } | members

    @staticmethod
    def result(index: int = 0, **members: Any) -> dict[str, Any]:
        return {
            "image": {"index": index, "filename": f"{index}.png", "width": 4, "height": 3, "sha256": "ab" * 32},
            "view": {"left": 0.5, "top": 0, "right": 3.5, "bottom": 3},
            "predictions": [{"rank": 1, "index": 281, "label": "tabby", "probability": 0.61, "logit": 12.3}],
            "explanations": [Server.explanation()],
        } | members

    @staticmethod
    def answer(*results: dict[str, Any]) -> httpx.Response:
        timing = dict.fromkeys(["total_ms", "decode_ms", "queue_ms", "compute_ms", "render_ms"], 1.5)
        body = {
            "id": "01J",
            "model": {"name": "resnet50", "version": "1"},
            "results": list(results or [Server.result()]),
            "timing": timing | {"batch_size": 1},
            "cost": {"forward": 1.0, "pixels": 12, "bytes": 1},
            "precision": "bfloat16",
        }
        return httpx.Response(200, json=body)

    @staticmethod
    def problem_body(status: int, code: str, **members: Any) -> dict[str, Any]:
        kind = f"https://example.org/errors#{code}"
        body = {"type": kind, "title": "T", "status": status, "code": code, "detail": "Said why.", "request_id": "01J"}
        return body | members

    @staticmethod
    def problem(status: int, code: str, headers: dict[str, str] | None = None, **members: Any) -> httpx.Response:
        headers = {"Content-Type": "application/problem+json"} | (headers or {})
        return httpx.Response(status, json=Server.problem_body(status, code, **members), headers=headers)


class Caller:
    """Calls a method of either client; no pause is really waited for."""

    def __init__(self, kind: str, server: Server) -> None:
        self.kind = kind
        self.server = server
        self.slept: list[float] = []
        self.on_sleep: Callable[[float], object] = bool  # any function of a number
        self.runner = asyncio.Runner()
        self.configure()

    def configure(self, **settings: Any) -> Client | AsyncClient:
        """Build the client anew."""
        transport = httpx.MockTransport(self.server)
        self.client: Client | AsyncClient
        if self.kind == "sync":
            self.client = Client(transport=transport, **settings)
            self.client._sleep = self._sleep
        else:
            self.client = AsyncClient(transport=transport, **settings)
            self.client._sleep = self._asleep
        return self.client

    def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.on_sleep(seconds)

    async def _asleep(self, seconds: float) -> None:
        self._sleep(seconds)

    def __call__(self, name: str, *arguments: Any, **options: Any) -> Any:
        result = getattr(self.client, name)(*arguments, **options)
        return result if self.kind == "sync" else self.runner.run(result)


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture(params=["sync", "async"])
def call(request: pytest.FixtureRequest, server: Server) -> Iterator[Caller]:
    caller = Caller(request.param, server)
    yield caller
    caller("close" if caller.kind == "sync" else "aclose")
    caller.runner.close()
