"""A real Chromium on a real server. A page that writes an error to its console fails the test that opened it.

Chromium is not installed by pip: where there is none, these tests skip; ``CAMSERVE_TESTS_REQUIRE_BROWSER=1`` makes that
a failure. Debian's chromium-headless-shell comes first: it takes a fifth less time. ``CAMSERVE_TESTS_CHROMIUM`` names
another executable.

Everything here is synchronous: Playwright's synchronous interface and a running event loop exclude each other, so no
test of this folder is a coroutine, and the browser is closed when the folder is done.

Servers and what a browser reads first cost the most: there are two servers, and one context for each set of options, so
that a page finds in its cache what the page before has read, and pages are handed on when a test is done with them.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import expect, sync_playwright

from tests.browser.elsewhere import Elsewhere, two_sites
from tests.browser.ready import wait_until_painted, wait_until_ready
from tests.server import running_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Error, Page

TIMEOUT_MS = 30_000

expect.set_options(timeout=TIMEOUT_MS)


@pytest.fixture(scope="package")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Elsewhere]:
    """Two origins beside the server's, of one folder."""
    with two_sites(tmp_path_factory.mktemp("site")) as sites:
        yield sites


@pytest.fixture(scope="package")
def server(elsewhere: Elsewhere) -> Iterator[str]:
    """The address of a server with the embedded models, which the tool's pages may embed and ask."""
    with running_server("--frame-ancestors", elsewhere.tool, "--cors-origins", elsewhere.tool) as running:
        yield running.url


@pytest.fixture(scope="package")
def managed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server whose models may be changed; each test that does has a model of its own.

    ``shapes`` is the first; ``sure`` has probabilities and the labels 2, 1, 0; ``toy`` has the heads ``coarse`` (3
    classes) and ``fine`` (7).
    """
    folder = tmp_path_factory.mktemp("models")
    (folder / "digits.txt").write_text("2\n1\n0\n")
    allowed = ("--management", "--management-modules", "tests.user_models", "--model-dirs", str(folder))
    models = (
        "shapes",
        f"sure=tests.user_models.probabilities,size=32,labels={folder / 'digits.txt'}",
        "toy=tests.user_models.two_heads,size=32",
    )
    with running_server(*allowed, *(part for model in models for part in ("--model", model))) as running:
        yield running.url


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    installed = filter(None, map(shutil.which, ("chromium-headless-shell", "chromium", "chromium-browser")))
    found = os.environ.get("CAMSERVE_TESTS_CHROMIUM") or next(installed, None)
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


@pytest.fixture(scope="package")
def context_with(browser: Browser) -> Callable[..., BrowserContext]:
    """The context that was made with options of ``Browser.new_context``: one for each set of them."""

    @functools.cache
    def made(asked: str) -> BrowserContext:
        context = browser.new_context(**json.loads(asked))
        context.set_default_timeout(TIMEOUT_MS)
        return context

    return lambda **options: made(json.dumps(options, sort_keys=True))


@pytest.fixture(scope="package")
def idle() -> dict[BrowserContext, list[Page]]:
    """Pages that some test is done with."""
    return defaultdict(list)


def leave(page: Page) -> None:
    """Leave a page as an empty one: nothing goes on in it, and nothing of the test is kept for the tab."""
    page.unroute_all(behavior="ignoreErrors")
    page.mouse.move(0, 0)
    page.evaluate("() => sessionStorage.clear()")
    page.goto("about:blank")


class Listening:
    """What a page complains of: exceptions, and errors and warnings of its console unless they are expected."""

    def __init__(self, page: Page, complaints: list[str], *, expect_errors: bool = False) -> None:
        self._page, self._complaints, self._expect_errors = page, complaints, expect_errors
        page.on("console", self._console)
        page.on("pageerror", self._error)

    def _console(self, said: ConsoleMessage) -> None:
        if said.type in {"error", "warning"} and not self._expect_errors:
            self._complaints.append(said.text)

    def _error(self, error: Error) -> None:
        self._complaints.append(str(error))

    def end(self) -> None:
        """Listen no longer."""
        self._page.remove_listener("console", self._console)
        self._page.remove_listener("pageerror", self._error)


@pytest.fixture
def new_page(
    browser: Browser, context_with: Callable[..., BrowserContext], idle: dict[BrowserContext, list[Page]]
) -> Iterator[Callable[..., Page]]:
    """Give an empty page in the context with these options.

    ``expect_errors=True`` is for tests that make the server fail: browsers write failed requests to the console.
    ``alone=True`` is for tests that stop the clock: it stops for a whole context, so that they have one of their own.
    """
    pages: list[Page] = []
    own: list[BrowserContext] = []
    complaints: list[str] = []
    listening: list[Listening] = []

    def new_page(*, expect_errors: bool = False, alone: bool = False, **options: Any) -> Page:
        context = browser.new_context(**options) if alone else context_with(**options)
        if alone:
            own.append(context)
        if idle[context]:
            page = idle[context].pop()
            page.bring_to_front()  # frames in a page behind another one are not drawn
        else:
            page = context.new_page()
            # Chromium hands file choosers over to whoever has asked for them by then, and otherwise closes them at
            # once: asked for no sooner than by `expect_file_chooser`, that is a race with the key that opens one.
            page.on("filechooser", lambda _: None)
        pages.append(page)
        listening.append(Listening(page, complaints, expect_errors=expect_errors))
        return page

    yield new_page
    for each in listening:
        each.end()
    for page in pages:
        leave(page)
        idle[page.context].append(page)
    for context in own:
        context.close()
    assert complaints == []


@pytest.fixture
def open_document(new_page: Callable[..., Page], server: str) -> Callable[..., Page]:
    """Open a path of the server, or an address: what is returned has been drawn.

    ``before(page)`` is called before anything is loaded; the other options are those of ``new_page``.
    """

    def open_document(path: str, *, before: Callable[[Page], object] | None = None, **options: object) -> Page:
        page = new_page(**options)
        if before is not None:
            before(page)
        page.goto(path if "://" in path else f"{server}{path}")
        wait_until_painted(page)
        return page

    return open_document


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
