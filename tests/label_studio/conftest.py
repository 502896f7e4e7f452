"""Label Studio itself, from its package, with a database of its own, and camserve beside it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from playwright.sync_api import sync_playwright

from tests.server import running_server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page

PROGRAM = Path(__file__).parents[2] / ".venv-label-studio" / "bin" / "label-studio"
USER, PASSWORD, TOKEN = "labels@example.org", "only-for-tests-1", "0123456789abcdef0123456789abcdef01234567"
START_TIMEOUT_S = 300.0
SAMPLES = Path(__file__).parents[2] / "service" / "demo" / "samples"


class LabelStudio:
    """A running Label Studio, asked with its user's token.

    Attributes:
        url: where it is.
        files: the folder below which it serves folders.
    """

    def __init__(self, url: str, files: Path) -> None:
        self.url, self.files = url, files
        self.client = httpx.Client(base_url=url, headers={"Authorization": f"Token {TOKEN}"}, timeout=100)

    def get(self, path: str, **options: Any) -> Any:
        response = self.client.get(path, **options)
        assert response.is_success, response.text
        return response.json()

    def post(self, path: str, **options: Any) -> Any:
        response = self.client.post(path, **options)
        assert response.is_success, response.text
        return response.json()

    def project(self, label_config: str, *samples: str) -> int:
        """Make a project with samples as its tasks; return its number."""
        made: int = self.post("/api/projects/", json={"title": "shapes", "label_config": label_config})["id"]
        files = [(name, (name, (SAMPLES / name).read_bytes())) for name in samples]
        self.post(f"/api/projects/{made}/import", files=files)
        return made

    def connected(self, camserve: str, label_config: str, *samples: str) -> int:
        """Make a project of samples whose backend is connected; return its number."""
        made = self.project(label_config, *samples)
        backend = {"url": f"{camserve}/integrations/label-studio", "project": made, "title": "camserve"}
        answer = self.post("/api/ml/", json={**backend, "is_interactive": True})
        assert answer["state"] == "CO", answer
        return made

    def retrieve(self, project: int) -> list[dict[str, Any]]:
        """Retrieve predictions for all tasks; return all that there are then."""
        chosen = {"selectedItems": {"all": True, "excluded": []}}
        self.post(f"/api/dm/actions/?id=retrieve_tasks_predictions&project={project}", json=chosen)
        found: list[dict[str, Any]] = self.get(f"/api/predictions/?project={project}")
        return found

    def set_up(self, project: int, **settings: Any) -> None:
        """Change a project's settings."""
        response = self.client.patch(f"/api/projects/{project}/", json=settings)
        assert response.is_success, response.text

    def opened(self, page: Page, project: int, number: int) -> dict[str, float]:
        """Open a task; return where its picture is on the page."""
        page.goto(f"{self.url}/projects/{project}/data?task={number}")
        page.wait_for_function("[...document.images].some(image => image.width > 300)")
        page.wait_for_timeout(2000)
        where: dict[str, float] = page.evaluate(
            "(() => { const box = [...document.images].find(image => image.width > 300).getBoundingClientRect();"
            " return {x: box.x, y: box.y, width: box.width, height: box.height}; })()"
        )
        return where


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


@pytest.fixture(scope="package")
def label_studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabelStudio]:
    if not PROGRAM.exists():
        if os.environ.get("CAMSERVE_TESTS_REQUIRE_LABEL_STUDIO"):
            pytest.fail("Label Studio is not installed: scripts/test-label-studio does that")
        pytest.skip("Label Studio is not installed: scripts/test-label-studio does that")
    folder, files, port = tmp_path_factory.mktemp("label-studio"), tmp_path_factory.mktemp("files"), free_port()
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("CAMSERVE_")},
        "ML_BLOCK_LOCAL_IP": "false",  # the backend is on this machine
        "SSRF_PROTECTION_ENABLED": "false",  # and so is what its webhook calls
        "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
        "LABEL_STUDIO_USERNAME": USER,
        "LABEL_STUDIO_PASSWORD": PASSWORD,
        "LABEL_STUDIO_USER_TOKEN": TOKEN,
        "COLLECT_ANALYTICS": "false",
        "LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED": "true",
        "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT": str(files),
    }
    command = [PROGRAM, "start", "--no-browser", "--internal-host", "127.0.0.1", "--port", port, "--data-dir", folder]
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen([str(part) for part in command], env=environment, stdout=log, stderr=log) as process,
    ):
        try:
            found = LabelStudio(f"http://127.0.0.1:{port}", files)
            _wait_for(found)
            yield found
            found.client.close()
        finally:
            process.kill()


def _wait_for(found: LabelStudio) -> None:
    until = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < until:
        try:
            if found.client.get("/health").is_success:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.5)
    pytest.fail("Label Studio did not start")


@pytest.fixture(scope="package")
def camserve(label_studio: LabelStudio) -> Iterator[str]:
    """The address of a server that asks this Label Studio for its pictures."""
    models = ("--model", "shapes", "--model", "squeezenet=squeezenet1_1:random")
    where = ("--label-studio-url", label_studio.url, "--label-studio-token", TOKEN)
    with running_server("--device", "cpu", *models, *where) as server:
        yield server.url


@pytest.fixture(scope="package")  # Playwright's loop runs for as long as it is open
def browser() -> Iterator[Browser]:
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        pytest.skip("Chromium is not installed (Debian: apt install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, label_studio: LabelStudio) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    page = context.new_page()
    page.goto(f"{label_studio.url}/user/login/")
    page.fill("input[name=email]", USER)
    page.fill("input[name=password]", PASSWORD)
    page.click("button[type=submit]")
    page.wait_for_load_state("networkidle")
    yield page
    context.close()
