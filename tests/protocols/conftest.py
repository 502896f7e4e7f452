from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.web.application import faked

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import httpx

    from tests.web.application import Application


@pytest.fixture
async def application() -> AsyncIterator[Application]:
    """The application with a worker that is made up; packages whose protocol needs more have their own."""
    async with faked(max_images=8) as application:
        yield application


@pytest.fixture
async def client(application: Application) -> AsyncIterator[httpx.AsyncClient]:
    async with application.client() as client:
        yield client
