"""Whether the map on screen is true: what the page has checked on demand, and says."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from tests.browser.asked import Asked
from tests.browser.test_page_explain import class_row

if TYPE_CHECKING:
    from collections.abc import Callable

    from playwright.sync_api import Page


@pytest.fixture
def explained(open_page: Callable[..., Page]) -> Page:
    """The page with a sample explained in a way of its own."""
    page = open_page("/?sample=03-star.png&layer=layer4&method=hirescam")
    expect(page.locator("#sentence")).to_contain_text("evidence for “star”")
    return page


def test_a_map_is_put_to_the_proof_and_what_was_hidden_is_shown(explained: Page) -> None:
    hidden = explained.get_by_role("img", name="The picture with what the map marks blurred")
    expect(hidden).to_be_hidden()
    asked = Asked(explained)
    explained.get_by_role("button", name="Check this map").click()

    expect(explained.locator("#verify-said")).to_have_text(re.compile("upported: hiding what the map .* 'star' by"))
    expect(hidden).to_be_visible()
    assert hidden.evaluate("image => image.decode().then(() => [image.naturalWidth, image.naturalHeight])") == [
        192,
        192,
    ]
    (form,) = asked.forms
    assert (form["layer"], form["method"], form["target"]) == (["layer4"], ["hirescam"], ["predicted"])
    assert (form["verify"], form["output"]) == (["true"], ["hidden"])


def test_the_map_of_the_mirror_image_is_compared(explained: Page) -> None:
    asked = Asked(explained)
    explained.get_by_role("button", name="Check it in the mirror").click()
    expect(explained.locator("#mirror-said")).to_contain_text("Flip stability 0.")
    assert [form["output"] for form in asked.forms] == [["scores"]]


def test_what_was_said_of_another_map_goes_and_nothing_is_said_of_it_later(explained: Page) -> None:
    explained.get_by_role("button", name="Check it in the mirror").click()
    expect(explained.locator("#mirror-said")).not_to_be_empty()
    asked = Asked(explained, hold=True)
    explained.get_by_role("button", name="Check this map").click()
    expect(explained.get_by_role("button", name="Cancel")).to_be_visible()
    asked.hold = False
    class_row(explained, "cross").click()
    expect(explained.locator("#sentence")).to_contain_text("“cross”")

    expect(explained.locator("#mirror-said")).to_be_empty()
    expect(explained.get_by_role("button", name="Cancel")).to_be_hidden()
    expect(explained.get_by_role("alert")).to_be_hidden()
    asked.release()
    explained.get_by_role("button", name="Check this map").click()
    expect(explained.locator("#verify-said")).to_contain_text("the logit of 'cross'")


def test_a_check_that_fails_can_be_tried_again(open_page: Callable[..., Page]) -> None:
    page = open_page("/?sample=03-star.png", expect_errors=True)
    expect(page.locator("#sentence")).to_contain_text("evidence for “star”")
    page.route("**/explain", lambda route: route.abort())
    page.get_by_role("button", name="Check it in the mirror").click()
    expect(page.locator("#checks").get_by_role("alert")).to_have_text("The server cannot be reached.")
    page.unroute("**/explain")
    page.locator("#checks").get_by_role("button", name="Try again").click()
    expect(page.locator("#mirror-said")).to_contain_text("Flip stability")
    expect(page.locator("#checks").get_by_role("alert")).to_be_hidden()


def test_an_empty_map_has_nothing_to_hide(open_page: Callable[..., Page]) -> None:
    page = open_page("/?sample=03-star.png&layer=layer2&target=1")
    expect(page.locator("#sentence")).to_contain_text("is empty")
    page.get_by_role("button", name="Check this map").click()
    expect(page.locator("#verify-said")).to_have_text("Undecided: the map shows nothing that could be hidden.")
