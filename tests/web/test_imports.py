"""What answers is imported behind the start: requests that need it wait, others do not."""

from __future__ import annotations

import asyncio
import threading
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest

from service.web.app import PROTOCOLS
from tests.web.application import faked, until

if TYPE_CHECKING:
    from collections.abc import Iterator

VERBS = "service.protocols.kserve_v1.verbs"


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Nothing is imported for KServe V1 and what comes behind it until this is set."""
    event = threading.Event()

    def slow(name: str) -> Any:
        if name == VERBS:
            event.wait(60)
        return import_module(name)

    monkeypatch.setattr("service.web.imports.import_module", slow)
    yield event
    event.set()


async def test_requests_wait_for_what_answers_them_and_for_nothing_else(held: threading.Event) -> None:
    async with faked() as application, application.client() as client:
        waiting = asyncio.create_task(client.post("/v1/models/pets:predict", json={"instances": []}))
        await until(lambda: application.lifecycle.inside)
        for path in ("/v2/health/live", "/readyz", "/errors", "/api/v1/models"):
            assert (await client.get(path)).status_code == 200
        assert not waiting.done()
        held.set()
        assert (await waiting).status_code == 400


async def test_what_cannot_be_imported_is_logged_and_others_are_answered(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def damaged(name: str) -> Any:
        if name == VERBS:
            raise ImportError(name)
        return import_module(name)

    monkeypatch.setattr("service.web.imports.import_module", damaged)
    async with faked() as application, application.client() as client:
        assert (await client.get("/v1/models")).status_code == 200
        assert (await client.get("/integrations/cvat/api/functions")).status_code == 200
    assert "kserve_v1 cannot be imported" in caplog.text


async def test_an_end_waits_for_no_import(held: threading.Event) -> None:
    async with faked() as application:
        assert application.lifecycle.state == "serving"
    assert not held.is_set()
    held.set()  # the loop's end waits for its threads


def test_every_protocol_names_what_answers_it() -> None:
    assert all(row.modules for row in PROTOCOLS)
