from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.engine.fakes import settings, start

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.engine.fakes import FakedPool


@pytest.fixture
async def pool() -> AsyncIterator[FakedPool]:
    async for started in start(settings()):
        yield started
