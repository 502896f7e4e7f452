from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.engine.fakes import replace_workers, settings, start

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from service.engine.pool import Pool


@pytest.fixture
def fake_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of processes, workers that the test speaks for."""
    replace_workers(monkeypatch)


@pytest.fixture
async def pool(fake_workers: None) -> AsyncIterator[Pool]:
    async for started in start(settings()):
        yield started
