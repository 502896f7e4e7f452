"""How the page draws an answer: everything here happens in the browser, with no request."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import Page


@pytest.fixture
def page(open_page: Callable[..., Page]) -> Iterator[Page]:
    """The page with a landscape sample explained; nothing that a test does with it may reach the server."""
    page = open_page("/?sample=05-ring.png")
    expect(page.locator("#sentence")).to_contain_text("finds evidence for “ring”")
    expect(page.get_by_role("button", name="Layer")).to_have_text("layer4")
    expect(page.locator("#layer-note")).not_to_be_empty()
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url) if "/api/" in request.url else None)
    yield page
    assert requests == []


def viewer(page: Page, name: str) -> object:
    found: object = page.locator("#viewer").evaluate(f"viewer => viewer.{name}")
    return found


def test_views(page: Page) -> None:
    for choice, mode in (("Heatmap", "heatmap"), ("Original", "original"), ("Both", "side"), ("Swipe", "swipe")):
        page.locator(".segments label", has_text=choice).click()  # what one sees of the radio button

        expect(page.get_by_role("radio", name=choice)).to_be_checked()
        assert viewer(page, "mode") == mode
        page.wait_for_url(f"**mode={mode}**")
        expect(page.get_by_label("Opacity")).to_be_visible(visible=mode in {"side", "swipe"})
        expect(page.get_by_label("Hide below")).to_be_visible(visible=mode != "original")


def test_sliders(page: Page) -> None:
    for slider, name, value in (("Opacity", "opacity", 0.6), ("Hide below", "threshold", 0.05)):
        page.get_by_label(slider).focus()
        for _ in range(5):
            page.keyboard.press("ArrowRight")

        assert viewer(page, name) == pytest.approx(value)
        expect(page.locator(f"#{name}-value")).to_have_text(f"{value:.0%}")
        page.wait_for_url(f"**{name}={value}**")


def test_a_slider_repaints_while_it_moves(page: Page) -> None:
    page.locator("#opacity").evaluate("slider => { slider.value = 20; slider.dispatchEvent(new Event('input')); }")

    assert viewer(page, "opacity") == pytest.approx(0.2)


def test_colours(page: Page) -> None:
    before = viewer(page, "palette")
    page.get_by_label("Colours", exact=True).select_option("viridis")

    assert viewer(page, "palette") != before
    page.wait_for_url("**colormap=viridis**")


def test_regions(page: Page) -> None:
    page.get_by_label("Outline the hot regions").check()

    assert viewer(page, "regions") is True
    page.wait_for_url("**regions=true**")


def test_the_value_under_the_pointer_is_read(page: Page) -> None:
    page.get_by_role("img", name="Heatmap for “ring”").hover()

    expect(page.locator("camserve-viewer #readout")).to_contain_text("× max")


def test_the_part_that_the_model_never_saw_is_marked(page: Page) -> None:
    expect(page.get_by_text("Hatched: not seen by the model")).to_be_visible()
