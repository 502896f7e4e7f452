"""What is odd about a model stands beside it, and classes whose labels are numbers are those that were clicked."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from playwright.sync_api import expect

from tests.browser.asked import Asked

if TYPE_CHECKING:
    from collections.abc import Callable

    from playwright.sync_api import Page


def test_warnings_of_the_chosen_model_are_shown(open_page: Callable[..., Page], managed: str) -> None:
    page = open_page(f"{managed}/?model=sure&sample=03-star.png")
    warnings = page.get_by_role("list", name="Warnings about the model").get_by_role("listitem")
    expect(warnings).to_have_count(1)
    expect(warnings).to_contain_text("The outputs are probabilities already")
    expect(page.locator("#card")).to_contain_text("the outputs as they are")

    page.get_by_role("button", name="Model").first.click()
    expect(page.get_by_role("option", name="sure")).to_contain_text("1 warning")
    page.locator(".picker:popover-open [data-value=shapes]").click()
    expect(page.locator("#sentence")).to_contain_text("“star”")
    expect(warnings).to_have_count(0)


def test_a_class_is_asked_for_by_its_index_where_labels_are_numbers(
    open_page: Callable[..., Page], managed: str
) -> None:
    permissions = ["clipboard-read", "clipboard-write"]
    page = open_page(f"{managed}/?model=sure&sample=03-star.png&target=2&against=0", permissions=permissions)
    expect(page.locator("#target")).to_have_text("0")
    expect(page.locator("#against")).to_have_text("2")
    for button, option in (("Copy as curl", "-F 'target=#2'"), ("Copy as Python", 'target="#2"')):
        page.get_by_role("button", name=button).click()
        expect(page.locator("#command")).to_contain_text(option)

    asked = Asked(page)
    page.goto(f"{managed}/?model=sure&sample=03-star.png&tab=grid&by=classes&column=0&column=2")
    expect(page.get_by_role("columnheader")).to_have_text([re.compile("^“2” "), re.compile("^“0” ")])
    assert asked.forms[-1]["target"] == ["#0", "#2"]
