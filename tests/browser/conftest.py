"""A real Chromium on a real server. A page that writes an error to its console fails the test that opened it.

Chromium is not installed by pip: where there is none, these tests skip; ``CAMSERVE_TESTS_REQUIRE_BROWSER=1`` makes that
a failure. ``CAMSERVE_TESTS_CHROMIUM`` names another executable.

Everything here is synchronous: Playwright's synchronous interface and a running event loop exclude each other, so no
test of this folder is a coroutine, and the browser is closed when the folder is done.
"""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect, sync_playwright

from tests.browser.ready import wait_until_painted, wait_until_ready
from tests.server import running_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import Browser, Page

TIMEOUT_MS = 30_000

expect.set_options(timeout=TIMEOUT_MS)


@pytest.fixture(scope="package")
def server() -> Iterator[str]:
    """The address of a server with the embedded models."""
    with running_server() as running:
        yield running.url


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    found = os.environ.get("CAMSERVE_TESTS_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        message = "Chromium is not installed (Debian: apt install chromium)"
        if os.environ.get("CAMSERVE_TESTS_REQUIRE_BROWSER"):
            pytest.fail(message)
        pytest.skip(message)
    with sync_playwright() as playwright:
        # The sandbox needs privileges that containers lack; all pages are our own.
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
        browser = playwright.chromium.launch(executable_path=found, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def open_document(browser: Browser, server: str) -> Iterator[Callable[..., Page]]:
    """Open a path of the server, or an address, in a context of its own made with options of ``Browser.new_context``.

    ``before(page)`` is called before anything is loaded. ``expect_errors=True`` is for tests that make the server fail:
    browsers write failed requests to the console. What is returned has been drawn.
    """
    contexts = []
    complaints: list[str] = []

    def open_document(
        path: str, *, expect_errors: bool = False, before: Callable[[Page], object] | None = None, **options: object
    ) -> Page:
        context = browser.new_context(**options)  # type: ignore[arg-type]
        contexts.append(context)
        context.set_default_timeout(TIMEOUT_MS)
        page = context.new_page()
        # Chromium hands file choosers over to whoever has asked for them by then, and otherwise closes them at once:
        # asked for no sooner than by `expect_file_chooser`, that is a race with the key that opens one.
        page.on("filechooser", lambda _: None)
        if not expect_errors:
            page.on("console", lambda said: complaints.append(said.text) if said.type in {"error", "warning"} else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        if before is not None:
            before(page)
        page.goto(path if "://" in path else f"{server}{path}")
        wait_until_painted(page)
        return page

    yield open_document
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.fixture
def open_page(open_document: Callable[..., Page]) -> Callable[..., Page]:
    """As ``open_document``, for the page and ``/embed``: what is returned listens, too."""

    def open_page(path: str = "/", **options: object) -> Page:
        page = open_document(path, **options)
        wait_until_ready(page)
        return page

    return open_page


@pytest.fixture
def page(open_page: Callable[..., Page]) -> Page:
    """The page, opened on a desktop."""
    return open_page()
