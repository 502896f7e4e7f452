"""When a document can be used: what every test waits for before it types, clicks or drags.

Before its first frame a browser gives a document no input, and before its scripts have run nobody listens: what is sent
earlier is lost. The page and ``/embed`` set ``data-ready`` on ``<html>`` when both are over
(``service/web/static/shared/ready.js``); of other documents, the first frame is waited for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Frame, Page

_PAINTED = """() => new Promise((resolve) => {
  const seen = (entries) => entries.getEntriesByName("first-contentful-paint").length && resolve();
  new PerformanceObserver(seen).observe({ type: "paint", buffered: true });
})"""


def wait_until_ready(document: Page | Frame) -> None:
    """Wait until the page, or ``/embed``, listens and has been drawn."""
    document.wait_for_selector("html[data-ready]", state="attached")


def wait_until_painted(document: Page | Frame) -> None:
    """Wait until any document's first text or picture is on the screen."""
    document.evaluate(_PAINTED)
