from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.web.application import faked

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import httpx

    from tests.web.application import Application


@pytest.fixture
async def application() -> AsyncIterator[Application]:
    """An application with a fake worker, small limits and one picture at a time in the queue."""
    limits: dict[str, Any] = {"max_queue": 2, "max_images": 2, "max_body_bytes": 100_000, "max_image_pixels": 10_000}
    async with faked(**limits) as application:
        yield application


@pytest.fixture
async def client(application: Application) -> AsyncIterator[httpx.AsyncClient]:
    async with application.client() as client:
        yield client
