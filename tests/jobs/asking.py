"""Asking for evaluations over HTTP, in tests."""

from __future__ import annotations

import asyncio
import io
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from service.wire_evaluation import Evaluation

if TYPE_CHECKING:
    from pathlib import Path

    import httpx

    from tests.web.application import Application

ROUTE = "/api/v1/evaluations"


def png(side: int = 8, value: int = 0) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((side, side, 3), value, np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def image(name: str = "a.png", data: bytes | None = None, field: str = "image") -> tuple[str, tuple[str, bytes]]:
    return field, (name, png() if data is None else data)


async def post(client: httpx.AsyncClient, *files: Any, **options: Any) -> httpx.Response:
    return await client.post(ROUTE, files=list(files) or [image()], **options)


def folders(application: Application) -> list[Path]:
    store = application.state["evaluations"]._store
    return [] if store is None else [each for each in store.root.iterdir() if each.is_dir()]


async def ended(client: httpx.AsyncClient, url: str, headers: dict[str, str] | None = None) -> Evaluation:
    await asyncio.wait_for(client.get(f"{url}/events", headers=headers), 10)
    return Evaluation.model_validate((await client.get(url, headers=headers)).json())
