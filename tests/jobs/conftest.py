from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.jobs.computed import Held
from tests.web.application import faked

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import httpx

    from tests.web.application import Application


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Held:
    return Held(monkeypatch)


@pytest.fixture
async def application() -> AsyncIterator[Application]:
    limits: dict[str, Any] = {"max_evaluations": 2, "max_evaluation_images": 3, "max_evaluation_bytes": 100_000}
    async with faked(max_image_bytes=20_000, max_image_pixels=10_000, **limits) as application:
        yield application


@pytest.fixture
async def client(application: Application) -> AsyncIterator[httpx.AsyncClient]:
    async with application.client() as client:
        yield client
