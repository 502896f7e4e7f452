"""Take the pictures of the page in these documents, of the embedded scenes: ``python docs/make_screenshots.py [URL]``.

It needs a running server with the embedded models (``CAMSERVE_MANAGEMENT=true make run``), Chromium, and the extra
``dev``.
"""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from PIL import Image
from playwright.sync_api import expect, sync_playwright

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ViewportSize

IMAGES = Path(__file__).parent / "images"
DESKTOP: ViewportSize = {"width": 1280, "height": 840}
PHONE: ViewportSize = {"width": 390, "height": 800}
EXPLAINED, IN_GRID, IN_GALLERY = "#sentence:has-text('evidence')", ".cell img", ".thumb.wrong"
IN_MODELS = ".model .facts"


def take(
    browser: Browser, url: str, name: str, wanted: str, viewport: ViewportSize, scheme: Literal["light", "dark"]
) -> None:
    """Save what a visitor of ``url`` sees once ``wanted`` is there."""
    page = browser.new_page(viewport=viewport, color_scheme=scheme, reduced_motion="reduce")
    page.goto(url)
    expect(page.locator(wanted).first).to_be_visible(timeout=30_000)
    expect(page.locator(".waiting:visible, #gallery-progress:visible")).to_have_count(0, timeout=30_000)
    page.evaluate("Promise.all([...document.images].map((image) => image.decode().catch(() => {})))")
    page.evaluate("new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn)))")
    IMAGES.mkdir(exist_ok=True)
    Image.open(io.BytesIO(page.screenshot())).convert("RGB").save(IMAGES / f"{name}.webp", quality=82, method=6)
    page.close()


def main(url: str) -> None:
    """Take all of them from the server at ``url``."""
    with sync_playwright() as playwright:
        chromium = shutil.which("chromium") or shutil.which("chromium-browser")
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        fooled = f"{url}/?sample=watermark-star.png&model=shapes-shortcut&mode=side&regions=true"
        take(browser, fooled, "page", EXPLAINED, DESKTOP, "light")
        take(browser, f"{url}/?sample=05-ring.png", "page-phone", EXPLAINED, PHONE, "dark")
        take(browser, f"{url}/?tab=grid&sample=03-star.png&by=classes", "page-grid", IN_GRID, DESKTOP, "light")
        gallery = f"{url}/?tab=gallery&samples=true&model=shapes-shortcut&sort=least"
        take(browser, gallery, "page-gallery", IN_GALLERY, DESKTOP, "dark")
        take(browser, f"{url}/?tab=models", "page-models", IN_MODELS, DESKTOP, "light")
        browser.close()


if __name__ == "__main__":
    main((sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000").rstrip("/"))
