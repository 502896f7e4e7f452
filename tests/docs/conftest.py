from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.docs.documents import ROOT
from tests.server import running_server

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="package")
def server_url() -> Iterator[str]:
    """The address of a server with the embedded models, on the CPU: what the documents show."""
    with running_server("--device", "cpu", "--log-level", "warning") as server:
        yield server.url


@pytest.fixture
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that looks like the repository's root, for blocks to run in; what they write does not stay."""
    (tmp_path / "service").symlink_to(ROOT / "service")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    for name in [name for name in os.environ if name.startswith("CAMSERVE_")]:
        monkeypatch.delenv(name)
    return tmp_path
