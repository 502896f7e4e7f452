from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from service.client import Client
from tests import imagenet
from tests.server import Server, running_server

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """A real server with the real classifier first, and the embedded models."""
    imagenet.photos()
    arguments = [f"--model=squeezenet={imagenet.MODEL}", "--model=shapes", "--model=shapes-shortcut"]
    with running_server(*arguments, "--log-level=warning") as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(server.url) as connected:
        yield connected
