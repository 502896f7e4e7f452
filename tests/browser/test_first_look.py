from __future__ import annotations

from typing import TYPE_CHECKING

from playwright.sync_api import expect

if TYPE_CHECKING:
    from playwright.sync_api import Page


def test_a_sample_is_explained(page: Page) -> None:
    page.get_by_role("list", name="Sample pictures").get_by_role("button").first.click()

    expect(page.locator("#sentence")).to_contain_text("finds evidence for")
