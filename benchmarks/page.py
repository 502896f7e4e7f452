"""The page in Chromium, as a person waits for it: from a drop to the overlay, from a slider's move to its frame."""

from __future__ import annotations

import base64
import shutil
import statistics
from typing import TYPE_CHECKING

from playwright.sync_api import sync_playwright

from benchmarks.over_http import scene_jpeg
from tests.server import running_server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Page, ViewportSize

_WARM_UP = 3
_DROPS = 30
_FRAMES = 120
_DESKTOP: ViewportSize = {"width": 1400, "height": 900}

# The map is on screen in the frame after the one in which its colour bar, or the word that it is empty, is shown.
_DROP = """async ([content, name]) => {
    const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
    const dataTransfer = new DataTransfer();
    dataTransfer.items.add(new File([bytes], name, { type: "image/jpeg" }));
    const frame = () => new Promise(requestAnimationFrame);
    const viewer = document.getElementById("viewer");
    const parts = viewer.shadowRoot, before = viewer.explained;
    const began = performance.now();
    document.body.dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true }));
    while (!viewer.explained || viewer.explained === before) await frame();
    while (parts.getElementById("scale").hidden && parts.getElementById("words").hidden) await frame();
    await frame();
    return performance.now() - began;
}"""

# The callback is registered behind the viewer's own, so that it runs when the viewer has painted.
_SLIDE = """async ([id, frames]) => {
    const slider = document.getElementById(id);
    const painting = [], between = [];
    let before = 0;
    for (let count = 0; count < frames; count++) {
        slider.value = (count * 7) % 100;
        slider.dispatchEvent(new Event("input", { bubbles: true }));
        const began = await new Promise(requestAnimationFrame);
        painting.push(performance.now() - began);
        if (before) between.push(began - before);
        before = began;
    }
    return [painting, between];
}"""


def drop_and_sliders() -> Iterator[str]:
    """A 500×375 JPEG, SqueezeNet 1.0, a desktop's window, no graphics card."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        yield "not measured: Chromium is not installed"
        return
    with (
        running_server("--model=squeezenet1_0:random", "--log-level=warning") as server,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport=_DESKTOP)
        page.goto(server.url)
        page.wait_for_selector("html[data-ready]", state="attached")
        yield _drops(page)
        page.locator("#regions").check()
        for slider in ("opacity", "threshold"):
            yield _slides(page, slider)
        browser.close()


def _drops(page: Page) -> str:
    content = base64.b64encode(scene_jpeg()).decode()
    each = [page.evaluate(_DROP, [content, f"{number}.jpg"]) for number in range(_WARM_UP + _DROPS)]
    times = sorted(each[_WARM_UP:])
    return f"from drop to overlay: {statistics.median(times):.0f} ms (median), {times[-2]:.0f} ms (95th percentile)"


def _slides(page: Page, slider: str) -> str:
    painting, between = (sorted(times) for times in page.evaluate(_SLIDE, [slider, _FRAMES]))
    late = len(between) * 95 // 100
    return (
        f"{slider}, regions outlined: painted {statistics.median(painting):.1f} ms after the frame's start (median), "
        f"{painting[late]:.1f} ms (95th percentile); a frame every {statistics.median(between):.1f} ms"
    )
