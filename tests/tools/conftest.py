from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.server import running_server

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "service" / "demo" / "samples"
NAMES = ("00-disk.png", "03-star.png", "05-ring.png", "11-gear.png")

Export = Callable[..., Path]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the tools warn of what they are built on: that is not ours to repair."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("default"))


def _service_python() -> str:
    """The interpreter that has the service's own dependencies: the tools' has none of them."""
    own = ROOT / ".venv" / "bin" / "python"
    return str(own) if own.exists() else sys.executable


@pytest.fixture(scope="session")
def url() -> Iterator[str]:
    """A server with the embedded models."""
    with running_server("--log-level", "error", "--threads", "1", python=_service_python()) as server:
        yield server.url


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for name in NAMES:
        (folder / name).write_bytes((SAMPLES / name).read_bytes())
    return folder


@pytest.fixture(scope="session")
def export(url: str, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Export:
    """Run ``camserve export`` against the server; return what it wrote."""

    def run(kind: str, *arguments: str) -> Path:
        out = tmp_path_factory.mktemp("exported") / "out"
        command = [_service_python(), "-m", "service.cli", "export", kind, str(photos), "--out", str(out)]
        subprocess.run([*command, "--server", url, *arguments], check=True, cwd=ROOT, env={**os.environ})
        return out

    return run
