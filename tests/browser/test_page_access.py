"""Whoever comes to the page: on a phone or a desktop, in the dark, with a keyboard alone, with a screen reader."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

if TYPE_CHECKING:
    from collections.abc import Callable

    from playwright.sync_api import Page

DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


def check(page: Page, state: str) -> None:
    """No rule of axe is broken, and nothing sticks out at the side."""
    found = Axe().run(page)
    assert found.violations_count == 0, f"{state}: {found.generate_report()}"
    over = page.evaluate("document.scrollingElement.scrollWidth - innerWidth")
    assert over <= 0, f"{state}: {over} px too wide"


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_every_state_is_accessible(open_page: Callable[..., Page], scheme: str, viewport: dict[str, int]) -> None:
    page = open_page(color_scheme=scheme, viewport=viewport, reduced_motion="reduce")
    expect(page.get_by_role("button", name="Layer")).to_have_text("layer4")
    check(page, "empty")
    page.get_by_role("button", name="Try a sample").click()
    page.get_by_role("button", name="vs cross").click()
    expect(page.locator("#sentence")).to_contain_text("rather than “cross”")
    page.get_by_text("More options").click()
    page.get_by_text("About the model").click()
    page.get_by_role("button", name="Copy as curl").click()
    page.get_by_role("button", name="Check this map").click()
    expect(page.get_by_role("img", name="The picture with what the map marks blurred")).to_be_visible()
    check(page, "explained")
    page.get_by_role("button", name="Method").click()
    expect(page.get_by_role("listbox", name="Method").get_by_role("option").first).to_be_visible()
    check(page, "picker")
    page.keyboard.press("Escape")
    page.get_by_role("link", name="Grid").click()
    expect(page.get_by_role("table").get_by_role("button").first).to_be_visible()
    check(page, "grid")
    page.get_by_role("link", name="Gallery").click()
    check(page, "empty gallery")
    page.get_by_role("button", name="Take the samples").click()
    expect(page.locator("#gallery-count")).to_have_text("15 pictures")
    check(page, "gallery")


@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.slow)])
def test_problems_are_accessible(open_page: Callable[..., Page], scheme: str) -> None:
    page = open_page("/?sample=03-star.png&layer=layer9", expect_errors=True, color_scheme=scheme, viewport=PHONE)
    expect(page.get_by_role("alert")).to_be_visible()
    check(page, "problem")
    page.evaluate("import('/static/page/key.js').then(({ askForKey }) => void askForKey(''))")
    expect(page.get_by_role("dialog")).to_be_visible()
    check(page, "key")


def tab_to(page: Page, role: str, name: str) -> None:
    """Press Tab until what is meant has the focus."""
    wanted = page.get_by_role(role, name=name).first  # type: ignore[arg-type]
    for _ in range(120):
        if wanted.evaluate("element => element.matches(':focus')"):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"{name} is not reached by Tab")


def focus_style(page: Page) -> dict[str, Any]:
    style: dict[str, Any] = page.evaluate(
        """() => {
             const { outlineStyle, outlineWidth } = getComputedStyle(document.activeElement);
             return { outlineStyle, outlineWidth };
           }"""
    )
    return style


def test_everything_is_done_with_a_keyboard_alone(page: Page) -> None:
    expect(page.get_by_role("button", name="Layer")).to_have_text("layer4")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the picture")).to_be_focused()
    tab_to(page, "button", "Try a sample")
    assert focus_style(page) == {"outlineStyle": "solid", "outlineWidth": "3px"}
    page.keyboard.press("Enter")
    sentence = page.locator("#sentence")
    expect(sentence).to_contain_text("“star”")

    tab_to(page, "radio", "Overlay")
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("radio", name="Heatmap")).to_be_checked()
    tab_to(page, "slider", "Hide below")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#threshold-value")).to_have_text("1%")

    tab_to(page, "button", "vs cross")
    page.keyboard.press("Space")
    expect(sentence).to_contain_text("rather than “cross”")
    tab_to(page, "button", "Layer")
    page.keyboard.press("Enter")
    expect(page.get_by_role("combobox", name="Search: Layer")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Layer")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.type("layer2")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    expect(sentence).to_contain_text("at layer2")
    expect(page.get_by_role("button", name="Layer")).to_be_focused()


def test_views_are_reached_with_a_keyboard_alone(open_page: Callable[..., Page]) -> None:
    page = open_page("/?sample=03-star.png")
    expect(page.locator("#sentence")).to_contain_text("“star”")
    tab_to(page, "link", "Grid")
    page.keyboard.press("Enter")
    expect(page.get_by_role("link", name="Grid")).to_have_attribute("aria-current", "page")
    tab_to(page, "button", "layer2, Grad-CAM, star")
    page.keyboard.press("Enter")
    expect(page.locator("#sentence")).to_contain_text("at layer2")
    expect(page.locator("#explain-view")).to_be_focused()
    tab_to(page, "link", "Gallery")
    page.keyboard.press("Enter")
    tab_to(page, "button", "Take the samples")
    page.keyboard.press("Enter")
    expect(page.locator("#gallery-count")).to_have_text("15 pictures")
    tab_to(page, "button", "✓ as expected 08-heart.png")
    page.keyboard.press("Enter")
    expect(page.locator("#sentence")).to_contain_text("“heart”")


def test_the_page_needs_no_mouse_to_take_files(page: Page) -> None:
    tab_to(page, "button", "Choose pictures…")
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Space")
    assert chooser.value.is_multiple()


def test_nothing_moves_for_those_who_ask_for_it(open_page: Callable[..., Page]) -> None:
    page = open_page("/?sample=03-star.png", reduced_motion="reduce")
    expect(page.locator("#sentence")).to_contain_text("“star”")
    script = "() => [...document.querySelectorAll('*')].map((one) => getComputedStyle(one).transitionDuration)"
    assert set(page.evaluate(script)) == {"0s"}


def test_a_phone_has_the_list_as_a_sheet_at_the_bottom(open_page: Callable[..., Page]) -> None:
    page = open_page("/?sample=03-star.png", viewport=PHONE, has_touch=True, is_mobile=True)
    expect(page.locator("#sentence")).to_contain_text("“star”")
    page.get_by_role("button", name="Layer").tap()
    sheet = page.get_by_role("dialog", name="Layer").bounding_box()
    assert sheet is not None
    assert sheet["x"] == 0
    assert sheet["width"] == PHONE["width"]
    assert sheet["y"] + sheet["height"] == pytest.approx(PHONE["height"], abs=1)
    page.get_by_role("option", name="layer2").first.tap()
    expect(page.locator("#sentence")).to_contain_text("at layer2")


def test_the_first_link_leads_to_the_content_and_not_to_another_address(open_page: Callable[..., Page]) -> None:
    page = open_page("/?tab=gallery")
    expect(page.get_by_role("button", name="Take the samples")).to_be_visible()
    address = page.url
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the picture")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#gallery-view")).to_be_focused()
    assert page.url == address
