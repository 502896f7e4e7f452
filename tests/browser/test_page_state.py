"""The page's state lives in its address: links, reloads and the back button lead to the same view."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from playwright.sync_api import expect

from tests.browser.asked import SAMPLES, Asked
from tests.browser.ready import wait_until_ready

if TYPE_CHECKING:
    from collections.abc import Callable

    from playwright.sync_api import Page

LINK = (
    "/?sample=03-star.png&model=shapes-shortcut&layer=layer2&method=layercam&target=4&against=0&mode=side&opacity=0.3"
)


def test_a_link_shows_the_same_view_to_somebody_else(open_page: Callable[..., Page]) -> None:
    page = open_page(LINK)
    expect(page.locator("#sentence")).to_contain_text("Where shapes-shortcut finds evidence for “cross”")
    expect(page.locator("#sentence")).to_contain_text("rather than “disk”")
    expect(page.locator("#sentence")).to_contain_text("at layer2, by LayerCAM")
    assert page.locator("#viewer").evaluate("viewer => [viewer.mode, viewer.opacity]") == ["side", 0.3]


def test_back_and_forward_go_through_what_was_asked(open_page: Callable[..., Page]) -> None:
    page = open_page("/?sample=03-star.png")
    sentence = page.locator("#sentence")
    expect(sentence).to_contain_text("“star”")
    page.locator(".class", has_text="gear").click()
    expect(sentence).to_contain_text("“gear”")
    page.get_by_role("button", name="heart", exact=True).click()
    expect(sentence).to_contain_text("“heart”")

    page.go_back()
    expect(sentence).to_contain_text("“gear”")
    page.go_back()
    expect(sentence).to_contain_text("“star”")
    page.go_forward()
    expect(sentence).to_contain_text("“gear”")


def test_a_picture_of_ones_own_stays_out_of_the_address(page: Page) -> None:
    page.locator("#file").set_input_files(SAMPLES / "03-star.png")
    expect(page.locator("#sentence")).to_contain_text("“star”")
    page.locator(".class", has_text="cross").click()
    expect(page.locator("#sentence")).to_contain_text("“cross”")
    assert parse_qs(urlsplit(page.url).query) == {"target": ["4"]}

    page.go_back()
    expect(page.locator("#sentence")).to_contain_text("“star”")
    page.reload()
    wait_until_ready(page)
    expect(page.get_by_text("This address was made with a picture that is not on this server.")).to_be_visible()


def test_another_model_is_asked_afresh(open_page: Callable[..., Page]) -> None:
    page = open_page("/?sample=03-star.png&layer=layer2&target=4&against=0&method=layercam")
    expect(page.locator("#sentence")).to_contain_text("“cross”")
    asked = Asked(page)
    page.get_by_role("button", name="Model").click()
    page.get_by_role("option", name="shapes-shortcut").click()
    asked.wait_for(lambda form: form["target"] == ["predicted"])

    assert asked.forms[-1]["layer"] == ["default"]
    assert asked.forms[-1]["method"] == ["layercam"]
    assert "against" not in asked.forms[-1]
