from __future__ import annotations

from typing import TYPE_CHECKING

import pytest_asyncio

from tests.web.application import served

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import httpx

    from tests.web.application import Application


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def application() -> AsyncIterator[Application]:
    """The application with a real worker and the embedded models."""
    async with served(models=("shapes",)) as application:
        yield application


@pytest_asyncio.fixture(loop_scope="session")
async def client(application: Application) -> AsyncIterator[httpx.AsyncClient]:
    async with application.client() as client:
        yield client
