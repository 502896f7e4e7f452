"""A model with several outputs: the page asks which, and everything about classes follows.

The model ``toy`` has the heads ``coarse`` (3 classes) and ``fine`` (7).
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from playwright.sync_api import expect

from tests.browser.asked import Asked

if TYPE_CHECKING:
    from collections.abc import Callable

    from playwright.sync_api import Page


def choose_fine(page: Page) -> None:
    page.get_by_role("button", name="Head").click()
    page.get_by_role("option", name="fine").click()


def test_another_head_is_explained_and_its_classes_are_searched(open_page: Callable[..., Page], managed: str) -> None:
    page = open_page(f"{managed}/?model=toy&sample=03-star.png&target=2")
    expect(page.locator("#target")).to_have_text("class 2")
    expect(page.locator(".class")).to_have_count(3)
    expect(page.get_by_role("button", name="Head")).to_have_text("coarse")

    asked = Asked(page)
    choose_fine(page)
    expect(page.locator(".class")).to_have_count(5)
    assert asked.forms[-1]["head"] == ["fine"]
    assert asked.forms[-1]["target"] == ["predicted"], "class 2 of another head is something else"
    assert parse_qs(urlsplit(page.url).query)["head"] == ["fine"]

    page.locator("#target").click()
    page.get_by_role("combobox", name="Search: Class to explain").fill("class 6")
    expect(page.locator(".picker:popover-open [role=option]")).to_have_count(1)
    page.get_by_role("option", name="class 6 class 6").click()
    expect(page.locator("#target")).to_have_text("class 6")
    assert asked.forms[-1]["head"] == ["fine"]

    (number, *_) = [
        each for each in range(3, 7) if page.locator(f"[data-key=class-{each}][aria-pressed=false]").count()
    ]
    page.locator(f"[data-key=class-{number}]").click()  # more than the other head has
    expect(page.locator("#target")).to_have_text(f"class {number}")


def test_the_head_is_in_links_and_commands_and_in_every_view(open_page: Callable[..., Page], managed: str) -> None:
    permissions = ["clipboard-read", "clipboard-write"]
    page = open_page(f"{managed}/?model=toy&sample=03-star.png&head=fine&target=6", permissions=permissions)
    expect(page.locator("#target")).to_have_text("class 6")
    for button, option in (("Copy as curl", "-F head=fine"), ("Copy as Python", 'head="fine"')):
        page.get_by_role("button", name=button).click()
        expect(page.locator("#command")).to_contain_text(option)

    asked = Asked(page)
    for tab in ("Grid", "Gallery"):
        page.get_by_role("link", name=tab, exact=True).click()
        if tab == "Gallery":
            page.get_by_role("button", name="Take the samples").click()
            expect(page.locator("#gallery-count")).to_have_text("15 pictures")
        else:
            expect(page.locator("#grid-caption")).to_contain_text("class 6")
    assert {form["head"][0] for form in asked.forms} == {"fine"}


def test_where_there_is_one_head_nobody_is_asked(open_page: Callable[..., Page], managed: str) -> None:
    page = open_page(f"{managed}/?model=toy&sample=03-star.png&head=fine")
    expect(page.locator(".class")).to_have_count(5)
    asked = Asked(page)
    page.get_by_role("button", name="Model").first.click()
    page.locator(".picker:popover-open [data-value=shapes]").click()
    expect(page.locator("#sentence")).to_contain_text("“star”")

    expect(page.get_by_role("button", name="Head")).to_be_hidden()
    assert "head" not in asked.forms[-1]


def test_a_frame_may_name_a_head(open_page: Callable[..., Page], managed: str) -> None:
    page = open_page(f"{managed}/embed?model=toy&src=static/samples/03-star.png&head=fine&target=6")
    expect(page.locator("#caption")).to_contain_text("“class 6”")
