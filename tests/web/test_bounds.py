"""Settings that bound a request: what just keeps to one is answered, and one more is refused."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from tests.toys import encode, png
from tests.web.application import Exchange, faked, until

if TYPE_CHECKING:
    import httpx

EXPLAIN = "/api/v1/explain"
IMAGE = {"Content-Type": "image/png"}


async def status_and_code(client: httpx.AsyncClient, content: bytes, **query: Any) -> tuple[int, str | None]:
    response = await client.post(EXPLAIN, params=query, content=content, headers=IMAGE)
    return response.status_code, response.json().get("code")


async def test_bytes_of_a_picture() -> None:
    data = png()
    async with faked(max_image_bytes=max(1024, len(data))) as application, application.client() as client:
        assert await status_and_code(client, data) == (200, None)
        assert await status_and_code(client, data + b"\0") == (413, "image_too_large")


async def test_pixels_of_a_picture() -> None:
    async with faked(max_image_pixels=64 * 48) as application, application.client() as client:
        assert await status_and_code(client, png(size=(64, 48))) == (200, None)
        assert await status_and_code(client, png(size=(64, 49))) == (413, "image_too_large")


async def test_frames_of_a_picture() -> None:
    async with faked(max_image_frames=2) as application, application.client() as client:
        for frames, expected in ((2, (200, None)), (3, (413, "image_too_large"))):
            first, *others = [Image.new("RGB", (8, 8), (80 * frame, 0, 0)) for frame in range(frames)]
            assert await status_and_code(client, encode(first, "GIF", save_all=True, append_images=others)) == expected


async def test_pictures_of_a_request_where_the_queue_is_shorter() -> None:
    """Beyond the queue's length there would never be room, so that trying again would not help."""
    async with faked(max_images=3, max_queue=2) as application, application.client() as client:
        for count, expected in ((2, (200, None)), (3, (413, "too_many_images"))):
            files = [("image", (f"{number}.png", png())) for number in range(count)]
            response = await client.post(EXPLAIN, files=files)
            assert (response.status_code, response.json().get("code")) == expected


async def test_explanations_of_a_picture_count_fused_layers_once() -> None:
    layers = {"layer": ["conv1", "conv2"]}
    async with faked(max_explanations=3) as application, application.client() as client:
        assert await status_and_code(client, png(), layer="conv1", target="top-3") == (200, None)
        assert await status_and_code(client, png(), **layers, target="top-2") == (422, "invalid_option")
        assert await status_and_code(client, png(), **layers, target="top-3", fuse="mean") == (200, None)
        assert await status_and_code(client, png(), **layers, target=["top-3", "cat"], fuse="mean") == (
            422,
            "invalid_option",
        )


@pytest.mark.parametrize(("size", "status"), [(100, 200), (101, 413)])
async def test_a_body_may_be_as_large_as_all_bodies_together_may_not(size: int, status: int) -> None:
    """The room for all bodies is never less than what one may have."""
    data = png(np.zeros((8, 8, 3), np.uint8))
    async with faked(max_body_bytes=100 * 1024, max_inflight_bytes=1024) as application, application.client() as client:
        padded = data + bytes(size * 1024 - len(data))
        assert (await client.post(EXPLAIN, content=padded, headers=IMAGE)).status_code == status


@pytest.mark.parametrize(("excess", "status"), [(0, 200), (1, 429)])
async def test_bytes_of_all_bodies_together(excess: int, status: int) -> None:
    data, first = png(np.zeros((8, 8, 3), np.uint8)), 2000
    async with faked(max_body_bytes=4096, max_inflight_bytes=4096) as application, application.client() as client:
        inside = Exchange(EXPLAIN, bytes(first), complete=False, content_type="image/png")
        task = inside.start(application)
        await until(lambda: inside.reads > 1)
        padded = data + bytes(4096 - first - len(data) + excess)
        assert (await client.post(EXPLAIN, content=padded, headers=IMAGE)).status_code == status
        inside.gone.set()
        await asyncio.gather(task)
